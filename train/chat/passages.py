"""Passages in the questions of a conversation."""

from __future__ import annotations

import dataclasses
from typing import Any

from etils import epath

import registry
from data.passages.config import PassagesConfig
from data.passages.grounding import SEARCH, Grounded, Grounder
from data.passages.library import open_library
from data.read import json_files
from data.text.base import Tokenizer
from train.config import run
from train.config.run_names import split_step
from train.config.saved import recipe_of
from train.objectives.registry import STAGES


class ChatPassages:
    """The passages of a source that fit each question.

    Args:
      source: a folder, or as `data.source`. config: the other settings. tokenizer: counts tokens.

    Raises:
      ValueError: the source has no document.
    """

    def __init__(self, source: str, config: PassagesConfig, tokenizer: Tokenizer):
        config = dataclasses.replace(config, source=source)
        self._grounder = Grounder(config, tokenizer, open_library(config))
        self._source = source

    def grounded(self, question: str) -> Grounded:
        """A question with its passages."""
        return self._grounder.question(question, key=question.encode(), mode=SEARCH)

    def prompt(self, question: str) -> str:
        """A question with its passages, as the model is asked it."""
        return self.grounded(question).prompt

    def shown(self, question: str) -> str:
        """A remark on the passages of a question."""
        grounded = self.grounded(question)
        pairs = zip(grounded.shown, grounded.passages, strict=True)
        names = (p.id if name == p.id else f"[{name}] {p.id}" for name, p in pairs)
        return "passages: " + ", ".join(names) + ", cut" * grounded.cut

    def __str__(self) -> str:
        library = self._grounder.library
        assert library is not None
        return f"answers from {len(library.passages)} passages of {self._source}"


def _saved(workdir: str) -> dict[str, Any]:
    path = epath.Path(workdir) / "config.json"
    return json_files.read(path) if path.exists() else {}


def _grounded(workdir: str) -> tuple[str, str]:
    """(run, source): of a run and those that its policy began from, the first that was trained with
    passages, and their source; empty where there is none."""
    name, seen = split_step(workdir)[0], set[str]()
    while name and name not in seen:
        seen.add(name)
        saved = _saved(name)
        data, origins = (saved.get(key) for key in ("data", "init_from"))
        data = data if isinstance(data, dict) else {}
        source = data.get("passages", {}).get("source", "")
        if source or data.get("fields", {}).get("passages"):
            return name, source
        name = split_step(origins.get("policy", ""))[0] if isinstance(origins, dict) else ""
    return "", ""


def hint(workdir: str) -> str:
    """A line for a run that was trained with the passages of a source; "" for others."""
    _, source = _grounded(workdir)
    return f"trained with passages of {source}; --passages=FOLDER gives it some" if source else ""


def settings_of(workdir: str) -> PassagesConfig:
    """The settings of passages with which a run was trained, or the run that its policy began from;
    the defaults where none was, and for an imported model."""
    name = _grounded(workdir)[0] or split_step(workdir)[0]
    if _saved(name).get("stage") in STAGES:
        return run.build(recipe_of(name)).data.passages
    return registry.current(PassagesConfig)()
