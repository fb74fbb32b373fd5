"""Open models in and out: every tensor in its place, streamed, and what is wrong said plainly."""

import dataclasses
import json
import weakref
from types import SimpleNamespace

import gguf
import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import open_models
import open_tokenizers
import pytest
from open_models import CONFIG, save_role, stored

from data.text import tokenizer as tokenizers
from data.text.chat import render_prompt
from data.text.hf_tokenizer import HFTokenizer
from model.config import RopeScaling
from model.heads import reward_model
from model.pretrained import hf_config, mapping
from model.sharding import MeshConfig, make_mesh
from model.transformer import Transformer
from ranges import ConfigError
from train.checkpoints import loading, networks
from train.interop import convert, export, gguf_config, gguf_files, published, weights

VALUES = open_models.tensors()


@pytest.fixture(scope="module")
def hf_dir(tmp_path_factory):
    return open_models.write(tmp_path_factory.mktemp("hf") / "model", VALUES, files=3)


@pytest.fixture(scope="module")
def workdir(hf_dir, tmp_path_factory):
    path = tmp_path_factory.mktemp("run") / "base"
    convert.import_model(str(hf_dir), path)
    return path


def same(a, b):
    assert a.keys() == b.keys()
    for name in a:
        np.testing.assert_array_equal(a[name], b[name], err_msg=name)


def test_import_and_export_give_every_tensor_back(workdir, hf_dir, tmp_path):
    export.export_model(workdir, tmp_path / "out", limit=20_000)
    same(stored(tmp_path / "out"), VALUES)
    index = json.loads((tmp_path / "out" / "model.safetensors.index.json").read_text())
    files = sorted({*index["weight_map"].values()})
    assert len(files) > 1 and files[0] == f"model-00001-of-{len(files):05d}.safetensors"
    assert index["metadata"]["total_size"] == sum(v.nbytes for v in VALUES.values())
    hf = json.loads((tmp_path / "out" / "config.json").read_text())
    assert hf["architectures"] == ["LlamaForCausalLM"] and hf["eos_token_id"] == 2
    generation = json.loads((tmp_path / "out" / "generation_config.json").read_text())
    assert generation["eos_token_id"] == [2]
    before, after = tokenizers.load(hf_dir), tokenizers.load(tmp_path / "out")
    assert after.encode("hello") == before.encode("hello") and after.stop_ids == before.stop_ids


def test_a_workdir_and_its_origin_are_the_same_model(workdir, hf_dir):
    tokens = jnp.arange(12)[None] * 7
    outputs = []
    for config, params in (loading.load(workdir), published.load(hf_dir)):
        assert config == CONFIG
        outputs.append(np.asarray(Transformer(config).apply({"params": params}, tokens)))
    np.testing.assert_array_equal(*outputs)


def test_bfloat16_stays_itself_and_half_the_size(tmp_path):
    values = open_models.tensors(dtype=ml_dtypes.bfloat16)
    hf = open_models.write(tmp_path / "hf", values)
    convert.import_model(str(hf), tmp_path / "run", dtype="bfloat16")
    _, params = loading.load(tmp_path / "run")
    assert {x.dtype for x in jax.tree.leaves(params)} == {jnp.dtype("float32")}
    export.export_model(tmp_path / "run", tmp_path / "out", dtype="bfloat16")
    same(stored(tmp_path / "out"), values)


def test_tensors_are_placed_one_at_a_time_on_the_mesh(hf_dir):
    mesh = make_mesh(MeshConfig(data=1, fsdp=4, tensor=2))
    reader, alive, peak = weights.SafetensorsReader(hf_dir), {}, []

    class Counting:
        names, location = reader.names, reader.location

        def read(self, name):
            value = reader.read(name)
            alive[name] = value.nbytes
            weakref.finalize(value, alive.pop, name)
            peak.append(sum(alive.values()))
            return value

    abstract = networks.abstract_params("policy", CONFIG, mesh)
    params = weights.place(CONFIG, Counting(), abstract)
    for value, like in zip(jax.tree.leaves(params), jax.tree.leaves(abstract), strict=True):
        assert value.sharding.is_equivalent_to(like.sharding, value.ndim)
    single_device_params = published.load(hf_dir)[1]
    jax.tree.map(np.testing.assert_array_equal, params, single_device_params)
    # The host held one tensor beside the one before it, and never a stack of layers.
    two_largest = sum(sorted(v.nbytes for v in VALUES.values())[-2:])
    assert len(peak) == len(VALUES) and max(peak) <= two_largest < sum(
        v.nbytes for v in VALUES.values()
    )


