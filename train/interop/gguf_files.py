"""GGUF files: architecture, tokenizer and weights, converted to those of a Hugging Face model.

The `gguf` package maps the names of tensors and dequantizes them. Architectures: Llama, Qwen 2 and
Qwen 3 with a byte-level BPE tokenizer.
"""

from __future__ import annotations

import json
import math
from collections import Counter

import gguf
import numpy as np
import tokenizers
from etils import epath
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors

from ranges import ConfigError
from train.interop import gguf_config, gguf_format

ARCHITECTURES = {
    "llama": gguf.MODEL_ARCH.LLAMA,
    "qwen2": gguf.MODEL_ARCH.QWEN2,
    "qwen3": gguf.MODEL_ARCH.QWEN3,
}
_DTYPES = {
    gguf.GGMLQuantizationType.F16: "float16",
    gguf.GGMLQuantizationType.BF16: "bfloat16",
}
# Pre-tokenizers, which GGUF names in `tokenizer.ggml.pre`.
_GPT2_LIKE = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|{numbers}"
    r"| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_CONTROL, _USER_DEFINED = 3, 4  # of tokenizer.ggml.token_type


def _split(numbers: str):
    pattern = tokenizers.Regex(_WORDS.format(numbers=numbers))
    return pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(pattern, "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )


def _pre_tokenizer(name: str):
    """(pre-tokenizer, normalizer or None)."""
    if name in ("gpt-2", "default"):
        return _GPT2_LIKE, None
    if name == "smollm":
        digits = pre_tokenizers.Digits(individual_digits=True)
        return pre_tokenizers.Sequence([digits, _GPT2_LIKE]), None
    if name in ("llama-bpe", "llama3"):
        return _split(r"\p{N}{1,3}"), None
    if name == "qwen2":
        return _split(r"\p{N}"), normalizers.NFC()
    raise ConfigError(
        f"the GGUF file has the pre-tokenizer {name!r}, which Seedpod does not know; import the "
        "model's safetensors"
    )


class GGUFModel:
    """One GGUF file: a reader (train/interop/weights.py) under Hugging Face's names.

    Attributes:
      config: the content of config.json. tokenizer_files: {name: bytes} of a tokenizer
        (data/text/hf_tokenizer.py). dtype: the one that most weights are stored in; quantised ones
        are read as float32.

    Raises:
      ConfigError: naming an architecture, tokenizer or tensor that Seedpod does not read.
    """

    def __init__(self, path: epath.PathLike):
        self.location = str(path)
        self._fields, self._tensors = gguf_format.read(path)
        try:
            self._open()
        except ConfigError:
            raise
        except Exception as e:  # fields of other types; `tokenizers` raises plain `Exception`s
            raise ConfigError(
                f"{path} is damaged: its fields do not fit each other ({e!r:.200}). Download it "
                "again, or import the model's safetensors"
            ) from e

    def _open(self) -> None:
        self._kind = self._field("general.architecture")
        if self._kind not in ARCHITECTURES:
            raise ConfigError(
                f"{self.location} is a {self._kind:.40} model; of GGUF Seedpod reads "
                f"{', '.join(ARCHITECTURES)}. Import the model's safetensors"
            )
        if (form := self._field("general.type", "model")) != "model":
            raise ConfigError(f"{self.location} holds no model: its general.type is {form!r:.60}")
        if (parts := self._field("split.count", 0)) > 1:
            raise ConfigError(
                f"{self.location} is one of {parts} files of a model; join them with llama.cpp: "
                "llama-gguf-split --merge FIRST_FILE WHOLE.gguf"
            )
        self._rope_factors = self._tensors.pop("rope_freqs.weight", None)
        layers = self._field(f"{self._kind}.block_count")
        if layers > len(self._tensors):
            raise ConfigError(
                f"{self.location} has {len(self._tensors)} tensors for {layers} layers; download "
                "it again"
            )
        table = gguf.get_tensor_name_map(ARCHITECTURES[self._kind], layers)
        self._own = {}
        for name in _hf_names(layers):
            own = table.get_name(name, (".weight", ".bias"))
            if own in self._tensors:
                self._own[name] = own
        if unread := sorted(self._tensors.keys() - set(self._own.values())):
            raise ConfigError(
                f"{self.location} has {len(unread)} tensors that Seedpod has no place for, such as "
                f"{', '.join(unread[:3])}"
            )
        self.names = self._own.keys()
        self.config = self._config()
        self.tokenizer_files = self._tokenizer_files()
        sizes: Counter[str] = Counter()
        for tensor in self._tensors.values():
            sizes[_DTYPES.get(tensor.tensor_type, "float32")] += math.prod(tensor.shape)
        self.dtype = max(sizes, key=sizes.__getitem__)

    def _field(self, name: str, default=...):
        if name in self._fields:
            return self._fields[name]
        if default is ...:
            raise ConfigError(f"{self.location} has no {name}; download it again")
        return default

    def _config(self) -> dict:
        prefix = f"{self._kind}."
        fields = {
            name.removeprefix(prefix): value
            for name, value in self._fields.items()
            if name.startswith(prefix)
        }
        factors = self._rope_factors
        if factors is not None:
            factors = self._dequantize("rope_freqs.weight", factors)
        try:
            config = gguf_config.config_of(self._kind, fields, factors)
        except ValueError as e:
            raise ConfigError(f"{self.location} has {e}. Import the model's safetensors") from e
        return config | dict(
            vocab_size=len(self._field("tokenizer.ggml.tokens")),
            tie_word_embeddings="output.weight" not in self._tensors,
        )

    def _tokenizer_files(self) -> dict[str, bytes]:
        if (kind := self._field("tokenizer.ggml.model")) != "gpt2":
            raise ConfigError(
                f"{self.location} has a tokenizer of kind {kind!r}; of GGUF Seedpod reads "
                "byte-level BPE (gpt2). Import the model's safetensors"
            )
        tokens = self._field("tokenizer.ggml.tokens")
        kinds = self._field("tokenizer.ggml.token_type")
        merges = [tuple(m.split(" ")) for m in self._field("tokenizer.ggml.merges")]
        if len(set(tokens)) < len(tokens):
            raise ConfigError(
                f"{self.location} has one token under several ids; import the model's safetensors"
            )
        pre = self._field("tokenizer.ggml.pre", "default")
        inner = tokenizers.Tokenizer(
            models.BPE({t: i for i, t in enumerate(tokens)}, merges, ignore_merges=pre in
                       ("llama-bpe", "llama3"))
        )  # fmt: skip
        inner.pre_tokenizer, normalizer = _pre_tokenizer(pre)
        if normalizer:
            inner.normalizer = normalizer
        inner.decoder = decoders.ByteLevel()
        inner.add_tokens(
            [
                tokenizers.AddedToken(token, special=kind == _CONTROL, normalized=False)
                for token, kind in zip(tokens, kinds, strict=True)
                if kind in (_CONTROL, _USER_DEFINED)
            ]
        )
        names = {"bos": "bos_token", "eos": "eos_token", "padding": "pad_token",
                 "unknown": "unk_token"}  # fmt: skip
        ids = {ours: self._field(f"tokenizer.ggml.{n}_token_id", None) for n, ours in names.items()}
        settings = {name: tokens[i] for name, i in ids.items() if i is not None}
        if self._field("tokenizer.ggml.add_bos_token", pre in ("llama-bpe", "llama3")):
            bos = settings["bos_token"]
            inner.post_processor = processors.TemplateProcessing(
                single=f"{bos} $A", special_tokens=[(bos, ids["bos_token"])]
            )
        if template := self._field("tokenizer.chat_template", None):
            settings["chat_template"] = template
        settings["tokenizer_class"] = "PreTrainedTokenizerFast"
        settings["model_max_length"] = self._field(f"{self._kind}.context_length")
        stops = [ids["eos_token"], self._field("tokenizer.ggml.eot_token_id", None)]
        stops = list(dict.fromkeys(i for i in stops if i is not None))
        return {
            "tokenizer.json": inner.to_str(pretty=True).encode(),
            "tokenizer_config.json": json.dumps(settings, indent=2).encode(),
            "generation_config.json": json.dumps({"eos_token_id": stops}).encode(),
        }

    def read(self, name: str) -> np.ndarray:
        """A tensor in float32, under its Hugging Face name and in its order."""
        value = self._dequantize(self._own[name], self._tensors[self._own[name]])
        heads = {"q_proj": "num_attention_heads", "k_proj": "num_key_value_heads"}
        for part, count in heads.items():
            if self._kind == "llama" and f".{part}." in name:
                # llama.cpp rotates neighbours (2i, 2i+1), Hugging Face (i, i+N/2).
                pairs = value.reshape(self.config[count], -1, 2, *value.shape[1:])
                value = pairs.swapaxes(1, 2).reshape(value.shape)
        return np.asarray(value, np.float32)

    def _dequantize(self, name: str, tensor) -> np.ndarray:
        try:
            with np.errstate(all="ignore"):  # values that are not finite are refused later, by name
                return gguf.quants.dequantize(tensor.data, tensor.tensor_type)
        except NotImplementedError as e:
            raise ConfigError(
                f"{self.location}: {name} is stored as {tensor.tensor_type.name}, which `gguf` "
                "cannot dequantize; take the model's F16, BF16 or Q8_0 file, or its safetensors"
            ) from e

    def file_of(self, name: str) -> str:
        return self.location


def _hf_names(layers: int):
    """Hugging Face's names of all tensors that these architectures may have."""
    yield from ("model.embed_tokens.weight", "model.norm.weight", "lm_head.weight")
    for i in range(layers):
        for part in ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"):
            yield f"model.layers.{i}.{part}.weight"
            yield f"model.layers.{i}.{part}.bias"
        for part in (
            "self_attn.o_proj", "self_attn.q_norm", "self_attn.k_norm", "mlp.gate_proj",
            "mlp.up_proj", "mlp.down_proj", "input_layernorm", "post_attention_layernorm",
        ):  # fmt: skip
            yield f"model.layers.{i}.{part}.weight"
