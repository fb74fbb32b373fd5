"""The layers of the transformer: one block, the scan over all, and the key-value cache."""
