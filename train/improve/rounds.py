"""A round: its folder, what it trains, and the record of what came out.

round_N/questions.db     its questions and answers; beside it the preferences, prefs.jsonl
round_N/reward/          the reward model, which starts from the round before and reads the
                         preferences of all rounds
round_N/policy/          the policy, which starts from the round before
round_N/replay.html      the new policy beside the one before, on the held-out conversations
round_N/round.json       the record, which says that the round has ended
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from etils import epath

from data.atomic import write_atomically
from data.ranking.overview import source_name
from data.ranking.questions import Question
from data.ranking.store import Store
from data.read import json_files
from train.evals.base import interval
from train.improve import asking
from train.improve.asking import Models, Ranked
from train.improve.settings import ImproveConfig, Recipe
from train.replay.plan import Options
from train.replay.run import replay
from train.runtime import strict_json
from train.runtime.records import read_metrics
from train.terminal.console import console
from train.terminal.saved import committed_steps
from train.workflows import multistage

RECORD = "round.json"


class Origin(NamedTuple):
    """The runs that a round starts from.

    Attributes:
      policy: the newest. before: the one before it, "" in the first round. reward: the newest; ""
        where none was given.
    """

    policy: str
    before: str
    reward: str


class Round(NamedTuple):
    """A round of a workdir; `number` counts from 1."""

    workdir: epath.Path
    number: int

    @property
    def folder(self) -> epath.Path:
        return self.workdir / f"round_{self.number}"

    @property
    def policy(self) -> str:
        return str(self.folder / "policy")

    @property
    def reward(self) -> str:
        return str(self.folder / "reward")

    @property
    def preferences(self) -> epath.Path:
        return self.folder / asking.PREFERENCES

    def read(self) -> dict[str, Any] | None:
        """The record, None if the round has not ended."""
        path = self.folder / RECORD
        return json_files.read(path, dict[str, Any]) if path.exists() else None

    def origin(self, settings: ImproveConfig) -> Origin:
        """The runs that it starts from."""
        if self.number == 1:
            return Origin(settings.policy, "", settings.reward)
        last = Round(self.workdir, self.number - 1)
        return Origin(last.policy, last.origin(settings).policy, last.reward)


def begun(workdir: epath.Path) -> list[Round]:
    """The rounds that have begun."""
    numbers = range(1, len(list(workdir.glob("round_*"))) + 1)
    return [Round(workdir, n) for n in numbers if Round(workdir, n).folder.exists()]


def hold(
    this: Round, recipe: Recipe, prompts: Sequence[Question], answer: Callable[[Store], None]
) -> dict[str, Any]:
    """Holds a round, or the rest of one that was interrupted; returns its record.

    Args:
      prompts: all that there are. answer: as of `asking.ask`.

    Raises:
      ConfigError, DataError, ValueError: bad input; what was done stays.
      processes.Stopped: the process was asked to stop.
    """
    settings, origin = recipe.settings, this.origin(recipe.settings)
    policies = [run for run in (origin.policy, origin.before) if run]
    models = Models(policies, origin.reward)
    ranked = asking.ask(this.folder, this.number, settings, prompts, models, answer)
    record: dict[str, Any] = {
        "round": this.number,
        "sampled": [_at_step(run) for run in policies],
        **ranked.counts,
        "alpha": ranked.alpha,
    }
    if origin.before:
        record["people"] = _preferred(ranked, origin)
        if record["people"] and record["people"]["high"] < 0.5:
            reason = f"people prefer {origin.before} to {origin.policy} ({share(record['people'])})"
            return _end(this, record | {"reason": reason, "best": origin.before})
    earlier = [Round(this.workdir, n) for n in range(1, this.number + 1)]
    files = [str(r.preferences) for r in earlier if r.preferences.read_bytes()]
    chain = recipe.chain(this.number, origin.policy, origin.reward, files)
    multistage.run(chain, this.folder)
    return _end(this, record | _lineage(this, recipe, origin, files) | _compare(this, settings))


def _end(this: Round, record: dict[str, Any]) -> dict[str, Any]:
    """Writes the record of a round that has ended."""
    text = strict_json.dumps(record, indent=1)
    write_atomically(this.folder / RECORD, text + "\n")
    return json.loads(text)


def _at_step(run: str) -> str:
    """A run with the step of its newest checkpoint."""
    step = committed_steps(run).get("")
    return run if step is None else f"{run}@{step}"


def _preferred(ranked: Ranked, origin: Origin) -> dict[str, float] | None:
    """The share of comparisons in which people prefer the newest policy to the one before."""
    for name, (value, low, high) in ranked.preferred.items():
        if name == source_name({"run": origin.policy, "step": committed_steps(origin.policy)[""]}):
            return {"value": value, "low": low, "high": high}
    return None


def _lineage(this: Round, recipe: Recipe, origin: Origin, files: Sequence[str]) -> dict[str, Any]:
    """The lineage of the runs, and the stages' measurements."""
    reads_reward = "reward" in recipe.rows["policy"].roles
    reward, policy = (dict(evaluations[-1]) if evaluations else {} for evaluations in (
        read_metrics(this.reward, "eval"), read_metrics(this.policy, "eval")))  # fmt: skip
    accuracy, pairs = reward.get("accuracy/overall"), reward.get("pairs/overall", 0)
    first = recipe.settings.reference == "first"
    return {
        "reward": {"run": _at_step(this.reward), "from": origin.reward or origin.policy},
        "policy": {
            "run": _at_step(this.policy), "from": origin.policy,
            "reward": this.reward if reads_reward else None,
            "reference": recipe.settings.policy if first else origin.policy,
        },
        "preferences_of": list(files),
        "reward_accuracy": None if accuracy is None or not pairs else dict(
            zip(("value", "low", "high"), (accuracy, *interval(accuracy, pairs)), strict=True),
            pairs=int(pairs)),
        "kl": policy.get("kl"),
    }  # fmt: skip


def _compare(this: Round, settings: ImproveConfig) -> dict[str, Any]:
    """The replay of the new policy beside the one before, and whether it is no improvement."""
    before = this.origin(settings).policy
    done = replay(Options(
        this.policy, settings.conversations, str(this.folder / "replay.html"), against=[before],
        reward=this.reward, judge=settings.judge, gates=settings.gates, limit=settings.limit,
        max_new_tokens=settings.max_new_tokens, training=False,
    ))  # fmt: skip
    rate = done.value("win_rate")
    win_rate = {"value": rate.value, "low": rate.low, "high": rate.high}
    record: dict[str, Any] = {
        "win_rate": win_rate, "preferred_by": done.content.replay.preference,
        "replay": str(done.report),
    }  # fmt: skip
    failed = [str(verdict) for verdict in done.content.verdicts if not verdict.passed]
    if rate.high < 0.5:
        reason = f"its answers are no better than those of {before} (win rate {share(win_rate)})"
    elif failed:
        reason = f"gates failed: {'; '.join(failed)}"
    else:
        reason = ""
    console.print(f"  win rate {share(win_rate)} against {before}, by the "
                  f"{record['preferred_by']}; {record['replay']}")  # fmt: skip
    return record | {"reason": reason, "best": before if reason else this.policy}


def share(value: dict[str, float]) -> str:
    """`0.61 [0.52, 0.69]`."""
    return f"{value['value']:.2f} [{value['low']:.2f}, {value['high']:.2f}]"
