"""Cleaning of examples: filters, personal data, duplicates and contamination."""
