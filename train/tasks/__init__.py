"""Benchmarks: tasks, the scorer that answers them with a model, and their results."""
