"""The cost of what keeps a run safe."""
