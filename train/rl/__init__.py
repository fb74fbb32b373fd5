"""Reinforcement learning: sampling, rewards, advantages and rollouts."""
