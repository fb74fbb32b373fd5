"""The settings of the rounds, and the stages that a round trains."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, NamedTuple

import ml_collections
from etils import epath

import ranges
from data.atomic import write_atomically
from data.read import json_files
from ranges import ConfigError, Count, CountOr0, Positive, Range, Seed, Size
from train.config.run import RunConfig, build, build_group
from train.guards.settings import Kind, kind_of
from train.objectives import registry
from train.objectives.base import Objective
from train.runtime import resume, strict_json

STAGES = ("reward", "policy")
REFERENCES = ("last", "first")
FREE = ("rounds", "annotators")  # settings that may change between rounds
_FILE = "improve.json"


@dataclasses.dataclass(frozen=True)
class ImproveConfig:
    """The settings of the rounds (configs/improve.py has their values).

    Attributes:
      policy: the run, or RUN@STEP, that answers first, and from which the first round's policy
        starts; a later one starts from the round before.
      reward: the run from which the first reward model starts; "" for the network of `policy`.
      prompts: what is asked. conversations: people's answers, on which rounds are compared.
      rounds: their number. questions: that people answer in a round.
      pool: prompts that are sampled for each of them; those are asked about which the newest reward
        model is least sure.
      answers: to a prompt, of the newest policy and the one before it together.
      max_new_tokens, temperature, top_p, seed: of the answers. The replay takes the likeliest ones.
      annotators: names of those who rank. each: how many of them answer a question.
      reference: the policy's KL penalty is to the policy of the `last` round, or to the `first`.
      judge: a reward model that no round trains, which decides what is preferred in the replay; ""
        for the reward model of the round.
      gates: a YAML file (train/replay/gates.py) of conditions that every round has to meet.
      limit: the most conversations of the replay; 0 for all.
    """

    policy: str
    reward: str
    prompts: str
    conversations: str
    rounds: Count
    questions: Count
    pool: Annotated[int, Range(1, 100)]
    answers: Annotated[int, Range(2, 4)]
    max_new_tokens: Size
    temperature: Positive
    top_p: Annotated[float, Range(0, 1, "(]")]
    seed: Seed
    annotators: str | tuple[str, ...]
    each: Count
    reference: str
    judge: str
    gates: str
    limit: CountOr0

    def __post_init__(self):
        ranges.check(self, "improve.")
        object.__setattr__(self, "annotators", ranges.split_names(self.annotators))
        for name in ("policy", "prompts", "conversations"):
            if not getattr(self, name):
                raise ConfigError(
                    f"improve.{name} is missing; type --config=configs/improve.py:policy=RUN,"
                    "prompts=FILE,conversations=FILE"
                )
        if self.reference not in REFERENCES:
            raise ConfigError(
                f"improve.reference={self.reference!r:.80}; choose {' or '.join(REFERENCES)}"
            )
        if not self.annotators or len({*self.annotators}) < len(self.annotators):
            raise ConfigError("improve.annotators names each person once, as ana,ben")
        if self.each > len(self.annotators):
            raise ConfigError(
                f"improve.each={self.each} asks for more people than improve.annotators names "
                f"({len(self.annotators)})"
            )

    @property
    def sampling(self) -> dict[str, Any]:
        """The sampling settings of the answers that are ranked."""
        return {n: getattr(self, n) for n in ("max_new_tokens", "temperature", "top_p")}


class Recipe(NamedTuple):
    """A checked recipe.

    Attributes:
      recipes, runs, rows: {stage: its recipe, its settings, its objective}.
    """

    settings: ImproveConfig
    recipes: Mapping[str, ml_collections.ConfigDict]
    runs: Mapping[str, RunConfig]
    rows: Mapping[str, Objective]

    def chain(
        self, number: int, policy: str, reward: str, preferences: Sequence[str]
    ) -> ml_collections.ConfigDict:
        """The chain (train/workflows/multistage.py) of a round.

        Args:
          policy, reward: the runs from which its stages start. preferences: files of rankings.
        """
        stages = {name: self.recipes[name].copy_and_resolve_references() for name in STAGES}
        for name, stage in stages.items():
            stage.seed += number - 1
            ranked = self.rows[name].schema == "preference"
            stage.data.source = tuple(preferences) if ranked else self.settings.prompts
        stages["reward"].init_from["reward" if reward else "policy"] = reward or policy
        origins = {"policy": policy, "reward": "reward", "judge": self.settings.judge}
        if self.settings.reference == "first":
            origins["reference"] = self.settings.policy
        for role, run in origins.items():
            if run and role in self.rows["policy"].roles:
                stages["policy"].init_from[role] = run
        return ml_collections.ConfigDict({"order": STAGES, "stages": stages}, type_safe=False)


def read(config: Mapping[str, Any]) -> Recipe:
    """The recipe of the command.

    Raises:
      ConfigError: an unknown key, a value out of its range, or a stage that cannot be part of it.
    """
    if "improve" not in config or set(config.get("stages", ())) != {*STAGES}:
        raise ConfigError(
            "this recipe has no improve and stages reward and policy; take configs/improve.py"
        )
    known = [f"improve.{field.name}" for field in dataclasses.fields(ImproveConfig)]
    settings = build_group(config["improve"], ImproveConfig, "improve.", known)
    recipes, runs, rows = {}, {}, {}
    for name in STAGES:
        recipes[name] = config["stages"][name]
        try:
            runs[name] = build(recipes[name])
            rows[name] = registry.find(runs[name])
        except ValueError as error:
            raise ConfigError(f"stages.{name}: {error}") from error
        if name not in rows[name].trainable:
            raise ConfigError(f"stages.{name}.stage={runs[name].stage} trains no {name}")
        if rows[name].schema == "preference" or rows[name].rollouts:
            continue
        raise ConfigError(
            f"stages.{name}.stage={runs[name].stage} learns neither from rankings nor from a "
            "reward model; take ppo, grpo or dpo"
        )
    return Recipe(settings, recipes, runs, rows)


def check_unchanged(recipe: Recipe, workdir: epath.Path, begun: int, trained: bool) -> None:
    """Compares the settings with those of the rounds that there are, and saves them.

    Args:
      begun: number of rounds that have begun. trained: whether a stage has.

    Raises:
      ConfigError: fewer rounds than have begun, or another setting.
    """
    path, rounds = workdir / _FILE, recipe.settings.rounds
    if rounds < begun:
        raise ConfigError(
            f"improve.rounds={rounds}, and {begun} rounds have begun in {workdir}; type "
            f"--config.improve.rounds={begun} or more"
        )
    now = {"improve": dataclasses.asdict(recipe.settings)} | {
        name: json.loads(resume.config_json(run)) for name, run in recipe.runs.items()
    }
    now = json.loads(strict_json.dumps(now))
    if begun and path.exists():
        before = json_files.read(path, dict[str, Any])
        differences = {
            f"improve.{key}": (before["improve"].get(key), value)
            for key, value in now["improve"].items()
            if key not in FREE and before["improve"].get(key) != value
        }
        for name in STAGES if trained else ():
            changes = resume.changes(json.dumps(before[name]), json.dumps(now[name]))
            differences |= {
                f"stages.{name}.{key}": values
                for key, values in changes.items()
                if kind_of(key, *values) is not Kind.FREE
            }
        if differences:
            texts = [
                f"{key}: {old!r:.80} -> {new!r:.80}" for key, (old, new) in differences.items()
            ]
            raise ConfigError(
                f"{workdir} has begun with other settings ({'; '.join(texts[:10])}). Type the old "
                "ones; or give a new --workdir, and the policy and the reward of the last round"
            )
    write_atomically(path, strict_json.dumps(now, indent=1) + "\n")
