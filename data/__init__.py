"""Corpora and conversations in, batches out: read, tokenize, render, mask, pack, index by step."""
