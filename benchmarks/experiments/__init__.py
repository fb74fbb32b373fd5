"""Benchmarks of experiments: sweeps."""
