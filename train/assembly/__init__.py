"""Assembly of a run: data, tokenizer, architectures, weights, optimizer.

Everything that can fail on bad input happens here, before any training.
"""