def test_added_markers_begin_as_the_mean(tmp_path):
    files = open_tokenizers.files(None, eos_token="<|endoftext|>")
    spec = files["tokenizer.json"].decode().replace("<|im_", "<|xx_")
    files |= {"tokenizer.json": spec.encode()}
    hf = open_models.write(tmp_path / "hf", VALUES, tokenizer_files=files)
    config = convert.import_model(str(hf), tmp_path / "run", chat_template="chatml")
    assert config == dataclasses.replace(CONFIG, vocab_size=322)
    _, params = loading.load(tmp_path / "run")
    old, table = VALUES["model.embed_tokens.weight"], np.asarray(params["embedding"])
    np.testing.assert_array_equal(table[:320], old)
    np.testing.assert_allclose(table[320:322], np.tile(old.mean(0), (2, 1)), atol=1e-6)
    head = np.asarray(params["unembedding"]).T
    mean = VALUES["lm_head.weight"].mean(0)
    np.testing.assert_allclose(head[320:322], np.tile(mean, (2, 1)), atol=1e-6)
    assert tokenizers.load(tmp_path / "run").stop_ids == (0, 321)
    export.export_model(tmp_path / "run", tmp_path / "out")
    assert stored(tmp_path / "out")["lm_head.weight"].shape == (322, 16)


@pytest.mark.parametrize("role", ["reward", "value"])
def test_scalar_models_export_as_classifiers(role, tmp_path):
    key = jax.random.key(0)
    params = reward_model(CONFIG).init(key, jnp.zeros((1, 2), jnp.int32))["params"]
    params = jax.tree.map(lambda x: x.value, params, is_leaf=lambda x: hasattr(x, "names"))
    work = tmp_path / "run"
    files = open_tokenizers.files(pad_token="<|im_end|>")
    work.mkdir()
    HFTokenizer(files).save(work / "tokenizer")
    save_role(work, role, params)
    export.export_model(work, tmp_path / "out")
    found = stored(tmp_path / "out")
    np.testing.assert_array_equal(found["score.weight"], np.asarray(params["head"]).T)
    assert "lm_head.weight" not in found and ("score.bias" in found) == (role == "value")
    hf = json.loads((tmp_path / "out" / "config.json").read_text())
    kind = {"reward": "Sequence", "value": "Token"}[role]
    assert hf["architectures"] == [f"LlamaFor{kind}Classification"] and hf["num_labels"] == 1
    # The score is read at the last token that is not padding, which is the one that ends an answer.
    assert (hf["pad_token_id"] == 2) == (role == "value")


def test_a_model_grown_here_is_exported_with_its_tokenizer(hf_dir, tmp_path):
    work = tmp_path / "run"
    work.mkdir()
    tokenizer = tokenizers.train("byte", [], 0)
    tokenizer.save(work / "tokenizer")
    save_role(work, "policy", published.load(hf_dir)[1])
    export.export_model(work, tmp_path / "out")
    same(stored(tmp_path / "out"), VALUES)
    exported = tokenizers.load(tmp_path / "out")
    messages = [{"role": "user", "content": "ünï"}]
    ids = render_prompt(tokenizer, messages).tolist()
    assert render_prompt(exported, messages).tolist() == ids
    assert (exported.stop_ids, exported.pad_id) == (tokenizer.stop_ids, tokenizer.pad_id)


