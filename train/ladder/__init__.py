"""Ladders: models of several sizes, trained on several numbers of tokens, and scaling laws."""
