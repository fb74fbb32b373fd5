"""The page of a report, drawn from runs that are written by hand."""

import dataclasses
import re
from html.parser import HTMLParser

import pytest
from etils import epath

from train.config import run as config
from train.evals.generative import Text
from train.objectives.reporting import Bars, Finished, Result
from train.report import charts, html

NASTY = '<script>alert(1)</script>" onload="x` & </title></details>\ud800\u202e'
VOID = {"meta", "link", "br", "img", "input", "hr"}


class Tree(HTMLParser):
    """Checks that elements are closed in order; collects tags, attributes and texts by element."""

    def __init__(self, page):
        super().__init__()
        self.open, self.tags, self.texts = [], [], []
        self.feed(page)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append((self.open[-1] if self.open else "", data))


def draw(monkeypatch, name="demo", long="short", made=None, bars=()):
    monkeypatch.setattr(html, "parameters", lambda workdir: {"policy": 2_000_000})
    evals = [{"step": 0, "loss": 4.0}, {"step": 9, "loss": 2.0}]
    train = [{"step": i, "nats_per_token": 4 - i / 9} for i in range(1, 10)]
    run = Finished(name, "sft", config.RunConfig(stage="sft"), epath.Path("x"), train, evals, 90.0,
                   made or {})  # fmt: skip
    results = {
        name: Result("fine-tuning", f"h {long}", f"b {long}", f"m {long}", "good", f"r {long}"),
        "later": Result("PPO", "70% preferred", "35 of 50", "x", "caution", "judged by itself"),
    }
    answered = [html.Answered(long, {name: Text(long, True), "later": Text("", False)}, long, 64)]
    return html.page(name, [run], results, bars, answered)


def test_the_page_is_well_formed_self_contained_and_short_without_its_script(monkeypatch):
    made = {"date": "2026-11-30T10:00:00+00:00", "commit": "0123456789abcdef", "command": "python"}
    page = draw(monkeypatch, made=made)
    tree = Tree(page)
    assert not re.search(r"(src|href)=|url\(|@import|\$[a-z]", page)
    assert all("open" not in attributes for tag, attributes in tree.tags if tag == "details")
    # Everything but the header and the results is in a closed section.
    main = page[page.index("<main>") :]
    assert re.findall(r"<h2>([^<]*)", main)[-3:] == [
        "Curves", "The same questions, answered by each model", "How it was made"
    ]  # fmt: skip
    for text in (
        "2026-11-30 · commit 0123456789",
        "<dt>command</dt><dd>python</dd>",
    ):
        assert text in page


def test_every_text_of_a_run_is_escaped(monkeypatch):
    made = {"date": NASTY, "commit": NASTY, "devices": NASTY, "processor": NASTY, "cores": NASTY}
    bars = [Bars(NASTY, NASTY, {NASTY: {NASTY: 0.5}}, {NASTY: {NASTY: 8.0}})]
    plain, nasty = Tree(draw(monkeypatch)), Tree(draw(monkeypatch, NASTY, NASTY * 9, made, bars))
    known = {tag for tag, _ in plain.tags} | {"b", "i", "small", "div", "span", "code", "u"}
    assert {tag for tag, _ in nasty.tags} <= known
    assert [tag for tag, _ in nasty.tags].count("script") == 1
    assert not any("onload" in attributes for _, attributes in nasty.tags)


def test_verdicts_are_words_as_well_as_colours(monkeypatch):
    page = draw(monkeypatch)
    assert (
        '<article class="result lead good"><h2>demo' in page
    )  # the last one that answers questions
    assert '<em class="reason">R short</em>' in page
    assert '<article class="result caution">' in page and "Caution: judged by itself" in page


def test_a_long_text_is_clipped_with_a_control_and_a_cut_one_is_marked(monkeypatch):
    words = "word " * 100
    tree = Tree(html.clipped(words.strip()))
    assert [tag for tag, _ in tree.tags] == ["details", "summary", "span", "u", "u", "p"]
    texts = [text for _, text in tree.texts]
    assert texts[-1] == words.strip() and len(texts[0]) <= html.CLIP + 2
    assert "<details" not in html.clipped("short")
    assert "<details" in html.clipped("line\n" * 30)
    page = draw(monkeypatch)
    assert page.count("cut at 64 tokens") == 1 and "<em>(nothing)</em>" in page


