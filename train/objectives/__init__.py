"""Objectives: the weights, loss, data and report of each stage."""
