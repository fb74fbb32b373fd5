"""Export of a workdir's model as a Hugging Face directory, or of its adapters as one of `peft`.

A policy becomes a causal language model, a reward model a sequence classifier (which reads its
score at the last token, so that this must be the one that ends the answer), a critic a token
classifier.
"""

from __future__ import annotations

import json
import os
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from flax.traverse_util import flatten_dict

from data.atomic import is_remote
from data.read import json_files
from data.text import tokenizer as tokenizers
from data.text.builtin import BuiltinTokenizer
from data.text.hf_files import hf_files
from data.text.hf_tokenizer import DATE, ROWS, HFTokenizer
from interpreter import python
from model import lora
from model.pretrained import fold, hf_config, mapping
from ranges import ConfigError
from train.checkpoints import checkpointer, networks, saved_models
from train.checkpoints.leaves import Leaves
from train.config.run_names import split_step
from train.interop import peft, unfinished, weights
from train.terminal.console import console

# {role: the end of its class's name in transformers}
_CLASSES = {
    "policy": "CausalLM",
    "reward": "SequenceClassification",
    "value": "TokenClassification",
}


def export_model(
    name: epath.PathLike,
    to: epath.PathLike,
    item: str = "",
    dtype: str = "",
    mesh: jax.sharding.Mesh | None = None,
    limit: int = weights.SHARD_BYTES,
) -> str:
    """Writes a run's model, adapters merged and the multipliers of μP folded into its weights, as a
    Hugging Face directory, weight by weight.

    Args:
      name: a run, RUN@STEP, or RUN@ema or RUN@STEP@ema for the averages of its weights.
      item: `policy`, `value` or `reward`; by default the first that the run trained.
      dtype: of the weights; by default that of the open model it started from, or float32.
      limit: bytes of weights in one file.

    Returns:
      The dtype.

    Raises:
      ConfigError: there is no such model, transformers has no class for it, or `to` is in use.
    """
    mesh = weights.whole_mesh(mesh)
    workdir, _ = split_step(name)
    item = item or next(iter(saved_models.read_models(workdir)))
    if item not in _CLASSES:
        raise ConfigError(f"--item={item} is no model on its own; choose {', '.join(_CLASSES)}")
    dtype = dtype or source_dtype(workdir)
    record = {"export": str(name), "item": item, "dtype": dtype, "shard_size": limit}
    unfinished.check_free(to, "to", record)
    config = saved_models.model_config(workdir, item)
    if item == "reward" and config.pool != "last":
        raise ConfigError(
            f"{workdir} reads its score as a {config.pool} over the answer, and transformers' "
            "sequence classifiers read it at the last token; train with --config.loss.pool=last"
        )
    config, fold_weight = fold.to_standard(config, scalar=item != "policy")
    tokenizer = _hf_tokenizer(workdir, config)
    try:
        hf = hf_config.config_to_hf(config)
    except ValueError as e:
        raise ConfigError(f"{workdir}: {e}") from e
    abstract = networks.abstract_params(item, config, mesh)
    # float16 is cast while writing, where values beyond its range are refused.
    leaves = Leaves(name, item, abstract, jnp.bfloat16 if dtype == "bfloat16" else None)
    try:
        mapping.check_covered(config, leaves.shapes(), scalar=item != "policy")
    except ValueError as e:
        raise ConfigError(f"{workdir}: {e}") from e
    hf |= {"dtype": dtype, "torch_dtype": dtype} | _special_ids(tokenizer, item)
    if item != "policy":
        hf["architectures"] = [hf["architectures"][0].replace("CausalLM", _CLASSES[item])]
        hf |= {"num_labels": 1, "id2label": {"0": "LABEL_0"}, "label2id": {"LABEL_0": 0}}
    with unfinished.directory(to, "to", record) as directory:
        save_tokenizer(tokenizer, directory, hf["pad_token_id"])
        tensors = _tensors(config, lambda path: fold_weight(path[-1], leaves.read(path)), item)
        weights.write_safetensors(directory, tensors, dtype, limit=limit)
        # Written last: without it nothing loads the directory.
        (directory / "config.json").write_text(json.dumps(hf, indent=2) + "\n")
    return dtype


