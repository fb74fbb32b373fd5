"""One attempt at a run: the steps from a checkpoint, or from the start, to the end."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import math
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax

from tpu.chips import PEAK_FLOPS
from train.assembly import ramps
from train.assembly.programs import Jitted, Step, jitted
from train.assembly.run import Run
from train.checkpoints.checkpointer import Checkpointer
from train.config.run import RunConfig
from train.evals import outcomes
from train.evals.outcomes import Outcomes
from train.guards.going_back import Guard, with_losses
from train.guards.numbers import check_skipped
from train.measures import statistics
from train.measures.costs import Costs
from train.measures.noise import NoiseScale
from train.measures.patience import Patience
from train.measures.rates import learning_rates
from train.measures.totals import Totals
from train.rl.record import Recorder
from train.rl.rewards import RewardError
from train.runtime import flops, processes
from train.runtime.goodput import Goodput
from train.runtime.metrics import Metrics
from train.runtime.profiling import Profile
from train.runtime.throughput import Throughput
from train.step import TrainState, step_view
from train.terminal import interrupts, messages
from train.terminal.progress import Progress, phase
from train.terminal.time_left import TimeLeft, multiples


def log_interval(config: RunConfig) -> int:
    """Steps between records of training metrics."""
    return config.log_every or min(10, max(config.steps // 10, 1))


class Hooks(NamedTuple):
    """Functions that the caller of `loop.run` adds to a run.

    Attributes:
      after_evaluation: called with (step, metrics); what it raises ends the run.
      jit: gives the jitted step of a run, which may be that of another run with the same program.
    """

    after_evaluation: Callable[[int, Mapping[str, float]], None] = lambda step, metrics: None
    jit: Callable[[Run], Jitted] = jitted


@dataclasses.dataclass
class Attempt:
    """The state of a run between two steps, and the outputs that its steps write to.

    Attributes:
      step_fn: the train step (state, frozen, batch).
      state: after `start` steps, then after each further one; its `source` is current between
        steps alone (`source_state` is always).
      start: the step of the checkpoint that it continues, or 0; another once it has gone back.
      saved_meta: JSON values of that checkpoint; empty at step 0.
      meta: JSON values that every checkpoint of this attempt holds.
    """

    run: Run
    step_fn: Step
    state: TrainState
    start: int
    saved_meta: Mapping[str, Any]
    meta: dict[str, Any]
    checkpoints: Checkpointer
    metrics: Metrics
    progress: Progress
    goodput: Goodput
    tracer: Profile
    outcomes: Outcomes
    recorder: Recorder
    hooks: Hooks

    def __post_init__(self):
        run, config = self.run, self.run.ctx.config
        self.config, self.source = config, run.stage.source
        self.guard = Guard(run, self.saved_meta, self.metrics, self.progress)
        self.state = with_losses(run, self.state, self.saved_meta)
        self.throughput = Throughput(PEAK_FLOPS.get(jax.devices()[0].device_kind))
        self.held = 0.0  # seconds for which saves have held the loop since the last record
        self.evaluated: tuple[int, Mapping[str, float]] = (-1, {})  # (step, metrics)
        self.rates = learning_rates(run)
        self.costs = Costs(run)
        self.rollout_flops = functools.cache(
            functools.partial(flops.of_rollout, config, run.ctx.models)
        )
        self.compiled = set[tuple[int, int]]()  # shapes of the batches of steps that were taken
        self.begin()

    def begin(self) -> None:
        """Prepares for the steps from `start`."""
        config = self.config
        self.recorder.begin(self.start)
        self.source_state = self.state.source
        self.rollouts = self.saved_meta.get("rollouts", {"taken": 0, "no_lesson": 0})
        per_rollout = self.rollout_flops(1) if self.run.objective.rollouts else 0.0
        self.totals = Totals.restored(self.saved_meta, self.start, self.costs.first, per_rollout)
        self.noise = NoiseScale(self.saved_meta.get("noise", {}))
        self.patience = Patience(config, self.metrics.evaluations)
        self.shown = dict[str, float]()  # the metrics of the terminal: a rollout's, until the next
        self.time_left = TimeLeft(
            self.start, config.steps,
            self.source.rollouts(self.source_state, config.steps - self.start),
            evaluations=multiples([e.every for e in self.run.evaluations], config.steps),
            checkpoints=multiples([config.checkpoint.every], config.steps), work=self.costs.work,
        )  # fmt: skip

    def train(self) -> None:
        """Takes the steps from `start` to the end.

        Raises:
          processes.Stopped: the run was asked to stop, and has been saved.
          RewardError: an answer has no reward, and the steps before it have been saved; or no
            rollout had answers with different scores.
          FloatingPointError: too many updates were not applied, or the last state is not
            finite.
          DataError: a run that goes back has too little data to leave some out.
          processes.Unsaved: too many saves in a row have failed.
        """
        if self.start and self.checkpoints.latest() is None:  # a fork
            self.save(wait=True)
        # A run may be saved before the evaluation of that step is made, or can be.
        if not self.metrics.evaluated if self.start else self.config.evaluate.at_start:
            self.evaluate(self.start)
        self.goodput.lap()
        with contextlib.ExitStack() as protected:
            done = self.start
            while done < self.config.steps and not self.patience.ended:
                first = not self.compiled
                values, extra = self.take_step(done)
                done += 1
                if first:  # until now a Ctrl-C had nothing to save
                    protected.enter_context(interrupts.mode(interrupts.Mode.STEP))
                looks = self.guard.add(values.pop("fault"), done, self.source_state)
                self.record(done, values, extra)
                stops = processes.asked_to_stop()
                # The devices are asked where they are awaited anyway.
                if (looks or stops or self.due(done)) and self.guard.look():
                    done = self.go_back()
                    continue
                if stops:
                    self.stop(done)
                self.evaluate_or_stop(done)
                self.save_if_due(done)
        if done < self.config.steps:
            self.end(done)
        self.check_result()

    def take_step(self, step: int) -> tuple[dict[str, jax.Array], dict[str, Any]]:
        """Takes a step; returns the metrics of the update and those of its batch."""
        self.goodput.step(step)
        rollout = self.source.rollouts(self.source_state, 1) > 0
        drawing = "rollout" if rollout else "data_wait"
        frozen = self.run.frozen
        with self.tracer.step(step, self.state):
            drawn_before = self.goodput.seconds[drawing]
            with self.goodput.time(drawing):
                batch, self.source_state, extra = self.save_before_error(
                    step, self.source.next, self.state, frozen, self.source_state, step
                )
                if "record" in extra:
                    self.recorder.write(step, extra.pop("record"))
            self.throughput.drew(self.goodput.seconds[drawing] - drawn_before, rollout)
            # The step does not see, and so does not donate, the arrays of the source: the next
            # minibatch reads them again.
            state = self.state._replace(source=step_view(self.source_state))
            shape = ramps.shape(batch)
            with contextlib.ExitStack() as first:
                if shape not in self.compiled:
                    first.enter_context(self.goodput.time("compile"))
                    first.enter_context(phase("compiling"))
                    if self.compiled:
                        first.enter_context(self.throughput.paused())
                state, values = self.step_fn(state, frozen, batch)
            self.compiled.add(shape)
        self.count(self.costs.of(batch))
        self.source_state = {**self.source_state, **(state.source or {})}
        self.state = state._replace(source=self.source_state)
        return values, extra

    def record(self, done: int, values: Mapping[str, Any], extra: dict[str, Any]) -> None:
        """Writes and shows the metrics of step `done` if they are due.

        Args:
          values: of the update. extra: of the batch; not empty if it needed a rollout.
        """
        config, source_state = self.config, self.source_state
        for warning in extra.pop("warnings", ()):
            self.progress.say(f"  warning at step {done}: {warning}")
        if "rollout/draws" in extra:
            self.rollouts = {
                "taken": self.rollouts["taken"] + 1,
                "no_lesson": self.rollouts["no_lesson"] + extra["rollout/no_lesson"],
            }
            draws = extra["rollout/draws"]
            self.count(Totals(flops=self.rollout_flops(draws)))
            extra["rollout/share"] = self.throughput.rollout_share()
        if not (extra or done % log_interval(config) == 0 or done == config.steps):
            return
        values = statistics.numbers(values) | extra
        values |= self.noise.add(values)
        values |= self.rates(self.state.opt_state) | self.source.progress(source_state)
        values |= self.totals.values(self.source, source_state)
        values |= self.throughput.measure() | self.saving_metrics()
        self.metrics.write(done, "train", values)
        self.goodput.record(done)
        to_come = self.source.rollouts(source_state, config.steps - done)
        seconds = self.time_left.record(done, to_come, self.goodput.lap())
        self.shown |= values
        self.progress.update(done, messages.metrics(self.shown), seconds)

    def count(self, cost: Totals) -> None:
        """Counts the cost of a step or of a rollout."""
        self.totals.add(cost)
        self.throughput.add(cost.tokens, cost.flops)

    def due(self, step: int) -> bool:
        """Whether a record of metrics, an evaluation or a checkpoint is due after `step` steps."""
        logs = step % log_interval(self.config) == 0
        return logs or self.due_to_evaluate(step) or self.due_to_save(step)

    def due_to_evaluate(self, step: int) -> bool:
        return any(e.due(step, self.config.steps) for e in self.run.evaluations)

    def due_to_save(self, step: int) -> bool:
        every = self.config.checkpoint.every
        return self.is_last(step) or bool(every and step % every == 0)

    def is_last(self, step: int) -> bool:
        """Whether the run ends after `step` steps, all of them or those of its patience."""
        return step == self.config.steps or self.patience.ended

    def go_back(self) -> int:
        """Continues from the last good checkpoint, past the data since; returns its step."""
        self.goodput.go_back(int(self.state.step))
        del self.state, self.source_state  # make room on the devices
        with self.throughput.paused(), self.goodput.time("restore"):
            self.start, self.state, self.saved_meta = self.guard.go_back(self.checkpoints)
        self.outcomes.restart(self.metrics.evaluations)
        self.goodput.lap()
        self.begin()
        return self.start

    def evaluate(self, step: int) -> None:
        """Makes the evaluations that are due after `step` steps."""
        due = [e for e in self.run.evaluations if e.due(step, self.config.steps)]
        if not due:
            return
        weights = self.state.trainable, self.run.frozen, self.state.ema
        with self.goodput.time("evaluate"), phase("evaluating"):
            values, samples, failed = outcomes.make(due, *weights)
            self.patience.add(step, values)
            if self.patience.ended:  # the others are due too, as at the last step
                others = [e for e in self.run.evaluations if e not in due]
                more = outcomes.make(others, *weights)
                values, samples, failed = values | more[0], samples + more[1], failed | more[2]
        self.evaluated = step, values
        self.metrics.write_samples(step, samples)
        self.metrics.write(step, "eval", values, failed)  # last: it marks the evaluation as made
        for warning in self.outcomes.record(step, failed):
            self.progress.say(warning)
        for line in messages.evaluation(step, values, self.metrics.first):
            self.progress.say(*line)
        self.hooks.after_evaluation(step, values)

    def evaluate_or_stop(self, step: int) -> None:
        """`evaluate`, during which a Ctrl-C saves the run and stops it."""
        if not self.due_to_evaluate(step):
            return
        try:
            with self.throughput.paused(), interrupts.mode(interrupts.Mode.EVALUATION):
                self.evaluate(step)
        except KeyboardInterrupt:
            if not interrupts.asked():
                raise
            self.stop(step)

    def save(self, wait: bool) -> None:
        """Saves the state."""
        jax.block_until_ready(self.state.step)  # steps that are being computed hold no loop
        with self.holding("commit" if wait else "checkpoint"), phase("saving"):
            notes = self.guard.notes(self.state, self.due_to_save(int(self.state.step)))
            self.metrics.sync()
            meta = self.meta | notes | {"rollouts": self.rollouts}
            totals = self.totals.values(self.source, self.source_state)
            meta |= {"totals": totals, "noise": self.noise.notes()}
            self.checkpoints.save(self.state, meta, wait=wait, score=self.score())

    @contextlib.contextmanager
    def holding(self, activity: str = "checkpoint") -> Iterator[None]:
        """A context in which a save holds the loop."""
        begun = time.monotonic()
        with self.goodput.time("checkpoint", activity):
            yield
        self.held += time.monotonic() - begun

    def saving_metrics(self) -> dict[str, float]:
        """The seconds for which saves have held the loop since the last record, and the number of
        those that have failed; without those that are 0."""
        values = {
            "checkpoint/held_seconds": round(self.held, 4),
            "checkpoint/failed": float(self.checkpoints.failures.total),
            "checkpoint/not_finite": float(self.checkpoints.refused),
        }
        self.held = 0.0
        return {name: value for name, value in values.items() if value}

    def score(self) -> float | None:
        """The metric `checkpoint.best` of the evaluation of this state, if there was one."""
        (step, values), name = self.evaluated, self.config.checkpoint.best
        if not name or step != int(self.state.step):
            return None
        if name not in values:
            self.progress.say(
                f"  warning at step {step}: checkpoint.best={name} is no metric of the evaluation, "
                f"which has {', '.join(sorted(values))}"
            )
        value = float(values.get(name, math.nan))
        return value if math.isfinite(value) else None

    def save_if_due(self, step: int) -> None:
        """Saves at the steps of `checkpoint.every` and at the last; retries a save that failed.
        Between updates that are not applied it does not: that may come of the weights, and their
        checkpoint would take a good one's place."""
        asked, last = self.due_to_save(step), self.is_last(step)
        if self.guard.in_a_row and not last:
            if asked:
                self.progress.say(f"  step {step}: no checkpoint, as its update was not applied")
        elif asked or step % log_interval(self.config) == 0:  # where the loop waits for the device
            with self.holding():
                self.checkpoints.poll()
                due = last or self.checkpoints.due(asked)
            if due:
                self.save(wait=last)

    def save_before_error(self, step: int, function: Callable, *args: Any) -> Any:
        """function(*args); if a reward fails in it, saves the state after `step` steps first."""
        try:
            return function(*args)
        except RewardError as e:
            if not step:
                raise
            if step != self.checkpoints.latest():
                self.save(wait=True)
            raise RewardError(
                f"{e}\nThe run is saved at step {step}; run the same command to resume"
            ) from e.__cause__

    def stop(self, step: int) -> None:
        """Saves and leaves the run; an evaluation that is due happens when it is resumed."""
        self.save(wait=True)
        raise processes.Stopped(interrupts.stopped(step))

    def end(self, step: int) -> None:
        """Ends the run before its last step, as `evaluate.patience` asks."""
        if not self.metrics.finished:
            self.metrics.note(step, "ended", self.patience.note())
            self.metrics.finished = True
        for line in self.patience.words(step, self.config.steps):
            self.progress.say(line)

    def check_result(self) -> None:
        """Refuses the result of a run that has learned nothing."""
        count, steps, rollouts = int(self.state.skipped), int(self.state.step), self.rollouts
        check_skipped(count, steps)
        if 0 < rollouts["taken"] == rollouts["no_lesson"]:
            raise RewardError(
                f"in each of {rollouts['taken']} rollouts all answers that are compared had the "
                "same score, so there was nothing to learn. Look at the answers in samples.jsonl "
                "and at the reward, then start again in a new --workdir"
            )
        if count:
            self.progress.say(f"  {count} of {steps} updates were not applied")
