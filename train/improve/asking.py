"""The questions of a round: sampled, the least certain chosen, answered by people or by a function.

They are in a database of their own (data/ranking/store.py), so that whatever interrupts a round
loses no answer, and each part goes on where it was.
"""

from __future__ import annotations

import functools
import random
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from data.errors import DataError
from data.ranking import overview
from data.ranking.agreement import agreement
from data.ranking.export import Exported, export
from data.ranking.questions import Answer, Question, dense
from data.ranking.sampling import Answerer, Sampler
from data.ranking.store import Store
from ranges import ConfigError
from train.chat import candidates
from train.evals.base import interval
from train.improve.settings import ImproveConfig
from train.terminal.console import console
from train.terminal.progress import Progress, phase

# (messages, answers) -> the rank of each answer, 0 best, equal for a tie; None skips the question.
Annotator = Callable[[Sequence[Mapping], Sequence[str]], Sequence[float] | None]
DATABASE, PREFERENCES = "questions.db", "prefs.jsonl"
GRACE = 5.0  # seconds in which the last answer of a round can be taken back
_RANKED = "ranked"  # a note of the database: when its questions were answered


class Models(NamedTuple):
    """The runs that the questions of a round come from.

    Attributes:
      policies: the newest, and the one before if there is one. reward: the newest; "" for none.
    """

    policies: Sequence[str]
    reward: str


class Ranked(NamedTuple):
    """The answers of a round.

    Attributes:
      counts: {questions, answers, preferences, undecided, left_out: number}.
      alpha: Krippendorff's, of what several people answered; None without.
      preferred: {run: (share of comparisons that it wins, low, high)}, of two runs.
    """

    counts: dict[str, int]
    alpha: float | None
    preferred: dict[str, tuple[float, float, float]]


def ask(
    folder: Path, number: int, settings: ImproveConfig, prompts: Sequence[Question], models: Models,
    answer: Callable[[Store], None],
) -> Ranked:  # fmt: skip
    """Samples, chooses and asks the questions of a round, and exports what was answered.

    Args:
      folder: of the round. number: of the round, from 1. prompts: all that there are.
      answer: asks the questions of a store until all are answered.

    Raises:
      DataError: nothing can be asked, or no answer prefers one.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with Store(folder / DATABASE) as store:
        if store.note(_RANKED) is None:
            store.add(of_round(prompts, number, settings), settings.seed)
            with Progress(folder.name):
                _sample(store, number, settings, models)
            _choose(store, settings.questions)
            answer(store)
        exported = export(store, folder / PREFERENCES)
        store.note(_RANKED, time.strftime("%Y-%m-%dT%H:%M:%S%z"))
        return _ranked(store, exported)


def of_round(prompts: Sequence[Question], number: int, settings: ImproveConfig) -> list[Question]:
    """The prompts of a round, those of earlier rounds last, without answers that a file has."""
    order = list(range(len(prompts)))
    random.Random(settings.seed).shuffle(order)
    count = min(settings.questions * settings.pool, len(order))
    places = (order[((number - 1) * count + i) % len(order)] for i in range(count))
    chosen = (prompts[place] for place in places)
    return [Question(q.messages, tools=q.tools, where=q.where) for q in chosen]


def _sample(store: Store, number: int, settings: ImproveConfig, models: Models) -> None:
    """Samples the answers that are still to be sampled, and notes the reward model's doubts."""
    answerers: Sequence[Answerer] = []
    score = None
    with phase("opening the models"):
        if store.waiting():
            seed = settings.seed + 100 * number
            answerers = candidates.open_answerers(models.policies, settings.sampling, seed)
        if models.reward and (answerers or store.unjudged(models.reward)):
            score = candidates.open_score(models.reward)
    sampler = Sampler(store, answerers, settings.answers, score, models.reward)
    with phase("answers to compare", sampler.total) as progress:
        sampler.start()
        while sampler.running:
            progress.count(sampler.done)
            time.sleep(0.1)
    if sampler.error:
        raise ValueError(f"sampling stopped: {sampler.error}")


def _choose(store: Store, count: int) -> None:
    """Leaves all questions out but those about which the reward model is least sure."""
    questions = store.questions()
    if not questions:
        reasons = ", ".join(f"{reason} ({n})" for reason, n in store.dropped().items())
        raise DataError(f"{store.path} has nothing to ask: {reasons}; raise improve.temperature")
    questions.sort(key=lambda question: (-(question.doubt or 0.0), question.id))
    for question in questions[count:]:
        store.drop(question.id, "the reward model is surer of it than of others")


