"""The kinds of tasks of customer support: tickets by label, answers from passages."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal

from etils import epath
from msgspec import Meta

import registry
from data.errors import DataError
from data.passages.config import PassagesConfig
from data.passages.grounding import Grounder
from data.passages.library import open_library
from data.read import json_files, paths
from data.schemas.normaliser import normaliser
from data.text.base import Tokenizer
from ranges import ConfigError
from suggestions import did_you_mean, nearest
from train.tasks.base import Document, Task
from train.tasks.own.kinds import Bad, Common, Count, Kind, Shots, common_of, shots_of, template_of
from train.tasks.rows import forms
from train.tasks.support import classification, grounded

_Labels = Annotated[list[str], Meta(min_length=2)] | Annotated[dict[str, str], Meta(min_length=2)]


class Classification(Shots, kw_only=True):
    """The keys of a classification.

    Attributes:
      label: the right one. labels: all of them; or {label: the text that the model reads or writes
        for it}; or a file, a JSON list or a line each.
      method: `likelihood` compares that of all labels after the prompt, `generation` reads a label
        in an answer.
      delimiter: the text between the prompt and a label. stop, max_new_tokens: of answers.
    """

    label: str
    labels: _Labels | str
    method: Literal["likelihood", "generation"] = "likelihood"
    delimiter: str = forms.DELIMITER
    stop: tuple[str, ...] = ("\n",)
    max_new_tokens: Count = 16


class Grounded(Common, kw_only=True):
    """The keys of answers from passages.

    Attributes:
      question, answer. sources: the ids of the passages that answer, a template whose value is one
        or a list. system: the system message.
      passages: the settings of `data.passages`; `source` is relative to the file.
    """

    question: str
    answer: str
    sources: str
    passages: dict[str, Any]
    system: str = ""
    max_new_tokens: Count = grounded.MAX_NEW_TOKENS


def _classification(settings: Any, fields: Mapping[str, Any], beside: Callable[[str], str]) -> Task:
    label, common = template_of("label", settings.label), common_of(settings)
    labels = _labels(settings.labels, beside)
    names = list(labels)

    def prepare(record: Document) -> list[Document]:
        value = label.text(record)
        if value not in labels:
            near = did_you_mean(nearest(value, names))
            raise DataError(f"label: {value!r:.60} is none of the {len(names)} labels{near}")
        return [{**common(record), "gold": names.index(value), "answer": labels[value]}]

    return classification.classification(
        labels=labels, prepare=prepare, generates=settings.method == "generation",
        delimiter=settings.delimiter, stop=settings.stop, max_new_tokens=settings.max_new_tokens,
        **shots_of(settings, prepare), **fields,
    )  # fmt: skip


def _labels(value: Any, beside: Callable[[str], str]) -> dict[str, str]:
    """{label: its text} of the key `labels`."""
    if isinstance(value, str):
        value = _labels_file(beside(value))
    labels = value if isinstance(value, dict) else dict(zip(value, value, strict=True))
    if len(labels) < len(value):
        twice = next(name for name in value if list(value).count(name) > 1)
        raise Bad("labels", f"the label {twice!r:.60} is there twice")
    if len(set(labels.values())) < len(labels) or not all(t.strip() for t in labels.values()):
        raise Bad("labels", "two labels have the same text, or one has none")
    return labels


def _labels_file(path: str) -> list[str]:
    try:
        (path,) = paths.expand(path)
        if path.endswith(".json"):
            labels = json_files.parse(epath.Path(path).read_bytes(), path, list[str])
        else:
            lines = epath.Path(path).read_text().splitlines()
            labels = [line.strip() for line in lines if line.strip()]
    except (DataError, OSError, UnicodeDecodeError) as error:
        raise Bad("labels", str(error)) from None
    if len(labels) < 2:
        raise Bad("labels", f"{path} has {len(labels)} labels; a classification has two or more")
    return labels


def _grounded(settings: Any, fields: Mapping[str, Any], beside: Callable[[str], str]) -> Task:
    config = _passages(settings.passages, beside)
    texts = {
        name: template_of(name, getattr(settings, name))
        for name in ("question", "answer", "sources", "system")
    }
    as_example = normaliser("chat", {"sources": "{sources}"})

    def examples(record: Document) -> list[Document]:
        values = {name: template.value(record) for name, template in texts.items()}
        return [
            as_example({
                "prompt": values["question"], "response": values["answer"],
                "sources": values["sources"], "system": values["system"],
            })
        ]  # fmt: skip

    def open_one(tokenizer: Tokenizer) -> Grounder:
        return Grounder(config, tokenizer, open_library(config))

    return grounded.grounded(
        config=config, open_one=open_one, examples=examples,
        max_new_tokens=settings.max_new_tokens, **fields,
    )  # fmt: skip


def _passages(given: Mapping[str, Any], beside: Callable[[str], str]) -> PassagesConfig:
    """The settings of the key `passages`."""
    cls: Any = registry.current(PassagesConfig)
    names = [field.name for field in dataclasses.fields(cls)]
    for name in given:
        if name not in names:
            near = did_you_mean(nearest(str(name), names))
            raise Bad("passages", f"data.passages has no {name!r:.40}{near}")
    values = dict(given)
    if not (source := values.get("source")):
        raise Bad("passages", "source is missing: the folder or file with the passages")
    entries = [source] if isinstance(source, str) else source
    values["source"] = tuple(beside(str(entry)) for entry in entries)
    try:
        return cls(**values)
    except (ConfigError, DataError, TypeError) as error:
        raise Bad("passages", str(error)) from None


KINDS = {
    "classification": Kind(Classification, _classification),
    "grounded": Kind(Grounded, _grounded),
}
