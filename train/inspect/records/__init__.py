"""The records of runs, as frames and figures: metrics, settings, rollouts on record."""
