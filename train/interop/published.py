"""Open models as they are published: Hugging Face directories, GGUF files, names on the hub."""

from __future__ import annotations

import dataclasses
import datetime
import os
from typing import Any, NamedTuple

import jax
import numpy as np
from etils import epath

from data.read import hf_records, json_files
from data.text import tokenizer as tokenizers
from data.text.base import Tokenizer
from data.text.hf_tokenizer import DATE, ROWS, HFTokenizer, with_template
from model.config import TransformerConfig
from model.pretrained import hf_config
from model.sharding import MeshConfig, make_mesh
from ranges import ConfigError
from suggestions import did_you_mean, nearest
from train.checkpoints import networks
from train.interop import weights
from train.terminal.console import console


class OpenModel(NamedTuple):
    """An open model whose weights are not read yet; `tokenizer` is None if it was not asked for."""

    config: TransformerConfig
    reader: weights.Reader
    tokenizer: Tokenizer | None


def open_source(origin: str, need_tokenizer: bool = True) -> OpenModel:
    """Opens a Hugging Face directory, a `.gguf` file, or a name on the hub.

    Raises:
      ConfigError: there is none, or it is damaged or of a kind that Seedpod does not read.
    """
    try:
        return _open_source(origin, need_tokenizer)
    except ConfigError:
        raise
    except (ValueError, OSError) as e:  # of the tokenizer's and JSON files
        raise ConfigError(str(e)) from e


def _open_source(origin: str, need_tokenizer: bool) -> OpenModel:
    if origin.endswith(".gguf"):
        from train.interop.gguf_files import GGUFModel  # a large package, seldom needed

        if not epath.Path(origin).exists():
            raise ConfigError(f"{origin}: there is no such file")
        model = GGUFModel(origin)
        tokenizer = HFTokenizer(model.tokenizer_files, origin)
        return OpenModel(_config(model.config, origin), model, tokenizer)
    directory = epath.Path(origin)
    if not directory.exists():
        directory = epath.Path(_download(origin))
    if not directory.is_dir():
        raise ConfigError(f"{origin} is a file; give its directory, or a .gguf file")
    if (directory / "models.json").exists():
        raise ConfigError(
            f"{directory} is a run of Seedpod already; start from it with "
            f"--config.init_from.policy={directory}"
        )
    path = directory / "config.json"
    if not path.exists():
        raise ConfigError(f"{directory} holds no config.json{_alternative(directory)}")
    hf = json_files.read(path)
    if "model_type" not in hf:
        raise ConfigError(f"{path} names no model_type; is {directory} a Hugging Face model?")
    if quantised := _quantised(hf):
        raise ConfigError(f"{path}: the weights are quantised ({quantised}). {weights.UNQUANTISED}")
    config = _config(hf, path)
    tokenizer = tokenizers.load(directory) if need_tokenizer else None
    reader = weights.SafetensorsReader(directory)
    return OpenModel(_tied_as_stored(config, reader), reader, tokenizer)


def _tied_as_stored(config: TransformerConfig, reader: weights.Reader) -> TransformerConfig:
    """The config with `tie_embeddings` as in the weights: transformers does not tie a vocabulary
    head that is in the files and differs from the embeddings, whatever config.json says."""
    head, table = "lm_head.weight", "model.embed_tokens.weight"
    if not config.tie_embeddings or not {head, table} <= set(reader.names):
        return config
    if np.array_equal(reader.read(head), reader.read(table)):
        return config
    console.print(f"{reader.location}: {head} differs from the embeddings: not tied")
    return dataclasses.replace(config, tie_embeddings=False)


def _alternative(directory) -> str:
    """The end of an error about a directory without config.json: what can be imported instead."""
    files = sorted(directory.glob("*.gguf"))
    if files:
        return f"; its file {files[0]} can be read"
    adapter = directory / "adapter_config.json"
    if adapter.exists():
        base = json_files.read(adapter).get("base_model_name_or_path")
        return (
            f": it is an adapter of {base!s:.200}. Import that, or merge both with peft: "
            "merge_and_unload(), then save_pretrained"
        )
    if (directory / "params.json").exists():
        return ", but a params.json of its publisher; take the model in Hugging Face's format"
    return ""


def _quantised(hf: dict) -> str:
    """The method by which weights are quantised, by a config.json; "" if they are not."""
    text = hf.get("text_config")
    for part in (hf, text if isinstance(text, dict) else {}):
        for key in ("quantization_config", "compression_config"):
            if settings := part.get(key):
                settings = settings if isinstance(settings, dict) else {}
                kind = "bitsandbytes" if "load_in_4bit" in settings else "by its config"
                return str(settings.get("quant_method", kind))[:40]
    return ""


def _config(hf: dict, path) -> TransformerConfig:
    """The architecture of a config.json, which errors call `path`."""
    try:
        return hf_config.config_from_hf(hf)
    except ValueError as e:
        raise ConfigError(f"{path}: {e}") from e
    except (TypeError, ArithmeticError, LookupError, AttributeError) as e:
        raise ConfigError(f"{path} is damaged, a value has the wrong type: {e!r:.200}") from e


def _beside(name: str) -> str:
    """The path of this machine that is spelled most like `name`, in the same folder, or ""."""
    folder, last = os.path.split(name.rstrip("/"))
    if not folder or not os.path.isdir(folder):
        return ""
    near = nearest(last, sorted(os.listdir(folder)), 0.75)
    return os.path.join(folder, near) if near else ""


