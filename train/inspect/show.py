"""How results show themselves: tables of text for a terminal, HTML and figures for a notebook.

Text of a model or a file is never HTML, and never moves the cursor.
"""

from __future__ import annotations

import html
import importlib
import io
import math
import shutil
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from types import ModuleType
from typing import Any, Literal

import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table

from printable import escaped
from ranges import ConfigError
from train.terminal.text import wrap

MOST_ROWS = 60  # of a table of text
# The ends of the scales of colours, and white between: weights on red, green and blue.
_WARM, _COLD = (217, 95, 14), (44, 123, 182)


def imported(name: str) -> ModuleType:
    """A package of the extra `notebook`.

    Raises:
      ConfigError: it is not installed.
    """
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        package = name.partition(".")[0]
        if (error.name or "").partition(".")[0] != package:
            raise
        raise ConfigError(
            f"{package} is not installed; type pip install 'seedpod[notebook]', or pip install "
            f"{package}"
        ) from None


def columns() -> int:
    """The width for tables of text."""
    return max(shutil.get_terminal_size((100, 24)).columns, 40)


def number(x: float) -> str:
    """A number in at most nine characters; "" for NaN."""
    if math.isnan(x):
        return ""
    return f"{x:.3f}" if x == 0 or 1e-3 <= abs(x) < 1e4 else f"{x:.1e}"


def size(nbytes: float) -> str:
    """A number of bytes as `1.5 MB`."""
    for unit in ("B", "kB", "MB", "GB"):
        if nbytes < 999.5 or unit == "GB":
            break
        nbytes /= 1000
    return f"{nbytes:.0f} {unit}" if unit == "B" else f"{nbytes:.3g} {unit}"


def table(title: str, names: Sequence[str], rows: Iterable[Sequence[str]], words: int = 1) -> str:
    """A table of text as wide as the terminal.

    Beyond `MOST_ROWS` the rows in the middle are left out, and counted.

    Args:
      words: the number of columns, from the first, that are not numbers.
    """
    rows = [[escaped(cell) for cell in row] for row in rows]
    grid = Table(box=box.SIMPLE_HEAD)
    for i, name in enumerate(names):
        justify: Literal["left", "right"] = "left" if i < words else "right"
        grid.add_column(escaped(name), justify=justify, overflow="fold", no_wrap=i == 0)
    half = MOST_ROWS // 2
    for i, row in enumerate(rows):
        if len(rows) <= MOST_ROWS or i < half or i >= len(rows) - half:
            grid.add_row(*row)
        elif i == half:
            grid.add_row(f"… {len(rows) - 2 * half} more")
    out = io.StringIO()
    # Without `force_jupyter` a console in a notebook shows what it prints, beside the HTML.
    console = Console(file=out, width=columns(), markup=False, highlight=False, color_system=None,
                      force_jupyter=False)  # fmt: skip
    console.print(grid)
    text = "\n".join(line.rstrip() for line in out.getvalue().splitlines()).strip("\n")
    return "\n".join([*wrap(escaped(title), columns()), text]) if title else text


def by_layer(title: str, values: Mapping[str, np.ndarray]) -> str:
    """A table with a row a layer and a column a weight, of {weight: [L]}; as many columns side by
    side as fit the terminal, and the others below."""
    names, blocks = list(values), []
    width = max((len(name) for name in names), default=0)
    most = max((columns() - 8) // (max(width, 7) + 3), 1)
    for start in range(0, len(names), most):
        part = names[start : start + most]
        layers = len(values[part[0]])
        rows = [[str(i), *(number(float(values[n][i])) for n in part)] for i in range(layers)]
        blocks.append(table("" if start else title, ["layer", *part], rows))
    return "\n\n".join(blocks)


def html_table(title: str, names: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table of HTML; cells are text."""
    head = "".join(f"<th>{html.escape(name)}</th>" for name in names)
    body = "".join(
        f"<tr>{''.join(f'<td>{html.escape(cell)}</td>' for cell in row)}</tr>" for row in rows
    )
    caption = f'<caption style="white-space:nowrap;text-align:left">{html.escape(title)}</caption>'
    return f"<table>{caption}<tr>{head}</tr>{body}</table>"


def colour(share: float) -> str:
    """The colour of a share of a scale: white at 0, orange at 1, blue at -1."""
    end = _WARM if share >= 0 else _COLD
    depth = min(abs(share), 1.0) * 0.85
    return "#" + "".join(f"{round(255 + (part - 255) * depth):02x}" for part in end)


def figure(
    title: str, rows: int = 1, across: int = 1, width: float = 4.5, height: float = 3.2
) -> tuple[Any, np.ndarray]:
    """(a matplotlib Figure with a title, its axes [rows, across]). It is not registered with
    pyplot, so that a notebook shows it once.

    Args:
      width, height: of each axes, in inches.

    Raises:
      ConfigError: matplotlib is not installed.
    """
    inches = max(width * across, 4.5)
    made = imported("matplotlib.figure").Figure((inches, height * rows), layout="constrained")
    made.suptitle("\n".join(textwrap.wrap(printed(title), int(inches * 12))), fontsize=10)
    return made, made.subplots(rows, across, squeeze=False)


def printed(text: str) -> str:
    """Text for a figure: escaped, and no mathematics where it holds dollars."""
    return escaped(text).replace("\n", "\\n").replace("\t", "\\t").replace("$", r"\$")


def heatmap(axes: Any, values: np.ndarray, label: str, **options: Any) -> Any:
    """An image of [rows, columns] with a colour bar that names its unit.

    Args:
      options: of `imshow`; without a range, values of both signs are centred on white.
    """
    finite = values[np.isfinite(values)]
    if "vmin" not in options and "norm" not in options and finite.size and finite.min() < 0:
        most = float(np.abs(finite).max())
        options = {"cmap": "RdBu_r", "vmin": -most, "vmax": most} | options
    image = axes.imshow(values, aspect="auto", interpolation="nearest", **options)
    axes.figure.colorbar(image, ax=axes, label=label)
    return image


def tree_html(tree: Any) -> str | None:
    """The HTML of a tree of dicts by treescope; None, by which a notebook takes the text, without
    it."""
    try:
        return imported("treescope").render_to_html(tree)
    except ConfigError:
        return None
