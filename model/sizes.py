"""The table of named sizes, as fields of `TransformerConfig`.

The vocabulary is not among them: it comes from the tokenizer. The open models' rows are those of
their released config.json, so that one can be trained from scratch, compiled for, or imported into.
"""

from __future__ import annotations

from model.pretrained.families import GEMMA

_SHAPE = ("embed_dim", "num_layers", "num_heads", "num_kv_heads", "head_dim", "mlp_dim")

# The settings that a family shares.
_LLAMA2 = dict(norm_eps=1e-5, tie_embeddings=False, max_length=4096)
_LLAMA3 = dict(rope_base=500_000.0, norm_eps=1e-5, tie_embeddings=False, max_length=8192)


def _llama31(factor: float, tied: bool) -> dict:
    scaling = dict(
        kind="llama3", factor=factor, low_freq_factor=1.0, high_freq_factor=4.0,
        original_length=8192,
    )  # fmt: skip
    return _LLAMA3 | dict(rope_scaling=scaling, tie_embeddings=tied, max_length=131_072)


def _smollm2(base: float) -> dict:
    return dict(rope_base=base, norm_eps=1e-5, max_length=8192)


_MISTRAL = dict(
    layer_pattern=("local",), window=4096, norm_eps=1e-5, tie_embeddings=False, max_length=32_768
)


def _mixtral(max_length: int) -> dict:
    return dict(
        num_experts=8, experts_per_token=2, rope_base=1e6, norm_eps=1e-5, tie_embeddings=False,
        max_length=max_length,
    )  # fmt: skip


def _qwen25(tied: bool) -> dict:
    return dict(attention_bias=True, rope_base=1e6, tie_embeddings=tied, max_length=32_768)


def _qwen3(tied: bool) -> dict:
    return dict(qk_norm=True, rope_base=1e6, tie_embeddings=tied, max_length=40_960)


_QWEN3_MOE = _qwen3(False) | dict(num_experts=128, experts_per_token=8)
_GEMMA = GEMMA | dict(activation="gelu_tanh")


def _gemma2(query_scale: float = 0.0) -> dict:
    return _GEMMA | dict(
        layer_pattern=("local", "global"), window=4096, attention_softcap=50.0, logit_softcap=30.0,
        query_scale=query_scale, max_length=8192,
    )  # fmt: skip


def _gemma3(window: int, scaling: float, query_scale: float = 0.0) -> dict:
    return _GEMMA | dict(
        qk_norm=True, layer_pattern=("local",) * 5 + ("global",), window=window, rope_base=1e6,
        local_rope_base=1e4, query_scale=query_scale,
        rope_scaling=dict(kind="linear", factor=scaling) if scaling else None,
        max_length=131_072 if scaling else 32_768,
    )  # fmt: skip


