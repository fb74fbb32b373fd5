"""Work around the training of one stage: chains of stages, conversations with a checkpoint."""
