"""Tokenizers, chat templates, and fill in the middle."""
