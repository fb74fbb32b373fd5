"""Recipes of objectives that learn from preferences, beside configs/dpo.py."""
