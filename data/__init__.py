"""Data: reading, tokenizing, rendering, packing, and batches indexed by step."""
