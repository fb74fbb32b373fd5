"""Grounded answers: passages that are retrieved and written into prompts."""
