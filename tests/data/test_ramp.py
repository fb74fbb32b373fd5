"""Ramps: which rows a step reads, how they are cut, how conversations are packed for that."""

import dataclasses
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.config import DataConfig
from data.loader import Loader, make_loader
from data.mixture import Mixture, SourceConfig
from data.packing.chats import nested_fit, pack_chats
from data.packing.text import pack_text
from data.pipeline import open_data
from data.ramp import Ramp, cut
from data.text.tokenizer import train
from ranges import ConfigError

TOKENIZER = train("byte", [], 0)
RAMP = dict(batch_ramp={3: 2, 7: 5}, length_ramp={5: 4})


def rows_read(loader, steps):
    """The ids of the rows of some steps, from the batches; every piece holds its row's id."""
    ids = []
    for batch in loader.iterate(steps.start, steps.stop):
        pieces = 8 // batch["tokens"].shape[1]
        assert np.array_equal(
            batch["tokens"][:, 0], np.repeat(batch["tokens"][::pieces, 0], pieces)
        )
        ids += batch["tokens"][::pieces, 0].tolist()
    return ids


def numbered(size):
    """Rows of 8 tokens, each its row's number."""
    tokens = np.repeat(np.arange(size, dtype=np.int32)[:, None], 8, axis=1)
    return {
        "tokens": tokens,
        "positions": np.tile(np.arange(8, dtype=np.int32), (size, 1)),
        "segment_ids": np.ones_like(tokens),
        "loss_mask": np.ones(tokens.shape, np.float32),
    }


def test_a_ramp_reads_the_rows_of_a_run_without_one_once_an_epoch():
    """24 rows: 3 steps of 2, 4 of 5, and then of 8; rows are halved until step 5."""
    ramped, plain = (
        Loader(numbered(24), Ramp(8, 8, **kw), seed=3) for kw in (RAMP, dict[str, dict]())
    )
    shapes = [ramped.batch(step)["tokens"].shape for step in range(9)]
    assert shapes == [(4, 4)] * 3 + [(10, 4)] * 2 + [(5, 8)] * 2 + [(8, 8)] * 2
    read = rows_read(ramped, range(12))
    assert read == rows_read(plain, range(9))[: len(read)]
    for epoch in (read[:24], read[24:48]):
        assert sorted(epoch) == list(range(24))
    for start in range(12):  # from every step, as a resumed run
        assert rows_read(ramped, range(start, 12)) == read[ramped.ramp.rows_before(start) :]
        assert ramped.rows(start) == rows_read(ramped, range(start, start + 1))


def test_hosts_read_their_rows_of_every_level():
    whole = Loader(numbered(24), Ramp(8, 8, {3: 2, 7: 4}, {5: 4}), seed=3)
    parts = [
        Loader(numbered(24), whole.ramp, 3, lambda size, i=i: np.split(np.arange(size), 2)[i])
        for i in range(2)
    ]
    for step in range(9):
        together = np.concatenate([part.batch(step)["tokens"] for part in parts])
        np.testing.assert_array_equal(together, whole.batch(step)["tokens"])


@given(st.dictionaries(st.integers(1, 20), st.integers(1, 9), max_size=4), st.integers(0, 40))
def test_rows_before_are_the_sum_of_the_batches(batch_ramp, step):
    ramp = Ramp(9, 1, batch_ramp)
    sizes = [next((batch_ramp[k] for k in sorted(batch_ramp) if k > s), 9) for s in range(step)]
    assert ramp.rows_before(step) == sum(sizes)
    assert ramp.steps_within(sum(sizes)) == step
    again = Ramp(9, 1, ramp.batch_ramp(step))
    assert [again.rows_before(s) for s in range(step + 1)] == [
        ramp.rows_before(s) for s in range(step + 1)
    ]


def test_a_mixture_changes_at_its_step_of_a_ramp():
    ramp = Ramp(4, 1, {10: 1})
    configs = [
        SourceConfig("x", changes={"15": 0.0}),
        SourceConfig("x", weight=0.0, changes={"15": 1.0}),
    ]
    mixture = Mixture("ab", [100, 100], configs, ramp.rows_before, seed=0)
    assert mixture.counts(ramp.rows_before(15)) == [30, 0]
    assert mixture.counts(ramp.rows_before(16)) == [30, 4]


