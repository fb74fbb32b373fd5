"""Workflows that use trained stages: chains of stages, conversations with a checkpoint."""
