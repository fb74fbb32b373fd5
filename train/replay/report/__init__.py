"""The report of a replay: a page, its numbers as JSON, its answers as JSON lines."""
