"""A module outside the package adds a row to every registry, each with a setting of its own, and a
run is trained with them."""

import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
from ml_collections import ConfigDict
from quick_compile import FLAGS

import plugins
from data.prepare.plan import PrepareJob
from data.read.readers import READERS
from ranges import ConfigError, split_names
from train.config import overrides
from train.config.run import build, default, keys, run_class
from train.evals.registry import EVALS
from train.objectives.registry import STAGES
from train.optimizer import OPTIMIZERS, SCHEDULES
from train.rl.verifiers import VERIFIERS
from train.runtime.records import read_metrics
from train.runtime.trackers.registry import TRACKERS

ROOT = Path(__file__).resolve().parents[1]
REGISTRIES = (STAGES, EVALS, VERIFIERS, READERS, OPTIMIZERS, SCHEDULES, TRACKERS)
PLUGIN = """
import dataclasses
from typing import Annotated

import optax

import ranges
from data.read.readers import READERS, Reader
from ranges import ConfigError, Positive, Range, Size
from train.evals.registry import evaluation
from train.objectives import next_token
from train.objectives.registry import STAGES
from train.optimizer import OPTIMIZERS, SCHEDULES
from train.rl.verifiers import verifier
from train.runtime.trackers.base import Tracker
from train.runtime.trackers.registry import tracker


@dataclasses.dataclass(frozen=True)
class Scaled:
    scale: Positive = 1.0

    def __post_init__(self):
        ranges.check(self, "scaled.")


def build(ctx):
    stage = next_token.build(ctx)

    def loss(trainable, frozen, batch):
        sums, metrics = stage.loss(trainable, frozen, batch)
        return {name: ctx.config.scaled.scale * x for name, x in sums.items()}, metrics

    return stage._replace(loss=loss)


STAGES.register(
    "scaled", dataclasses.replace(next_token.PRETRAIN, build=build, settings=Scaled)
)


@dataclasses.dataclass(frozen=True)
class Vowels:
    vowels: str = "aeiou"


@evaluation("vowels", ("text",), role="", settings=Vowels)
def vowels(ctx, data, stage, settings):
    text = "".join(example["text"] for example in data.heldout_examples)
    share = sum(c in settings.vowels for c in text) / len(text)
    return lambda trainable, frozen: ({"share": share}, [])


@dataclasses.dataclass(frozen=True)
class Word:
    word: str = ""


@verifier("polite", settings=Word, needs=("word",))
def polite(episode, settings):
    return float(settings.word in episode.response)


@dataclasses.dataclass(frozen=True)
class Separator:
    separator: str = "%"

    def __post_init__(self):
        if len(self.separator) != 1:
            raise ConfigError(f"data.separator={self.separator!r}; it is one character")


def read(path, span, options, settings):
    with open(path) as file:
        for number, text in enumerate(file.read().split(settings.separator)):
            yield f"{path}[{number}]", {"text": text.strip()}


READERS.register(".fortune", Reader(read), settings=Separator)


@dataclasses.dataclass(frozen=True)
class Sign:
    sign_b1: Annotated[float, Range(0, 1, "[)")] = 0.9


@OPTIMIZERS.register("sign", settings=Sign)
def sign(c, rate, settings):
    return [optax.lion(rate, b1=settings.sign_b1, weight_decay=c.weight_decay)]


@dataclasses.dataclass(frozen=True)
class Stairs:
    stairs: Size = 4


@SCHEDULES.register("staircase", settings=Stairs)
def staircase(c, warmup, steps, settings):
    every = max((steps - warmup) // settings.stairs, 1)
    return optax.exponential_decay(c.peak_lr, every, 0.5, staircase=True)


@dataclasses.dataclass(frozen=True)
class Place:
    place: str = "tracked.txt"


class Lines(Tracker):
    def __init__(self, path):
        self.path = path

    def write(self, step, values):
        with open(self.path, "a") as file:
            file.write(f"{step} {'train/loss' in values}\\n")


@tracker("lines", settings=Place)
def lines(target, settings):
    return Lines(target.workdir / settings.place)
"""
SETTINGS = {
    "stage": "scaled", "scaled.scale": 2.0, "optimizer.name": "sign", "optimizer.sign_b1": 0.5,
    "optimizer.schedule": "staircase", "optimizer.stairs": 2, "data.separator": "|",
    "rewards.polite": 0.5, "rewards.word": "please", "evals.count.type": "vowels",
    "evals.count.vowels": "e", "trackers": "lines", "tracking.place": "lines.txt",
}  # fmt: skip
RECIPE = """
from train.config.run import default


def get_config():
    config = default()
    config.model.size, config.model.num_layers, config.tokenizer.kind = "tiny", 1, "byte"
    config.data.source, config.data.length, config.data.batch_size = "texts.fortune", 32, 8
    config.data.heldout_limit, config.evaluate.samples, config.log_every = 8, 0, 1
    config.steps, config.checkpoint.every, config.evaluate.every = 4, 2, 2
    return config
"""


