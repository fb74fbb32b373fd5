"""Duplicates, near duplicates and contaminated documents are left out, and nothing else."""

import json
import random

import pytest

from data.clean.duplicates import NGRAM, check_settings, copy_groups, decide, evaluation_runs, note
from data.clean.words import words_of
from data.config import DataConfig
from data.errors import DataError
from data.prepare.run import prepare_corpus
from data.schemas.examples import content_key
from data.splits import read_examples


def words(seed, count=200):
    rng = random.Random(seed)
    return [f"w{rng.randrange(5000)}" for _ in range(count)]


def decided(texts, kind, runs=()):
    return decide([note({"text": t}, kind, dict(runs)) for t in texts], kind)


def test_exact_tells_apart_whatever_is_not_white_space():
    alike = [("a b\nc", " a  b c\t"), ("x\u00a0y", "x y")]
    unlike = [
        ("Yes!", "yes!"), ("Yes!", "Yes"), ("2+2", "2-2"), ("1.5", "15"), ("a_b", "a b"),
        ("कि", "की"), ("ไม", "ไม่"), ("كتب", "كُتب"), ("...", "---"), ("ab", "a b"),
        ("caf\u00e9", "cafe\u0301"), ("👍", "👎"),
    ]  # fmt: skip
    for pair in alike:
        assert decided(pair, "exact") == ["", "duplicate"], pair
    for pair in unlike:
        assert decided(pair, "exact") == ["", ""], pair
    assert decided([*alike[0], *alike[0]], "") == [""] * 4


def test_exact_compares_roles_answers_and_ranks():
    def chat(*contents, **more):
        roles = ("user", "assistant") * 2
        messages = [{"role": r, "content": c} for r, c in zip(roles, contents)]
        return {"messages": messages, "where": str(more), **more}

    first = chat("a", "b c", answer="1")
    others = [
        chat("a b", "c", answer="1"), chat("a", "b c", answer="2"), chat("a", "b c"),
        chat("a", "b c", responses=["x"], rank=[0]), chat("a", "b c", responses=["x"], rank=[1]),
    ]  # fmt: skip
    again = first | {"where": "elsewhere"}
    reasons = decide([note(e, "exact", {}) for e in [first, *others, again]], "exact")
    assert reasons == [""] * 6 + ["duplicate"]


def test_near_ignores_case_and_punctuation_alone():
    texts = ["One two, three.", "one TWO three", "one two four", "...", "---", "..."]
    assert decided(texts, "near") == ["", "near duplicate", "", "", "", "duplicate"]
    sums = [f"What is {a} {op} {b}?" for a in (3, 4) for b in (3, 4) for op in "+-*/"]
    assert decided(sums, "near") == decided(sums, "exact") == [""] * 16
    signs = [" ".join(["कि", "ไม", "كتب"][i % 3] + "िُ่"[k] for i in range(60)) for k in range(3)]
    assert decided(signs, "near") == [""] * 3
    assert decided(["caf\u00e9", "cafe\u0301"], "near") == ["", "near duplicate"]


@pytest.mark.parametrize("first", [0x4E00, 0x0E01, 0x3042], ids=["Chinese", "Thai", "Japanese"])
def test_scripts_without_spaces(tmp_path, first):
    """Two hundred characters in a row: a near duplicate with one changed, not with twenty."""

    def text(seed, count=200):
        rng = random.Random(seed)
        return [chr(first + rng.randrange(40)) for _ in range(count)]

    near, far = text(0), text(0)
    near[100] = "x"
    for i in range(0, 200, 10):
        far[i] = "x"
    texts = ["".join(t) for t in (text(0), near, far, text(1))]
    assert decided(texts, "near") == ["", "near duplicate", "", ""]
    (tmp_path / "eval.txt").write_text("".join(text(2, 40)))
    runs = evaluation_runs({"sums": {"source": str(tmp_path / "eval.txt")}})
    inside, apart = "".join(text(2, 40)[5:35]), "".join(text(2, 40)[:10])
    texts = [f"so {inside} it is", f"so {apart} it is"]
    assert decided(texts, "", runs) == ["contaminated: sums", ""]


