"""A corpus prepared once: packed shards, their manifest, and the row cache."""
