"""An export loads in transformers, computes the same and has the same chat templates.

Needs torch and transformers, which Seedpod itself does not: skipped without them.
"""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import open_models
import open_tokenizers
import pytest
from open_models import CONFIG, save_role

from data.text.chat import render, render_prompt
from data.text.hf_tokenizer import HFTokenizer
from model.heads import reward_model
from model.transformer import Transformer
from train.checkpoints import loading
from train.interop import convert, export

torch = pytest.importorskip("torch", reason="torch is not installed (pip install torch)")
transformers = pytest.importorskip("transformers", reason="transformers is not installed")
pytestmark = pytest.mark.slow

TOKENS = np.random.default_rng(0).integers(3, 300, (2, 12))
TINY = dict(
    vocab_size=320, hidden_size=16, intermediate_size=24, num_hidden_layers=3, head_dim=8,
    num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=64,
)  # fmt: skip
FAMILIES = {
    "Llama": dict(tie_word_embeddings=True),
    "Mistral": dict(sliding_window=4),
    "Qwen2": {},
    "Qwen3": {},
    "Mixtral": dict(num_local_experts=4, num_experts_per_tok=2),
    "Qwen3Moe": dict(num_experts=4, num_experts_per_tok=2, moe_intermediate_size=12),
    "Gemma2": dict(sliding_window=4, query_pre_attn_scalar=8),
    "Gemma3": dict(sliding_window=4, query_pre_attn_scalar=8),
}


def theirs(model, tokens=TOKENS):
    with torch.no_grad():
        return model.eval()(torch.from_numpy(tokens)).logits.float().numpy()


def ours(config, params, tokens=TOKENS):
    with jax.default_matmul_precision("highest"):
        return np.asarray(Transformer(config).apply({"params": params}, jnp.asarray(tokens)))


@pytest.mark.parametrize("family", FAMILIES)
def test_there_and_back(family, tmp_path):
    text = "Text" if family == "Gemma3" else ""
    config = getattr(transformers, f"{family}{text}Config")(**TINY | FAMILIES[family])
    torch.manual_seed(0)
    model = getattr(transformers, f"{family}ForCausalLM")(config).float()
    model.save_pretrained(tmp_path / "hf", max_shard_size="20KB")
    for name, content in open_tokenizers.files().items():
        (tmp_path / "hf" / name).write_bytes(content)
    convert.import_model(str(tmp_path / "hf"), tmp_path / "run")
    wanted = theirs(model)
    got = ours(*loading.load(tmp_path / "run"))[..., :320]
    np.testing.assert_allclose(got, wanted, atol=2e-4)
    export.export_model(tmp_path / "run", tmp_path / "out", limit=20_000)
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert type(again) is type(model) and again.dtype == torch.float32
    np.testing.assert_allclose(theirs(again), wanted, atol=1e-5)
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    assert tokenizer.eos_token_id == again.generation_config.eos_token_id[0] == 2


@pytest.mark.parametrize("tied", [False, True])
def test_an_exported_mup_model_computes_the_same(tied, tmp_path):
    config = dataclasses.replace(
        CONFIG, parametrization="mup", base_width=CONFIG.embed_dim // 4, tie_embeddings=tied
    )
    params = jax.jit(Transformer(config).init)(jax.random.key(0), jnp.asarray(TOKENS))["params"]
    params = jax.tree.map(lambda x: x.value, params, is_leaf=lambda x: hasattr(x, "names"))
    params = jax.tree.map(lambda x: x + 0.1 * np.cos(np.arange(x.size)).reshape(x.shape), params)
    work = tmp_path / "run"
    work.mkdir()
    HFTokenizer(open_tokenizers.files()).save(work / "tokenizer")
    save_role(work, "policy", params, config)
    export.export_model(work, tmp_path / "out")
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    wanted = ours(config, params)[..., : CONFIG.vocab_size]
    assert np.std(wanted) > 0.05
    np.testing.assert_allclose(theirs(model), wanted, atol=1e-5)


@pytest.mark.parametrize("role", ["reward", "value"])
def test_scalar_models_score_the_same(role, tmp_path):
    params = reward_model(CONFIG).init(jax.random.key(0), jnp.zeros((1, 2), jnp.int32))["params"]
    params = jax.tree.map(lambda x: x.value, params, is_leaf=lambda x: hasattr(x, "names"))
    work = tmp_path / "run"
    work.mkdir()
    HFTokenizer(open_tokenizers.files(pad_token="<|im_end|>")).save(work / "tokenizer")
    save_role(work, role, params)
    export.export_model(work, tmp_path / "out")
    with jax.default_matmul_precision("highest"):
        values = np.asarray(reward_model(CONFIG).apply({"params": params}, jnp.asarray(TOKENS)))
    if role == "value":
        model = transformers.AutoModelForTokenClassification.from_pretrained(tmp_path / "out")
        np.testing.assert_allclose(theirs(model)[..., 0], values, atol=1e-5)
        return
    model = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "out")
    tokens = TOKENS.copy()
    tokens[:, -1] = 2  # the token that ends an answer
    tokens[1, -3] = 2
    tokens[1, -2:] = model.config.pad_token_id
    with jax.default_matmul_precision("highest"):
        values = np.asarray(reward_model(CONFIG).apply({"params": params}, jnp.asarray(tokens)))
    np.testing.assert_allclose(
        theirs(model, tokens)[:, 0], [values[0, -1], values[1, -3]], atol=1e-5
    )


@pytest.mark.parametrize("name", ["CHATML", "INST", "THINK", "MARKED"])
def test_conversations_are_tokenized_alike(name, tmp_path):
    files = open_tokenizers.files(getattr(open_tokenizers, name))
    open_models.write(tmp_path / "hf", open_models.tensors(), tokenizer_files=files)
    (tmp_path / "hf" / "tokenizer_config.json").write_text(
        json.dumps(
            json.loads(files["tokenizer_config.json"])
            | {"tokenizer_class": "PreTrainedTokenizerFast"}
        )
    )
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "hf")
    messages = [
        {"role": "user", "content": "  What is the capital of France?\n\nplease 12"},
        {"role": "assistant", "content": "Paris, of course."},
        {"role": "user", "content": "sure?"},
    ]
    mine = HFTokenizer(files)
    wanted = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=True)
    wanted = wanted if isinstance(wanted, list) else wanted["input_ids"]
    assert render_prompt(mine, messages).tolist() == wanted
    if name == "MARKED":
        marked = tokenizer.apply_chat_template(
            messages[:2], return_assistant_tokens_mask=True, return_dict=True
        )
        ids, mask = render(mine, messages[:2])
        assert ids.tolist() == marked["input_ids"]
        assert mask.tolist() == marked["assistant_masks"]