@pytest.fixture
def house(tmp_path, monkeypatch):
    """A folder with a plugin of a name of its own, which leaves no trace."""
    name = f"house_{tmp_path.name}"
    (tmp_path / f"{name}.py").write_text(PLUGIN)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(plugins, "_loaded", [])
    for registry in REGISTRIES:
        for table in ("_rows", "_settings"):
            monkeypatch.setattr(registry, table, dict(getattr(registry, table)))
    yield name
    sys.modules.pop(name, None)


def recipe(house, **leaves):
    config = default()
    config.plugins = house
    for key, value in (SETTINGS | leaves).items():
        *groups, leaf = key.split(".")
        group = config
        for name in groups:
            if name not in group:
                group[name] = ConfigDict()
            group = group[name]
        group[leaf] = value
    return config


def test_a_plugin_s_settings_are_settings(house):
    assert "optimizer.stairs" not in keys()
    config = build(recipe(house))
    assert config.plugins == (house,) and isinstance(config, run_class())
    assert (config.scaled.scale, config.optimizer.stairs, config.data.separator) == (2.0, 2, "|")
    assert (config.value_optimizer.stairs, config.rewards.polite) == (4, 0.5)
    assert config.evals["count"].vowels == "e"
    assert {"scaled.scale", "optimizer.sign_b1", "rewards.word", "data.separator"} <= {*keys()}
    assert default().optimizer.stairs == 4  # of recipes that are read from now on


@pytest.mark.parametrize(
    "leaf, value, message",
    [
        ("stage", "scale", r"stage='scale'; choose .*scaled; did you mean scaled\?"),
        ("scaled.scale", 0.0, r"scaled\.scale=0\.0; it must be above 0"),
        ("scaled.scal", 1.0, r"unknown config key scaled\.scal; did you mean scaled\.scale\?"),
        ("optimizer.name", "sing", r"optimizer\.name='sing'; .*did you mean sign\?"),
        ("optimizer.sign_b1", 1.0, r"optimizer\.sign_b1=1\.0; it must be at least 0 and below 1"),
        ("value_optimizer.stairs", 0, r"value_optimizer\.stairs=0; it must be at least 1"),
        ("optimizer.schedule", "stairs", r"optimizer\.schedule='stairs'; .*mean staircase\?"),
        ("rewards.polit", 1.0, r"unknown config key rewards\.polit; did you mean rewards\.polite"),
        ("rewards.word", "", r"rewards\.polite needs --config\.rewards\.word=VALUE"),
        ("data.separator", 5, r"data\.separator=5 is a int; it must be a str"),
        ("evals.count.vowel", "e", r"evals\.count\.vowel; did you mean evals\.count\.vowels"),
        ("evals.count.vowels", 1, r"evals\.count\.vowels=1 is a int; it must be a str"),
    ],
)
def test_a_wrong_setting_of_a_plugin_is_refused_like_ours(leaf, value, message, house):
    with pytest.raises(ConfigError, match=message):
        config = build(recipe(house, **{leaf: value}))
        STAGES.find(config.stage)


