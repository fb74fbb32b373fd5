"""Guards of a run: what keeps a fault from costing more than a few steps."""
