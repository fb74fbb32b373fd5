"""Trackers: the places besides metrics.jsonl that a run's metrics go to (registry.py)."""