def test_operators_and_marks_tell_whether_a_document_holds_a_question(tmp_path):
    sums = "what is 3 {} 4 if we count with all ten fingers and never look"
    hindi = "कि{} ताब पढ़ना सबको अच्छा लगता है यह बात सब लोग जानते हैं"
    (tmp_path / "eval.txt").write_text(f"{sums.format('+')}\n{hindi.format('')}\n")
    runs = evaluation_runs({"x": {"source": str(tmp_path / "eval.txt")}})
    asked = [sums.format(op) for op in "+-*/"] + [hindi.format(""), hindi.format("ं")]
    held = "contaminated: x"
    assert decided(asked, "", runs) == [held, "", "", "", held, ""]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("3+4 3-4 3*4 3**4 3 / 4 -5", "3 + 4 3 - 4 3 * 4 3 ** 4 3 / 4 - 5"),
        ("x - y, f(x)/g(x); a != b <= c|d", "x - y f x / g x a != b <= c | d"),
        ("3.5 or 3:5 or 1,000%", "3.5 or 3:5 or 1,000 %"),
        ("well-known and/or **bold** – a *b* `c`\n- item\n* Item", "well known and or bold a b c "
         "item item"),
        ("हिन्दी में", "हिन्दी में"),
        ("مُحَمَّد می\u200cخواهم", "مُحَمَّد می\u200cخواهم"),
        ("ทำไม่ได้", "ท ำ ไ ม่ ไ ด้"),
        ("你好,世界。カタ 한국어 글", "你 好 世 界 カ タ 한국어 글"),
        ("I ❤\ufe0f 👍!", "i ❤ 👍"),
    ],
)  # fmt: skip
def test_words(text, expected):
    assert words_of(text) == expected.split(" ")


# Held-out documents.


def write_texts(path, texts):
    path.write_text("".join(json.dumps({"text": t}) + "\n" for t in texts))
    return str(path)


@pytest.mark.parametrize("kind", ["exact", "near"])
def test_copies_follow_the_held_out_side(tmp_path, kind):
    """A tenth of sixty pairs is held out, in any order, and never only one of a pair."""
    endings = (" ", "!") if kind == "near" else ("", "  ")
    texts = [" ".join(words(seed, 60)) + ending for seed in range(60) for ending in endings]
    collected = []
    for name, order in (("a", texts), ("b", texts[::-1])):
        source = write_texts(tmp_path / f"{name}.jsonl", order)
        config = DataConfig(source=source, heldout_fraction=0.1, dedup=kind)
        examples = read_examples(config, "text")
        train, heldout = (
            {" ".join(words_of(e["text"])) for e in side}
            for side in (examples.train, examples.heldout)
        )
        assert not train & heldout and len(train) == len(examples.train) == 54
        assert len(examples.heldout) == 12 and examples.skipped.total() == 54
        manifest = prepare_corpus(config, "text", str(tmp_path / f"out-{name}"), kind="byte")
        counts = {"train": 54, "heldout": 12}
        assert manifest["documents"] == counts | dict(examples.skipped)
        collected.append(sorted(e["text"] for e in examples.heldout))
    assert collected[0] == collected[1]


def test_a_chain_of_near_copies_stays_together(tmp_path):
    """Each is a near duplicate of the next, and the first is not one of the last."""
    chain = [words(0, 120)]
    for i in range(8):
        chain.append([*chain[-1][:i * 12], f"other{i}", *chain[-1][i * 12 + 1:]])  # fmt: skip
    texts = [" ".join(t) for t in chain] + [" ".join(words(seed, 120)) for seed in range(1, 9)]
    assert decided([texts[0], texts[8]], "near") == ["", ""]
    groups = []
    for order in (texts, texts[::-1]):
        notes = [note({"text": t}, "near", {}) for t in order]
        keys = [content_key({"text": t}) for t in order]
        groups.append(dict(zip(order, copy_groups(keys, notes, "near"), strict=True)))
    assert groups[0] == groups[1]
    assert len({groups[0][t] for t in texts[:9]}) == 1 and len({*groups[0].values()}) == 9