def test_runs_that_were_made_otherwise_are_listed_apart():
    def run(name, **made):
        return Finished(name, "sft", None, epath.Path(name), [], [], 1.0, made)

    same = [run("a", date="1", commit="x"), run("b", date="2", commit="x")]
    assert html.made_list(same) == (
        "<dl><div><dt>date</dt><dd>2</dd></div><div><dt>commit</dt><dd>x</dd></div></dl>"
    )
    both = html.made_list([*same, run("old")])
    assert "<dd>a, b</dd>" in both and "<dd>old</dd>" in both and "not recorded" in both


@pytest.mark.parametrize("low, high", [(0, 1), (-3.2, 11), (0.991, 0.9925), (0, 1e6), (5, 5.5)])
def test_ticks_are_few_round_and_inside(low, high):
    ticks = charts.ticks(low, high)
    assert 2 <= len(ticks) <= 7
    assert low - 1e-9 <= ticks[0] and ticks[-1] <= high * (1 + 1e-9)
    assert len({f"{t:.6g}" for t in ticks}) == len(ticks)


def test_a_chart_of_constant_and_of_odd_values():
    assert charts.chart("t", "nats", [], []) == ""
    assert charts.curve([{"step": 1, "x": float("nan")}, {"step": 2, "x": 1.0}], "x") == [(2, 1.0)]
    flat = charts.chart("a < b", "c < d", [(1, 0.0), (2, 0.0)], [(2, 0.0)])
    assert "nan" not in flat and "a &lt; b" in flat and "c &lt; d" in flat
    points = charts.thin([(i, i) for i in range(100_000)])
    assert len(points) <= charts.MAX_POINTS and points[-1] == (99_999, 99_999)


@pytest.mark.parametrize("xs", [(0, 9), (3, 3), (-0.2, 0.1), (0, 1e6)])
def test_dots_lie_inside_the_axes_and_axes_have_titles(xs):
    dots = [(x, y) for x, y in zip(xs, (-2.0, 5.0), strict=True)]
    drawn = charts.chart("t", "nats a token", [], dots)
    assert ">optimizer step</text>" in drawn and ">nats a token</text>" in drawn
    for x, y in re.findall(r'cx="([\d.-]+)" cy="([\d.-]+)"', drawn):
        assert charts.LEFT + charts.RADIUS < float(x) < charts.WIDTH - charts.RIGHT - charts.RADIUS
        assert float(y) > charts.TOP + charts.RADIUS
        assert float(y) < charts.HEIGHT - charts.BOTTOM - charts.RADIUS


def test_bars_have_their_counts():
    accuracies = {"reward": {"overall": 0.75, "a": 0.5, "b": 1.0}, "overlap": {"a": 0.25}}
    counts = {"reward": {"overall": 101.0, "a": 90.0, "b": 11.0}}
    drawn = charts.bars(Bars("t", "x", accuracies, counts))
    for text in ("75.0%</b><small>56 of 101", "50.0%</b><small>45 of 90", "25.0%</b></div>"):
        assert text in drawn


def test_settings_name_what_differs_from_the_defaults():
    default = config.RunConfig()
    changed = dataclasses.replace(
        default, steps=7, model=dataclasses.replace(default.model, size="tiny")
    )
    assert html.differences(default, default) == []
    assert html.differences(changed, default) == ["steps = 7", 'model.size = "tiny"']


def test_the_rows_of_a_step_follow_a_ramp():
    default = config.RunConfig()
    ramp = dataclasses.replace(default.data, batch_size=16, batch_ramp={"9": 8, "5": 4})
    assert html.rows_a_step(dataclasses.replace(default, data=ramp)) == "4 to 16"
    assert html.rows_a_step(default) == str(default.data.batch_size)
