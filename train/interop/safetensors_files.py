"""Safetensors files: chosen in a directory, opened with errors that name the file, and written one
tensor at a time."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import safetensors
from etils import epath

from data.read import json_files, paths
from data.read.json_files import check_content
from ranges import ConfigError

_WHOLE, _INDEX = "model.safetensors", "model.safetensors.index.json"
# {name in the format: dtype of the parameter that it is read as and written from}
DTYPES = {"F64": "float32", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}
_PICKLED = ("*.bin", "*.bin.index.json", "*.pth", "*.pt")


def weight_files(directory: epath.PathLike) -> tuple[list[epath.Path], dict[str, str]]:
    """The files of a model's weights, chosen as by transformers.

    Returns:
      (paths, {tensor: name of its file by the index}); {} without an index.

    Raises:
      ConfigError: there are none, or the index is damaged, or names missing files.
    """
    directory = epath.Path(directory)
    if (directory / _WHOLE).exists():
        return [directory / _WHOLE], {}
    index = directory / _INDEX
    if not index.exists():
        raise ConfigError(_no_weights(directory))
    weight_map = json_files.read(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise ConfigError(f"{index} has no weight_map; download it again")
    for tensor, name in weight_map.items():
        if not isinstance(name, str) or epath.Path(name).name != name:
            raise ConfigError(
                f"{index} puts {tensor:.80} in {name!r:.80}, which is no file beside it; "
                "download it again"
            )
        paths.inside(directory, name, index)
    listed = sorted(set(weight_map.values()))
    missing = [name for name in listed if not (directory / name).exists()]
    if missing:
        raise ConfigError(
            f"{directory} lacks {missing[0]:.80}, one of {len(listed)} files that its {_INDEX} "
            "lists; download it again"
        )
    return [directory / name for name in listed], weight_map


def _no_weights(directory) -> str:
    """The error about a directory without the files that transformers reads."""
    others = sorted(p.name for p in directory.glob("*.safetensors"))
    pickled = sorted(p.name for kind in _PICKLED for p in directory.glob(kind))
    if "adapter_model.safetensors" in others and not others[1:]:
        return (
            f"{directory} holds an adapter alone (adapter_model.safetensors); import the model it "
            "was trained on, or merge both with peft: merge_and_unload(), then save_pretrained"
        )
    if (link := directory / _WHOLE).name in others:
        return f"{link} is a link to a missing file; download it again"
    if others:
        return (
            f"{directory} holds {others[0]}{_more(others)}, and neither {_WHOLE} nor {_INDEX}, "
            "which name the weights that transformers reads; download the one that is missing"
        )
    if pickled:
        return (
            f"{directory} holds no *.safetensors, which Seedpod reads; its {pickled[0]}"
            f"{_more(pickled)} can run code when it is opened. Take the model's safetensors, or "
            "save it again with transformers: model.save_pretrained(DIR)"
        )
    return f"{directory} holds no *.safetensors; is the download complete?"


def _more(names) -> str:
    return f" (and {len(names) - 1} more)" if len(names) > 1 else ""


def open_file(path: epath.PathLike) -> Any:
    """A file opened by `safetensors`: memory-mapped, its tensors read on request.

    Raises:
      ConfigError: it is not a complete safetensors file.
    """
    path = epath.Path(path)
    with path.open("rb") as file:
        check_content(file.read(64), path)
    try:
        return safetensors.safe_open(path, "np")
    except Exception as e:  # SafetensorError is a direct subclass, and not the only kind
        raise ConfigError(
            f"{path} is not a whole safetensors file of {path.stat().length:,} bytes ({e!s:.300}); "
            "the download broke off or the file is damaged: download it again"
        ) from e


def write(path: epath.PathLike, tensors: Sequence, dtype: str) -> None:
    """Writes a file, holding one tensor at a time.

    Args:
      tensors: objects with `name`, `shape` and `read()`, which returns an array of `dtype`.
      dtype: one of the values of `DTYPES`.
    """
    kind = {v: k for k, v in DTYPES.items()}[dtype]
    size = {"F32": 4}.get(kind, 2)
    # Readers of the format in torch require this entry.
    header: dict[str, dict] = {"__metadata__": {"format": "pt"}}
    end = 0
    for t in tensors:
        start, end = end, end + math.prod(t.shape) * size
        header[t.name] = {"dtype": kind, "shape": list(t.shape), "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # aligns the tensors
    with epath.Path(path).open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for t in tensors:
            file.write(np.ascontiguousarray(t.read()).reshape(-1).view(np.uint8).data)
