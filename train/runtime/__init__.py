"""A run on machines: checkpoints, logs, processes, profiles, time."""
