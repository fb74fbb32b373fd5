"""The settings of a run: frozen dataclasses, and how flags reach them."""
