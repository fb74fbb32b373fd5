"""Attention backends, and the function that chooses one (dispatch.py)."""
