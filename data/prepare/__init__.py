"""Prepared corpora: packed shards with a manifest, and the row cache."""
