"""Recipes of several stages, for `python -m train.chain`."""
