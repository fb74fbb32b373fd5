"""The network: pure functions of (params, batch)."""
