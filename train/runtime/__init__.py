"""A run on machines: checkpoints, output, processes, profiles, goodput."""
