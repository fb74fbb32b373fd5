"""The base of every recipe: all fields with their defaults (their meaning: train/config/run.py)."""

import ml_collections

from train.config.run import default


def get_config() -> ml_collections.ConfigDict:
    return default()


def choices(arg: str | None, **known) -> dict:
    """Parses a recipe's argument, `--config=configs/sft.py:size=1b,smoke`.

    Args:
      known: each choice with its default; a bare word sets a boolean.

    Returns:
      The choices as a dict.

    Raises:
      ValueError: a choice that the recipe does not have.
    """
    for item in filter(None, (arg or "").split(",")):
        name, eq, value = item.partition("=")
        if name not in known:
            raise ValueError(f"this recipe has no choice {name!r}; it has {', '.join(known)}")
        if isinstance(known[name], bool):
            known[name] = not eq or value.lower() in ("1", "true", "yes")
        else:
            known[name] = type(known[name])(value)
    return known
