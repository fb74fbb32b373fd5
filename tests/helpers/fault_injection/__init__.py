"""Faults made in real processes, for tests/faults.py: one file a kind of fault."""
