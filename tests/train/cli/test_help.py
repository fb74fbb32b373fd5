"""`--help`: a command's own flags, a recipe's settings, and the search in both."""

import contextlib
import fcntl
import importlib
import inspect
import json
import os
import pty
import re
import struct
import sys
import termios

import pytest
from documentation import ROOT, docstring, type_command

from train.config.run import keys

COMMANDS = (
    "train", "train.chain", "train.chat", "train.convert", "train.best_of", "train.normalize",
    "train.average", "train.evaluate", "data.prepare", "data.inspect", "tpu.fit", "tpu.launch",
)  # fmt: skip


def shown(line):
    typed = type_command(line)
    assert typed.code == 0, typed.text
    return typed.text


@pytest.fixture(autouse=True)
def clone(monkeypatch):
    monkeypatch.chdir(ROOT)


@pytest.mark.parametrize("width", [60, 80, 120])
@pytest.mark.parametrize("module", COMMANDS)
def test_help_of_a_command(module, width, monkeypatch):
    monkeypatch.setenv("COLUMNS", str(width))
    lines = shown(f"python -m {module} --help").splitlines()
    assert lines[0].startswith(f"usage: python -m {module}")
    assert all(len(line) <= width or len(line.split()) == 1 for line in lines)
    text = "\n".join(lines)
    assert "--pdb" not in text and "jax_" not in text  # absl's, JAX's
    assert re.search(rf"^    python -m {module}", text, re.MULTILINE)