SIZES = {
    name: dict(zip(_SHAPE, shape, strict=True)) | settings
    for name, (shape, settings) in {
        # Ours.
        "tiny": ((32, 2, 4, 2, 8, 64), {}),
        "demo": ((160, 4, 5, 5, 32, 448), {}),
        "1m": ((128, 4, 4, 4, 32, 344), {}),
        "10m": ((384, 6, 6, 6, 64, 1024), {}),
        "125m": ((768, 12, 12, 4, 64, 2048), {}),
        "1b": ((2048, 16, 32, 8, 64, 8192), {}),
        "8b": ((4096, 32, 32, 8, 128, 14336),
               dict(rope_base=500_000.0, tie_embeddings=False, max_length=8192)),
        # Llama (arXiv:2307.09288, arXiv:2407.21783) and SmolLM2 (arXiv:2502.02737).
        "llama2-7b": ((4096, 32, 32, 32, 128, 11008), _LLAMA2),
        "llama2-13b": ((5120, 40, 40, 40, 128, 13824), _LLAMA2),
        "llama2-70b": ((8192, 80, 64, 8, 128, 28672), _LLAMA2),
        "llama3-8b": ((4096, 32, 32, 8, 128, 14336), _LLAMA3),
        "llama3-70b": ((8192, 80, 64, 8, 128, 28672), _LLAMA3),
        "llama3.1-8b": ((4096, 32, 32, 8, 128, 14336), _llama31(8.0, False)),
        "llama3.1-70b": ((8192, 80, 64, 8, 128, 28672), _llama31(8.0, False)),
        "llama3.1-405b": ((16384, 126, 128, 8, 128, 53248), _llama31(8.0, False)),
        "llama3.2-1b": ((2048, 16, 32, 8, 64, 8192), _llama31(32.0, True)),
        "llama3.2-3b": ((3072, 28, 24, 8, 128, 8192), _llama31(32.0, True)),
        "smollm2-135m": ((576, 30, 9, 3, 64, 1536), _smollm2(100_000.0)),
        "smollm2-360m": ((960, 32, 15, 5, 64, 2560), _smollm2(100_000.0)),
        "smollm2-1.7b": ((2048, 24, 32, 32, 64, 8192), _smollm2(130_000.0)),
        # Mistral 7B v0.1 (arXiv:2310.06825) and Mixtral (arXiv:2401.04088).
        "mistral-7b": ((4096, 32, 32, 8, 128, 14336), _MISTRAL),
        "mixtral-8x7b": ((4096, 32, 32, 8, 128, 14336), _mixtral(32_768)),
        "mixtral-8x22b": ((6144, 56, 48, 8, 128, 16384), _mixtral(65_536)),
        # Qwen 2.5 (arXiv:2412.15115) and 3 (arXiv:2505.09388).
        "qwen2.5-0.5b": ((896, 24, 14, 2, 64, 4864), _qwen25(True)),
        "qwen2.5-1.5b": ((1536, 28, 12, 2, 128, 8960), _qwen25(True)),
        "qwen2.5-3b": ((2048, 36, 16, 2, 128, 11008), _qwen25(True)),
        "qwen2.5-7b": ((3584, 28, 28, 4, 128, 18944), _qwen25(False)),
        "qwen2.5-14b": ((5120, 48, 40, 8, 128, 13824), _qwen25(False)),
        "qwen2.5-32b": ((5120, 64, 40, 8, 128, 27648), _qwen25(False)),
        "qwen2.5-72b": ((8192, 80, 64, 8, 128, 29568), _qwen25(False)),
        "qwen3-0.6b": ((1024, 28, 16, 8, 128, 3072), _qwen3(True)),
        "qwen3-1.7b": ((2048, 28, 16, 8, 128, 6144), _qwen3(True)),
        "qwen3-4b": ((2560, 36, 32, 8, 128, 9728), _qwen3(True)),
        "qwen3-8b": ((4096, 36, 32, 8, 128, 12288), _qwen3(False)),
        "qwen3-14b": ((5120, 40, 40, 8, 128, 17408), _qwen3(False)),
        "qwen3-32b": ((5120, 64, 64, 8, 128, 25600), _qwen3(False)),
        "qwen3-30b-a3b": ((2048, 48, 32, 4, 128, 768), _QWEN3_MOE),
        "qwen3-235b-a22b": ((4096, 94, 64, 4, 128, 1536), _QWEN3_MOE),
        # Gemma 2 (arXiv:2408.00118) and the text models of Gemma 3 (arXiv:2503.19786).
        "gemma2-2b": ((2304, 26, 8, 4, 256, 9216), _gemma2()),
        "gemma2-9b": ((3584, 42, 16, 8, 256, 14336), _gemma2()),
        "gemma2-27b": ((4608, 46, 32, 16, 128, 36864), _gemma2(144**-0.5)),
        "gemma3-270m": ((640, 18, 4, 1, 256, 2048), _gemma3(512, 0.0)),
        "gemma3-1b": ((1152, 26, 4, 1, 256, 6912), _gemma3(512, 0.0)),
        "gemma3-4b": ((2560, 34, 8, 4, 256, 10240), _gemma3(1024, 8.0)),
        "gemma3-12b": ((3840, 48, 16, 8, 256, 15360), _gemma3(1024, 8.0)),
        "gemma3-27b": ((5376, 62, 32, 16, 128, 21504), _gemma3(1024, 8.0, 168**-0.5)),
    }.items()
}  # fmt: skip