def test_training_copies_of_a_held_out_source_leave(tmp_path):
    texts = [" ".join(words(seed, 60)) for seed in range(20)]
    held = write_texts(tmp_path / "held.jsonl", [texts[2], texts[5], texts[9]])
    given = [*texts, texts[5] + "  ", texts[9] + " end"]
    source = write_texts(tmp_path / "a.jsonl", given)
    exact, near = "duplicate of a held-out document", "near duplicate of a held-out document"
    for kind, counts in (("", {}), ("exact", {exact: 4}), ("near", {exact: 4, near: 1})):
        config = DataConfig(source=source, heldout_source=held, dedup=kind)
        examples = read_examples(config, "text")
        assert examples.skipped == counts and len(examples.heldout) == 3
        manifest = prepare_corpus(config, "text", str(tmp_path / f"out{kind}"), kind="byte")
        assert manifest["documents"] == {"train": len(examples.train), "heldout": 3} | counts


def test_no_source_of_a_mixture_trains_on_what_another_holds_out(tmp_path):
    """Sources of different sizes hold out different shares of what they have in common."""
    chats = [{"prompt": f"ask {i}", "response": f"say {i}"} for i in range(60)]
    mixture = {}
    for name, part in (("a", chats), ("b", chats[:7]), ("c", chats[30:])):
        path = tmp_path / f"{name}.jsonl"
        path.write_text("".join(json.dumps(c) + "\n" for c in part))
        mixture[name] = {"source": str(path)}
    examples = read_examples(DataConfig(source="", mixture=mixture, heldout_fraction=0.1), "chat")
    train, heldout = (
        {e["messages"][0]["content"] for e in side} for side in (examples.train, examples.heldout)
    )
    assert heldout and train and not train & heldout
    assert len(train | heldout) == 60


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
    question_words = question.split()
    texts = [
        "before " + " ".join(question_words[2 : 2 + NGRAM]).upper() + ", after",
        " ".join(question_words[2 : 1 + NGRAM]) + " other",
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
    examples = read_examples(config, "text")
    assert examples.skipped == {"duplicate": 1, "near duplicate": 2, "contaminated: eval": 1}
    assert [e["text"] for e in examples.train] == texts[:6] + texts[7:20]


def test_the_largest_record_is_a_setting_that_reaches_every_source(tmp_path):
    (tmp_path / "a.txt").write_text("a\nb\n" + "c" * 50 + "\n")
    (tmp_path / "eval.txt").write_text("d" * 60 + "\n")
    source, evaluation = str(tmp_path / "a.txt"), str(tmp_path / "eval.txt")
    sets = {"eval": {"source": evaluation}}
    for given, location in (
        (dict(source=source), f"{source}:3"),
        (dict(source="", mixture={"a": {"source": source}}), f"{source}:3"),
        (dict(source=source, heldout_source=evaluation, on_bad="skip"), f"{evaluation}:1"),
        (dict(source=source, decontaminate=sets, on_bad="skip"), f"{evaluation}:1"),
    ):
        with pytest.raises(DataError, match=f"{location}: a record of more than 40 bytes"):
            read_examples(DataConfig(**given, max_record_bytes=40, heldout_fraction=0.4), "text")
    config = DataConfig(source=source, on_bad="skip", max_record_bytes=40, heldout_fraction=0.4)
    examples = read_examples(config, "text")
    assert examples.skipped == {"too_large": 1} and len(examples.train + examples.heldout) == 2


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
        check_settings(kind, sets)
