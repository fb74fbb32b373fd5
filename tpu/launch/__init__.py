"""Runs of several processes, here and on Cloud TPU."""
