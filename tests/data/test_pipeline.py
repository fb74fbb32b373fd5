"""Batches as a function of the step, for any number of processes; errors of the settings."""

import json
from collections import Counter

import numpy as np
import open_tokenizers
import pytest

from data import splits, summary
from data.config import DataConfig
from data.errors import DataError
from data.loader import Loader, heldout_batches
from data.pipeline import open_data
from data.ramp import Ramp
from data.splits import Examples, read_examples, thin_rankings
from data.text.hf_tokenizer import HFTokenizer
from data.text.tokenizer import train
from ranges import ConfigError

SIZE = 22
ROWS = {"id": np.arange(SIZE), "tokens": np.arange(SIZE * 3).reshape(SIZE, 3)}


@pytest.mark.parametrize("processes", [2, 4])
def test_processes_read_the_slices_of_the_single_process_batch(processes):
    whole = Loader(ROWS, Ramp(8), seed=3)
    parts = [
        Loader(ROWS, Ramp(8), 3, lambda size, local=local: local)
        for local in np.split(np.arange(8), processes)
    ]
    for step in (0, 1, 2, 7, 1000):
        batches = [part.batch(step) for part in parts]
        for name, values in whole.batch(step).items():
            np.testing.assert_array_equal(np.concatenate([b[name] for b in batches]), values)


def test_rows_stay_together():
    batch = Loader(ROWS, Ramp(8), seed=3).batch(5)
    np.testing.assert_array_equal(batch["tokens"], ROWS["tokens"][batch["id"]])


def test_every_epoch_is_a_permutation_of_its_own():
    """22 rows in batches of 8: epochs end within batches."""
    loader = Loader(ROWS, Ramp(8), seed=3)
    ids = np.concatenate([loader.batch(step)["id"] for step in range(11)])
    epochs = ids.reshape(4, SIZE)
    for epoch in epochs:
        np.testing.assert_array_equal(np.sort(epoch), np.arange(SIZE))
        assert not np.array_equal(epoch, np.arange(SIZE))
    assert len(np.unique(epochs, axis=0)) == 4
    assert loader.steps_per_epoch == SIZE / 8


def test_the_order_depends_on_the_seed_alone():
    first, again, other = (Loader(ROWS, Ramp(8), seed).batch(4)["id"] for seed in (3, 3, 4))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


def test_iterate_gives_the_batches_from_any_start():
    loader = Loader(ROWS, Ramp(4), seed=1, local=lambda size: [1, 3])
    batches = list(loader.iterate(3, 9))
    assert len(batches) == 6
    for step, batch in enumerate(batches, start=3):
        for name, values in loader.batch(step).items():
            np.testing.assert_array_equal(batch[name], values)


def test_a_batch_larger_than_the_data_repeats_it():
    ids = Loader({"id": np.arange(3)}, Ramp(8), seed=0).batch(0)["id"]
    assert sorted(ids[:3]) == sorted(ids[3:6]) == [0, 1, 2]


@pytest.mark.parametrize("processes", [1, 2, 4])
@pytest.mark.parametrize("size", [1, 7, 8, 9])
def test_heldout_covers_each_row_once_and_fills_up_with_empties(processes, size):
    rows = {
        "tokens": np.arange(1, size * 3 + 1).reshape(size, 3),
        "rank": np.zeros((size, 2), np.int32),
        "mask": np.ones((size, 3), bool),
    }
    parts = [list(heldout_batches(rows, 4, p)) for p in np.split(np.arange(4), processes)]
    heldout = []
    for batches in zip(*parts, strict=True):
        batch = {n: np.concatenate([b[n] for b in batches]) for n in rows}
        real = batch["mask"].any(axis=1)
        assert len(real) == 4
        for name, values in rows.items():
            assert batch[name].dtype == values.dtype
        assert not batch["tokens"][~real].any()
        assert np.all(batch["rank"][~real] == -1)
        heldout.append({n: batch[n][real] for n in rows})
    for name, values in rows.items():
        np.testing.assert_array_equal(np.concatenate([s[name] for s in heldout]), values)


# Reading.


@pytest.mark.parametrize(
    "settings,message",
    [
        (dict(source=""), r"data\.source is empty; set --config\.data\.source=PATH"),
        (dict(on_long="shorten"), r"data\.on_long='shorten'; choose error, cut, drop"),
        (dict(batch_size=0), r"data\.batch_size=0; it must be at least 1$"),
        (dict(length=1), r"data\.length=1; it must be at least 2$"),
        (
            dict(heldout_fraction=0.0),
            r"data\.heldout_fraction=0\.0; .* above 0 and below 1",
        ),
        (dict(heldout_fraction=1.0), r"data\.heldout_fraction=1\.0; it must"),
        (dict(subset="2/2"), r"data\.subset='2/2'; write \"0/2\""),
        (dict(subset="half"), r"data\.subset='half'"),
        (dict(subset="-1/2"), r"data\.subset='-1/2'"),
        (dict(subset="0/0"), r"data\.subset='0/0'"),
        (dict(keep={"rude": 2}), r"data\.keep\.rude=2; it must be at least 0 and at most 1"),
    ],
)
def test_a_bad_setting_is_an_error(settings, message):
    with pytest.raises((DataError, ConfigError), match=message):
        DataConfig(**({"source": "text.txt"} | settings))


