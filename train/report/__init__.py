"""The report of a chain: numbers, curves and answers of its runs."""
