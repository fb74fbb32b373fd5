"""Replay: how checkpoints would have answered real conversations, and gates on the difference."""
