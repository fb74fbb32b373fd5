"""The weights of a model: shapes, logical axes, bytes, and root mean squares by layer."""

from __future__ import annotations

from typing import Any

import numpy as np

from train.inspect import show
from train.inspect.tree import Parameters, Weight, inner


class Summary:
    """A row a weight, and the root mean square (RMS) of each layer.

    Args:
      rms: whether to read all weights, a part at a time, for their RMS.

    Attributes:
      title. weights: {path: Weight}.
      rms: {path: [L] float64 of a stack of layers, [1] of another weight}; empty if not asked for.
    """

    def __init__(self, title: str, params: Parameters, rms: bool = True):
        self.title, self.weights = title, params.flat()
        self.rms = {path: _rms(w) for path, w in self.weights.items()} if rms else {}

    @property
    def parameters(self) -> int:
        """The number of parameters."""
        return sum(w.size for w in self.weights.values())

    @property
    def nbytes(self) -> int:
        """Their bytes in storage, before compression."""
        return sum(w.nbytes for w in self.weights.values())

    def _title(self) -> str:
        return f"{self.title}: {self.parameters:,} parameters, {show.size(self.nbytes)}"

    def _rows(self) -> list[list[str]]:
        rows = []
        for path, w in self.weights.items():
            row = [path, " ".join(w.axes), " ".join(map(str, w.shape)), show.size(w.nbytes)]
            if self.rms:
                row.append(show.number(float(np.sqrt(np.mean(self.rms[path] ** 2)))))
            rows.append(row)
        return rows

    def _names(self) -> list[str]:
        return ["weight", "axes", "shape", "bytes", *(["RMS"] if self.rms else [])]

    def _layers(self) -> dict[str, np.ndarray]:
        return {p.split("/")[-1]: x for p, x in self.rms.items() if self.weights[p].layers}

    def __repr__(self) -> str:
        text = show.table(self._title(), self._names(), self._rows(), words=2)
        if layers := self._layers():
            text += "\n\n" + show.by_layer("RMS by layer", layers)
        return text

    def _repr_html_(self) -> str:
        text = show.html_table(self._title(), self._names(), self._rows())
        if layers := self._layers():
            count = len(next(iter(layers.values())))
            rows = [[str(i), *(show.number(float(x[i])) for x in layers.values())]
                    for i in range(count)]  # fmt: skip
            text += show.html_table("RMS by layer", ["layer", *layers], rows)
        return text

    def plot(self) -> Any:
        """A matplotlib Figure: the RMS of each weight by layer."""
        layers = self._layers()
        if not layers:
            raise ValueError("there is no RMS to plot; call m.summary() without rms=False")
        figure, axes = show.figure(f"RMS of the weights of {self.title}", width=7, height=4)
        place = axes[0, 0]
        for name, values in layers.items():
            place.plot(range(len(values)), values, marker=".", label=name)
        place.set(xlabel="layer", ylabel="root mean square", yscale="log")
        place.xaxis.get_major_locator().set_params(integer=True)
        place.legend(fontsize=7, ncols=2)
        return figure


def _rms(weight: Weight) -> np.ndarray:
    sums = [inner(part, part) for part in weight.parts()]
    if weight.layers:
        return np.sqrt(np.array(sums) * weight.layers / weight.size)
    return np.sqrt(np.array([sum(sums)]) / weight.size)
