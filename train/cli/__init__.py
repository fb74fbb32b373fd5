"""Shared parts of the commands: flags, messages instead of tracebacks, a quiet terminal."""

from train.cli.errors import EXPECTED, expected_errors, fail, interrupted
from train.cli.flags import (
    config,
    config_with,
    define_config,
    define_flags,
    define_run,
    define_run_flags,
    parse_flags,
    recipe_words,
    templates_of,
    transforms_of,
)
from train.cli.process import guarded, run_arguments, start

__all__ = [
    "EXPECTED", "config", "config_with", "define_config", "define_flags", "define_run",
    "define_run_flags", "expected_errors", "fail", "guarded", "interrupted", "parse_flags",
    "recipe_words", "run_arguments", "start", "templates_of",
    "transforms_of",
]  # fmt: skip
