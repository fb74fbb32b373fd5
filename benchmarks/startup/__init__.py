"""The time from a command to its first step; the docstring of __main__.py has the method."""
