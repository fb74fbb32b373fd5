"""Numbers about a run: what its updates are like, how far it is, whether it still improves."""
