"""Training on the CPU beside PyTorch; the docstring of race.py has the method."""
