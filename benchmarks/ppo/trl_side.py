"""TRL's side of benchmarks/ppo, in its own environment.

    python benchmarks/ppo/trl_side.py DIR

Imports only torch, transformers and trl. DIR/race.json holds {prompts: [n][P] ids, response: R,
updates, schedule, seed, threads}, and DIR/policy is the policy to begin with, which the critic's
backbone begins with too. Writes the trained policy to DIR/trained, and prints
{versions, train_seconds, and for each update: update_seconds, processor_seconds}.
"""

import contextlib
import json
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import datasets
import torch
import transformers
import trl
from trl.experimental.ppo import PPOConfig, PPOTrainer

PAD = 32  # an unused id: no prompt or response of the race is padded


class CountSevens(torch.nn.Module):
    """A reward model with TRL's interface: a "hidden state" of each token, and its score."""

    base_model_prefix = "count"

    def count(self, input_ids: torch.Tensor, **settings) -> SimpleNamespace:
        del settings
        counts = torch.cumsum((input_ids == 7).float(), 1)[..., None]
        return SimpleNamespace(hidden_states=[counts])

    def score(self, counts: torch.Tensor) -> torch.Tensor:
        return counts / self.response

    def __init__(self, response: int):
        super().__init__()
        self.response = response


class Clock(transformers.TrainerCallback):
    """Records the start of training and the end of each update, by the clock and in processor
    time."""

    def __init__(self):
        self.times, self.processor = [], []

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs) -> None:
        self.times.append(time.perf_counter())
        self.processor.append(time.process_time())

    on_step_end = on_train_begin


def collate(rows: list[dict]) -> dict[str, torch.Tensor]:
    return {"input_ids": torch.tensor([row["input_ids"] for row in rows])}


def train(directory: Path, race: dict) -> Clock:
    transformers.logging.set_verbosity_error()
    transformers.set_seed(race["seed"])
    path = str(directory / "policy")
    policy, reference = (
        transformers.AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
        for _ in range(2)
    )
    value = transformers.AutoModelForSequenceClassification.from_pretrained(
        path, num_labels=1, dtype=torch.float32
    )
    settings = PPOConfig(
        output_dir=str(directory / "trl"), seed=race["seed"], use_cpu=True, bf16=False,
        gradient_checkpointing=False, report_to="none", save_strategy="no", disable_tqdm=True,
        num_sample_generations=0, learning_rate=1e-3, lr_scheduler_type=race["schedule"],
        per_device_train_batch_size=64, gradient_accumulation_steps=1, num_mini_batches=2,
        num_ppo_epochs=4, total_episodes=64 * race["updates"], response_length=race["response"],
        temperature=1.0, kl_coef=0.02, gamma=1.0, lam=0.95, missing_eos_penalty=None,
    )  # fmt: skip
    clock = Clock()
    trainer = PPOTrainer(
        args=settings, model=policy, ref_model=reference, value_model=value,
        reward_model=CountSevens(race["response"]), data_collator=collate, callbacks=[clock],
        processing_class=SimpleNamespace(pad_token_id=PAD, eos_token_id=PAD),
        train_dataset=datasets.Dataset.from_dict({"input_ids": race["prompts"]}),
    )  # fmt: skip
    trainer.remove_callback(transformers.PrinterCallback)
    trainer.train()
    policy.save_pretrained(directory / "trained")
    return clock


def gaps(times: list[float]) -> list[float]:
    return [b - a for a, b in zip(times, times[1:])]  # noqa: RUF007


def main(directory: str | Path) -> None:
    directory = Path(directory)
    race = json.loads((directory / "race.json").read_text())
    torch.set_num_threads(race["threads"])
    with contextlib.redirect_stdout(sys.stderr):
        clock = train(directory, race)
    names = (trl, transformers, torch)
    result = {
        "versions": {m.__name__: m.__version__ for m in names},
        "train_seconds": clock.times[-1] - clock.times[0],
        "update_seconds": gaps(clock.times),
        "processor_seconds": gaps(clock.processor),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main(*sys.argv[1:])
