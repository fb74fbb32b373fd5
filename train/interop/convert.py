"""Import and export of open models: Hugging Face directories, GGUF files, names on the hub."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from etils import epath

from interpreter import python
from model.config import TransformerConfig
from model.pretrained import families
from ranges import ConfigError
from train.checkpoints import networks, saved_models
from train.interop import export, published, unfinished, weights, workdirs
from train.terminal.console import console


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
    source = published.open_source(origin)
    config, rows_added = source.config, 0
    if chat_template and chat_template != "chatml":
        chat_template = _template(epath.Path(chat_template))
    tokenizer, old_size = published.chat_tokenizer(source, origin, chat_template)
    params = weights.place(config, source.reader, published.abstract_params(source, mesh, dtype))
    if tokenizer.vocab_size > old_size:
        old = min(old_size, config.vocab_size)
        config, params = add_rows(config, params, old, tokenizer.vocab_size, mesh)
        rows_added = tokenizer.vocab_size - old
    with unfinished.directory(workdir, "workdir", record) as workdir:
        tokenizer.save(workdir / "tokenizer")
        saved_models.save_models(workdir, {"policy": config})
        record |= {"source_dtype": source.reader.dtype, "rows_added": rows_added}
        (workdir / "config.json").write_text(json.dumps(record, indent=2) + "\n")
        workdirs.save_weights(workdir, "policy", params, record)
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
