"""Our scores beside those of lm-evaluation-harness, item by item and in time."""
