"""Reinforcement learning: sampling, scores, advantages, rollouts."""