def shard_bytes(text: str) -> int:
    """Bytes of `5GB`, `500MB`, `20KB` or a number, in powers of 1000 as in transformers.

    Raises:
      ConfigError: the text has another form, or is 0.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?) *([KMGT]?)B?", text.strip(), re.IGNORECASE)
    size = int(float(match[1]) * 1000 ** " KMGT".index(match[2].upper() or " ")) if match else 0
    if size < 1:
        raise ConfigError(f"--shard_size={text}; give bytes, as 5GB or 500MB")
    return size


def export_adapter(
    name: epath.PathLike,
    to: epath.PathLike,
    base: str = "",
    mesh: jax.sharding.Mesh | None = None,
) -> str:
    """Writes the adapters of a run's policy as a directory that `peft` reads.

    Args:
      name: as of `export_model`.
      base: where `peft` finds the model that is adapted, a name on the hub or a Hugging Face
        directory; by default the one that was imported.

    Returns:
      The base as it is written: a name on the hub, or an absolute path.

    Raises:
      ConfigError: there are none, other weights were trained too, or `peft` would not find the
        base.
    """
    mesh = weights.whole_mesh(mesh)
    workdir, _ = split_step(name)
    record = {"export": str(name), "item": "adapter", "base": base}
    unfinished.check_free(to, "to", record)
    config = saved_models.model_config(workdir, "policy")
    parts = saved_models.read_parts(workdir, "policy")
    if parts is None or not parts[0].adapted:
        raise ConfigError(f"{workdir} trained no adapters; export without --adapter")
    if config.parametrization != "standard":
        raise ConfigError(
            f"{workdir} is a model with model.parametrization={config.parametrization}, whose "
            "multipliers peft does not know; export the merged model, without --adapter"
        )
    part, origin = parts
    abstract = part.trained(networks.abstract_params("policy", config, mesh))
    for path in flatten_dict(abstract):
        if not path[-1].endswith((lora.A, lora.B)):
            raise ConfigError(
                f"{workdir} trained {'/'.join(path)} beside its adapters, which a PEFT directory "
                "would leave out; export the merged model, without --adapter"
            )
    base = _where(base) if base else base_of(origin["from"])
    adapters = checkpointer.restore_item(name, "policy", abstract)
    tokenizer = _hf_tokenizer(workdir, config)
    with unfinished.directory(to, "to", record) as directory:
        save_tokenizer(tokenizer, directory, tokenizer.pad_id)
        peft.write(directory, config, adapters, part.lora, base)
    return base


def base_of(workdir: epath.PathLike) -> str:
    """The open model that a workdir was imported from: a name on the hub, or an absolute path.

    Raises:
      ConfigError: the weights of the workdir are in no Hugging Face directory.
    """
    workdir, _ = split_step(workdir)
    record = _config_json(workdir)
    origin = record.get("from", "") if record.get("stage") == "import" else ""
    if not origin:
        reason = f"{workdir} is a run of Seedpod"
    elif origin.endswith(".gguf"):
        reason = f"{workdir} was imported from {origin}"
    elif record.get("rows_added"):
        reason = f"{workdir} has {record['rows_added']} rows of the vocabulary that {origin} lacks"
    else:
        return _where(origin)
    raise ConfigError(
        f"peft needs the adapted model as a Hugging Face directory or a name on the hub, and "
        f"{reason}. Give --base=OWNER/MODEL if it is there, or export it and give its directory: "
        f"{python()} -m train.convert export --workdir={workdir} --to=BASE, then --base=BASE"
    )


def _where(base: str) -> str:
    """A base as any process finds it: a name on the hub, or the absolute path of a directory.

    Raises:
      ConfigError: it is neither.
    """
    path = epath.Path(base).expanduser()
    if path.is_dir():
        return os.fspath(path if is_remote(base) else path.resolve())
    if base.count("/") == 1 and not base.startswith((".", "/", "~")):
        return base
    raise ConfigError(
        f"the adapted model, {base}, is no directory; give --base=DIRECTORY, or --base=OWNER/MODEL "
        "on the hub"
    )


def _config_json(workdir) -> dict:
    path = epath.Path(workdir) / "config.json"
    return json_files.read(path) if path.exists() else {}


def source_dtype(workdir: epath.PathLike) -> str:
    """The dtype of the open model from which a workdir descends, through any runs, or float32."""
    visited = set()
    while str(workdir) not in visited:
        visited.add(str(workdir))
        record = _config_json(workdir)
        if record.get("stage") == "import":
            dtype = record.get("source_dtype")
            return dtype if dtype in weights.DTYPES else "float32"
        origins = record.get("init_from") or {}
        child = workdir
        workdir, _ = split_step(origins.get("policy") or next(iter(origins.values()), child))
        if not epath.Path(workdir).exists():
            console.print(
                f"{child} started from {workdir}, which does not exist, so the dtype of its "
                "weights is unknown: exported as float32; --dtype=bfloat16 for another",
            )
    return "float32"


def _hf_tokenizer(workdir, config) -> HFTokenizer:
    """A workdir's tokenizer as a Hugging Face tokenizer."""
    tokenizer = tokenizers.load(workdir)
    if isinstance(tokenizer, BuiltinTokenizer):
        tokenizer = HFTokenizer(hf_files(tokenizer, config.max_length), str(workdir))
    assert isinstance(tokenizer, HFTokenizer)  # there are these two kinds
    return tokenizer


