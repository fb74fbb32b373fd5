"""Guards of a run: what keeps it from being lost, or from losing another."""