def test_a_weight_without_a_tensor_is_not_dropped(workdir, tmp_path, monkeypatch):
    rows = mapping.slices
    others = lambda config: [s for s in rows(config) if s.path != ("layers", "key")]  # noqa: E731
    monkeypatch.setattr(mapping, "slices", others)
    with pytest.raises(ConfigError, match="weight layers/key, for which a llama model has no tens"):
        export.export_model(workdir, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    monkeypatch.undo()
    params = loading.load(workdir)[1]
    layers = params["layers"] | {"gate_bias": np.zeros((2, 24), np.float32)}
    (tmp_path / "grown").mkdir()
    save_role(tmp_path / "grown", "policy", params | {"layers": layers})
    HFTokenizer(open_tokenizers.files()).save(tmp_path / "grown" / "tokenizer")
    with pytest.raises(ConfigError, match="grown: the model has a weight layers/gate_bias, for"):
        export.export_model(tmp_path / "grown", tmp_path / "out")
    with pytest.raises(ConfigError, match="--item=value_head is no model on its own"):
        export.export_model(workdir, tmp_path / "out", "value_head")


def test_a_mean_reward_is_not_exported(tmp_path):
    work = tmp_path / "run"
    work.mkdir()
    config = dataclasses.replace(CONFIG, pool="mean")
    params = jax.eval_shape(
        reward_model(config).init, jax.random.key(0), jnp.zeros((1, 2), jnp.int32)
    )
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape), params["params"])
    zeros = jax.tree.map(lambda x: x.value, zeros, is_leaf=lambda x: hasattr(x, "names"))
    HFTokenizer(open_tokenizers.files()).save(work / "tokenizer")
    save_role(work, "reward", zeros, config)
    with pytest.raises(ConfigError, match="mean over the answer"):
        export.export_model(work, tmp_path / "out")


@pytest.mark.parametrize(
    "kind, settings",
    [
        ("llama", dict(rope_scaling=RopeScaling("llama3", 8.0), rope_base=500_000.0)),
        ("qwen2", dict(attention_bias=True, tie_embeddings=True)),
        ("qwen3", dict(qk_norm=True)),
    ],
)
def test_gguf_is_the_same_model(kind, settings, tmp_path, hf_dir):
    config = dataclasses.replace(CONFIG, **settings)
    values = open_models.tensors(config)
    for name in values:
        if "down_proj" in name:  # which the file holds in half the bits
            values[name] = values[name].astype(np.float16).astype(np.float32)
    open_models.write_gguf(tmp_path / "model.gguf", kind, config, values)
    hf = open_models.write(tmp_path / "hf", values, config)
    found, params = published.load(tmp_path / "model.gguf")
    assert found == config
    jax.tree.map(np.testing.assert_array_equal, params, published.load(hf)[1])
    ours = published.open_source(str(tmp_path / "model.gguf")).tokenizer
    theirs = tokenizers.load(hf_dir)
    messages = [{"role": "user", "content": "What is it? 42 ünï"}]
    assert ours.render_prompt(messages).tolist() == theirs.render_prompt(messages).tolist()
    assert ours.stop_ids == theirs.stop_ids


def test_quantised_tensors_and_what_gguf_cannot_say(tmp_path):
    config = dataclasses.replace(CONFIG, embed_dim=32, mlp_dim=32)
    values = open_models.tensors(config)
    open_models.write_gguf(tmp_path / "model.gguf", "llama", config, values)
    model = gguf_files.GGUFModel(tmp_path / "model.gguf")
    quantised = gguf.quants.quantize(values["lm_head.weight"], gguf.GGMLQuantizationType.Q8_0)
    model._tensors["output.weight"] = SimpleNamespace(
        data=quantised, tensor_type=gguf.GGMLQuantizationType.Q8_0
    )
    np.testing.assert_allclose(model.read("lm_head.weight"), values["lm_head.weight"], atol=0.02)
    writer = gguf.GGUFWriter(str(tmp_path / "other.gguf"), "mamba")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(ConfigError, match="is a mamba model; of GGUF Seedpod reads llama, qwen2"):
        gguf_files.GGUFModel(tmp_path / "other.gguf")


def test_a_gguf_that_divides_its_positions(tmp_path):
    """llama.cpp takes a factor without a type as linear."""
    config = dataclasses.replace(CONFIG, rope_scaling=RopeScaling("linear", 2.0))
    plain = dataclasses.replace(config, rope_scaling=None)
    values = open_models.tensors(plain)
    open_models.write_gguf(
        tmp_path / "a.gguf", "llama", plain, values, {"rope.scaling.factor": 2.0}
    )
    assert gguf_files.GGUFModel(tmp_path / "a.gguf").config["rope_scaling"]["factor"] == 2.0
    assert hf_config.config_from_hf(gguf_files.GGUFModel(tmp_path / "a.gguf").config) == config