def _tensors(config, read, item: str) -> list[weights.Tensor]:
    """The tensors of a role; those of a reward model and a critic have a `score` head.

    Args:
      read: (path) -> parameter.
    """
    if item == "policy":
        return weights.tensors_of(config, read)
    tensors = weights.tensors_of(config, lambda path: read(("backbone", *path)))
    tensors = [t for t in tensors if t.name != "lm_head.weight"]
    head = np.asarray(jax.device_get(read(("head",))), np.float32)  # [D, 1]
    tensors.append(weights.Tensor("score.weight", head.T.shape, lambda: head.T))
    if item == "value":  # transformers' token classifiers have a bias
        tensors.append(weights.Tensor("score.bias", (1,), lambda: np.zeros(1, np.float32)))
    return tensors


def _special_ids(tokenizer: HFTokenizer, item: str) -> dict[str, Any]:
    """The ids of special tokens, for config.json."""
    pad = tokenizer.pad_id
    if item == "reward" and pad in tokenizer.stop_ids:
        # The classifier reads the last token that is not padding, so padding must not end answers.
        if not tokenizer.banned_ids:
            raise ConfigError(
                "the tokenizer pads with the token that ends an answer, at which the score is "
                "read, and has no other special token to pad with"
            )
        pad = tokenizer.banned_ids[0]
    bos = tokenizer.special.get("bos_token")
    bos = None if bos is None else tokenizer.token_id(bos)
    return {"bos_token_id": bos, "eos_token_id": tokenizer.eos_id, "pad_token_id": pad}


def save_tokenizer(tokenizer: HFTokenizer, directory: epath.PathLike, pad_id: int) -> None:
    """Writes the tokenizer's files, with all stop ids in generation_config.json."""
    files = dict(tokenizer.files)
    config = json.loads(files.get("tokenizer_config.json", b"{}"))
    for ours in (DATE, ROWS):
        config.pop(ours, None)
    config["pad_token"] = tokenizer.token_of(pad_id)
    files["tokenizer_config.json"] = json.dumps(config, indent=2, ensure_ascii=False).encode()
    generation = json.loads(files.get("generation_config.json", b"{}"))
    generation |= {"eos_token_id": list(tokenizer.stop_ids), "pad_token_id": pad_id}
    files["generation_config.json"] = json.dumps(generation, indent=2).encode()
    for name, content in files.items():
        (epath.Path(directory) / name).write_bytes(content)
