"""Items as people read them: the end of the prompt, the model's answer, the right one."""

from __future__ import annotations

from typing import Any

from train.tasks.base import Answer, Document, Likelihoods, Outcome, Prompt, Response, Rolling
from train.tasks.evaluation.benchmark import Benchmark, Result


def text_of(prompt: Prompt) -> str:
    """A prompt as text; of a conversation, a line for each message."""
    if isinstance(prompt, str):
        return prompt
    return "\n".join(f"{message['role']}: {message['content']}" for message in prompt)


def is_right(result: Result, outcome: Outcome) -> bool | None:
    """Whether an item is right, by the headline metric; None where that is not 0 or 1."""
    metric = next(iter(result.task.metrics.values()))
    value = outcome.get(metric.item) if metric.higher_is_better else None
    return {0.0: False, 1.0: True}.get(value) if isinstance(value, int | float) else None


def sample(benchmark: Benchmark, result: Result, number: int) -> dict[str, Any]:
    """An item for people to read: `prompt`, `response` and, where they are known, `reference` and
    `right`."""
    request, response = benchmark.requests[number], result.responses[number]
    outcome = result.outcomes[number]
    record: dict[str, Any] = {"id": number}
    reference = reference_of(benchmark.documents[number])
    if isinstance(request, Likelihoods) and len(request.continuations) > 1:
        texts = [text_of(context) for context, _ in request.continuations]
        pairs = enumerate(zip(*texts, strict=False))
        length = next((i for i, c in pairs if len(set(c)) > 1), min(map(len, texts)))
        record["prompt"] = texts[0][:length]
        choices = [
            text[length:] + continuation.text
            for text, continuation in zip(texts, request.continuations, strict=True)
        ]
        record["response"] = choices[_choice(response, outcome)].strip()
        gold = benchmark.documents[number].get("gold")
        if isinstance(gold, int) and 0 <= gold < len(choices):
            reference = choices[gold].strip()
    elif isinstance(request, Likelihoods):
        record["prompt"] = text_of(request.continuations[0].context)
        record["response"] = f"log-probability {_logprob(response, 0):.4g}"
    elif isinstance(request, Rolling):
        record["prompt"], record["response"] = request.text, f"{_logprob(response, 0):.6g} nats"
    else:
        record["prompt"] = text_of(request.prompt)
        record["response"] = response[0].text if isinstance(response[0], Answer) else ""
    if reference:
        record["reference"] = reference
    if (right := is_right(result, outcome)) is not None:
        record["right"] = right
    return record


def _choice(response: Response, outcome: Outcome) -> int:
    """The continuation that the model chose."""
    numbers = range(len(response))
    return outcome.get("choice", max(numbers, key=lambda number: _logprob(response, number)))


def _logprob(response: Response, number: int) -> float:
    part = response[number]
    assert not isinstance(part, Answer)
    return part.logprob


def reference_of(document: Document) -> str:
    """The right answer of a document of one of the forms (train/tasks/rows/forms.py), or ""."""
    for name in ("answer", "continuation"):
        if isinstance(document.get(name), str | int | float):
            return str(document[name]).strip()
    return ""


def right_and_wrong(benchmark: Benchmark, result: Result, count: int) -> list[dict[str, Any]]:
    """The first `count` right and the first `count` wrong items."""
    verdicts = [is_right(result, outcome) for outcome in result.outcomes]
    numbers = [
        number
        for verdict in (True, False)
        for number in [i for i, right in enumerate(verdicts) if right is verdict][:count]
    ]
    return [sample(benchmark, result, number) for number in numbers]
