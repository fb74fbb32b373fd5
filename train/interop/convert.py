"""Import and export of open models: Hugging Face directories, GGUF files, names on the hub."""

from __future__ import annotations

import dataclasses
import datetime
import json
import os
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from etils import epath

from data.read import json_files
from data.text import tokenizer as tokenizers
from data.text.base import Tokenizer
from data.text.hf_tokenizer import DATE, ROWS, HFTokenizer, with_template
from interpreter import python
from model.config import TransformerConfig
from model.pretrained import families, hf_config
from model.sharding import MeshConfig, make_mesh
from ranges import ConfigError
from train.checkpoints import fingerprints, networks, saved_models, verification
from train.interop import export, unfinished, weights
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
            raise ConfigError(f"--from={origin}: there is no such file")
        model = GGUFModel(origin)
        tokenizer = HFTokenizer(model.tokenizer_files, origin)
        return OpenModel(_config(model.config, origin), model, tokenizer)
    directory = epath.Path(origin)
    if not directory.exists():
        directory = epath.Path(_download(origin))
    if not directory.is_dir():
        raise ConfigError(f"--from={origin} is a file; give its directory, or a .gguf file")
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
        return f"; import its file: --from={files[0]}"
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


def _download(name: str) -> str:
    """The directory of a snapshot from the hub."""
    import huggingface_hub  # comes with tokenizers

    if name.count("/") != 1 or name.startswith((".", "/")):
        raise ConfigError(
            f"--from={name}: there is no such directory; a name on the hub is OWNER/MODEL"
        )
    kinds = ["*.json", "*.safetensors", "*.jinja", "tokenizer.model"]
    others = ["*/*", "consolidated*"]  # the same weights in other forms
    try:
        return huggingface_hub.snapshot_download(name, allow_patterns=kinds, ignore_patterns=others)
    except Exception as e:  # of many libraries under it
        reason = str(e).strip().splitlines()[0]
        raise ConfigError(
            f"--from={name}: there is no such directory, and the hub did not give it "
            f"({type(e).__name__}: {reason:.120}). Log in with `hf auth login` if the model is "
            "gated, or download it where there is a network and give its directory"
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
    return source.config, weights.place(
        source.config, source.reader, _abstract(source, mesh, dtype)
    )


def _abstract(source: OpenModel, mesh, dtype: str):
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


def import_model(
    origin: str,
    workdir: epath.PathLike,
    dtype: str = "float32",
    chat_template: str = "",
    mesh: jax.sharding.Mesh | None = None,
) -> TransformerConfig:
    """Imports an open model as a workdir.

    Args:
      dtype: of the weights in the checkpoint; training always reads them as float32.
      chat_template: "" for the model's own, `chatml`, or a Jinja file. Markers that the vocabulary
        lacks are added, with the mean of the embeddings.

    Raises:
      ConfigError: it cannot be read, or the workdir holds a run.
    """
    mesh = weights.whole_mesh(mesh)
    local = epath.Path(origin).is_dir()  # not to be taken for a name on the hub later
    recorded = os.path.abspath(origin) if local else str(origin)
    record: dict[str, str | int] = {"stage": "import", "from": recorded, "dtype": dtype}
    record |= {"chat_template": chat_template}
    if (epath.Path(workdir) / "checkpoints").exists() and not unfinished.is_marked(workdir):
        raise ConfigError(f"{workdir} holds a run already; give another --workdir")
    unfinished.check_free(workdir, "workdir", record)
    source = open_source(origin)
    tokenizer, config = source.tokenizer, source.config
    if not isinstance(tokenizer, HFTokenizer):
        raise ConfigError(f"{origin} is a Seedpod workdir; start from it with init_from")
    if chat_template and chat_template != "chatml":
        chat_template = _template(epath.Path(chat_template))
    old_size = tokenizer.vocab_size
    rowless = _without_rows(tokenizer, config, origin)
    tokenizer = tokenizer.with_config(**{DATE: datetime.date.today().isoformat()})
    if chat_template:
        tokenizer = with_template(tokenizer, chat_template)
    grown, rows_added = tokenizer.vocab_size > old_size, 0
    if rowless and not grown:
        tokenizer = tokenizer.with_config(**{ROWS: config.vocab_size})
        console.print(
            f"{origin}: {len(rowless)} added tokens have no row in the embedding; text that holds "
            f"one is refused: {', '.join(rowless[:3])}{' …' if len(rowless) > 3 else ''}",
        )
    params = weights.place(config, source.reader, _abstract(source, mesh, dtype))
    if grown:
        old = min(old_size, config.vocab_size)
        config, params = add_rows(config, params, old, tokenizer.vocab_size, mesh)
        rows_added = tokenizer.vocab_size - old
    with unfinished.directory(workdir, "workdir", record) as workdir:
        tokenizer.save(workdir / "tokenizer")
        saved_models.save_models(workdir, {"policy": config})
        record |= {"source_dtype": source.reader.dtype, "rows_added": rows_added}
        (workdir / "config.json").write_text(json.dumps(record, indent=2) + "\n")
        _save(workdir, params, record)
    return config


def _template(path) -> str:
    """The text of a --chat_template."""
    try:
        return path.read_text()
    except UnicodeDecodeError as e:
        raise ConfigError(f"--chat_template={path} is not UTF-8 text; give a Jinja file") from e
    except OSError as e:
        raise ConfigError(
            f"--chat_template={path} cannot be read ({e.strerror or e}); give a Jinja file, or "
            "chatml"
        ) from e


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


def _save(workdir, params, meta) -> None:
    """Writes checkpoint 0, fetching a few GB at a time. By default Orbax fetches all arrays to the
    host before it writes one, so that training can continue meanwhile; here there is none."""
    handlers = {
        "policy": ocp.PyTreeCheckpointHandler(save_device_host_concurrent_gb=8),
        "meta": ocp.JsonCheckpointHandler(),
    }
    options = ocp.CheckpointManagerOptions(enable_async_checkpointing=False)
    directory = (workdir / "checkpoints").resolve()
    with ocp.CheckpointManager(directory, item_handlers=handlers, options=options) as manager:
        arrays, _ = fingerprints.survey({"policy": params})
        meta = verification.seal(meta, arrays, saved_models.hashes(workdir))
        items = dict(policy=ocp.args.PyTreeSave(params), meta=ocp.args.JsonSave(meta))
        manager.save(0, args=ocp.args.Composite(**items))


def add_rows(
    config: TransformerConfig,
    params: Mapping[str, Any],
    old: int,
    new: int,
    mesh: jax.sharding.Mesh,
) -> tuple[TransformerConfig, dict[str, Any]]:
    """A model with ids old..new-1 added: their rows are the mean of rows 0..old-1.

    A row at the mean gives its token about the probability of an average one (Hewitt 2021,
    "Initializing new word embeddings for pretrained language models").

    Returns:
      (config, params). The vocabulary does not shrink: some models have spare rows.
    """
    grown = dataclasses.replace(config, vocab_size=max(config.vocab_size, new))
    abstract = networks.abstract_params("policy", grown, mesh)

    def grow(table, axis, like):
        rows = jnp.moveaxis(table, axis, 0)
        mean = jnp.mean(rows[:old].astype(jnp.float32), axis=0)
        rows = jnp.pad(rows, ((0, like.shape[axis] - len(rows)), (0, 0)))
        rows = rows.at[old:new].set(mean.astype(rows.dtype))
        return jnp.moveaxis(rows, 0, axis)

    params = dict(params)
    for name, axis in {"embedding": 0, "unembedding": 1}.items():
        if name in params:
            like = abstract[name]
            fill = jax.jit(grow, static_argnums=(1, 2), out_shardings=like.sharding)
            params[name] = fill(params[name], axis, like)
    return grown, params


# {command: flags that it requires}, {command: flags that it reads}.
_NEEDED = {"import": ("from", "workdir"), "export": ("workdir", "to")}
_READ = {
    "import": ("from", "workdir", "dtype", "chat_template"),
    "export": ("workdir", "to", "item", "dtype", "shard_size", "adapter"),
    "export --adapter": ("workdir", "to", "adapter", "base"),
}


def unread(command: str, given: set[str]) -> list[str]:
    """The flags among those given that only commands other than `command` read."""
    known = {name for names in _READ.values() for name in names}
    return sorted(given & known - {*_READ[command]})


def check_command(words: Sequence[str], values: Mapping[str, Any], given: set[str]) -> None:
    """Refuses a command line without a command, without a flag it needs, or with one it ignores.

    Args:
      words: of the command line, without flags. values: of all flags. given: names of the flags
        that were given.

    Raises:
      ConfigError: naming the flag.
    """
    if len(words) != 1 or words[0] not in _NEEDED:
        raise ConfigError(
            f"type `{python()} -m train.convert import --from=… --workdir=…`, or export"
        )
    (command,) = words
    for name in _NEEDED[command]:
        if not values[name]:
            raise ConfigError(f"{command} needs --{name}=…")
    command += " --adapter" if command == "export" and values["adapter"] else ""
    if names := unread(command, given):
        raise ConfigError(f"{command} does not read --{names[0]}; leave it out")


def run(command: str, values: Mapping[str, Any]) -> None:
    """Imports or exports by the values of the command's flags, and prints one line.

    Raises:
      ConfigError: as `import_model`, `export.export_model` and `export.export_adapter`.
    """
    workdir, to = values["workdir"], values["to"]
    if command == "import":
        origin, dtype = values["from"], values["dtype"] or "float32"
        config = import_model(origin, workdir, dtype, values["chat_template"])
        text = f"{origin} ({families.family_of(config)}, {config.num_layers} layers) -> {workdir}"
    elif values["adapter"]:
        base = export.export_adapter(workdir, to, values["base"])
        text = f"{workdir} -> {to} (adapters of {base})"
        if epath.Path(base).is_absolute() and not values["base"]:
            text += f"\n{to} is read where {base} is; for elsewhere give --base=OWNER/MODEL"
    else:
        limit = export.shard_bytes(values["shard_size"])
        dtype = export.export_model(workdir, to, values["item"], values["dtype"] or "", limit=limit)
        text = f"{workdir} -> {to} ({dtype})"
    console.print(text)
