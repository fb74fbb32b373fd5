"""Ways of sampling beside that of whole batches (model/generate.py)."""
