"""The layout of a GGUF file: its fields, and the places of its tensors.

The `gguf` package takes minutes to read a vocabulary of 150,000 tokens, as it creates arrays for
each string; this module takes a second. Layout: ggml's docs/gguf.md.
"""

from __future__ import annotations

import math
import struct
from typing import Any, NamedTuple

import gguf
import numpy as np
from etils import epath

from data.read.json_files import check_content
from ranges import ConfigError

# Format characters of `struct` for the types of fields, by their numbers.
_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q",
            12: "d"}  # fmt: skip
_STRING, _ARRAY = 8, 9


class Stored(NamedTuple):
    """A tensor in the file.

    Attributes:
      data: a view of the file, [rows…, bytes or values of a row]. tensor_type: encoding of the
        values. shape: in numpy's order.
    """

    data: np.ndarray
    tensor_type: gguf.GGMLQuantizationType
    shape: tuple[int, ...]


class _Cursor:
    """A position in a buffer, which each read advances; raises `struct.error` at the end."""

    def __init__(self, buffer):
        self.buffer, self.at = buffer, 0

    def take(self, kind: str, count: int = 1):
        """A tuple of values, little-endian."""
        values = struct.unpack_from(f"<{count}{kind}", self.buffer, self.at)
        self.at += struct.calcsize(f"<{count}{kind}")
        return values

    def string(self) -> str:
        """A string with its length before it."""
        (size,) = struct.unpack_from("<Q", self.buffer, self.at)
        start, self.at = self.at + 8, self.at + 8 + size
        if self.at > len(self.buffer):
            raise struct.error("a string extends beyond the end of the file")
        return str(self.buffer[start : self.at], "utf-8")

    def value(self, kind: int) -> Any:
        """A field's value of the type with this number."""
        if kind == _STRING:
            return self.string()
        if kind != _ARRAY:
            return self.take(_SCALARS[kind])[0]
        (kind,), (count,) = self.take("I"), self.take("Q")
        if kind == _STRING:
            return [self.string() for _ in range(count)]
        if count > len(self.buffer):
            raise struct.error(f"an array of {count} values")
        return list(self.take(_SCALARS[kind], count))


def read(path: epath.PathLike) -> tuple[dict[str, Any], dict[str, Stored]]:
    """(fields, tensors) of a file, by name. Tensors are memory-mapped.

    Raises:
      ConfigError: it is not a complete GGUF file.
    """
    path = epath.Path(path)
    with path.open("rb") as file:
        start = file.read(64)
    check_content(start, path)
    if start[:4] != b"GGUF":
        raise ConfigError(f"{path} is not a GGUF file; download it again")
    data = np.memmap(path, np.uint8, "r")
    cursor = _Cursor(data.data)
    try:
        cursor.take("I")
        (version,) = cursor.take("I")
        if version not in (2, 3):
            raise ConfigError(
                f"{path} has version {version} of GGUF, or is big-endian; Seedpod reads versions 2 "
                "and 3, little-endian. Convert the model again with llama.cpp"
            )
        tensor_count, field_count = cursor.take("Q", 2)
        fields = {}
        for _ in range(field_count):
            name = cursor.string()
            fields[name] = cursor.value(*cursor.take("I"))
        tensors = _tensors(path, data, cursor, tensor_count, fields.get("general.alignment", 32))
    except (struct.error, LookupError, OverflowError, UnicodeDecodeError, TypeError) as e:
        raise ConfigError(
            f"{path} is not a whole GGUF file of {len(data):,} bytes ({str(e)[:100]}); the "
            "download broke off or the file is damaged: download it again"
        ) from e
    return fields, tensors


def _tensors(path, data, cursor, count: int, alignment: int) -> dict[str, Stored]:
    places = {}
    for _ in range(count):
        name, (rank,) = cursor.string(), cursor.take("I")
        if rank > 4:
            raise struct.error(f"{name} of {rank} axes")
        shape = cursor.take("Q", rank)[::-1]
        (kind,), (offset,) = cursor.take("I"), cursor.take("Q")
        if name in places:
            raise struct.error(f"{name} twice")
        places[name] = shape, kind, offset
    if not isinstance(alignment, int) or alignment < 1:
        raise struct.error(f"an alignment of {alignment}")
    start, tensors = -(-cursor.at // alignment) * alignment, {}
    for name, (shape, kind, offset) in places.items():
        try:
            kind = gguf.GGMLQuantizationType(kind)
            block, block_bytes = gguf.GGML_QUANT_SIZES[kind]
        except (ValueError, KeyError):
            raise ConfigError(
                f"{path}: {name} is stored as GGML type {kind}, which the installed `gguf` does "
                "not know; take the model's F16, BF16 or Q8_0 file, or its safetensors"
            ) from None
        if not shape or shape[-1] % block:
            raise struct.error(f"{name} of shape {list(shape)}")
        row = shape[-1] // block * block_bytes
        first, size = start + offset, math.prod(shape[:-1]) * row
        if first + size > len(data):
            raise ConfigError(
                f"{path} has {len(data):,} bytes, and its {name} ends at {first + size:,}; the "
                "download broke off: download it again"
            )
        stored = data[first : first + size].reshape(*shape[:-1], row)
        tensors[name] = Stored(stored, kind, shape)
    return tensors
