"""Copies, near copies and what stands in an evaluation set are left out, and nothing else."""

import json
import random

import pytest

from data.duplicates import NGRAM, check, decide, evaluation_runs, note
from data.pipeline import DataConfig, read_examples
from data.sources import DataError


def words(seed, count=200):
    rng = random.Random(seed)
    return [f"w{rng.randrange(5000)}" for _ in range(count)]


def decided(texts, kind, runs=()):
    return decide([note({"text": t}, kind, dict(runs)) for t in texts], kind)


def test_copies_are_found_whatever_their_case_and_marks():
    texts = ["One two, three.", "one TWO three", "one two four", "...", "---", "..."]
    assert decided(texts, "exact") == ["", "duplicate", "", "", "", "duplicate"]
    assert decided(texts, "") == [""] * 6


def test_near_copies_are_found_and_others_stay():
    """With r of 200 words replaced apart from each other the similarity of runs of five is about
    (196 - 5r) / (196 + 5r): 0.95 for one, 0.38 for sixteen."""
    near, far = words(0), words(0)
    near[100] = "changed"
    for i in range(0, 192, 12):
        far[i] = f"other{i}"
    texts = [" ".join(t) for t in (words(0), near, far, words(1))]
    assert decided(texts, "near") == ["", "near duplicate", "", ""]
    assert decided(texts, "exact") == [""] * 4


def test_many_unlike_documents_all_stay():
    assert not any(decided([" ".join(words(seed)) for seed in range(300)], "near"))


def test_a_run_of_an_evaluation_set_contaminates(tmp_path):
    question = " ".join(words(7, 20))
    path = tmp_path / "eval.jsonl"
    path.write_text(json.dumps({"question": question}) + '\n{"question": "too short to tell"}\n')
    sets = {"sums": {"source": str(path), "fields": {"text": "{question}"}}}
    runs = evaluation_runs(sets)
    assert len(runs) == 20 - NGRAM + 1
    some = question.split()
    texts = [
        "before " + " ".join(some[2 : 2 + NGRAM]).upper() + ", after",
        " ".join(some[2 : 1 + NGRAM]) + " other",
        "it is too short to tell",
    ]
    assert decided(texts, "", runs) == ["contaminated: sums", "", ""]


def test_a_recipe_leaves_them_out_and_counts(tmp_path):
    texts = [" ".join(words(seed, 30)) for seed in range(20)]
    texts += [texts[3].upper(), texts[4], texts[5] + " end"]
    (tmp_path / "a.txt").write_text("\n".join(texts))
    (tmp_path / "eval.txt").write_text(texts[6])
    config = DataConfig(
        source=str(tmp_path / "a.txt"),
        heldout_source=str(tmp_path / "eval.txt"),
        dedup="near",
        decontaminate={"eval": {"source": str(tmp_path / "eval.txt")}},
    )
    found = read_examples(config, "text")
    assert found.skipped == {"duplicate": 2, "near duplicate": 1, "contaminated: eval": 1}
    assert [e["text"] for e in found.train] == texts[:6] + texts[7:20]


def test_the_largest_record_is_a_setting_that_reaches_every_source(tmp_path):
    (tmp_path / "a.txt").write_text("a\nb\n" + "c" * 50 + "\n")
    (tmp_path / "eval.txt").write_text("d" * 60 + "\n")
    source, evaluation = str(tmp_path / "a.txt"), str(tmp_path / "eval.txt")
    sets = {"eval": {"source": evaluation}}
    for given, where in (
        (dict(source=source), f"{source}:3"),
        (dict(source="", mixture={"a": {"source": source}}), f"{source}:3"),
        (dict(source=source, heldout_source=evaluation, on_bad="skip"), f"{evaluation}:1"),
        (dict(source=source, decontaminate=sets, on_bad="skip"), f"{evaluation}:1"),
    ):
        with pytest.raises(DataError, match=f"{where}: a record of more than 40 bytes"):
            read_examples(DataConfig(**given, max_record_bytes=40, heldout_fraction=0.4), "text")
    config = DataConfig(source=source, on_bad="skip", max_record_bytes=40, heldout_fraction=0.4)
    found = read_examples(config, "text")
    assert found.skipped == {"too_large": 1} and len(found.train + found.heldout) == 2


def test_a_source_of_copies_alone_is_an_error(tmp_path):
    texts = [" ".join(words(seed, 30)) for seed in range(20)]
    (tmp_path / "a.txt").write_text("\n".join(texts))
    (tmp_path / "b.txt").write_text("\n".join(texts[:5]))
    (tmp_path / "held.txt").write_text("x")
    mixture = {name: {"source": str(tmp_path / f"{name}.txt")} for name in "ab"}
    held = str(tmp_path / "held.txt")
    config = DataConfig(source="", mixture=mixture, heldout_source=held, dedup="exact")
    with pytest.raises(
        DataError, match=r"data\.dedup=exact leaves no training of data\.mixture\.b"
    ):
        read_examples(config, "text")


@pytest.mark.parametrize(
    ("kind", "sets", "message"),
    [
        ("nearly", {}, r"no value of data\.dedup; did you mean 'near'"),
        ("", {"a": {"sourc": "x"}}, r"no setting of data\.decontaminate\.a; did you mean 'source'"),
        ("", {"a": {}}, r"data\.decontaminate\.a\.source is missing"),
    ],
)
def test_settings(kind, sets, message):
    with pytest.raises(DataError, match=message):
        check(kind, sets)
