"""Objectives: what each stage trains, on which data, with which loss."""
