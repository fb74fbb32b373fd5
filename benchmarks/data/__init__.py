"""Preparing and loading beside `datasets` and Grain (`python -m benchmarks.data`)."""
