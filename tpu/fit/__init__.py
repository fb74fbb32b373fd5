"""Whether a recipe fits a TPU slice, and how fast it is."""