@pytest.mark.parametrize(
    "source, message",
    [
        ("import nothing_such", r"plugins=NAME: .*NAME\.py:1: No module named 'nothing_such'; in"),
        ("x = 1\nx.y", r"NAME cannot be imported: .*NAME\.py:2: AttributeError: 'int' object has"),
        ("x = ", r"NAME cannot be imported: SyntaxError: invalid syntax"),
        ("raise SystemExit(0)", r"NAME cannot be imported: .*NAME\.py:1: SystemExit"),
        ("from train.optimizer import OPTIMIZERS\nOPTIMIZERS.register('adamw', 0)",
         r"NAME\.py:2: there are two of the optimizer 'adamw'; rename one"),
    ],
)  # fmt: skip
def test_a_plugin_that_cannot_be_imported_is_named(source, message, house, tmp_path):
    (tmp_path / f"{house}.py").write_text(source)
    with pytest.raises(ConfigError, match=message.replace("NAME", house)) as error:
        build(recipe(house))
    assert "\n" not in str(error.value)


def test_a_plugin_that_is_not_there_is_said():
    for name in ("nowhere", "nowhere.inside"):
        with pytest.raises(
            ConfigError, match=f"plugins={name}: there is no module nowhere; name a"
        ):
            plugins.load(name)


def test_plugins_are_found_wherever_they_are_named():
    chain = {"stages": {"one": {"plugins": ("c", "d")}, "two": {"plugins": ""}}}
    words = [
        "train",
        "--config.steps=3",
        "--config.plugins=a,b",
        "--config.stages.one.plugins",
        "e",
    ]
    assert overrides.plugins_of(words, chain) == ("a", "b", "e", "c", "d")
    assert overrides.plugins_of(["", "--config.plugins=('a', 'b')"], {"plugins": "c"}) == (*"abc",)
    assert split_names("a, b,") == split_names(["a", "b"]) == ("a", "b")


def test_another_process_imports_plugins_before_it_makes_settings(house, monkeypatch):
    job = PrepareJob(build(recipe(house)).data, "text", "out")
    pickled = pickle.dumps(job)
    monkeypatch.setattr(plugins, "_loaded", [])
    again = pickle.loads(pickled)
    assert again == job and again.config.separator == "|" and plugins.loaded() == (house,)


def test_a_run_with_a_plugin_trains_and_resumes(house, tmp_path):
    """From the command line, with --config.plugins after the settings that it adds."""
    (tmp_path / "recipe.py").write_text(RECIPE)
    (tmp_path / "texts.fortune").write_text("|".join(f"the cat {i} ate." for i in range(99)))
    words = [f"--config.{k}={v}" for k, v in SETTINGS.items()]
    env = os.environ | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu", "XLA_FLAGS": FLAGS}

    def train():
        command = [sys.executable, "-m", "train", "--config=recipe.py", "--workdir=run"]
        command += [*words, f"--config.plugins={house}"]
        return subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True)

    first = train()
    assert first.returncode == 0, first.stderr
    file = tmp_path / f"{house}.py"
    hashed = f"plugin {house}: {file} ("
    assert hashed in first.stdout.replace("\n", "")
    saved = json.loads((tmp_path / "run/config.json").read_text())
    assert saved["plugins"] == [house] and saved["scaled"] == {"scale": 2.0}
    whole = read_metrics(tmp_path / "run", "train"), read_metrics(tmp_path / "run", "eval")
    assert all(0 < record["count/share"] < 0.5 for record in whole[1])
    lines = (tmp_path / "run/lines.txt").read_text().splitlines()
    assert lines == ["0 False", "1 True", "2 True", "2 False", "3 True", "4 True", "4 False"]

    (tmp_path / "run/checkpoints/4").rename(tmp_path / "4")  # as if it had been stopped
    file.write_text(PLUGIN + "# another file")
    again = train()
    assert again.returncode == 0, again.stderr
    said = again.stdout.replace("\n", "")
    assert "resuming run from step 2" in said and "has changed since the checkpoint" in said
    for before, kind in zip(whole, ("train", "eval"), strict=True):
        after = read_metrics(tmp_path / "run", kind)
        for name in ("step", "loss"):
            assert [r[name] for r in before] == [r[name] for r in after]