RANKINGS = [
    dict(messages=[], responses=[f"good {i}", f"near {i}", f"rude {i}"], rank=[0, 1, 1],
         kinds=["chosen", "near", "rude"])
    for i in range(400)
]  # fmt: skip


def test_a_share_of_a_kind_is_kept():
    thinned = thin_rankings(RANKINGS, {"rude": 0.25})
    assert [e["responses"][:2] for e in thinned] == [e["responses"][:2] for e in RANKINGS]
    assert 70 < sum("rude" in e["kinds"] for e in thinned) < 130
    for example in thinned:
        assert [r.split()[0] for r in example["responses"]] == [
            {"chosen": "good"}.get(kind, kind) for kind in example["kinds"]
        ]
        assert example["rank"] == [0, 1, 1][: len(example["kinds"])]
    assert thinned == thin_rankings(RANKINGS, {"rude": 0.25})


def test_a_ranking_with_nothing_left_to_compare_is_left_out():
    thinned = thin_rankings(RANKINGS, {"rude": 0.0, "near": 0.5})
    assert 150 < len(thinned) < 250 and all(e["kinds"] == ["chosen", "near"] for e in thinned)
    with pytest.raises(DataError, match="leaves no ranking with two candidates"):
        thin_rankings(RANKINGS, {"rude": 0.0, "near": 0.0})


def test_a_kind_that_is_not_there_is_named():
    with pytest.raises(DataError, match=r"data\.keep\.rud: no .* there are chosen, near, rude"):
        thin_rankings(RANKINGS, {"rud": 0.5})


@pytest.fixture
def chats(tmp_path):
    path = tmp_path / "chats.jsonl"
    lines = [json.dumps({"prompt": f"question {i}", "response": f"answer {i}"}) for i in range(40)]
    path.write_text("\n".join(lines) + "\n")
    return str(path)


def key(example):
    return example["messages"][0]["content"]


def test_heldout_examples_are_set_aside_and_subsets_share_none(chats):
    whole = read_examples(DataConfig(source=chats, heldout_fraction=0.25), "chat")
    assert (len(whole.train), len(whole.heldout)) == (30, 10)
    assert not {map(key, whole.train)} & {map(key, whole.heldout)}
    halves = [
        read_examples(DataConfig(source=chats, heldout_fraction=0.25, subset=s), "chat")
        for s in ("0/2", "1/2")
    ]
    first, second = ({key(e) for e in half.train} for half in halves)
    assert not first & second
    assert first | second == {key(e) for e in whole.train}
    assert halves[0].heldout == whole.heldout
    limited = DataConfig(source=chats, heldout_fraction=0.25, heldout_limit=3)
    assert read_examples(limited, "chat").heldout == whole.heldout[:3]


def test_settings_that_choose_share_what_was_read(chats, monkeypatch):
    settings = [
        DataConfig(source=chats, subset=subset, heldout_limit=limit, heldout_fraction=fraction)
        for subset, limit, fraction in (("0/2", 0, 0.25), ("1/2", 3, 0.25), ("", 0, 0.5))
    ]
    apart, reads, sources = [read_examples(s, "chat") for s in settings], {}, []
    read = splits.read
    monkeypatch.setattr(splits, "read", lambda *a, **k: sources.append(a[0]) or read(*a, **k))
    assert [read_examples(s, "chat", reads=reads) for s in settings] == apart
    assert sources == [chats, chats]  # another fraction reads again


def test_what_has_the_same_prompt_is_in_the_same_subset(tmp_path):
    path = tmp_path / "thrice.jsonl"
    lines = [
        json.dumps({"prompt": f"Number {i}?", "response": f"{i}, {draw}."})
        for draw in range(3)
        for i in range(5)  # odd: every second line of the next draw would be the other half
    ]
    path.write_text("\n".join(lines))
    halves = [
        read_examples(
            DataConfig(source=str(path), heldout_source=str(path), subset=s), "chat"
        ).train
        for s in ("0/2", "1/2")
    ]
    assert [len(half) for half in halves] == [9, 6]
    assert not {key(e) for e in halves[0]} & {key(e) for e in halves[1]}


def test_a_heldout_source_leaves_the_training_source_whole(chats):
    examples = read_examples(DataConfig(source=chats, heldout_source=chats), "chat")
    assert len(examples.train) == len(examples.heldout) == 40


