"""The terminal of a run: its progress, its messages, Ctrl-C."""
