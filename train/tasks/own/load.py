"""A task of one's own: a YAML file.

    # capitals.yaml
    kind: multiple_choice
    source: capitals.jsonl          # beside the file, or hf:…, tfds:…
    prompt: "Question: {{question}}\\nAnswer:"
    choices: "{{options}}"          # a list of the record; or a list of templates
    gold: "{{answer}}"              # the number of the right one from 0, or its text

Kinds: multiple_choice, last_word, perplexity, generation (kinds.py), classification and grounded
(support.py); the keys of each are the fields of its class there. Templates are `prompt`, `choices`,
`gold`, `target`, `answer`, `text`, `preamble`, `label`, `question` and `sources`.
"""

from __future__ import annotations

import functools
import os
import re
from pathlib import Path
from typing import Any

import msgspec

from data.errors import DataError
from data.read import yaml_files
from data.read.readers import named_reader
from suggestions import did_you_mean, nearest
from train.tasks.base import Task
from train.tasks.own import kinds, support
from train.tasks.own.kinds import Bad

KINDS = kinds.KINDS | support.KINDS  # {name: Kind}


def load(path: str) -> Task:
    """The task of a YAML file.

    Raises:
      DataError: with file and line: the file is not YAML, a key is unknown or missing, a value is
        of the wrong type, or a template does not parse.
    """
    values, lines = yaml_files.read(
        path, "a task is written as `key: value` lines, as kind: multiple_choice"
    )
    kind = values.get("kind")
    if kind not in KINDS:
        near = did_you_mean(nearest(str(kind), KINDS))
        raise DataError(
            f"{path}:{lines.get('kind', 1)}: kind={kind!r:.40}; choose {', '.join(KINDS)}{near}"
        )
    cls = KINDS[kind].keys
    for key in values:
        if key not in cls.__struct_fields__:
            near = did_you_mean(nearest(str(key), cls.__struct_fields__))
            raise DataError(
                f"{path}:{lines[key]}: {kind} has no key {key!r:.40}{near} "
                f"(keys: {', '.join(cls.__struct_fields__)})"
            )
    try:
        settings: Any = msgspec.convert(values, cls)
    except msgspec.ValidationError as error:
        named = re.search(r"\$\.(\w+)", str(error))
        line = lines.get(named[1], 1) if named else 1
        raise DataError(f"{path}:{line}: {error}") from None
    name = settings.name or Path(path).stem
    fields = {
        "name": name,
        "description": settings.description or f"A task of one's own, {path}",
        "source": _beside(path, settings.source),
        "pool": _beside(path, settings.pool),
        "documents": settings.documents,
    }
    try:
        return KINDS[kind].build(settings, fields, functools.partial(_beside, path))
    except Bad as bad:
        raise DataError(f"{path}:{lines.get(bad.key, 1)}: {bad}") from None


def _beside(path: str, source: str) -> str:
    """A source, relative to the file that names it."""
    if not source or named_reader(source) or "://" in source:
        return source
    return os.path.join(os.path.dirname(path), os.path.expanduser(source))