def test_flags_are_grouped_with_defaults(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    text = shown("python -m train --help")
    assert text.index("\nFlags\n") < text.index("\n  --workdir=DIR ")
    assert text.index("\nSeveral processes\n") < text.index("--coordinator=TEXT")
    assert "Required." in text and "Default: 300." in text
    assert "<bfloat16" not in (text := shown("python -m train.convert --help"))
    assert "--dtype=float32|bfloat16|float16" in text


def test_a_command_of_the_docstring_can_be_pasted(monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    text = shown("python -m train --help")
    assert "python -m train --config=configs/pretrain.py:smoke --workdir=runs/first" in re.sub(
        r" \\\n +", " ", text
    )


def test_help_of_a_recipe_has_every_setting(monkeypatch):
    text = shown("python -m train --config=configs/sft.py --config.steps=7 --help")
    assert "* steps = 7  (int ≥ 1; default 1000)" in text
    assert "* optimizer.peak_lr = 0.0001" in text and "\n  optimizer.b1 = 0.9  (" in text
    assert "Hardware: an accelerator" in text
    parents = {key.rpartition(".")[0] for key in keys()}
    second = ("pretrain_data.", "value_optimizer.")  # refer to data and optimizer
    for key in keys():
        if key not in parents and not key.startswith(second):
            assert re.search(rf"^[* ] {re.escape(key)} = ", text, re.MULTILINE), key
    text = shown("python -m train --config=configs/pretrain.py --help=model.embed_dim")
    assert "model.embed_dim = None  (int ≥ 1; 768 of size 125m)" in text


def test_help_of_a_chain_has_the_values_of_each_stage():
    chain = "python -m train.chain --config=configs/chains/demo.py"
    text = shown(f"{chain} --help=steps")
    assert "* stages.NAME.steps  (int ≥ 1; default 1000)" in text
    assert re.search(r"here pretrain \d+, sft \d+, reward \d+", text)
    text = shown(f"{chain} --help=stages.ppo.optimizer.")
    assert "* stages.ppo.optimizer.b2 = 0.99" in text and "rl." not in text
    typed = type_command(f"{chain} --help=stages.pppo.")
    assert typed.code == 1 and "there is no stage pppo;" in typed.text
    assert typed.text.endswith("did you mean ppo?\n")


@pytest.mark.parametrize(
    "word, keys",
    [
        ("lr", ["optimizer.peak_lr", "optimizer.lr_multipliers"]),
        ("learning_rate", ["optimizer.peak_lr"]),
        ("seq_len", ["data.length", "model.max_length"]),
        ("optimizer.", ["optimizer.name", "optimizer.state_dtype"]),
        ("rl", ["rl.kl_coef"]),
        ("data.length", ["data.length"]),
        ("newton-schulz", ["optimizer.ns_steps"]),
        ("workdir", ["--workdir=DIR"]),
        ("dropout", ["dropout: there is no dropout in Seedpod"]),
    ],
)
def test_search(word, keys):
    text = shown(f"python -m train --help={word}")
    assert all(re.search(rf"^[* ]* ?{re.escape(key)}\b", text, re.MULTILINE) for key in keys)
    assert len(text) < 10_000
    if word == "data.length":
        assert text.count(" = ") == 1


@pytest.mark.parametrize(
    "word, hint",
    [("wramup", "; did you mean --config.optimizer.warmup_steps?\n"), ("qwertyuiop", "meaning\n")],
)
def test_nothing_is_found(word, hint):
    typed = type_command(f"python -m train --help={word}")
    assert typed.code == 1 and typed.text.endswith(hint)


def test_a_recipe_with_choices_lists_them():
    listed = 0
    for path in sorted((ROOT / "configs").rglob("*.py")):
        module = importlib.import_module(".".join(path.relative_to(ROOT).with_suffix("").parts))
        if hasattr(module, "get_config") and inspect.signature(module.get_config).parameters:
            with pytest.raises(ValueError, match="this recipe has no choice 'nosuch'") as error:
                module.get_config("nosuch=1")
            names = re.split(r"; it has |; did", str(error.value))[1]
            shown = docstring(path).partition("Choice")[2]
            for name in names.split(", "):
                assert f"`{name.partition('=')[0]}`" in shown, (path, name)
                listed += 1
    assert listed > 8


@pytest.mark.parametrize(
    "name, meant",
    [
        ("pretrain", "configs/pretrain.py"),
        ("configs/pretrain", "configs/pretrain.py"),
        ("pretrain.py", "configs/pretrain.py"),
        ("chains/demo", "configs/chains/demo.py"),
        ("demo", "configs/chains/demo.py"),
        ("rm", "configs/reward.py"),
        ("gemma", "configs/pretrain.py:size=gemma2-2b"),
        ("pretain:smoke", "configs/pretrain.py:smoke"),
    ],
)
def test_a_recipe_is_found_by_its_name(name, meant):
    typed = type_command(f"python -m train --config={name} --workdir=runs/a")
    assert typed.code == 1
    assert typed.text.endswith(f"; did you mean {meant}?\n"), typed.text


def test_a_recipe_like_no_other_suggests_none(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = type_command("python -m train --config=zzzz --workdir=runs/a").text
    assert "did you mean" not in text and "those of configs/ are chains/demo, " in text
    text = type_command("python -m train --config=sft --workdir=runs/a").text  # outside the clone
    assert text.endswith(f"did you mean {json.dumps(str(ROOT))[1:-1]}/configs/sft.py?\n")


@pytest.mark.parametrize(
    "flag", ["--foo", "--bar=2", "--coord", "--xyz", "--config.foo", "--config.optimizer.foo"]
)
def test_below_a_likeness_nothing_is_suggested(flag):
    flag = flag if "=" in flag else f"{flag}=1"
    text = type_command(f"python -m train --config=configs/sft.py --workdir=runs/a {flag}").text
    assert ("did you mean" in text) == (flag == "--coord=1")


@pytest.mark.slow
@pytest.mark.parametrize("width", [60, 80, 120])
def test_text_is_wrapped_to_a_terminal(width):
    commands = ("--help", "--config=configs/ppo.py --help", "--config=configs/sft.py --lr=1 --bf16")
    for flags in (*commands, "--config=configs/sft.py:x --workdir=runs/a"):
        pid, screen = pty.fork()
        if not pid:
            os.environ.pop("COLUMNS", None)
            words = [sys.executable, "-m", "train", *flags.split()]
            os.execve(sys.executable, words, {**os.environ, "PYTHONPATH": str(ROOT)})
        fcntl.ioctl(screen, termios.TIOCSWINSZ, struct.pack("HHHH", 50, width, 0, 0))
        text = b""
        with contextlib.suppress(OSError):  # its end
            while part := os.read(screen, 1 << 16):
                text += part
        os.waitpid(pid, 0)
        os.close(screen)
        lines = text.decode().splitlines()
        assert all(len(line) <= width or len(line.split()) == 1 for line in lines), lines
