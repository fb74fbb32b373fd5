"""Data: reading, tokenizing, rendering, packing, and batches indexed by step."""

import interpreter

interpreter.check()
