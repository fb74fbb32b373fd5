"""A toy race of PPO, alone and beside TRL; memory of PPO; GRPO with a verifier of sums."""