@pytest.mark.parametrize(
    "key, value",
    [
        ("rope.scaling.type", "yarn"),
        ("rope.scaling.attn_factor", 0.5),
        ("rope.dimension_count", 4),
        ("attention.sliding_window", 32),
        ("attention.value_length", 4),
        ("attention.scale", 0.5),
        ("attention.causal", False),
        ("attention.head_count_kv", [2, 2]),
        ("logit_scale", 8.0),
        ("final_logit_softcapping", 30.0),
        ("expert_count", 4),
        ("never.heard.of", 1),
    ],
)
def test_keys_of_a_gguf_that_change_what_is_computed_are_refused(key, value):
    fields = {
        "embedding_length": 16, "feed_forward_length": 24, "block_count": 2, "context_length": 64,
        "attention.head_count": 2, "attention.layer_norm_rms_epsilon": 1e-5,
        "attention.scale": float(np.float32(8**-0.5)), "rope.dimension_count": 8,
        "rope.scaling.type": "none", "rope.scaling.factor": 4.0, "logit_scale": 1.0,
        "tensor_data_layout": "Meta AI original pth",
    }  # fmt: skip
    found = gguf_config.config_of("llama", fields)
    assert found["head_dim"] == 8 and "rope_scaling" not in found
    with pytest.raises(ValueError, match=f"llama.{key}"):
        gguf_config.config_of("llama", fields | {key: value})


def test_a_head_that_differs_from_the_embeddings_is_not_tied(tmp_path):
    config = dataclasses.replace(CONFIG, tie_embeddings=True)
    tied = open_models.tensors(config)
    head = {"lm_head.weight": tied["model.embed_tokens.weight"].copy()}
    same = open_models.write(tmp_path / "same", tied | head, config)
    assert published.open_source(str(same)).config.tie_embeddings
    head["lm_head.weight"][7, 3] += 1
    other = open_models.write(tmp_path / "other", tied | head, config)
    found, params = published.load(other)
    assert found == dataclasses.replace(config, tie_embeddings=False)
    np.testing.assert_array_equal(params["unembedding"][:, :320].T, head["lm_head.weight"])


def broken(directory, **changes):
    """A model directory with tensors replaced, or left out where None."""
    return open_models.write(
        directory, {n: v for n, v in (VALUES | changes).items() if v is not None}
    )


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"model.layers.1.mlp.up_proj.weight": None}, r"no tensor model.layers.1.mlp.up_proj"),
        ({"model.norm.weight": np.ones(7, np.float32)}, r"norm.weight is \[7\].*makes it \[16"),
        ({"model.layers.0.self_attn.q_proj.bias": np.ones(32, np.float32)}, "no place for.*bias"),
    ],
)  # fmt: skip
def test_tensors_that_do_not_fit_are_named(changes, message, tmp_path):
    with pytest.raises(ConfigError, match=message):
        published.load(broken(tmp_path / "hf", **changes))


def test_what_is_not_a_model_says_what_to_do(hf_dir, workdir, tmp_path):
    def refused(message, *args, function=convert.import_model):
        with pytest.raises(ConfigError, match=message):
            function(*args)

    refused("no such directory; a name on the hub is OWNER/MODEL", "nowhere", tmp_path / "a")
    refused("no such file", "nowhere.gguf", tmp_path / "a")
    (tmp_path / "empty").mkdir()
    refused("holds no config.json", str(tmp_path / "empty"), tmp_path / "a")
    (tmp_path / "empty" / "x.gguf").touch()
    refused("its file .*x.gguf can be read", str(tmp_path / "empty"), tmp_path / "a")
    refused("holds a run already", str(hf_dir), workdir)
    refused("is not empty", workdir, hf_dir, function=export.export_model)
    other = open_models.write(tmp_path / "other", VALUES)
    (other / "config.json").write_text('{"model_type": "bert"}')
    refused("'bert'", str(other), tmp_path / "a")
    lost = open_models.write(tmp_path / "lost", VALUES, files=2)
    (lost / "part-1.safetensors").unlink()
    refused("lacks part-1.safetensors, one of 2 files", str(lost), tmp_path / "a")
    (lost / "part-0.safetensors").unlink()
    (lost / "model.safetensors.index.json").unlink()
    refused(r"no \*.safetensors", str(lost), tmp_path / "a")
    assert not (tmp_path / "a").exists()
