"""Open weights: the families' settings, their config.json, and the mapping of tensors."""
