"""Benchmarks on real data sets and open models."""
