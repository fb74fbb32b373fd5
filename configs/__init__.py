"""Recipes: one run a file."""
