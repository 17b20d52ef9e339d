"""What `benchmarks/live_engine.py` is made of."""
