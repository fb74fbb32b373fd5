"""The answers of checkpoints to the people's conversations, sampled and stored as a benchmark's."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import jax
from etils import epath

from data.errors import DataError
from ranges import ConfigError
from train.checkpoints import saved_models
from train.config.run_names import check_step, split_step
from train.interop import opening
from train.replay.conversations import Turn
from train.replay.measures import chrf
from train.tasks import metrics
from train.tasks.base import Answer, Document, Generation, Outcome, Request, Response, Task
from train.tasks.evaluation.benchmark import Benchmark, Result
from train.tasks.evaluation.command import Place
from train.tasks.evaluation.model import Evaluated, Evaluation
from train.terminal.progress import Progress


def benchmark(turns: Sequence[Turn], max_new_tokens: int, temperature: float) -> Benchmark:
    """The turns as a benchmark, whose answers are resumable (train/tasks/evaluation)."""
    similarity: Callable[[str, str], float] = chrf()

    def request(document: Document, examples: Sequence[Document], chat: bool) -> Request:
        del examples, chat
        return Generation(tuple(document["messages"]), max_new_tokens, temperature=temperature)

    def outcome(document: Document, response: Response) -> Outcome:
        (answer,) = response
        assert isinstance(answer, Answer)
        return {"similarity": similarity(answer.text, document["answer"])}

    task = Task(
        "replay", "Conversations of people, answered anew", "", request, outcome,
        {"similarity": metrics.mean("similarity")}, "generation",
    )  # fmt: skip
    documents = [
        {"messages": list(turn.messages), "answer": turn.answer, "where": turn.where}
        for turn in turns
    ]
    return Benchmark(task, 0, documents, [request(d, (), True) for d in documents])


def check(place: Place, max_new_tokens: int) -> None:
    """Refuses a run without the step that is named, or that reads too few tokens.

    Raises:
      ConfigError: it is such a run.
    """
    path, step = split_step(place.name)
    if not opening.is_run(path):
        return
    folder = epath.Path(path) / "checkpoints"
    steps = [int(p.name) for p in folder.iterdir() if p.name.isdigit()] if folder.exists() else []
    if step is not None:
        check_step(path, step, steps)
    most = saved_models.model_config(path, "policy").max_length
    if max_new_tokens >= most:
        raise ConfigError(
            f"--max_new_tokens={max_new_tokens} leaves no room for a prompt in the {most} tokens "
            f"that {place.name} reads; give fewer"
        )


def evaluation(place: Place, dtype: str, seed: int) -> Evaluation:
    """The evaluation of a checkpoint, whose answers are kept in the place's folder."""
    return Evaluation(place.name, place.step, place.folder, dtype, 0, {"seed": seed})


def sample(
    evaluation: Evaluation, asked: Benchmark, label: str, mesh: jax.sharding.Mesh
) -> tuple[Evaluated, Result]:
    """Samples the answers that are not stored.

    Raises:
      DataError: a conversation does not fit the model, or its chat template.
    """
    with Progress(label) as progress:
        done = evaluation.run([asked], mesh, progress)
    for reason in done.failed.values():
        raise DataError(f"{evaluation.name}: {reason}")
    return done, done.results[0]
