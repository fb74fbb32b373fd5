"""What is left out or replaced: filters, personal data, copies."""