def _download(name: str) -> str:
    """The directory of a snapshot from the hub."""
    import huggingface_hub  # comes with tokenizers

    near = did_you_mean(_beside(name))
    if name.count("/") != 1 or name.startswith((".", "/")):
        hint = near or "; a name on the hub is OWNER/MODEL"
        raise ConfigError(f"{name}: there is no such directory{hint}")
    kinds = ["*.json", "*.safetensors", "*.jinja", "tokenizer.model"]
    others = ["*/*", "consolidated*"]  # the same weights in other forms
    online = hf_records.hub_answers()
    try:
        return huggingface_hub.snapshot_download(name, allow_patterns=kinds, ignore_patterns=others)
    except Exception as e:  # of many libraries under it
        if near:
            raise ConfigError(f"{name}: there is no such directory{near}") from e
        if not online:
            raise ConfigError(
                f"{name}: there is no such directory; {hf_records.unreachable()}. Where there is a "
                f"network, type `hf download {name} --local-dir FOLDER`, bring FOLDER here, and "
                "give its path"
            ) from e
        reason = str(e).strip().splitlines()[0]
        raise ConfigError(
            f"{name}: there is no such directory, and the hub did not give it "
            f"({type(e).__name__}: {reason:.120}). Log in with `hf auth login` if the model is "
            "gated"
        ) from e


def load(
    origin: epath.PathLike, mesh: jax.sharding.Mesh | None = None, dtype: str = "float32"
) -> tuple[TransformerConfig, Any]:
    """Opens a Hugging Face directory, a GGUF file or a name on the hub.

    Args:
      mesh: the devices that the weights go to; by default one. dtype: of the parameters.

    Returns:
      (TransformerConfig, params) for `Transformer(config)`.

    Raises:
      ConfigError: it cannot be read.
    """
    source = open_source(str(origin), need_tokenizer=False)
    mesh = mesh or make_mesh(MeshConfig(), jax.devices()[:1])
    return _placed(source, mesh, dtype)


def open_whole(origin: str, mesh: jax.sharding.Mesh) -> tuple[TransformerConfig, Any, Tokenizer]:
    """(TransformerConfig, float32 params, tokenizer) of an open model, as an import of it has them.

    Raises:
      ConfigError: it cannot be read.
    """
    source = open_source(origin)
    tokenizer, _ = chat_tokenizer(source, origin)
    return *_placed(source, mesh, "float32"), tokenizer


def _placed(source: OpenModel, mesh: jax.sharding.Mesh, dtype: str):
    abstract = abstract_params(source, mesh, dtype)
    return source.config, weights.place(source.config, source.reader, abstract)


def chat_tokenizer(
    source: OpenModel, origin: str, chat_template: str = ""
) -> tuple[HFTokenizer, int]:
    """(the tokenizer of an open model as Seedpod uses it, its number of ids as published).

    Args:
      chat_template: "" for the model's own, `chatml`, or the text of a Jinja template. Markers that
        the vocabulary lacks are added to it.

    Raises:
      ConfigError: it is not a published tokenizer, or does not fit the weights.
    """
    tokenizer = source.tokenizer
    if not isinstance(tokenizer, HFTokenizer):
        raise ConfigError(f"{origin} is a Seedpod workdir; start from it with init_from")
    old_size, rows = tokenizer.vocab_size, source.config.vocab_size
    rowless = _without_rows(tokenizer, source.config, origin)
    tokenizer = tokenizer.with_config(**{DATE: datetime.date.today().isoformat()})
    if chat_template:
        tokenizer = with_template(tokenizer, chat_template)
    if rowless and tokenizer.vocab_size == old_size:
        tokenizer = tokenizer.with_config(**{ROWS: rows})
        console.print(
            f"{origin}: {len(rowless)} added tokens have no row in the embedding; text that holds "
            f"one is refused: {', '.join(rowless[:3])}{' …' if len(rowless) > 3 else ''}",
        )
    return tokenizer, old_size


def abstract_params(source: OpenModel, mesh: jax.sharding.Mesh, dtype: str) -> Any:
    """Shapes and shardings of an open model's parameters in a dtype."""
    try:
        abstract = networks.abstract_params("policy", source.config, mesh)
    except (TypeError, OverflowError) as e:
        raise ConfigError(
            f"{source.reader.location}: its config.json describes no model ({e!r:.200})"
        ) from e
    kind = weights.DTYPES[dtype]
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, kind, sharding=x.sharding), abstract
    )


def _without_rows(tokenizer: HFTokenizer, config: TransformerConfig, origin) -> list[str]:
    """The added tokens without a row in the embedding, of which small Gemma 3 models have one.

    Raises:
      ConfigError: tokens of the vocabulary itself, or the one that ends a text, have no row.
    """
    rows = config.vocab_size
    if tokenizer.vocab_size <= rows:
        return []
    try:
        added = tokenizer.added_from(rows)
        if max(tokenizer.eos_id, *tokenizer.prefix, 0) < rows:
            return added
    except ValueError:
        pass
    raise ConfigError(
        f"{origin}: its tokenizer has {tokenizer.vocab_size} ids and its weights {rows}; they are "
        "not of one model"
    )
