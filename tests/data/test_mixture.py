"""Mixtures: shares, changes and ends in closed form, for any hosts; errors of the settings."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.config import DataConfig
from data.errors import DataError
from data.loader import Loader, make_loader
from data.mixture import Mixture, SourceConfig, source_config, split
from data.pipeline import open_data
from data.ramp import Ramp
from data.splits import read_examples
from data.text.tokenizer import train
from ranges import ConfigError


def mixture(sizes, batch_size=4, seed=0, **settings):
    """`settings`: lists, one value a source."""
    configs = [
        SourceConfig("x", **{k: v[i] for k, v in settings.items()}) for i in range(len(sizes))
    ]
    return Mixture("abcdef"[: len(sizes)], sizes, configs, Ramp(batch_size).rows_before, seed)


@given(
    st.lists(st.integers(0, 9), min_size=1, max_size=5).filter(any),
    st.integers(0, 10**12),
)
def test_counts_add_up_grow_by_one_and_are_near_the_shares(parts, rows):
    before, after = split(rows, parts), split(rows + 1, parts)
    assert sum(before) == rows
    grown = [b - a for a, b in zip(before, after)]
    assert sorted(grown) == [0] * (len(parts) - 1) + [1] and parts[grown.index(1)] > 0
    for count, part in zip(before, parts):
        assert abs(count - rows * part / sum(parts)) <= len(parts)


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_replaying_row_by_row_gives_what_the_closed_form_says(data):
    """Random weights, changes, epochs and sizes: each row is the next of its source, shares are
    those of the step, and nobody is read more often than he may be."""
    n = data.draw(st.integers(1, 4))
    sizes = data.draw(st.lists(st.integers(1, 6), min_size=n, max_size=n))
    weight = data.draw(st.lists(st.integers(0, 3), min_size=n, max_size=n).filter(any))
    changes = data.draw(
        st.lists(
            st.dictionaries(st.sampled_from(["2", "5"]), st.integers(1, 3)), min_size=n, max_size=n
        )
    )
    epochs = data.draw(st.lists(st.sampled_from([0, 0.5, 1, 2.5]), min_size=n, max_size=n))
    m = mixture(sizes, weight=weight, changes=changes, epochs=epochs)
    most = [int(e * s) if e else None for e, s in zip(epochs, sizes)]
    counts = [0] * n
    for row in range(40 if m.rows is None else min(40, m.rows)):
        assert m.counts(row) == counts
        ((source, number),) = m.locate([row])
        assert number == counts[source]
        counts[source] += 1
        assert most[source] is None or counts[source] <= most[source]
        step = row // 4
        at = [max((int(s) for s in c if int(s) <= step), default=None) for c in changes]
        now = [w if a is None else c[str(a)] for w, c, a in zip(weight, changes, at)]
        assert now[source] > 0
    if m.rows is not None and m.rows <= 40:
        used = [c == x for c, x in zip(counts, most)]
        assert all(u or not w for u, w in zip(used, now if m.rows else weight))
        with pytest.raises(DataError, match=f"used up after {m.rows} rows"):
            m.index([m.rows])


def test_shares_follow_the_weights_and_their_changes():
    m = mixture([50, 50], weight=[3.0, 1.0], changes=[{"100": 1.0}, {}])
    assert m.counts(400) == [300, 100]
    assert m.counts(800) == [500, 300]
    assert m.shares(400) == {"a": 0.75, "b": 0.25} and m.epochs(400) == {"a": 6.0, "b": 2.0}
    assert m.counts(10**12 + 400) == [300 + 5 * 10**11, 100 + 5 * 10**11]


def test_a_source_that_was_read_as_often_as_it_may_leaves_its_place_to_the_others():
    m = mixture([10, 30], weight=[1, 1], epochs=[1, 0])
    assert m.counts(20) == [10, 10] and m.counts(120) == [10, 110] and m.rows is None
    both = mixture([10, 30], weight=[1, 1], epochs=[1, 2])
    assert both.rows == 70 and both.counts(70) == [10, 60]


def test_every_epoch_of_a_source_is_a_permutation():
    m = mixture([5, 7], weight=[1, 2], seed=3)
    index = m.index(np.arange(63))
    numbers = np.array([40, 3, 4, 62])
    np.testing.assert_array_equal(m.index(numbers), index[numbers])
    first, second = index[index < 5], index[index >= 5] - 5
    assert len(first) == 21 and len(second) == 42
    for epoch in np.split(second, 6):
        assert sorted(epoch) == list(range(7))
    for epoch in np.split(first[:20], 4):
        assert sorted(epoch) == list(range(5))


@pytest.mark.parametrize("processes", [1, 2, 3, 4, 8])
def test_hosts_together_read_what_one_reads_from_any_step(processes):
    rows = {"id": np.arange(40)}
    m = mixture([10, 30], 24, weight=[2, 1], changes=[{"3": 1}, {}], epochs=[5, 0], seed=1)
    whole = Loader(rows, Ramp(24), 1, mixture=m)
    parts = [
        Loader(rows, Ramp(24), 1, lambda size, part=part: part, m)
        for part in np.split(np.arange(24), processes)
    ]
    iterators = [part.iterate(2, 6) for part in parts]
    for step in range(2, 6):
        together = np.concatenate([next(i)["id"] for i in iterators])
        np.testing.assert_array_equal(together, whole.batch(step)["id"])


@pytest.fixture
def files(tmp_path):
    for name, count in (("one", 30), ("two", 12)):
        records = [{"prompt": f"{name} {i}", "response": name * (i % 3 + 1)} for i in range(count)]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))
    return {name: str(tmp_path / f"{name}.jsonl") for name in ("one", "two")}


def test_files_are_mixed_packed_and_counted(files):
    given = {
        "one": dict(source=files["one"], weight=1.0, limit=9),
        "two": dict(source=files["two"], weight=3.0),
    }
    config = DataConfig(source="", mixture=given, length=40, batch_size=4, heldout_fraction=0.2)
    tokenizer = train("byte", [], 0)
    examples = read_examples(config, "chat")
    assert examples.sizes[0] == 9 and sum(examples.sizes) == len(examples.train)
    data = open_data(config, "chat", tokenizer, examples)
    assert sum(data.sizes) == len(data.train["tokens"])
    loader = make_loader(config, data, 4, 0)
    decoded = [
        tokenizer.decode(row[row > 0]) for k in range(5) for row in loader.batch(k)["tokens"]
    ]
    assert sum("two" in text for text in decoded) == 15
    one, two = data.sizes
    assert loader.progress(5) == {
        "share/one": 0.25, "share/two": 0.75, "epochs/one": 5 / one, "epochs/two": 15 / two
    }  # fmt: skip
    held = [int(np.max(loader.batch(k)["segment_ids"], axis=1).sum()) for k in range(9)]
    assert [loader.examples(range(k, k + 1)) for k in range(9)] == held
    assert loader.examples(range(2, 9)) == sum(held[2:]) > 7 * 4  # rows hold several


def test_rankings_of_all_sources_have_one_shape(tmp_path):
    for name, count in (("pairs", 2), ("many", 5)):
        records = [
            {"prompt": f"{name} {i}", "responses": [str(j) for j in range(count)]} for i in range(8)
        ]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))
    given = {name: dict(source=str(tmp_path / f"{name}.jsonl")) for name in ("pairs", "many")}
    config = DataConfig(source="", mixture=given, length=40, sub_rows=3)
    data = open_data(config, "preference", train("byte", [], 0))
    assert len(data.sizes) == 2 and data.train["rank"].shape[0] == sum(data.sizes)
    counts = np.sum(data.train["rank"] >= 0, axis=1)
    pairs, many = counts[: data.sizes[0]], counts[data.sizes[0] :]
    assert np.all(pairs % 2 == 0) and np.all(many == 5) and np.max(pairs) > 5


def test_a_mixture_that_ends_too_soon_says_when(files):
    given = {"one": dict(source=files["one"], epochs=1.0)}
    config = DataConfig(source="", mixture=given, length=40, batch_size=4, pack=False)
    data = open_data(config, "chat", train("byte", [], 0))
    rows = data.sizes[0]
    with pytest.raises(DataError, match=rf"used up in step {rows // 4 + 1} of 100.*{rows} rows"):
        make_loader(config, data, 4, 0, steps=100)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"sorce": "a"}, r"unknown config key data\.mixture\.web\.sorce; did you mean source"),
        ({"weight": 1.0}, r"data\.mixture\.web\.source is missing"),
        (
            {"source": "a", "weight": -1},
            r"\.web\.weight=-1; it must be .*, or 0",
        ),
        ({"source": "a", "changes": {"soon": 1}}, r"changes: 'soon' is no step"),
        (
            {"source": "a", "changes": {"9": "x"}},
            r"web\.changes\.9='x' is a str; it must be a",
        ),
    ],
)
def test_what_is_wrong_with_a_source_is_said(given, message):
    with pytest.raises((DataError, ConfigError), match=message):
        source_config("web", given)


def test_a_source_and_a_mixture_are_too_much():
    with pytest.raises(DataError, match="both given"):
        DataConfig(source="a", mixture={"b": dict(source="c")})
    with pytest.raises(DataError, match="weight of 0 from step 5 on"):
        mixture([3, 3], weight=[1, 1], changes=[{"5": 0}, {"5": 0}])
