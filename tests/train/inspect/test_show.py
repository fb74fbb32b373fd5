"""How results show themselves: no text becomes HTML, and tables fit the terminal."""

import sys

import numpy as np
import pytest
from sample_runs.random_runs import CONFIG, TOKENIZER, write_run

from ranges import ConfigError
from train import inspect
from train.inspect import answers, show, tokens

EVIL = "<b>&\x1b[1m\u202e$x$\n"


@pytest.fixture(scope="module")
def m(tmp_path_factory):
    path = tmp_path_factory.mktemp("run") / "<i>"
    write_run(path, CONFIG)
    return inspect.open(path)


def coloured(m):
    ids = m.tokens(EVIL)
    return tokens.TokenValues(f"of {m.name}", "nats", ids, np.arange(len(ids.ids)), ids.weights)


def sampled(m):
    ids = m.tokens(EVIL).ids
    texts = tuple(tokens.text_of(TOKENIZER, int(i)) for i in ids)
    answer = answers.Answer(EVIL, ids, texts, np.full(len(ids), -1.0), True)
    return answers.Answers(f"of {m.name}", [answer])


RESULTS = {
    "token values": coloured,
    "answers": sampled,
    "summary": lambda m: m.summary(),
    "spectra": lambda m: m.spectra("query"),
    "diff": lambda m: m.diff(m),
    "parameters": lambda m: m.params,
}


@pytest.mark.parametrize("name", RESULTS)
def test_text_is_never_html_and_fits_the_terminal(name, m, monkeypatch):
    result = RESULTS[name](m)
    html = result._repr_html_()
    for raw in ("<b>&", "<i>", "\x1b", "\u202e"):
        assert raw not in html.replace("<b>of", ""), raw
    for columns in (60, 120):
        monkeypatch.setenv("COLUMNS", str(columns))
        text = repr(result)
        assert "\x1b" not in text and "\u202e" not in text
        widest = max(len(line) for line in text.splitlines() if str(m.name) not in line)
        assert widest <= columns, text


def test_figures_have_titles_units_and_legends(m):
    figures = [coloured(m).plot(), m.summary().plot(), m.spectra("query").plot(), m.diff(m).plot()]
    for figure in figures:
        figure.draw_without_rendering()
        axes = figure.axes[0]
        assert m.name in figure.get_suptitle().replace("\n", "") and axes.get_xlabel()
        legends = bool(figure.legends or axes.get_legend())
        assert legends or any(a.get_ylabel().startswith("‖") for a in figure.axes)


def test_a_package_that_is_not_installed_is_named(m, monkeypatch):
    for name in ("matplotlib", "treescope"):
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.delitem(sys.modules, "matplotlib.figure", raising=False)
    with pytest.raises(ConfigError, match=r"matplotlib is not installed; type pip install"):
        m.summary().plot()
    assert m.params._repr_html_() is None  # a notebook shows its text then


def test_long_tables_are_cut_in_the_middle_and_numbers_are_short():
    lines = show.table("t", ["a", "b"], [[str(i), ""] for i in range(500)]).splitlines()
    assert len(lines) < 70 and any("… 440 more" in line for line in lines)
    shown = [show.number(x) for x in (0.0, 0.12345, -1234.5, 1e-7, 1e12, float("nan"))]
    assert shown == ["0.000", "0.123", "-1234.500", "1.0e-07", "1.0e+12", ""]
    assert [show.size(x) for x in (5, 999_999, 1.5e9)] == ["5 B", "1 MB", "1.5 GB"]
