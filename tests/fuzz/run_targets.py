"""Fuzz targets: files that a run wrote, recipes and command lines."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from random import Random
from types import SimpleNamespace
from unittest import mock

import ml_collections
import open_models
from absl import flags
from flax.traverse_util import flatten_dict

from tests.fuzz import mutate
from tests.fuzz.data_targets import _write
from tests.fuzz.engine import ROOT, Target
from tpu.launch import verbs
from train import cli
from train.chat import workdirs
from train.checkpoints import saved_models
from train.config import run as configs
from train.objectives import registry
from train.report import collect
from train.rl import rewards
from train.runtime import goodput, profiling, records

RECIPES = ("pretrain.py", "pretrain.py:smoke", "sft.py", "reward.py", "dpo.py", "ppo.py", "grpo.py",
           "preferences/kto.py", "specialise.py:smoke", "chains/demo.py",
           "shakespeare.py")  # fmt: skip


def _good_workdir(folder):
    """The JSON files of a finished run with adapters."""
    path = folder / "good"
    path.mkdir()
    saved_models.save_models(path, {"policy": open_models.CONFIG, "value": open_models.CONFIG})
    config = configs.build(configs.default())
    from train.runtime.resume import config_json

    parts = {"policy": {
        "origin": {"from": "runs/base", "role": "policy", "fingerprint": "00000000"},
        "frozen": ["embedding", "layers/mlp/gate"], "adapted": ["layers/mlp/gate"],
        "lora": configs.build(configs.default()).lora.__dict__, "dtype": "float32",
    }}  # fmt: skip
    records = [
        {"step": k, "kind": kind, "elapsed_seconds": 1.0 * k, "loss": 2.0, "bits_per_byte": 1.0}
        for k in (0, 1, 2)
        for kind in ("train", "eval")
    ]
    lines = "".join(json.dumps(record) + "\n" for record in records).encode()
    return {p.name: p.read_bytes() for p in path.iterdir()} | {
        "parts.json": json.dumps(parts).encode(),
        "config.json": config_json(config).encode(),
        "metrics.jsonl": lines,
        "samples.jsonl": b'{"step": 0, "prompt": "p", "text": "t"}\n' * 2,
        "goodput.json": b'{"seconds": {"init": 1.0}, "attempts": 1, "written_at": 5.0, "steps": 2}',
        "DONE": b'{"seconds": 3.5}\n',
        "normalizer.json": b'{"gain": 1.0, "bias": 0.0, "fingerprint": "00000000"}',
    }


def _workdir(rng: Random, good, folder) -> None:
    name = rng.choice(list(good))
    damage = mutate.damaged_json
    if name.endswith(".jsonl"):
        damage = rng.choice((mutate.damaged_lines, mutate.damaged_bytes))
    path = _write(folder / "run" / "pretrain", good, name, damage(rng, good[name]))
    if name == "models.json":
        saved_models.model_config(path, "policy")
        workdirs.check_workdir(path)
    elif name == "parts.json":
        saved_models.read_parts(path, "policy")
    elif name == "config.json":
        workdirs.answers(path)
    elif name == "goodput.json":
        with goodput.Goodput(path) as clock:
            clock.step(1)
            clock.summary()
    elif name == "normalizer.json":
        config = configs.build(configs.default())
        config = SimpleNamespace(
            init_from={"reward": str(path)}, rl=config.rl, rewards=config.rewards
        )
        rewards.normalizer(config, {"reward": {"fingerprint": "00000000"}})
    else:
        finished = collect.read({"pretrain": configs.build(configs.default())}, path.parent)
        collect.results(collect.numbers(finished))
        for file in ("metrics.jsonl", "samples.jsonl"):
            before = {line for line, _ in records.read_log(path / file).lines}
            records.truncate_jsonl(path / file, math.inf)
            assert {line for line, _ in records.read_log(path / file).lines} == before
            records.truncate_jsonl(path / file, rng.randrange(3))


def _keys(folder):
    del folder
    cli.define_flags()
    cli.define_run_flags()
    return sorted(flatten_dict(configs.default().to_dict(), sep="."))


WORDS = ("", "0", "1", "-1", "1e20", "1e400", "nan", "inf", "None", "True", "false", "a", "[]",
"{}", "(1,", "'x'",
         '"x', "1,2", "é", "99999999999999999999", "0x10", "1_000", "../x", "tfds:", "hf:", "gs://x/y",
         "x" * 3000,
         "[1,2]", "{'a': 1}", "adamw", "muon", "8b", "bfloat16", "sigmoid", "cut", "exact",
         "email", "1/2", "5 tokens",
         "lambda: 1", "__import__('os')", "\n", "=", "a=b", "0.5")  # fmt: skip
ODD_KEYS = ("", ".", "(1,2)", "a", "model", "data", "model.x", "optimizer.lr", "lr",
"batch_size", "data.filters.x",
            "data.mixture.a.weight", "data.keep.near", "data.fields.x", "init_from.policy",
            "[0]", "é", "x.y.z",
            "optimizer.", ".steps", "data.source.x", "steps.x", "seed-1", "rewards.model",
            "lora.rank", "x y")  # fmt: skip


def _overrides(rng: Random, good, folder) -> None:
    recipe = rng.choice(RECIPES)
    path = f"configs/{recipe}"
    if rng.random() < 0.1:
        odd = ("/etc/passwd", "configs", "", "configs/pretrain", "configs/nope.py", f"{path}:nope",
               f"{path}:a=1", f"{path}:size=", f"{path}:::", "/dev/null", str(folder))  # fmt: skip
        path = rng.choice(odd)
    argv = ["train", f"--config={path}", f"--workdir={folder}/run"]
    for _ in range(rng.choice((0, 1, 1, 2, 3))):
        key = rng.choice(ODD_KEYS) if rng.random() < 0.3 else rng.choice(good)
        argv.append(f"--config.{key}={rng.choice(WORDS)}" + ("" if rng.random() < 0.9 else " x"))
    if rng.random() < 0.2:
        odd = ("--profile_steps=5:1", "--profiler_port=-1", "--num_processes=-3", "--nope",
        "--heartbeat=x",
               "--process_id=", "stray", "--", "-x", "--workdir", "--config", "--help=5",
               "--seed=1")  # fmt: skip
        argv.append(rng.choice(odd))
    flags.FLAGS.unparse_flags()
    for name in [n for n in flags.FLAGS if n.startswith("config.")]:
        delattr(flags.FLAGS, name)
    try:
        cli.parse_flags(argv)
    except SystemExit as end:
        if end.code:
            raise
        return  # --help
    profiling.parse_steps(flags.FLAGS.profile_steps)
    if recipe != "demo.py":
        config = configs.build(cli.config())
        if config.model.size:
            config.model.build(256)


def _recipe(rng: Random, good, folder) -> None:
    del good, folder
    value = mutate.damaged_value(rng, configs.default().to_dict())
    if isinstance(value, dict):
        try:
            recipe = ml_collections.ConfigDict(value)
        except (ValueError, TypeError, AttributeError, KeyError):
            return  # ml_collections refuses these keys
        config = configs.build(recipe)
        if config.model.size:
            config.model.build(256)
        if config.stage in registry.STAGES:
            config.data.sources()


def _launch(rng: Random, good, folder) -> None:
    del good
    verb = rng.choice(
        (
            "local",
            "up",
            "run",
            "supervise",
            "status",
            "logs",
            "ssh",
            "down",
            "manifest",
            "doctor",
            "x",
        )
    )
    good_flags = {"name": "first", "zone": "us-west4-a", "accelerator": "v5e-16",
    "bucket": "gs://b", "slices": "2",
                  "project": "p", "image": "i", "cluster": "c", "worker": "all", "node": "0",
                  "lines": "5",
                  "processes": "2", "devices": "1", "port": "0", "peer_timeout": "5",
                  "heartbeat": "5",
                  "give_up_after": "3", "queue": "q"}  # fmt: skip
    needed = {"local": ("processes", "devices")}.get(
        verb, ("name", "zone", "accelerator", "bucket")
    )
    if verb == "manifest":
        needed += ("image", "cluster")
    argv = [verb]
    for name in [*needed, *rng.sample(list(good_flags), rng.randrange(3))]:
        value = good_flags[name]
        if rng.random() < 0.25:
            odd = (
                "My_Run",
                "-x",
                "a" * 80,
                "v5e-17",
                "v5p",
                "gs://",
                "b",
                "-1",
                "0",
                "x;y",
                "$(id)",
                "`id`",
                "'",
            )
            value = rng.choice([*odd, *WORDS])
        argv.append(f"--{name}={value}")
    if verb != "local":
        argv.append("--dry_run")
    if rng.random() < 0.8:
        argv += ["--", "--config=configs/pretrain.py:smoke", rng.choice(
            (f"--workdir={folder}/r", "--workdir=gs://b/r", "--workdir=", "stray",
            "-m"))]  # fmt: skip
    # No process is started, here or elsewhere.
    with (
        mock.patch.object(verbs.local, "run", return_value=0),
        mock.patch.object(verbs.supervise, "supervise", return_value=0),
    ):
        verbs.main(argv)


COMMANDS = (
    ("train", "config", "workdir"), ("train.chain", "config", "workdir"), ("train.chat", "workdir"),
    ("train.convert",), ("train.best_of", "config", "workdir"), ("train.normalize", "config",
    "workdir"),
    ("data.prepare", "config", "output"), ("data.inspect", "config"), ("tpu.fit", "config",
    "topology"),
    ("tpu.launch",),
)  # fmt: skip


def _command(rng: Random, good, folder) -> None:
    """A command in a process of its own with wrong input: a message, no traceback."""
    del good
    module, *needed = rng.choice(COMMANDS)
    (folder / "file").write_text("x")
    values = {
        "config": ("configs/pretrain.py:smoke", "/etc/passwd", "configs", "", "nope.py"),
        "workdir": (f"{folder}/file", f"{folder}/none", "/proc/x", "", f"{folder}/file/x"),
        "output": (f"{folder}/file", ""),
        "topology": ("v5e-17", "", "x"),
    }
    argv = [f"--{name}={rng.choice(values[name])}" for name in needed if rng.random() < 0.8]
    argv += rng.choice((
        ["--config.data.source=" + str(folder / "none.jsonl")], ["--config.steps=0"], ["--nope=1"],
        ["--config.optimizer.peak_lr=nan", "--config.data.source=" + str(folder / "file")],
        ["import", "--from=" + str(folder), f"--workdir={folder}/w"], ["export"], ["x"],
        ["export", "--workdir=" + str(folder), f"--to={folder}/out"],
    ))  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-m", module, *argv], cwd=ROOT, capture_output=True, text=True, timeout=60,
        stdin=subprocess.DEVNULL,
    )  # fmt: skip
    output = done.stdout + done.stderr
    print(output)
    if done.returncode not in (0, 1, 2):
        raise RuntimeError(f"{module} {argv} ended with {done.returncode}: {output[-500:]}")
    if done.returncode and not output.strip():
        raise RuntimeError(f"{module} {argv} printed nothing")


TARGETS = [
    Target("workdir", _good_workdir, _workdir, 2),
    Target("overrides", _keys, _overrides, 3),
    Target("recipe", lambda folder: None, _recipe, 2),
    Target("launch", lambda folder: None, _launch, 2),
    Target("commands", lambda folder: None, _command, 0.1, 60.0),
]