def _ranked(store: Store, exported: Exported) -> Ranked:
    """The recorded answers."""
    questions, answers = store.questions(), store.answers()
    if not exported.preferences:
        raise DataError(
            f"{store.path}: none of {exported.answers} answers prefers one of a question's, so "
            "there is nothing to learn; begin anew, with other prompts or a higher "
            "improve.temperature"
        )
    agreed = agreement(answers) if len({a.annotator for a in answers}) > 1 else None
    wins = overview.wins(answers, {question.id: question for question in questions})
    judged = len({answer.question for answer in answers if answer.answer.rank is not None})
    return Ranked(
        {"questions": len(questions), "answers": exported.answers,
         "preferences": exported.preferences, "undecided": exported.undecided,
         "left_out": sum(store.dropped().values())},
        None if agreed is None else agreed.alpha,
        {row["name"]: (row["share"], *interval(row["share"], min(row["pairs"], judged)))
         for row in wins},
    )  # fmt: skip


# Those who answer.


def by_function(name: str, annotator: Annotator) -> Callable[[Store], None]:
    """A function that has all questions of a store answered by a function; `name`: MODULE:FUNCTION,
    by which its answers are recorded.

    Raises (when it is called):
      ConfigError: what the annotator returns is not a rank of each answer.
    """

    def answer(store: Store) -> None:
        while question := store.next(name):
            texts = [candidate.text for candidate in question.candidates]
            rank = annotator(question.messages, texts)
            store.record(name, question.id, Answer(None if rank is None else _rank(rank, texts)))

    def _rank(rank: Any, texts: Sequence[str]) -> list[int]:
        numbers = [float(r) for r in rank] if isinstance(rank, list | tuple) else []
        if len(numbers) != len(texts) or any(number != number for number in numbers):
            raise ConfigError(
                f"--annotator={name} returned {rank!r:.80} for {len(texts)} answers; it returns a "
                "list of their ranks, 0 for the best, or None to skip"
            )
        return dense(numbers)

    return answer


def on_page(
    settings: ImproveConfig, port: int, hosts: Sequence[str], links_of: Path | None
) -> Callable[[Store], None]:
    """A function that serves a page until all questions of a store are answered.

    Args:
      port, hosts: as of data.ranking. links_of: the database whose links stay the same.

    Raises (when it is called):
      KeyboardInterrupt: Ctrl-C came first. ValueError: the port is in use.
    """
    import loopback
    from data.ranking import server

    def answer(store: Store) -> None:
        if links_of and links_of.exists():
            with Store(links_of, create=False) as earlier:
                for name in (*settings.annotators, server.OWNER):
                    store.token(name, known=earlier.token(name))
        order = "uncertain"  # without doubts it is random
        room = server.Room(
            store, settings.annotators, functools.partial(export, store,
            store.path.with_name(PREFERENCES)), settings.each, order, None, hosts,
        )  # fmt: skip
        listening: socket.socket = loopback.listen(port)
        addresses = [f"http://{loopback.HOST}:{listening.getsockname()[1]}"]
        for address in [*addresses, *(f"https://{host}" for host in hosts)]:
            for name, link in server.links(room, address).items():
                console.print(f"{name if name != server.OWNER else 'overview'}  {link}")
        console.print(
            f"{_left(store, settings)} questions to answer; then the round goes on. Ctrl-C ends, "
            "and the same command resumes."
        )
        ended = _Ended(store, settings)
        loopback.serve(server.build(room), listening, ended)
        if _left(store, settings):
            raise KeyboardInterrupt

    return answer


def _left(store: Store, settings: ImproveConfig) -> int:
    """The most questions that somebody is still to be asked."""
    return max(store.progress(name, settings.each)[1] for name in settings.annotators)


class _Ended:
    """Whether all questions have been answered for `GRACE` seconds."""

    def __init__(self, store: Store, settings: ImproveConfig):
        self._store, self._settings = store, settings
        self._since: float | None = None

    def __call__(self) -> bool:
        if _left(self._store, self._settings):
            self._since = None
            return False
        self._since = self._since or time.monotonic()
        return time.monotonic() - self._since >= GRACE
