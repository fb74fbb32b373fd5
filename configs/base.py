"""The base of every recipe: all fields with their defaults (their meaning: train/config/run.py)."""

import ml_collections

from suggestions import did_you_mean, nearest
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
    usual = ", ".join(
        name if isinstance(value, bool) else f"{name}={value or 'VALUE'}"
        for name, value in known.items()
    )
    texts = [name for name, value in known.items() if not isinstance(value, bool)]
    for item in filter(None, (arg or "").split(",")):
        name, eq, value = item.partition("=")
        if name not in known:
            near = nearest(name, known) or (f"{texts[0]}={name}" if texts and not eq else "")
            raise ValueError(
                f"this recipe has no choice {name!r}; it has {usual}{did_you_mean(near)}"
            )
        if isinstance(known[name], bool):
            known[name] = not eq or value.lower() in ("1", "true", "yes")
            continue
        if not value:
            raise ValueError(f"the choice {name} has no value; write {name}=VALUE")
        try:
            known[name] = type(known[name])(value)
        except ValueError:
            kind = type(known[name]).__name__
            raise ValueError(f"the choice {name}={value} is no {kind}") from None
    return known
