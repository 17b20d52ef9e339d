"""The live engine: one loaded model, many agents."""
