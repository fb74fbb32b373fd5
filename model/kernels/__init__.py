"""Attention backends with the function that chooses one (dispatch.py), and other operations' forms
for TPU (tpu.py)."""
