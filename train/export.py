"""A workdir's model as a Hugging Face directory, or its adapters as one of `peft`.

A policy is a causal language model there, a reward model a sequence classifier (its score is read
at the last token, which has to be the one that ends the answer), a critic a token classifier.
"""

from __future__ import annotations

import json
from typing import Any

import jax
import numpy as np
from etils import epath
from flax.traverse_util import flatten_dict

from data import tokenizer as tokenizers
from data.hf_files import hf_files
from data.hf_tokenizer import DATE, HFTokenizer
from model import hf_config, lora, pretrained
from train import checkpoint, peft, weights
from train.config import ConfigError

# What a role is in transformers.
_CLASSES = {
    "policy": "CausalLM",
    "reward": "SequenceClassification",
    "value": "TokenClassification",
}


def export_model(
    workdir, to, item: str = "", dtype: str = "float32", mesh=None, limit: int = weights.SHARD_BYTES
) -> None:
    """Writes a workdir's model as a Hugging Face directory, adapters merged.

    Args:
      item: `policy`, `value` or `reward`; by default the first that the run trained.
      limit: bytes of weights in one file.

    Raises:
      ConfigError: there is no such model, or transformers has none like it.
    """
    to, mesh = _new_directory(to), weights.whole_mesh(mesh)
    path = epath.Path(workdir) / "models.json"
    if not item and path.exists():
        item = next(iter(json.loads(path.read_text())))
    if item and item not in _CLASSES:
        raise ConfigError(f"--item={item} is no model on its own; choose {', '.join(_CLASSES)}")
    config, params = checkpoint.load(workdir, item, mesh)
    if item == "reward" and config.pool != "last":
        raise ConfigError(
            f"{workdir} reads its score as a {config.pool} over the answer, and transformers' "
            "sequence classifiers read it at the last token; train with --config.loss.pool=last"
        )
    tokenizer = _hf_tokenizer(workdir, config)
    try:
        hf = hf_config.config_to_hf(config)
        shapes = {path: x.shape for path, x in flatten_dict(params).items()}
        pretrained.check_covered(config, shapes, scalar=item != "policy")
    except ValueError as e:
        raise ConfigError(f"{workdir}: {e}") from e
    tensors = _tensors(config, params, item)
    to.mkdir(parents=True, exist_ok=True)
    hf |= {"dtype": dtype, "torch_dtype": dtype} | _special_ids(tokenizer, item)
    if item != "policy":
        hf["architectures"] = [hf["architectures"][0].replace("CausalLM", _CLASSES[item])]
        hf |= {"num_labels": 1, "id2label": {"0": "LABEL_0"}, "label2id": {"LABEL_0": 0}}
    (to / "config.json").write_text(json.dumps(hf, indent=2) + "\n")
    save_tokenizer(tokenizer, to, hf["pad_token_id"])
    weights.write_safetensors(to, tensors, dtype, limit=limit)


def export_adapter(workdir, to, mesh=None) -> None:
    """Writes the adapters of a workdir's policy as a directory that `peft` reads.

    Raises:
      ConfigError: it has none, or more than adapters was trained.
    """
    to, mesh = _new_directory(to), weights.whole_mesh(mesh)
    config = checkpoint.model_config(workdir, "policy")
    part, origin = checkpoint.read_parts(workdir, "policy")
    if not part or not part.adapted:
        raise ConfigError(f"{workdir} trained no adapters; export without --adapter")
    abstract = part.trained(checkpoint.abstract_params("policy", config, mesh))
    for path in flatten_dict(abstract):
        if not path[-1].endswith((lora.A, lora.B)):
            raise ConfigError(
                f"{workdir} trained {'/'.join(path)} beside its adapters, which a PEFT directory "
                "would leave out; export the merged model, without --adapter"
            )
    adapters = checkpoint.restore_item(workdir, "policy", abstract)
    tokenizer = _hf_tokenizer(workdir, config)
    to.mkdir(parents=True, exist_ok=True)
    peft.write(to, config, adapters, part.lora, origin_of(origin["from"]))
    save_tokenizer(tokenizer, to, tokenizer.pad_id)


def origin_of(workdir) -> str:
    """What an imported workdir was made of; of another one, itself."""
    path = epath.Path(workdir) / "config.json"
    facts = json.loads(path.read_text()) if path.exists() else {}
    return facts["from"] if facts.get("stage") == "import" else str(workdir)


def _new_directory(to):
    to = epath.Path(to)
    if to.exists() and any(to.iterdir()):
        raise ConfigError(f"--to={to} is not empty; give another directory")
    return to


def _hf_tokenizer(workdir, config) -> HFTokenizer:
    tokenizer = tokenizers.load(workdir)
    if isinstance(tokenizer, HFTokenizer):
        return tokenizer
    return HFTokenizer(hf_files(tokenizer, config.max_length), str(workdir))


def _tensors(config, params, item: str) -> list[weights.Tensor]:
    """What is written of a role: a reward model and a critic have a `score` head."""
    if item == "policy":
        return weights.tensors_of(config, params)
    tensors = weights.tensors_of(config, params["backbone"])
    tensors = [t for t in tensors if t.name != "lm_head.weight"]
    head = np.asarray(jax.device_get(params["head"]), np.float32)  # [D, 1]
    tensors.append(weights.Tensor("score.weight", head.T.shape, lambda: head.T))
    if item == "value":  # token classifiers of transformers have a bias
        tensors.append(weights.Tensor("score.bias", (1,), lambda: np.zeros(1, np.float32)))
    return tensors


def _special_ids(tokenizer: HFTokenizer, item: str) -> dict[str, Any]:
    pad = tokenizer.pad_id
    if item == "reward" and pad in tokenizer.stop_ids:
        # The classifier reads the last token that is no padding: not the one that ends an answer.
        if not tokenizer.banned_ids:
            raise ConfigError(
                "the tokenizer pads with the token that ends an answer, at which the score is "
                "read, and has no other special token to pad with"
            )
        pad = tokenizer.banned_ids[0]
    bos = tokenizer.special.get("bos_token")
    bos = None if bos is None else tokenizer.token_id(bos)
    return {"bos_token_id": bos, "eos_token_id": tokenizer.eos_id, "pad_token_id": pad}


def save_tokenizer(tokenizer: HFTokenizer, directory, pad_id: int) -> None:
    """The tokenizer's files, with all that stops an answer in generation_config.json."""
    files = dict(tokenizer.files)
    facts = json.loads(files.get("tokenizer_config.json", b"{}"))
    facts.pop(DATE, None)
    facts["pad_token"] = tokenizer.token_of(pad_id)
    files["tokenizer_config.json"] = json.dumps(facts, indent=2, ensure_ascii=False).encode()
    generation = json.loads(files.get("generation_config.json", b"{}"))
    generation |= {"eos_token_id": list(tokenizer.stop_ids), "pad_token_id": pad_id}
    files["generation_config.json"] = json.dumps(generation, indent=2).encode()
    for name, content in files.items():
        (epath.Path(directory) / name).write_bytes(content)
