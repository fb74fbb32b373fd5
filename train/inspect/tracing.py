"""Forward passes in which the values at the taps (model/taps.py) are kept, or changed.

The layers run one by one, operation by operation, so that a patch is any Python function, and
nothing is compiled anew for another text of about the same length. Axes: T length.
"""

from __future__ import annotations

import dataclasses
import fnmatch
import functools
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from model import taps
from model.config import TransformerConfig
from ranges import ConfigError
from suggestions import did_you_mean, nearest
from train.chat.model import padded_width
from train.checkpoints import networks
from train.inspect import show
from train.inspect.tokens import Tokens, label_tokens

Change = Callable[[Any], Any]  # an array -> an array of its shape
LARGEST = 4 << 30  # bytes that a trace may keep
FIRST = "layers.0."
NO_TEXT = "value_head"  # a role whose network reads no tokens


class Tap(NamedTuple):
    """A value that a forward pass computes: its shape, without the batch, and its dtype."""

    shape: tuple[int, ...]
    dtype: np.dtype


def network(role: str, config: TransformerConfig) -> Any:
    """The network of a role as a trace runs it."""
    if role == NO_TEXT:
        raise ConfigError(
            "a value_head reads no text but the policy's hidden states; open the policy of the "
            "run, and ask for its values"
        )
    return networks.NETWORKS[role](dataclasses.replace(config, remat="none"))


@functools.lru_cache(maxsize=32)
def names(role: str, config: TransformerConfig, length: int) -> dict[str, Tap]:
    """The values that a forward pass of `length` tokens computes, by name, in order."""
    found = dict[str, Tap]()

    def visit(name: str, x: jax.Array) -> jax.Array:
        found[name] = Tap(_real(config, name, x, length).shape, np.dtype(x.dtype))
        return x

    # One layer is traced for all of them, which differ in what they compute, not in its shapes.
    one = dataclasses.replace(config, num_layers=1, layer_pattern=(), window=0)
    boxed = jax.eval_shape(lambda key: networks.init_params(role, one, key), jax.random.key(0))
    model, tokens = network(role, one), jax.ShapeDtypeStruct((1, length), jnp.int32)
    with taps.watching(visit):
        jax.eval_shape(lambda p, t: model.apply({"params": p}, t), nn.unbox(boxed), tokens)
    layer = [name.removeprefix(FIRST) for name in found if name.startswith(FIRST)]
    outside = [name for name in found if not name.startswith(FIRST)]
    before = list(found).index(FIRST + layer[0])
    inside = [f"layers.{i}.{name}" for i in range(config.num_layers) for name in layer]
    order = [*outside[:before], *inside, *outside[before:]]
    return {name: found[re.sub(r"^layers\.\d+\.", FIRST, name)] for name in order}


def _real(config: TransformerConfig, name: str, x: Any, length: int) -> Any:
    """x [1, padded T, …] without its batch, and the padding of its length and vocabulary."""
    if name.endswith("attention.weights"):
        return x[0, :, :length, :length]
    return x[0, :length, : config.vocab_size] if name == "logits" else x[0, :length]


def _put(config: TransformerConfig, name: str, x: jax.Array, new: jax.Array) -> jax.Array:
    """x with `new` in the place of its `_real`."""
    length = new.shape[-1 if name.endswith("attention.weights") else 0]
    if name.endswith("attention.weights"):
        return x.at[0, :, :length, :length].set(new)
    if name == "logits":
        return x.at[0, :length, : config.vocab_size].set(new)
    return x.at[0, :length].set(new)


def select(patterns: str | Iterable[str], known: Mapping[str, Any]) -> list[str]:
    """The names that some patterns match; `*` stands for anything.

    Raises:
      ValueError: a pattern matches nothing.
    """
    chosen = dict[str, None]()
    for pattern in (patterns,) if isinstance(patterns, str) else patterns:
        matches = fnmatch.filter(known, pattern)
        if not matches:
            raise ValueError(
                f"no value is named {pattern!r:.80}{did_you_mean(nearest(pattern, known))} "
                "docs/inspect.md lists the names"
            )
        chosen |= dict.fromkeys(matches)
    return [name for name in known if name in chosen]


def patches(changes: Mapping[str, Change], known: Mapping[str, Any]) -> dict[str, Change]:
    """{name: its function}, of {pattern of names: function}.

    Raises:
      ValueError: a pattern matches nothing, or two match one name.
    """
    pattern_of = dict[str, str]()
    for pattern in changes:
        for name in select(pattern, known):
            if (other := pattern_of.setdefault(name, pattern)) != pattern:
                raise ValueError(f"{other!r} and {pattern!r} both change {name}; give it one patch")
    return {name: changes[pattern] for name, pattern in pattern_of.items()}


