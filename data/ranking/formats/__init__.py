"""Formats of other tools for annotation, read and written."""
