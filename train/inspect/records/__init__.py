"""What runs leave behind, as frames and figures: metrics, settings, rollouts on record."""