def run(
    role: str, config: TransformerConfig, params: Any, tokens: Tokens,
    keep: str | Iterable[str] = "*", changes: Mapping[str, Change] | None = None,
) -> dict[str, np.ndarray]:  # fmt: skip
    """{name: value} of a forward pass.

    Args:
      params: of the network of the role. keep: patterns of the names to keep.
      changes: {pattern of names: function}; what it returns is computed with from there on.

    Raises:
      ValueError: nothing has such a name, a function returns another shape or a number that is not
        finite, or the values would take more than `LARGEST` bytes.
    """
    length = len(tokens.ids)
    known = names(role, config, length)
    kept = set(select(keep, known))
    functions = patches(changes or {}, known)
    needed = sum(int(np.prod(known[n].shape)) * known[n].dtype.itemsize for n in kept)
    if needed > LARGEST:
        raise ValueError(
            f"the values of {length} tokens take {show.size(needed)}; name those to keep, as "
            'names=["layers.*.residual"]'
        )
    values = dict[str, np.ndarray]()

    def visit(name: str, x: jax.Array) -> jax.Array:
        if name in functions:
            real = _real(config, name, x, length)
            x = _put(config, name, x, _changed(name, real, functions[name]))
        if name in kept:
            values[name] = _real(config, name, np.asarray(x), length).copy()
        return x

    width = padded_width(length, config.max_length)
    ids, segments = np.zeros((1, width), np.int32), np.zeros((1, width), np.int32)
    ids[0, :length], segments[0, :length] = tokens.ids, 1
    positions = np.arange(width, dtype=np.int32)[None]
    with taps.watching(visit):
        network(role, config).apply({"params": params}, ids, positions, segments)
    return values


def _changed(name: str, x: jax.Array, function: Change) -> jax.Array:
    value = function(x)
    if value is None:
        raise ValueError(f"the patch of {name} returns None; return the changed array")
    new = jnp.asarray(value, x.dtype)
    if new.shape != x.shape:
        raise ValueError(
            f"{name} is {list(x.shape)}, and its patch returns {list(new.shape)}; return an array "
            "of the same shape"
        )
    if not bool(jnp.all(jnp.isfinite(new))):
        raise ValueError(f"the patch of {name} returns NaN or infinity")
    return new


class Trace(Mapping[str, np.ndarray]):
    """The values of a forward pass over a text, by name: `trace["layers.3.attention.weights"]`.

    Attributes:
      title: the model. tokens: of the text.
    """

    def __init__(self, title: str, tokens: Tokens, values: Mapping[str, np.ndarray]):
        self.title, self.tokens, self._values = title, tokens, dict(values)

    def __getitem__(self, name: str) -> np.ndarray:
        if name not in self._values:
            hint = did_you_mean(nearest(name, self._values))
            raise KeyError(f"the trace has no {name!r:.80}{hint}")
        return self._values[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __repr__(self) -> str:
        groups: dict[str, list[str]] = {}
        for name in self:
            groups.setdefault(re.sub(r"(?<=^layers\.)\d+", "N", name), []).append(name)
        rows = [
            [group, str(len(members)), " ".join(map(str, self[members[0]].shape)),
             show.size(sum(self[m].nbytes for m in members))]
            for group, members in groups.items()
        ]  # fmt: skip
        title = f"{self.title}: trace of {len(self.tokens.ids)} tokens"
        return show.table(title, ["value", "count", "shape", "bytes"], rows)

    def _repr_html_(self) -> str | None:
        return show.tree_html(self._values)

    def plot(self, name: str) -> Any:
        """A matplotlib Figure of a value: attention's weights a head a panel, another value as its
        channels by tokens."""
        value = np.asarray(self[name], np.float32)
        texts = self.tokens.texts
        if name.endswith("attention.weights"):
            return _plot_heads(f"{self.title}: {name}", value, texts)
        rows = value.reshape(len(value), -1).T
        figure, axes = show.figure(f"{self.title}: {name}", width=min(max(5, len(texts) * 0.2), 16))
        show.heatmap(axes[0, 0], rows, "value")
        axes[0, 0].set_ylabel("channel")
        axes[0, 0].set_xlabel("token")
        label_tokens(axes[0, 0], texts)
        return figure


def _plot_heads(title: str, weights: np.ndarray, texts: tuple[str, ...]) -> Any:
    heads, length, _ = weights.shape
    across = min(4, heads)
    figure, axes = show.figure(title, -(-heads // across), across, width=3.2, height=3.0)
    image = None
    for head, place in enumerate(axes.flat):
        if head >= heads:
            place.axis("off")
            continue
        image = place.imshow(weights[head], vmin=0, vmax=1, cmap="viridis", interpolation="nearest")
        place.set_title(f"head {head}", fontsize=9)
        label_tokens(place, texts, most=24)
        places = range(0, length, -(-length // 24))
        labels = [t.get_text() for t in place.get_xticklabels()]
        place.set_yticks(list(places), labels, fontsize=7, family="monospace")
        if head % across == 0:
            place.set_ylabel("query", fontsize=8)
        place.set_xlabel("key", fontsize=8)
    figure.colorbar(image, ax=axes, label="attention weight", shrink=0.8)
    return figure
