"""A benchmark answered by a model: from documents to requests, answers, outcomes and metrics."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from data.errors import DataError
from data.text.base import Tokenizer
from ranges import ConfigError
from train.runtime import outputs
from train.tasks import few_shot, sources
from train.tasks.base import Answer, Document, Estimate, Outcome, Request, Response, Task
from train.tasks.evaluation.items import Answered, Item, describe, fingerprint


@dataclasses.dataclass(frozen=True)
class Benchmark:
    """A task whose documents are requests.

    Attributes:
      shots: examples before each question. documents, requests: item i is that of number i.
      source: where the documents were read. notes: what is not scored, for people.
      unused: the settings, `shots` or `chat`, that were given and make no difference to the task.
    """

    task: Task
    shots: int
    documents: Sequence[Document]
    requests: Sequence[Request]
    source: str = ""
    notes: tuple[str, ...] = ()
    unused: tuple[str, ...] = ()

    @property
    def label(self) -> str:
        return f"{self.task.name} {self.shots}-shot"

    @functools.cached_property
    def hashes(self) -> dict[str, str]:
        """Hashes of the documents, wherever they were read, and of what is asked about them."""
        bare = [{k: v for k, v in d.items() if k != "where"} for d in self.documents]
        return {
            "documents": fingerprint(bare),
            "requests": fingerprint(list(map(describe, self.requests))),
        }

    def fingerprint(self) -> str:
        """A hash of `hashes`."""
        return fingerprint([self.hashes])


class Result(NamedTuple):
    """The metrics of a benchmark.

    Attributes:
      metrics: the headline first. by_group: {group: its headline}, of a task with groups.
      items: their number. cut: those whose context, or an answer, was cut. tokens: that were
        scored or generated. seconds: of answering, over all processes that did.
      responses, outcomes: of item i at number i.
    """

    task: Task
    shots: int
    metrics: dict[str, Estimate]
    by_group: dict[str, Estimate]
    items: int
    cut: int
    tokens: int
    seconds: float
    responses: Sequence[Response]
    outcomes: Sequence[Outcome]

    @property
    def label(self) -> str:
        return f"{self.task.name} {self.shots}-shot"


def tried(name: str, function: Callable, *args: Any) -> tuple[Any, str]:
    """`outputs.tried`, with the whole message of an error that explains a fault of the input."""

    def call() -> tuple[Any, str]:
        try:
            return function(*args), ""
        except (DataError, ConfigError, FloatingPointError, OSError) as error:
            return None, " ".join(str(error).split())

    result, reason = outputs.tried(name, call)
    return (None, reason) if reason else result


def prepare(
    task: Task,
    shots: Sequence[int],
    limit: int = 0,
    seed: int = 0,
    data: Sequence[str] = (),
    chat: bool = False,
) -> list[Benchmark]:
    """A task with each number of examples, all on the same documents.

    Args:
      limit: the most documents, the first ones; 0 for all. seed: of the examples that are drawn.
      data: folders that are searched for the task's files, or TASK=SOURCE
        (train/tasks/sources.py).
      chat: whether prompts are conversations.

    Raises:
      DataError, ConfigError: a document cannot be read or asked; too few are there for examples.
    """
    unused = []
    if max(shots) and task.kind == "rolling":
        unused, shots = ["shots"], (0,)
    read = sources.load(task, data, max(shots), seed)

    def ask(number: int, examples: Sequence[Document], chat: bool) -> Request:
        document = read.scored[number]
        request, reason = outputs.tried(task.name, task.request, document, examples, chat)
        if reason:
            raise DataError(f"{task.name}, item {number}, {document.get('where', '')}: {reason}")
        return request

    def request(number: int, count: int) -> Request:
        document = read.scored[number]
        return ask(number, few_shot.draw(task, read.pool, document, number, count, seed), chat)

    examples = (task.examples or read.pool)[:1]
    if max(shots) and examples and ask(0, examples, chat) == ask(0, (), chat):
        unused.append("shots")
        shots, read = (0,), sources.load(task, data, 0, seed)
    if chat and ask(0, (), True) == ask(0, (), False):
        unused.append("chat")
    notes = []
    if read.taken:
        notes.append(f"{read.taken} documents are kept for examples, and not scored")
    if read.left_out:
        notes.append(f"{read.left_out} records cannot be scored, and are left out")
    documents = read.scored[: limit or None]
    return [
        Benchmark(
            task, count, documents, [request(i, count) for i in range(len(documents))],
            read.source, tuple(notes), tuple(unused),
        )
        for count in shots
    ]  # fmt: skip


def evaluate(
    scorer: Any,
    params: Any,
    benchmark: Benchmark,
    tokenizer: Tokenizer,
    seed: int = 0,
    answered: Answered | None = None,
    count: Callable[[int, Outcome], None] = lambda number, outcome: None,
) -> Result:
    """Answers the items of a benchmark that are not answered, and computes its metrics.

    Args:
      scorer: a Scorer (train/tasks/scoring) for `params`. tokenizer: the model's.
      answered: the items that are answered; the others are added to it.
      count: called with the number and the outcome of each item that is answered.

    Raises:
      DataError: a response cannot be made an outcome; it names the task and the item.
      FloatingPointError: a log-probability is not finite.
    """
    answered = Answered() if answered is None else answered
    task, documents, requests = benchmark.task, benchmark.documents, benchmark.requests
    outcomes = {
        number: _outcome(task, number, documents[number], response)
        for number, response in answered.responses.items()
    }
    if len(outcomes) < len(requests):
        answered.begin()
        done = frozenset(outcomes)
        for number, response in scorer.answer(params, requests, seed=seed, done=done):
            if number in outcomes:
                continue
            document, request = documents[number], requests[number]
            outcomes[number] = outcome = _outcome(task, number, document, response)
            answered.add(number, Item(document, request, response, outcome))
            count(number, outcome)
    responses = [answered.responses[number] for number in range(len(requests))]
    ordered = [outcomes[number] for number in range(len(requests))]
    answered.finish([Item(*parts) for parts in zip(documents, requests, responses, ordered)])
    return Result(
        task, benchmark.shots, _metrics(task, ordered), _by_group(task, documents, ordered),
        len(ordered), sum(any(part.cut for part in response) for response in responses),
        sum(_tokens(part, tokenizer) for response in responses for part in response),
        sum(answered.seconds[number] for number in range(len(requests))), responses, ordered,
    )  # fmt: skip


def _outcome(task: Task, number: int, document: Document, response: Response) -> Outcome:
    for part in response:
        if not isinstance(part, Answer) and not math.isfinite(part.logprob):
            raise FloatingPointError(
                f"{task.name}, item {number}: the model's log-probability is {part.logprob}; its "
                "weights, or what it computes, are not finite"
            )
    outcome, reason = outputs.tried(task.name, task.outcome, document, response)
    if reason:
        raise DataError(f"{task.name}, item {number}: {reason}")
    return outcome


def _metrics(task: Task, outcomes: Sequence[Outcome]) -> dict[str, Estimate]:
    return {name: metric(outcomes) for name, metric in task.metrics.items()}


def _by_group(
    task: Task, documents: Sequence[Document], outcomes: Sequence[Outcome]
) -> dict[str, Estimate]:
    """The headline of the documents of each group."""
    if not task.group:
        return {}
    groups = dict[str, list[Outcome]]()
    for document, outcome in zip(documents, outcomes, strict=True):
        groups.setdefault(str(document[task.group]), []).append(outcome)
    headline = next(iter(task.metrics.values()))
    return {name: headline(groups[name]) for name in sorted(groups)}


def _tokens(part: Any, tokenizer: Tokenizer) -> int:
    return len(tokenizer.encode(part.text)) if isinstance(part, Answer) else part.tokens
