"""Answers a second of rollouts in slots beside rollouts in whole batches (race.py)."""
