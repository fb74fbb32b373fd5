"""The kinds of tasks that a YAML file may have: their keys, and how they become a Task."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Annotated, Any, NamedTuple

import msgspec
from msgspec import Meta

from data.errors import DataError
from ranges import ConfigError
from suggestions import did_you_mean, nearest
from train.rl.verifiers import VERIFIERS
from train.tasks.base import Document, Task
from train.tasks.rows import forms, scores
from train.tasks.rows.templates import Template

Count = Annotated[int, Meta(ge=1)]
_CountOr0 = Annotated[int, Meta(ge=0)]
_Named = Annotated[dict[str, dict], Meta(min_length=1, max_length=1)]


class Common(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
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


class Shots(Common, kw_only=True):
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


class MultipleChoice(Shots, kw_only=True):
    """The keys of multiple choice.

    Attributes:
      choices: a template whose value is a list, or a list of templates. gold: the right one's
        number from 0, or its text. delimiter: the text between the prompt and a choice.
    """

    choices: str | list[str]
    gold: str | int
    delimiter: str = forms.DELIMITER


class LastWord(Shots, kw_only=True):
    """The keys of the prediction of a continuation."""

    target: str


class Perplexity(Common, kw_only=True):
    """The keys of the perplexity of texts."""

    text: str = "{{text}}"
    stride: _CountOr0 = 0


class Generated(Shots, kw_only=True):
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
    max_new_tokens: Count = 256
    temperature: Annotated[float, Meta(ge=0)] = 0.0
    samples: Count = 1
    passes: tuple[Count, ...] = ()
    delimiter: str = forms.DELIMITER


class Bad(ValueError):
    """A value that is not right, by its key."""

    def __init__(self, key: str, message: str):
        super().__init__(message)
        self.key = key


def template_of(key: str, source: str) -> Template:
    try:
        return Template(source, key)
    except DataError as error:
        raise Bad(key, str(error)) from None


def shots_of(settings: Any, prepare: Any) -> dict[str, Any]:
    """The fields of a Task with examples."""
    examples = []
    for number, record in enumerate(settings.examples):
        try:
            examples += prepare(record)
        except DataError as error:
            raise Bad("examples", f"example {number}: {error}") from None
    return {
        "shots": settings.shots, "fixed": settings.fixed, "group": settings.group,
        "examples": tuple(examples),
    }  # fmt: skip


def common_of(settings: Any) -> Any:
    """record -> the fields of a document that all kinds with examples have."""
    prompt = template_of("prompt", settings.prompt)
    preamble = template_of("preamble", settings.preamble)
    group = template_of("group", f"{{{{{settings.group}}}}}") if settings.group else None

    def common(record: Document) -> dict[str, Any]:
        document = {"context": prompt.text(record), "preamble": preamble.text(record)}
        if group:
            document[settings.group] = group.text(record)
        return document

    return common


def _multiple_choice(settings: Any, fields: Mapping[str, Any], _: Any) -> Task:
    listed = settings.choices if isinstance(settings.choices, list) else None
    templates = [template_of("choices", text) for text in listed or [settings.choices]]
    gold, common = template_of("gold", str(settings.gold)), common_of(settings)

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
        prepare=prepare, delimiter=settings.delimiter, **shots_of(settings, prepare), **fields
    )


def _last_word(settings: Any, fields: Mapping[str, Any], _: Any) -> Task:
    target, common = template_of("target", settings.target), common_of(settings)

    def prepare(record: Document) -> list[Document]:
        return [{**common(record), "continuation": f" {target.text(record).removeprefix(' ')}"}]

    return forms.last_word(prepare=prepare, **shots_of(settings, prepare), **fields)


def _perplexity(settings: Any, fields: Mapping[str, Any], _: Any) -> Task:
    text = template_of("text", settings.text)

    def prepare(record: Document) -> list[Document]:
        document = {"text": text.text(record)}
        return [document] if document["text"] else []

    return forms.perplexity(prepare=prepare, stride=settings.stride, **fields)


def _generation(settings: Any, fields: Mapping[str, Any], _: Any) -> Task:
    answer, common = template_of("answer", settings.answer), common_of(settings)
    target = template_of("target", settings.target or settings.answer)

    def prepare(record: Document) -> list[Document]:
        value = answer.value(record)
        answers = [str(item) for item in value] if isinstance(value, list) else str(value)
        example = target.text(record) if settings.target or isinstance(answers, str) else answers[0]
        return [{**common(record), "answer": answers, "target": example}]

    if (largest := max(settings.passes, default=0)) > settings.samples:
        raise Bad("passes", f"pass@{largest} needs samples: {largest} or more")
    if settings.samples > 1 and not settings.temperature:
        raise Bad("samples", "greedy answers are all the same; give a temperature too")
    return forms.generation(
        prepare=prepare, scores=_scores(settings), stop=settings.stop,
        max_new_tokens=settings.max_new_tokens, temperature=settings.temperature,
        samples=settings.samples, passes=settings.passes, delimiter=settings.delimiter,
        **shots_of(settings, prepare), **fields,
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
            raise Bad("metrics", f"no metric {name!r:.40}; choose {', '.join(known)}{near}")
    return chosen


def _exact_match(extract: str, options: Mapping[str, Any]) -> forms.Score:
    try:
        return scores.exact_match(extract=extract, **options)
    except TypeError as error:
        raise Bad("metrics", str(error)) from None
    except re.error as error:
        raise Bad("extract", f"not a regular expression: {error}") from None


def _verified(name: str, options: Mapping[str, Any]) -> forms.Score:
    known = VERIFIERS.fields_of(name)
    for option in options:
        if option not in known:
            raise Bad("metrics", f"{name} has no setting {option!r:.40}; {', '.join(known)}")
    if missing := [need for need in VERIFIERS[name].needs if need not in options]:
        raise Bad("metrics", f"{name} needs {missing[0]}: {{{name}: {{{missing[0]}: …}}}}")
    try:
        return scores.verified(name, SimpleNamespace(**options))
    except ConfigError as error:
        raise Bad("metrics", str(error)) from None


class Kind(NamedTuple):
    """A kind of task.

    Attributes:
      keys: the Struct of its keys.
      build: (keys, fields of a Task, path -> path relative to the file) -> Task; it raises Bad.
    """

    keys: type[Common]
    build: Callable[[Any, Mapping[str, Any], Callable[[str], str]], Task]


KINDS = {
    "multiple_choice": Kind(MultipleChoice, _multiple_choice),
    "last_word": Kind(LastWord, _last_word),
    "perplexity": Kind(Perplexity, _perplexity),
    "generation": Kind(Generated, _generation),
}
