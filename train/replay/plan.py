"""The inputs of a replay, read and checked before anything is generated."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import ranges
from data.errors import DataError, with_flags
from ranges import ConfigError, CountOr0, NonNegative, Seed, Size
from train.chat import passages
from train.interop import opening
from train.replay import answers, conversations, copying, gates, scores
from train.replay.conversations import TURNS, Conversations
from train.replay.summary import available
from train.tasks.evaluation.command import Place, place_of
from train.tasks.evaluation.model import Evaluation
from train.terminal.progress import Progress

_EXAMPLES = {"workdir": "RUN", "conversations": "chats.jsonl", "out": "report.html"}


@dataclasses.dataclass(frozen=True)
class Options:
    """The settings of a replay.

    Attributes:
      workdir: the checkpoint that is tried, as `open_model` takes it. against: others.
      conversations: a path, a glob or a name, as `data.source`, or several.
      out: the page; beside it are written the same name as .json and as .jsonl.
      fields, records, transforms, category, turns, limit: as train/replay/conversations.py's
        `read`.
      reward, judge: runs of reward models, or RUN@STEP; "" for none. Answers are preferred by the
        judge's scores, without one by the reward, else by their similarity to the people's.
      passages: a folder of documents of which passages are written into each question, "" for none;
        other settings are those with which the first checkpoint was trained.
      gates: a YAML file (train/replay/gates.py); "" for none.
      max_new_tokens, temperature, seed, dtype: of the answers, as in train/tasks/base.py.
      training: whether to read the training data of the checkpoints, for copied words.
    """

    workdir: str
    conversations: str | Sequence[str]
    out: str
    against: Sequence[str] = ()
    fields: Mapping[str, str] = dataclasses.field(default_factory=dict)
    records: str = ""
    transforms: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    category: str = ""
    turns: str = "last"
    limit: CountOr0 = 0
    reward: str = ""
    judge: str = ""
    passages: str = ""
    gates: str = ""
    max_new_tokens: Size = 256
    temperature: NonNegative = 0.0
    seed: Seed = 0
    dtype: str = ""
    training: bool = True

    def __post_init__(self):
        ranges.check(self)
        for flag in ("workdir", "conversations", "out"):
            if not getattr(self, flag):
                raise ConfigError(f"--{flag} is missing; type --{flag}={_EXAMPLES[flag]}")
        if self.turns not in TURNS:
            raise ConfigError(f"turns={self.turns!r:.40}; choose {' or '.join(TURNS)}")
        if not self.out.endswith(".html"):
            raise ConfigError(f"--out={self.out} is the page of a replay; name it FILE.html")


class Plan(NamedTuple):
    """A replay whose inputs are read and checked.

    Attributes:
      places, labels: of the checkpoints, and their short names. scorers: {`reward` or `judge`: the
        place of its run}. training: of each checkpoint. available: the metrics.
    """

    options: Options
    read: Conversations
    places: Sequence[Place]
    labels: Sequence[str]
    scorers: Mapping[str, Place]
    training: Sequence[copying.Training]
    available: Sequence[str]
    gates: gates.Gates
    evaluations: Sequence[Evaluation]

    def kept(self) -> str:
        """The part of the work that is kept, whenever it is interrupted."""
        return "; ".join(evaluation.kept() for evaluation in self.evaluations)


def plan(options: Options) -> Plan:
    """Reads and checks everything that a replay needs, before anything is generated.

    Raises:
      ConfigError, DataError, ValueError: bad input.
    """
    names = [options.workdir, *options.against]
    flags = ["workdir"] + ["against"] * len(options.against)
    places = [place_of(name, flag) for name, flag in zip(names, flags, strict=True)]
    if len({place.name for place in places}) < len(places):
        listed = ", ".join(place.name for place in places)
        raise ConfigError(f"a checkpoint is named twice: {listed}; name each once")
    for place in places:
        answers.check(place, options.max_new_tokens)
    named = {"judge": options.judge, "reward": options.reward}
    scorers = {flag: place_of(name, flag, scores.ROLE) for flag, name in named.items() if name}
    try:
        read = conversations.read(
            options.conversations, options.fields, options.category, options.turns, options.limit,
            options.records, options.transforms,
        )  # fmt: skip
    except DataError as error:
        raise with_flags(error) from None
    if options.passages:
        found = passages.ChatPassages(
            options.passages, passages.settings_of(places[0].name),
            opening.open_tokenizer(places[0].name),
        )  # fmt: skip
        read = read._replace(turns=[conversations.grounded(turn, found) for turn in read.turns])
        read.notes.append(str(found))
    else:
        read.notes.extend(
            f"{place.name} was {hint}" for place in places if (hint := passages.hint(place.name))
        )
    training, known = [copying.Training({}, [])] * len(places), dict[str, list[dict]]()
    if options.training:
        with Progress("replay"):
            training = [copying.training_of(place.name, known) for place in places]
    there = available(scorers, read.turns, bool(options.against), bool(training[0].parts))
    read_gates = gates.Gates()
    if options.gates:
        read_gates = gates.read(options.gates, there, read.categories)
    labels = short_names([place.name for place in places])
    evaluations = [answers.evaluation(place, options.dtype, options.seed) for place in places]
    return Plan(options, read, places, labels, scorers, training, there, read_gates, evaluations)


def short_names(names: Sequence[str]) -> list[str]:
    """The ends of names, as few folders of each as tell them apart."""
    parts = [name.rstrip("/").split("/") for name in names]
    for count in itertools.count(1):
        ends = ["/".join(part[-count:]) for part in parts]
        if len({*ends}) == len({*names}):
            return ends
    raise AssertionError("names that differ have ends that do")
