"""Rounds of improvement: people rank answers, models learn from them, a replay decides."""
