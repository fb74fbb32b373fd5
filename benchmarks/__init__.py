"""Measurements; the docstring of each file gives its command and method."""

import interpreter

interpreter.check()