def test_pieces_of_text_teach_all_but_their_first_token():
    documents = [{"text": "abcdefgh" * n, "where": ""} for n in (1, 3, 2)]
    rows = pack_text(documents, TOKENIZER, 16).rows
    pieces = cut(rows, 4)
    np.testing.assert_array_equal(pieces["tokens"].reshape(-1, 16), rows["tokens"])
    learned = rows["loss_mask"].copy()
    learned[:, ::4] = 0
    np.testing.assert_array_equal(pieces["loss_mask"].reshape(-1, 16), learned)
    for row in range(len(pieces["tokens"])):
        segments, positions = pieces["segment_ids"][row], pieces["positions"][row]
        real = segments[segments > 0]
        assert sorted(set(real)) == list(range(1, 1 + len(set(real))))
        for segment in set(real):
            at = np.flatnonzero(segments == segment)
            np.testing.assert_array_equal(positions[at], np.arange(len(at)))


@given(st.lists(st.integers(1, 48), min_size=1, max_size=40))
def test_nested_bins_cut_what_is_longer_alone(sizes):
    lengths = [8, 16, 48]
    bins = nested_fit(sizes, lengths)
    assert sorted(i for b in bins for i, _ in b) == list(range(len(sizes)))
    for b in bins:
        end = 0
        for index, start in b:
            assert start >= end
            end = start + sizes[index]
            for length in lengths:
                if sizes[index] <= length:
                    assert start // length == (end - 1) // length
                else:
                    assert start % length == 0
        assert end <= 48


def test_conversations_are_learned_as_far_as_their_beginning_is_in_the_row():
    examples = [
        {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b" * n}],
         "where": ""} for n in (2, 30, 3, 40, 2, 5, 1)
    ]  # fmt: skip
    alone = pack_chats(examples, TOKENIZER, 64, "error", False, Counter()).rows
    rows = pack_chats(examples, TOKENIZER, 64, "error", True, Counter(), shorter=(16, 32)).rows
    assert rows["loss_mask"].sum() == alone["loss_mask"].sum()
    for pieces in (2, 4):
        length = 64 // pieces
        short = cut(rows, pieces, whole=True)
        # Each conversation loses what is after its first `length` tokens, and no more.
        assert short["loss_mask"].sum() == alone["loss_mask"][:, :length].sum()
        learned = short["tokens"][short["loss_mask"] > 0]
        wanted = alone["tokens"][:, :length][alone["loss_mask"][:, :length] > 0]
        assert Counter(learned.tolist()) == Counter(wanted.tolist())


def test_held_out_rows_stay_whole_and_rows_of_text_are_the_same(tmp_path):
    (tmp_path / "a.txt").write_text("".join(f"line {i} of text\n" for i in range(200)))
    config = DataConfig(source=str(tmp_path / "a.txt"), length=32, heldout_fraction=0.2)
    ramped = dataclasses.replace(config, batch_ramp={4: 8}, length_ramp={3: 8, 6: 16})
    data, plain = (open_data(c, "text", TOKENIZER) for c in (ramped, config))
    assert data.fingerprint() == plain.fingerprint() and data.heldout["tokens"].shape[1] == 32
    batch = make_loader(ramped, data, 32, 0).batch(0)
    assert {name: x.shape for name, x in batch.items()} == dict.fromkeys(batch, (32, 8))


@pytest.mark.parametrize(
    "settings, message",
    [
        (dict(batch_ramp={"soon": 1}), r"data\.batch_ramp: 'soon' is no step after 0"),
        (dict(batch_ramp={"0": 1}), r"data\.batch_ramp: '0' is no step after 0"),
        (dict(batch_ramp={"5": 64}), r"data\.batch_ramp\.5=64 is more than data\.batch_size=32"),
        (dict(batch_ramp={"5": 0}), r"data\.batch_ramp\.5=0; it must be at least 1"),
        (dict(length_ramp={"5": 96}), r"rows of 128 tokens cannot be cut into rows of 96"),
        (dict(length_ramp={"5": 32, "6": 64, "7": 16}, length=32), r"length_ramp\.6=64 is more"),
    ],
)  # fmt: skip
def test_what_is_no_ramp_is_an_error(settings, message):
    with pytest.raises((ValueError, ConfigError), match=message):
        DataConfig(source="x", **settings)
