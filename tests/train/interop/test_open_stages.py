"""An imported model goes through every stage after pretraining, and out again."""

import json

import numpy as np
import open_models
import open_tokenizers
import pytest
import safetensors.numpy
from stage_fixtures import recipe, write_files

from data.text import tokenizer as tokenizers
from ranges import ConfigError
from train import loop
from train.checkpoints import loading
from train.interop import convert, export

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    root = tmp_path_factory.mktemp("open")
    write_files(root)
    open_models.write(root / "hf", open_models.tensors())
    convert.import_model(str(root / "hf"), root / "base")
    return root


def run(runs, stage, rank=0, pool="", **init_from):
    config = recipe(stage, runs, **{role: runs / name for role, name in init_from.items()})
    name = f"{stage}-lora" if rank else f"{stage}-{pool}" if pool else stage
    config.loss.pool = pool or config.loss.pool
    config.lora.rank = rank
    config.optimizer.name = "adamw"
    config.data.length = 64
    config.data.sub_rows = 4
    config.data.batch_size = 8
    config.rl.rollout_batch = config.rl.eval_prompts = 8
    config.rl.prompt_length = 40
    config.rl.pretrain_coef = 0.0
    config.steps = 2
    loop.run(config, runs / name)
    return [json.loads(line) for line in (runs / name / "metrics.jsonl").read_text().splitlines()]


def test_every_stage_and_out(runs):
    sft = run(runs, "sft", policy="base")
    assert all(np.isfinite(r["loss"]) for r in sft)
    assert tokenizers.load(runs / "sft").fingerprint == tokenizers.load(runs / "base").fingerprint
    assert any("accuracy/overall" in r for r in run(runs, "reward", policy="sft"))
    ppo = run(runs, "ppo", policy="sft", reward="reward")
    # The sampler stops at the chat's end of turn, and scores where the reward model was trained to.
    assert any("rollout/eos_rate" in r for r in ppo)
    for name, item, kind in [
        ("sft", "", "CausalLM"),
        ("reward", "", "SequenceClassification"),
        ("ppo", "policy", "CausalLM"),
        ("ppo", "value", "TokenClassification"),
    ]:
        out = runs / f"out-{name}-{item}"
        export.export_model(runs / name, out, item)
        hf = json.loads((out / "config.json").read_text())
        assert hf["architectures"] == [f"LlamaFor{kind}"]


def test_adapters_leave_alone_or_merged(runs):
    run(runs, "sft", rank=2, policy="base")
    export.export_model(runs / "sft-lora", runs / "merged")
    export.export_adapter(runs / "sft-lora", runs / "adapter")
    merged = safetensors.numpy.load_file(runs / "merged" / "model.safetensors")
    adapter = safetensors.numpy.load_file(runs / "adapter" / "adapter_model.safetensors")
    adapter_config = json.loads((runs / "adapter" / "adapter_config.json").read_text())
    assert adapter_config["base_model_name_or_path"] == str(runs / "hf")
    base, changed = open_models.tensors(), 0
    for name, value in merged.items():
        prefix = f"base_model.model.{name.removesuffix('.weight')}.lora_"
        wanted = base[name]
        if prefix + "A.weight" in adapter:
            product = adapter[prefix + "B.weight"] @ adapter[prefix + "A.weight"]
            wanted = wanted + adapter_config["lora_alpha"] / adapter_config["r"] * product
            changed += bool(np.abs(product).max() > 0)
        np.testing.assert_allclose(value, wanted, atol=1e-6)
    assert changed == len(adapter_config["target_modules"]) > 0
    assert tokenizers.load(runs / "adapter").stop_ids == (2,)


def test_peft_finds_the_base_of_an_adapter(runs, monkeypatch, tmp_path):
    torch = pytest.importorskip("torch", reason="torch is not installed")
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    peft = pytest.importorskip("peft", reason="peft is not installed")
    monkeypatch.chdir(runs)
    convert.import_model("hf", "relative")  # by a path that is another, or none, elsewhere
    if not (runs / "sft-lora").exists():
        run(runs, "sft", rank=2, policy="relative")
    export.export_adapter(runs / "sft-lora", tmp_path / "adapter")
    export.export_model(runs / "sft-lora", tmp_path / "merged")
    monkeypatch.chdir(tmp_path)
    adapted = peft.AutoPeftModelForCausalLM.from_pretrained("adapter", dtype=torch.float32)
    base = transformers.AutoModelForCausalLM.from_pretrained(runs / "hf", dtype=torch.float32)
    attached = peft.PeftModel.from_pretrained(base, "adapter")
    merged = transformers.AutoModelForCausalLM.from_pretrained("merged", dtype=torch.float32)
    tokens = torch.from_numpy(np.random.default_rng(0).integers(3, 300, (2, 12)))
    with torch.no_grad():
        logits = [model.eval()(tokens).logits for model in (adapted, attached, merged)]
    assert torch.equal(logits[0], logits[1])
    assert torch.allclose(logits[0], logits[2], atol=1e-5)


def test_a_mean_over_an_answer_that_several_ids_open(runs):
    reward_run = run(runs, "reward", pool="mean", policy="base")
    assert any("accuracy/overall" in r and np.isfinite(r["loss"]) for r in reward_run)
    assert loading.load(runs / "reward-mean")[0].pool == "mean"


def test_another_tokenizer_is_refused(runs):
    files = open_tokenizers.files(vocab_size=310)
    open_models.write(runs / "hf2", open_models.tensors(), tokenizer_files=files)
    convert.import_model(str(runs / "hf2"), runs / "base2")
    config = recipe("sft", runs, policy=runs / "base2")
    config.tokenizer.path = str(runs / "base")
    with pytest.raises(ConfigError, match="has another tokenizer"):
        loop.run(config, runs / "two")
