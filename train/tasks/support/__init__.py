"""Tasks of customer support: tickets by label, answers from passages."""
