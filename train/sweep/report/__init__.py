"""The result of a sweep: on the terminal, as files, as a page."""
