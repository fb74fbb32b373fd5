"""The best learning rate by width, in the standard parametrization and in μP."""
