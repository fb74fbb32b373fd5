"""A task of one's own: a YAML file.

    # capitals.yaml
    kind: multiple_choice
    source: capitals.jsonl          # beside the file, or hf:…, tfds:…
    prompt: "Question: {{question}}\\nAnswer:"
    choices: "{{options}}"          # a list of the record; or a list of templates
    gold: "{{answer}}"              # the number of the right one from 0, or its text

Kinds: multiple_choice, last_word, perplexity, generation; the keys of each are the fields of its
class below. `prompt`, `choices`, `gold`, `target`, `answer`, `text` and `preamble` are templates.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Annotated, Any

import msgspec
import yaml
from msgspec import Meta

from data.errors import DataError
from data.read import paths
from data.read.readers import named_reader
from ranges import ConfigError
from suggestions import did_you_mean, nearest
from train.rl.verifiers import VERIFIERS
from train.tasks.base import Document, Task
from train.tasks.rows import forms, scores
from train.tasks.rows.templates import Template

_Count = Annotated[int, Meta(ge=1)]
_CountOr0 = Annotated[int, Meta(ge=0)]
_Named = Annotated[dict[str, dict], Meta(min_length=1, max_length=1)]


class _Common(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """The keys of all kinds.

    Attributes:
      source, pool: where documents and examples are read; a path is relative to the file. The other
        fields are those of Task.
    """

    kind: str
    source: str
    name: str = ""
    description: str = ""
    pool: str = ""
    documents: str = "line"


class _Shots(_Common, kw_only=True):
    """The keys of kinds with examples.

    Attributes:
      preamble: text before the examples. examples: records that are the examples, in order.
      group: a field of the records, by whose values results are also given.
    """

    prompt: str
    preamble: str = ""
    shots: _CountOr0 = 0
    fixed: bool = False
    examples: tuple[dict, ...] = ()
    group: str = ""


class MultipleChoice(_Shots, kw_only=True):
    """The keys of multiple choice.

    Attributes:
      choices: a template whose value is a list, or a list of templates. gold: the right one's
        number from 0, or its text. delimiter: the text between the prompt and a choice.
    """

    choices: str | list[str]
    gold: str | int
    delimiter: str = forms.DELIMITER


class LastWord(_Shots, kw_only=True):
    """The keys of the prediction of a continuation."""

    target: str


class Perplexity(_Common, kw_only=True):
    """The keys of the perplexity of texts."""

    text: str = "{{text}}"
    stride: _CountOr0 = 0


class Generated(_Shots, kw_only=True):
    """The keys of generated answers.

    Attributes:
      answer: the right one, or a list. target: the answer of an example, if it is another text.
      metrics: `exact_match` (its arguments: train/tasks/rows/scores.py), `f1` (SQuAD's), or a
        verifier of RL; with settings as `{regex: {pattern: …}}`. The first is the headline.
      extract: a regular expression for the part of an answer that `exact_match` compares.
      passes: k of pass@k. The other fields are those of Generation.
    """

    answer: str
    target: str = ""
    metrics: Annotated[tuple[str | _Named, ...], Meta(min_length=1)] = ("exact_match",)
    extract: str = ""
    stop: tuple[str, ...] = ()
    max_new_tokens: _Count = 256
    temperature: Annotated[float, Meta(ge=0)] = 0.0
    samples: _Count = 1
    passes: tuple[_Count, ...] = ()
    delimiter: str = forms.DELIMITER


KINDS: dict[str, type[_Common]] = {
    "multiple_choice": MultipleChoice,
    "last_word": LastWord,
    "perplexity": Perplexity,
    "generation": Generated,
}


def load(path: str) -> Task:
    """The task of a YAML file.

    Raises:
      DataError: with file and line: the file is not YAML, a key is unknown or missing, a value is
        of the wrong type, or a template does not parse.
    """
    values, lines = _read(path)
    kind = values.get("kind")
    if kind not in KINDS:
        near = did_you_mean(nearest(str(kind), KINDS))
        raise DataError(
            f"{path}:{lines.get('kind', 1)}: kind={kind!r:.40}; choose {', '.join(KINDS)}{near}"
        )
    cls = KINDS[kind]
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
        return _BUILD[kind](settings, fields)
    except _Bad as bad:
        raise DataError(f"{path}:{lines.get(bad.key, 1)}: {bad}") from None


class _Bad(ValueError):
    """A value that is not right, by its key."""

    def __init__(self, key: str, message: str):
        super().__init__(message)
        self.key = key


def _read(path: str) -> tuple[dict[str, Any], dict[str, int]]:
    """({key: value}, {key: its line})."""
    if not os.path.exists(path):
        paths.expand(path)  # names the nearest file
    try:
        with open(path, encoding="utf-8") as file:
            loader = yaml.SafeLoader(file.read())
        node = loader.get_single_node()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read: {error}") from None
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise DataError(f"{path}:{line}: not YAML: {error.problem}") from None
    if not isinstance(node, yaml.MappingNode):
        raise DataError(
            f"{path}: a task is written as `key: value` lines, as kind: multiple_choice"
        )
    values: dict[str, Any] = {}
    lines: dict[str, int] = {}
    for key_node, value_node in node.value:
        key, line = str(key_node.value), key_node.start_mark.line + 1
        if key in values:
            raise DataError(f"{path}:{line}: the key {key!r:.40} is there twice")
        try:
            values[key] = loader.construct_object(value_node, deep=True)
        except yaml.MarkedYAMLError as error:
            raise DataError(f"{path}:{line}: {error.problem}") from None
        lines[key] = line
    return values, lines


def _beside(path: str, source: str) -> str:
    """A source, relative to the file that names it."""
    if not source or named_reader(source) or "://" in source:
        return source
    return os.path.join(os.path.dirname(path), os.path.expanduser(source))


def _template(key: str, source: str) -> Template:
    try:
        return Template(source, key)
    except DataError as error:
        raise _Bad(key, str(error)) from None


def _shots(settings: Any, prepare: Any) -> dict[str, Any]:
    """The fields of a Task with examples."""
    examples = []
    for number, record in enumerate(settings.examples):
        try:
            examples += prepare(record)
        except DataError as error:
            raise _Bad("examples", f"example {number}: {error}") from None
    return {
        "shots": settings.shots, "fixed": settings.fixed, "group": settings.group,
        "examples": tuple(examples),
    }  # fmt: skip


def _common(settings: Any) -> Any:
    """record -> the fields of a document that all kinds with examples have."""
    prompt = _template("prompt", settings.prompt)
    preamble = _template("preamble", settings.preamble)
    group = _template("group", f"{{{{{settings.group}}}}}") if settings.group else None

    def common(record: Document) -> dict[str, Any]:
        document = {"context": prompt.text(record), "preamble": preamble.text(record)}
        if group:
            document[settings.group] = group.text(record)
        return document

    return common


def _multiple_choice(settings: Any, fields: Mapping[str, Any]) -> Task:
    listed = settings.choices if isinstance(settings.choices, list) else None
    templates = [_template("choices", text) for text in listed or [settings.choices]]
    gold, common = _template("gold", str(settings.gold)), _common(settings)

    def prepare(record: Document) -> list[Document]:
        values = [template.value(record) for template in templates]
        choices = values if listed else values[0]
        if not isinstance(choices, list) or len(choices) < 2:
            raise DataError(f"choices: {choices!r:.60} is no list of two or more texts")
        choices = [str(choice) for choice in choices]
        value = gold.value(record)
        if isinstance(value, str) and value not in choices and value.strip().isdecimal():
            value = int(value)
        if not isinstance(value, str) and not isinstance(value, int):
            raise DataError(f"gold: {value!r:.60} is neither a choice nor its number from 0")
        number = choices.index(value) if value in choices else value
        if not isinstance(number, int) or not 0 <= number < len(choices):
            raise DataError(f"gold: {value!r:.60} is neither a choice nor its number from 0")
        return [{**common(record), "choices": choices, "gold": number}]

    return forms.multiple_choice(
        prepare=prepare, delimiter=settings.delimiter, **_shots(settings, prepare), **fields
    )


def _last_word(settings: Any, fields: Mapping[str, Any]) -> Task:
    target, common = _template("target", settings.target), _common(settings)

    def prepare(record: Document) -> list[Document]:
        return [{**common(record), "continuation": f" {target.text(record).removeprefix(' ')}"}]

    return forms.last_word(prepare=prepare, **_shots(settings, prepare), **fields)


def _perplexity(settings: Any, fields: Mapping[str, Any]) -> Task:
    text = _template("text", settings.text)

    def prepare(record: Document) -> list[Document]:
        document = {"text": text.text(record)}
        return [document] if document["text"] else []

    return forms.perplexity(prepare=prepare, stride=settings.stride, **fields)


def _generation(settings: Any, fields: Mapping[str, Any]) -> Task:
    answer, common = _template("answer", settings.answer), _common(settings)
    target = _template("target", settings.target or settings.answer)

    def prepare(record: Document) -> list[Document]:
        value = answer.value(record)
        answers = [str(item) for item in value] if isinstance(value, list) else str(value)
        example = target.text(record) if settings.target or isinstance(answers, str) else answers[0]
        return [{**common(record), "answer": answers, "target": example}]

    if (largest := max(settings.passes, default=0)) > settings.samples:
        raise _Bad("passes", f"pass@{largest} needs samples: {largest} or more")
    if settings.samples > 1 and not settings.temperature:
        raise _Bad("samples", "greedy answers are all the same; give a temperature too")
    return forms.generation(
        prepare=prepare, scores=_scores(settings), stop=settings.stop,
        max_new_tokens=settings.max_new_tokens, temperature=settings.temperature,
        samples=settings.samples, passes=settings.passes, delimiter=settings.delimiter,
        **_shots(settings, prepare), **fields,
    )  # fmt: skip


def _scores(settings: Any) -> dict[str, forms.Score]:
    """{metric: score} of the key `metrics`."""
    chosen: dict[str, forms.Score] = {}
    for entry in settings.metrics:
        name, options = next(iter(entry.items())) if isinstance(entry, dict) else (entry, {})
        if name == "exact_match":
            chosen[name] = _exact_match(settings.extract, options)
        elif name == "f1" and not options:
            chosen[name] = scores.f1
        elif name in VERIFIERS:
            chosen[name] = _verified(name, options)
        else:
            known = ["exact_match", "f1", *VERIFIERS]
            near = did_you_mean(nearest(name, known))
            raise _Bad("metrics", f"no metric {name!r:.40}; choose {', '.join(known)}{near}")
    return chosen


def _exact_match(extract: str, options: Mapping[str, Any]) -> forms.Score:
    try:
        return scores.exact_match(extract=extract, **options)
    except TypeError as error:
        raise _Bad("metrics", str(error)) from None
    except re.error as error:
        raise _Bad("extract", f"not a regular expression: {error}") from None


def _verified(name: str, options: Mapping[str, Any]) -> forms.Score:
    known = VERIFIERS.fields_of(name)
    for option in options:
        if option not in known:
            raise _Bad("metrics", f"{name} has no setting {option!r:.40}; {', '.join(known)}")
    if missing := [need for need in VERIFIERS[name].needs if need not in options]:
        raise _Bad("metrics", f"{name} needs {missing[0]}: {{{name}: {{{missing[0]}: …}}}}")
    try:
        return scores.verified(name, SimpleNamespace(**options))
    except ConfigError as error:
        raise _Bad("metrics", str(error)) from None


_BUILD = {
    "multiple_choice": _multiple_choice,
    "last_word": _last_word,
    "perplexity": _perplexity,
    "generation": _generation,
}
