"""The command `python -m train.improve`: its input checked, the rounds, the table."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from etils import epath

from data.atomic import is_remote, write_atomically
from data.ranking import reading
from data.ranking.questions import Question
from data.ranking.store import Store
from model import sharding
from ranges import ConfigError
from train.chat.workdirs import check_workdir
from train.checkpoints import saved_models
from train.config.run_names import split_step
from train.guards import lock
from train.improve import asking, rounds, settings, table
from train.improve.rounds import Round
from train.improve.settings import Recipe
from train.interop import opening
from train.objectives import registry
from train.replay import answers, conversations, gates
from train.replay.summary import available
from train.rl import rewards
from train.runtime import strict_json
from train.tasks.evaluation.command import place_of
from train.terminal.console import console, print_error
from train.workflows import multistage


def run(
    config: Mapping[str, Any], workdir: str, annotator: str = "", port: int = 8001,
    hosts: Sequence[str] = (),
) -> int:  # fmt: skip
    """Holds the rounds that have not ended; returns the exit code: 1 if one is no improvement.

    Args:
      config: of configs/improve.py. annotator: MODULE:FUNCTION (`asking.Annotator`); "" serves a
        page at `port`, which `hosts` may reach.

    Raises:
      ConfigError, DataError, ValueError: bad input, before anything is trained where possible.
      processes.Stopped: the process was asked to stop.
    """
    recipe, path = settings.read(config), epath.Path(workdir)
    if is_remote(workdir):
        raise ConfigError("--workdir holds a database, so it is a folder of this machine")
    with lock.owned(path):
        begun = rounds.begun(path)
        trained = any((r.folder / "reward" / "config.json").exists() for r in begun)
        function = rewards.load_function(annotator, "--annotator") if annotator else None
        prompts = check(recipe, path)
        settings.check_unchanged(recipe, path, len(begun), trained)
        records = list[dict[str, Any]]()
        for number in range(1, recipe.settings.rounds + 1):
            this = Round(path, number)
            record = this.read()
            if record is None:
                console.print(f"[bold]▸ round {number}/{recipe.settings.rounds}[/]", markup=True)
                answer = _answerer(recipe, this, annotator, function, port, hosts)
                record = rounds.hold(this, recipe, prompts, answer)
            records.append(record)
            lines = [strict_json.dumps(record) + "\n" for record in records]
            write_atomically(path / "rounds.jsonl", "".join(lines))
            if record["reason"]:
                break
    table.show(records)
    console.print(f"The best policy: {records[-1]['best']}; the rounds: {path}/rounds.jsonl")
    if reason := records[-1]["reason"]:
        last = records[-1]["round"]
        print_error(f"round {last} is no improvement, so the loop has ended: {reason}")
        return 1
    return 0


def _answerer(
    recipe: Recipe, this: Round, annotator: str, function: Callable[..., Any] | None, port: int,
    hosts: Sequence[str],
) -> Callable[[Store], None]:  # fmt: skip
    """The function that has a round's questions answered."""
    if function:
        return asking.by_function(annotator, function)
    last = Round(this.workdir, this.number - 1).folder / asking.DATABASE
    return asking.on_page(recipe.settings, port, hosts, Path(last) if this.number > 1 else None)


def check(recipe: Recipe, workdir: epath.Path) -> list[Question]:
    """Checks everything that the rounds need, before the first one; returns the prompts.

    Raises:
      ConfigError, DataError, ValueError: bad input.
    """
    wanted = recipe.settings
    roles = {"policy": "policy", "reward": "reward", "judge": "reward"}
    for flag, role in roles.items():
        if name := getattr(wanted, flag):
            check_workdir(split_step(name)[0], f"config.improve.{flag}", role)
    if wanted.reward:
        ours, theirs = (opening.open_tokenizer(n) for n in (wanted.policy, wanted.reward))
        if ours.fingerprint != theirs.fingerprint:
            raise ConfigError(
                f"improve.reward={wanted.reward} has another tokenizer than improve.policy="
                f"{wanted.policy}, so ids would mean other text; leave it out, or train a reward "
                "model of that policy"
            )
        pool = saved_models.model_config(split_step(wanted.reward)[0], "reward").pool
        if pool != recipe.runs["reward"].loss.pool:
            raise ConfigError(
                f"improve.reward={wanted.reward} was trained with loss.pool={pool}; type "
                f"--config.stages.reward.loss.pool={pool}"
            )
    prompts = reading.read(wanted.prompts).questions
    chain = recipe.chain(1, wanted.policy, wanted.reward, [asking.PREFERENCES])
    for name, stage in multistage.resolve(chain, workdir).items():
        try:
            registry.validate(stage, sharding.make_mesh(stage.mesh))
        except ConfigError as error:
            raise ConfigError(f"stages.{name}: {error}") from error
    answers.check(place_of(wanted.policy, "config.improve.policy"), wanted.max_new_tokens)
    read = conversations.read(wanted.conversations, limit=wanted.limit)
    asked = {_text(question.messages) for question in prompts}
    if shared := sum(_text(turn.messages) in asked for turn in read.turns):
        console.print(
            f"warning: {shared} of {len(read.turns)} conversations are among the prompts, so that "
            "the rounds are not compared on questions that are new to them"
        )
    if wanted.gates:
        there = available({"reward"}, read.turns, True, False)
        gates.read(wanted.gates, there, read.categories)
    return prompts


def _text(messages: Sequence[Mapping]) -> str:
    return str(messages[-1]["content"]).strip()


def kept(workdir: str) -> str:
    """The message about what is saved, after Ctrl-C."""
    number = len(rounds.begun(epath.Path(workdir)))
    what = f"the answers and the checkpoints of round {number}" if number else "nothing has begun,"
    return f"{what} stay; the same command resumes" if number else f"{what} so nothing is lost"