def test_a_subset_without_examples_is_an_error(chats):
    with pytest.raises(DataError, match=r"data\.subset='99/100' leaves no training example"):
        read_examples(DataConfig(source=chats, subset="99/100"), "chat")


def test_open_data_counts_what_it_left_out_of_both_splits():
    messages = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
    long = [messages[0], {"role": "assistant", "content": "a" * 50}]
    train_split = [{"messages": m, "where": "x:1"} for m in (messages, long, messages)]
    heldout = [{"messages": m, "where": "y:1"} for m in (messages, long)]
    examples = Examples(train_split, heldout, Counter({"empty_text": 1}))
    config = DataConfig(source="x", length=16, on_long="drop", pack=False)
    data = open_data(config, "chat", train("byte", [], 0), examples)
    assert (len(data.train["tokens"]), len(data.heldout["tokens"])) == (2, 1)
    assert data.heldout_examples == heldout[:1]  # those of the rows
    assert data.skipped == {"empty_text": 1, "longer than 16 tokens, drop": 2}
    assert examples.skipped == {"empty_text": 1}  # the caller's counter is not modified


def test_bad_records_are_counted_over_reading_and_rendering(tmp_path):
    """Two that cannot be read and two that the format cannot express."""
    turns = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
    records = [{"messages": [turns[0] | {"content": f"q{i}"}, turns[1]], "id": i} for i in range(9)]
    records += [{"messages": turns, "tools": [{"name": "f"}]}] * 2 + [{"messages": []}, {"a": 1}]
    (tmp_path / "c.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))
    path, tokenizer = str(tmp_path / "c.jsonl"), train("byte", [], 0)
    settings = {"source": path, "length": 16, "on_bad": "skip", "heldout_fraction": 0.1}
    data = open_data(DataConfig(**settings, max_bad=4), "chat", tokenizer)
    assert data.skipped.total() == 4 and data.skipped["missing_field"] == 1
    assert data.unused == {path: {"id": 9}}
    with pytest.raises(DataError, match=r"more than max_bad=3 bad records[^$]*c\.jsonl:1[01]: "):
        open_data(DataConfig(**settings, max_bad=3), "chat", tokenizer)
    settings["on_bad"] = "error"
    (tmp_path / "c.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records[:10]))
    with pytest.raises(DataError, match=r"c\.jsonl:10: .*no place for[^$]*on_bad=skip"):
        open_data(DataConfig(**settings), "chat", tokenizer)


def test_the_log_tells_what_was_cut_from_what_was_passed_over():
    skipped = {"longer than 16 tokens, cut": 1200, "longer than 16 tokens, drop": 2}
    unused = {"a.jsonl": {"id": 5, "meta": 1200}, "b.jsonl": {}}
    changes = {"zendesk:a": {"turns merged": 1200, "private notes dropped": 3}}
    assert summary.lines(skipped, {"email": 3}, unused, changes) == [
        "zendesk:a, changed and left out:",
        "  turns merged: 1,200",
        "  private notes dropped: 3",
        "cut 1,200 examples: longer than 16 tokens",
        "passed over 2 examples: longer than 16 tokens, drop",
        "redacted: email, 3 times",
        "a.jsonl: fields not used: meta (1,200), id (5)",
    ]
    many = {f"field{i:02}": 1 for i in range(15)}
    assert summary.lines({}, {}, {"c": many}, {})[0].endswith("field11 (1) and 3 more")


def test_names_that_a_format_does_not_show_are_not_used():
    turns = [{"role": "user", "content": "q", "name": "Ann"}, {"role": "assistant", "content": "a"}]
    examples = Examples([{"messages": turns, "where": "x:1"}] * 2, [], Counter())
    assert summary.unread(train("byte", [], 0), examples.train) == {"messages[].name": 2}


@pytest.mark.parametrize("left_out", [True, False])
def test_thoughts_that_a_template_leaves_out_of_a_new_answer_are_named(left_out):
    shown = "m.content.split('</think>')[-1]" if left_out else "m.content"
    template = f"{{% for m in messages %}}{{{{ {shown} }}}}<|im_end|>{{% endfor %}}"
    tokenizer = HFTokenizer(open_tokenizers.files(template))
    thought, bare = "<think>so</think>a", "a"
    turns = [
        [{"role": role, "content": text} for role, text in pairs]
        for pairs in (
            [("user", "q"), ("assistant", thought)],
            [("user", "q"), ("assistant", thought), ("user", "q"), ("assistant", bare)],
        )
    ]
    examples = [{"messages": m} for m in turns] + [
        {"messages": turns[0][:1], "responses": [bare, thought]}
    ]
    expected = {"the thought before </think>": 2} if left_out else {}
    assert summary.unread(tokenizer, examples) == expected
