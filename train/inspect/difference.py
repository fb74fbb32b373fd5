"""The difference of two models, weight by weight and layer by layer."""

from __future__ import annotations

from typing import Any

import numpy as np

from train.inspect import show
from train.inspect.tree import Parameters, Weight, inner


class Difference:
    """How far the weights of a model are from those of another.

    Attributes:
      title.
      relative: {path: ‖a − b‖ / ‖b‖, [L] of a stack of layers, [1] of another weight}, a the model
        and b the other; NaN where b is 0 and a is not.
      cosine: {path: a·b / ‖a‖‖b‖, likewise}; NaN where one is 0.
      only_here, only_there: paths that one of them alone has, or has in another shape.

    Raises:
      ValueError: they share no weight.
    """

    def __init__(self, title: str, here: Parameters, there: Parameters):
        self.title = title
        a, b = _aligned(here), _aligned(there)
        shared = [path for path in a if path in b and a[path].shape == b[path].shape]
        if not shared:
            raise ValueError(f"{title}: the two models share no weight of the same shape")
        self.only_here = sorted(a.keys() - set(shared))
        self.only_there = sorted(b.keys() - set(shared))
        self.relative, self.cosine = dict[str, np.ndarray](), dict[str, np.ndarray]()
        for path in shared:
            self.relative[path], self.cosine[path] = _compare(a[path], b[path])

    def _layers(self, values: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {p.split("/")[-1]: x for p, x in values.items() if p.startswith("layers/")}

    def _rows(self) -> list[list[str]]:
        return [
            [path, show.number(float(np.nanmax(x, initial=0))),
             show.number(float(np.nanmin(self.cosine[path], initial=1)))]
            for path, x in self.relative.items()
        ]  # fmt: skip

    _NAMES = ("weight", "relative norm, largest", "cosine, smallest")

    def _left_out(self) -> str:
        parts = {"only here": self.only_here, "only there": self.only_there}
        return "; ".join(f"{name}: {', '.join(paths)}" for name, paths in parts.items() if paths)

    def __repr__(self) -> str:
        text = show.table(self.title, self._NAMES, self._rows())
        if layers := self._layers(self.relative):
            text += "\n\n" + show.by_layer("relative norm of the difference by layer", layers)
        return text + (f"\n\n{self._left_out()}" if self._left_out() else "")

    def _repr_html_(self) -> str:
        layers = self._layers(self.relative)
        count = len(next(iter(layers.values()), ()))
        rows = [[str(i), *(show.number(float(x[i])) for x in layers.values())]
                for i in range(count)]  # fmt: skip
        text = show.html_table(self.title, self._NAMES, self._rows())
        text += show.html_table("relative norm by layer", ["layer", *layers], rows)
        left_out = self._left_out()
        return text + show.html_table(left_out, [], []) if left_out else text

    def plot(self) -> Any:
        """A matplotlib Figure: weights by layers, the colour the relative norm of the
        difference."""
        layers = self._layers(self.relative)
        values = np.stack(list(layers.values()))
        width = max(5.0, 0.3 * values.shape[1] + 3)
        figure, axes = show.figure(self.title, width=width, height=0.32 * len(layers) + 1.6)
        place = axes[0, 0]
        show.heatmap(place, values, "‖difference‖ / ‖weight‖", cmap="magma_r", vmin=0)
        place.set_yticks(range(len(layers)), list(layers), fontsize=8)
        place.set(xlabel="layer", ylabel="weight")
        place.xaxis.get_major_locator().set_params(integer=True)
        return figure


def _aligned(params: Parameters) -> dict[str, Weight]:
    """{path: weight}, the backbone of a scalar model under the paths of a policy."""
    return {path.removeprefix("backbone/"): w for path, w in params.flat().items()}


def _compare(a: Weight, b: Weight) -> tuple[np.ndarray, np.ndarray]:
    """(relative norms, cosines), each [L] or [1]; a part is read at a time."""
    sums = []
    for x, y in zip(a.parts(), b.parts(), strict=True):
        gap = x - y
        sums.append((inner(gap, gap), inner(x, y), inner(x, x), inner(y, y)))
    table = np.array(sums)
    if not a.layers:
        table = table.sum(0, keepdims=True)
    gap, product, xx, yy = table.T
    with np.errstate(divide="ignore", invalid="ignore"):
        relative = np.where(yy > 0, np.sqrt(gap / yy), np.where(gap > 0, np.nan, 0.0))
        cosine = np.where(xx * yy > 0, product / np.sqrt(xx * yy), np.nan)
    return relative, cosine
