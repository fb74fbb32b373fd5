"""Benchmarks answered by a model, kept, compared and shown."""
