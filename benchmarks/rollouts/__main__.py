"""Races rollouts in slots against rollouts in whole batches: see race.py."""

from collections.abc import Sequence

from absl import app, flags

from benchmarks import results
from benchmarks.rollouts import race


def main(argv: Sequence[str]) -> None:
    del argv
    given = flags.FLAGS
    if given.rows % given.slots:
        raise app.UsageError(f"--rows={given.rows} must be a multiple of --slots={given.slots}")
    if given.run:
        rollout = race.run_rollout(given.run, given.rows)
    else:
        rollout = race.random_rollout(given.rows, given.prompt, given.limit)
    result = race.race(rollout, given.slots, given.rounds, given.widths)
    note = (
        f"{result['rows']} answers of {result['mean_length']:.1f} tokens on average, at most "
        f"{result['limit']}."
    )
    results.report(
        results.Result("rollouts", [race.table(result)], result, results.given(), notes=[note])
    )


if __name__ == "__main__":
    flags.DEFINE_string("run", "", "The workdir of a finished PPO or GRPO run; empty: random.")
    flags.DEFINE_integer("rows", 256, "Answers of a rollout.", lower_bound=1)
    flags.DEFINE_integer("slots", 64, "Answers sampled at once.", lower_bound=1)
    flags.DEFINE_integer("widths", 1, "Widths of prompts in slots.", lower_bound=1)
    flags.DEFINE_integer("prompt", 32, "Ids in a random prompt.", lower_bound=1)
    flags.DEFINE_integer("limit", 64, "The most ids in an answer to a random one.", lower_bound=4)
    flags.DEFINE_integer("rounds", 5, "Rounds that count.", lower_bound=1)
    results.define_flags()
    app.run(main)
