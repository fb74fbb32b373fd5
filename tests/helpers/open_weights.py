"""Small random checkpoints of the open families: weights that both sides can draw for themselves.

Needs numpy alone: the fixtures' generator runs where there is torch, the tests where there is not.
"""

import zlib

import numpy as np

# Lengths of the documents of the packed row, and its padding.
DOCUMENTS, PADDING = (7, 9, 5), 3
PROJECTIONS = 3
VOCAB, WINDOW = 67, 8

COMMON = dict(
    vocab_size=VOCAB, hidden_size=32, intermediate_size=40, num_hidden_layers=3,
    num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=128,
)  # fmt: skip
LLAMA3 = dict(
    rope_type="llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
    original_max_position_embeddings=32,
)  # fmt: skip
# {name: (class of transformers' configs, arguments)}, with every peculiarity of the family in use.
FAMILIES = {
    "llama2": ("LlamaConfig", dict(num_key_value_heads=4, rms_norm_eps=1e-5)),
    "llama3.1": ("LlamaConfig", dict(rope_theta=500.0, rope_scaling=LLAMA3, rms_norm_eps=1e-5)),
    "llama3.2": (
        "LlamaConfig",
        dict(rope_theta=500.0, rope_scaling=LLAMA3, tie_word_embeddings=True, head_dim=16),
    ),
    "smollm2": (
        "LlamaConfig",
        dict(num_attention_heads=3, num_key_value_heads=1, hidden_size=24, rope_theta=1000.0,
             tie_word_embeddings=True),
    ),
    "mistral": ("MistralConfig", dict(sliding_window=WINDOW, rms_norm_eps=1e-5)),
    "qwen2.5": ("Qwen2Config", dict(rope_theta=1000.0, tie_word_embeddings=True)),
    "qwen3": (
        "Qwen3Config",
        dict(rope_theta=1000.0, head_dim=16, use_sliding_window=True, sliding_window=WINDOW,
             max_window_layers=1),
    ),
    "gemma2": (
        "Gemma2Config",
        dict(head_dim=16, query_pre_attn_scalar=24, sliding_window=WINDOW,
             attn_logit_softcapping=2.0, final_logit_softcapping=3.0),
    ),
    "gemma3": (
        "Gemma3TextConfig",
        dict(head_dim=16, query_pre_attn_scalar=24, sliding_window=WINDOW, num_hidden_layers=4,
             rope_theta=1000.0, rope_local_base_freq=100.0,
             rope_scaling=dict(rope_type="linear", factor=8.0)),
    ),
    "mixtral": (
        "MixtralConfig",
        dict(num_local_experts=4, num_experts_per_tok=2, rope_theta=1000.0, rms_norm_eps=1e-5),
    ),
    "qwen3_moe": (
        "Qwen3MoeConfig",
        dict(num_experts=8, num_experts_per_tok=3, norm_topk_prob=True, head_dim=16,
             moe_intermediate_size=24, rope_theta=1000.0),
    ),
}  # fmt: skip


def draw(name: str, shape: tuple[int, ...], offset_norms: bool, salt: str = "") -> np.ndarray:
    """The weights of one tensor, from its name alone: float32, and large enough to matter.

    Args:
      offset_norms: norms multiply by 1 + weight, as Gemma's do.
      salt: makes other weights than the recorded ones.
    """
    rng = np.random.default_rng(zlib.crc32((name + salt).encode()))
    x = rng.standard_normal(shape).astype(np.float32)
    if "norm" in name:
        return np.float32(0 if offset_norms else 1) + np.float32(0.2) * x
    if name.endswith("bias"):
        return np.float32(0.3) * x
    if "embed_tokens" in name:
        return np.float32(0.5) * x
    return x * np.float32(1.2 * shape[-1] ** -0.5)


def directions(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """[PROJECTIONS, *shape] float32 on which gradients are projected."""
    rng = np.random.default_rng(zlib.crc32(b"direction " + name.encode()))
    return rng.standard_normal((PROJECTIONS, *shape)).astype(np.float32)


def summary(name: str, gradient: np.ndarray) -> np.ndarray:
    """[1 + PROJECTIONS] float64: the norm of a gradient, and its projections."""
    g = gradient.astype(np.float64)
    return np.array(
        [np.sqrt(np.sum(g**2)), *np.sum(directions(name, g.shape) * g, (*range(1, g.ndim + 1),))]
    )


def inputs() -> dict[str, np.ndarray]:
    """The tokens of all families' fixtures.

    Returns:
      {padded: [2, 16], padded_mask: [2, 16] bool, packed: [24], long: [24]}; rows of `padded` are
      padded on the left, `packed` holds `DOCUMENTS`, `long` is three windows long.
    """
    # Not id 0, Gemma's padding, of whose embedding torch leaves out the gradient.
    rng = np.random.default_rng(7)
    mask = np.ones((2, 16), bool)
    mask[1, :6] = False
    tokens = {"padded": (2, 16), "packed": (sum(DOCUMENTS) + PADDING,), "long": (3 * WINDOW,)}
    arrays = {k: rng.integers(1, VOCAB, shape).astype(np.int32) for k, shape in tokens.items()}
    return arrays | {"padded_mask": mask}
