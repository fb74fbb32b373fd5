"""Adapters that leave: what `peft` reads is what our own merge adds."""

import json

import jax
import numpy as np
import open_models
import pytest
import safetensors.numpy
from flax.traverse_util import flatten_dict, unflatten_dict
from open_models import CONFIG

from model import lora
from model.pretrained.mapping import slices
from model.sharding import MeshConfig, make_mesh
from ranges import ConfigError
from train.checkpoints import networks
from train.interop import convert, export, peft, published

SETTINGS = lora.LoRA(rank=3, alpha=12.0)
TARGETS = ("query", "key", "value", "out", "gate", "up", "down")


def adapters(seed=0):
    """Random A and B beside every projection."""
    mesh = make_mesh(MeshConfig(), jax.devices()[:1])
    rng, flat = np.random.default_rng(seed), {}
    for path, leaf in flatten_dict(networks.abstract_params("policy", CONFIG, mesh)).items():
        if path[-1] in TARGETS:
            a, b = lora.abstract(path[-1], leaf, SETTINGS.rank)
            for suffix, like in ((lora.A, a), (lora.B, b)):
                value = rng.standard_normal(like.shape).astype(np.float32)
                flat[*path[:-1], path[-1] + suffix] = 0.2 * value
    return unflatten_dict(flat)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return open_models.write(tmp_path_factory.mktemp("peft") / "hf", open_models.tensors())


def test_base_and_adapter_add_up_to_the_merged_model(base, tmp_path):
    _, params = published.load(base)
    merged = lora.merge(params, adapters(), SETTINGS)
    peft.write(tmp_path, CONFIG, adapters(), SETTINGS, str(base))
    adapter_config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert (
        adapter_config["r"],
        adapter_config["lora_alpha"],
        adapter_config["base_model_name_or_path"],
    ) == (3, 12, str(base))
    found = safetensors.numpy.load_file(tmp_path / "adapter_model.safetensors")
    plain = open_models.tensors()
    for part in slices(CONFIG):
        if not part.name.endswith("_proj.weight"):
            continue
        prefix = "base_model.model." + part.name.removesuffix(".weight")
        product = found[prefix + ".lora_B.weight"] @ found[prefix + ".lora_A.weight"]
        value = merged["layers"][part.path[-1]][part.index]
        np.testing.assert_allclose(
            plain[part.name] + 12 / 3 * product, part.to_hf(np.asarray(value)), atol=1e-5
        )
        assert part.name.removesuffix(".weight") in adapter_config["target_modules"]
    assert len(found) == 2 * len(adapter_config["target_modules"]) == 2 * 7 * CONFIG.num_layers


def test_a_model_without_adapters_has_none_to_export(base, tmp_path):
    convert.import_model(str(base), tmp_path / "run")
    with pytest.raises(ConfigError, match="trained no adapters"):
        export.export_adapter(tmp_path / "run", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_base_is_one_that_peft_finds(base, tmp_path, monkeypatch):
    monkeypatch.chdir(base.parent)

    def base_of(**record):
        (tmp_path / "config.json").write_text(json.dumps({"stage": "import"} | record))
        return export.base_of(tmp_path)

    convert.import_model(base.name, tmp_path / "run")  # the path is relative, and its record is not
    assert export.base_of(tmp_path / "run") == str(base)
    assert base_of(**{"from": "HuggingFaceTB/SmolLM2-135M"}) == "HuggingFaceTB/SmolLM2-135M"
    for record, message in (
        ({"from": "models/smol.gguf"}, "was imported from models/smol.gguf. Give --base=OWNER/M"),
        ({"stage": "sft"}, f"is a run of Seedpod.*export --workdir={tmp_path} --to=BASE, then"),
        ({"from": str(base), "rows_added": 2}, "has 2 rows of the vocabulary that .* lacks"),
        ({"from": "/gone/smol"}, "/gone/smol, is no directory; give --base=DIRECTORY, or"),
    ):
        with pytest.raises(ConfigError, match=message):
            base_of(**record)


def test_an_adapter_of_no_module_is_not_dropped():
    found = adapters()
    found["layers"]["gate_bias" + lora.A] = np.ones((2, 24, 3))
    with pytest.raises(ConfigError, match="layers/gate_bias_lora_a adapts a weight in no module"):
        peft.tensors_of(CONFIG, found, 3)


@pytest.mark.slow
def test_peft_reads_it(base, tmp_path):
    torch = pytest.importorskip("torch", reason="torch is not installed")
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    library = pytest.importorskip("peft", reason="peft is not installed")
    from model.transformer import Transformer

    peft.write(tmp_path, CONFIG, adapters(), SETTINGS, str(base))
    model = transformers.AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    adapted = library.PeftModel.from_pretrained(model, str(tmp_path)).eval()
    tokens = np.random.default_rng(0).integers(3, 300, (2, 12))
    with torch.no_grad():
        theirs = adapted(torch.from_numpy(tokens)).logits.numpy()
    config, params = published.load(base)
    merged = lora.merge(params, adapters(), SETTINGS)
    with jax.default_matmul_precision("highest"):
        ours = np.asarray(Transformer(config).apply({"params": merged}, tokens))
    assert np.abs(theirs - ours[..., :320]).max() < 1e-4
