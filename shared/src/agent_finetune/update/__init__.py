"""Guarded updates: training beside a live model, and the gate before what came of it goes live."""
