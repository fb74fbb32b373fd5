"""Passages: documents, retrieval, prompts and answers, weights, and rows made in any way."""

import dataclasses
import json
import math
import pickle
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import bm25s
import numpy as np
import open_tokenizers
import pytest

import registry
from data.config import DataConfig
from data.errors import DataError
from data.passages import documents, fitting
from data.passages.config import PassagesConfig
from data.passages.grounding import NOTHING, open_grounder
from data.passages.retrievers import BM25, RETRIEVERS, BM25Settings
from data.pipeline import open_data
from data.prepare import row_cache
from data.prepare.plan import PrepareJob
from data.prepare.prepared_rows import PreparedRows
from data.prepare.run import prepare_corpus
from data.read.bad_records import BadRecords
from data.schemas.normaliser import normaliser
from data.splits import read_examples
from data.text.chat import render
from data.text.hf_tokenizer import HFTokenizer
from data.text.tokenizer import train
from ranges import ConfigError
from train.config import overrides, run

BYTES = train("byte", [], 0)
PAGES = {
    "beans": "# Beans\n\nBeans are sown in May.\n\n## Picking\n\nPick beans young and often.",
    "parcels": "# Parcels\n\nA parcel takes two days, and trees take nine.",
    "money/cards": "Cards are charged when a parcel leaves.",
}
FIELDS = {"prompt": "{q}", "response": "{a}", "sources": "{page}"}
RECORDS = [
    {"q": "When are beans sown?", "a": "In May.", "page": "beans"},
    {"q": "How many days does a parcel take?", "a": "Two.", "page": "parcels"},
    {"q": "When are cards charged?", "a": "When the parcel leaves.", "page": ["money/cards"]},
]


@pytest.fixture
def help_pages(tmp_path):
    for name, text in PAGES.items():
        path = tmp_path / "help" / f"{name}.md"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (tmp_path / "help/logo.png").write_bytes(b"\x89PNG")
    return tmp_path / "help"


@pytest.fixture
def config_of(tmp_path, help_pages):
    def build(fields=FIELDS, records=RECORDS, length=400, **settings):
        (tmp_path / "q.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))
        cache = {"cache_dir": str(tmp_path / "cache"), "source": str(help_pages)}
        passages = registry.current(PassagesConfig)(**cache | settings)
        return DataConfig(
            str(tmp_path / "q.jsonl"), fields=fields, length=length, passages=passages,
            heldout_fraction=0.3,
        )  # fmt: skip

    return build


def grounded(config, record, fields=FIELDS, schema="chat"):
    example = normaliser(schema, fields)(record)
    return open_grounder(config, schema, BYTES).example(example)[0]


def test_documents_have_titles_ids_and_parts(help_pages):
    skipped = Counter()
    found = documents.read(str(help_pages), {}, 6, skipped=skipped)
    assert [(p.id, p.page, p.title) for p in found] == [
        ("beans#1", "beans", "Beans"), ("beans#2", "beans", "Beans"),
        ("money/cards#1", "money/cards", ""), ("money/cards#2", "money/cards", ""),
        ("parcels#1", "parcels", "Parcels"), ("parcels#2", "parcels", "Parcels"),
    ]  # fmt: skip
    assert found[1].text == "## Picking\n\nPick beans young and often."
    assert [p.text for p in found[2:4]] == ["Cards are charged when a parcel", "leaves."]
    assert sum(skipped.values()) == 1 and ".png" in next(iter(skipped))


def test_records_are_passages_by_templates(tmp_path):
    path = tmp_path / "faq.jsonl"
    path.write_text('{"title": "Pets?", "body": "No."}\n{"title": "Bar?", "body": "Yes."}\n')
    found = documents.read(str(path), {"text": "{title} {body}"}, 0)
    assert [(p.id, p.title, p.text) for p in found] == [
        ("faq:1", "Pets?", "Pets? No."), ("faq:2", "Bar?", "Bar? Yes."),
    ]  # fmt: skip
    with pytest.raises(DataError, match=r"faq.jsonl:2: a second passage has the id 'x'"):
        documents.read(str(path), {"text": "{body}", "id": "x"}, 0)
    with pytest.raises(DataError, match=r"faq.jsonl:1: .*passages.fields.text='{body}'"):
        documents.read(str(path), {}, 0)


def test_a_folder_without_documents_is_refused(tmp_path):
    (tmp_path / "a.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"is a folder without documents; its 1 files have other"):
        documents.files_of(str(tmp_path))


def test_bm25_is_lucenes(tmp_path):
    texts = ["a bean and a bean", "a tree", "bean tree pole", "pole pole pole rope"]
    passages = [documents.Passage(str(i), str(i), "", text) for i, text in enumerate(texts)]
    index = BM25(passages, str(tmp_path / "i"), BM25Settings(language=""))
    lists, n = [text.split() for text in texts], len(texts)
    mean = sum(map(len, lists)) / n

    def score(words, document):
        total = 0.0
        for word in words:
            df = sum(word in other for other in lists)
            idf = math.log(1 + (n - df + 0.5) / (df + 0.5))
            tf = document.count(word)
            total += idf * tf / (tf + 1.5 * (1 - 0.75 + 0.75 * len(document) / mean))
        return total

    for query in ("bean pole", "a tree", "rope bean", "nothing"):
        scores = [score(query.split(), document) for document in lists]
        assert list(index.rank(query, 4)) == sorted(range(n), key=lambda i: -scores[i])


def test_retrieval_leaves_accelerators_alone(help_pages, tmp_path):
    code = (
        "import sys\nfrom data.passages.retrievers import BM25, BM25Settings\n"
        "from data.passages.documents import Passage\n"
        f"BM25([Passage('a', 'a', '', 'a word')], {str(tmp_path / 'index')!r}, BM25Settings())\n"
        "assert 'jax' not in sys.modules\nimport jax.lax"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[3])


def test_an_index_is_kept_and_a_damaged_one_made_again(tmp_path, monkeypatch):
    passages = [documents.Passage(t, t, "", t) for t in ("beans grow", "parcels travel")]
    folder = tmp_path / "cache" / "i"
    assert BM25(passages, str(folder), BM25Settings()).rank("growing bean", 1) == [0]
    built = bm25s.BM25.index
    monkeypatch.setattr(bm25s.BM25, "index", lambda *a, **k: pytest.fail("built again"))
    assert BM25(passages, str(folder), BM25Settings()).rank("parcel", 1) == [1]
    monkeypatch.setattr(bm25s.BM25, "index", built)
    next(folder.glob("*.npy")).write_bytes(b"damaged")
    assert BM25(passages, str(folder), BM25Settings()).rank("parcel", 1) == [1]
    assert [path.name for path in folder.parent.iterdir()] == ["i"]


def test_the_answer_names_the_passage_that_answers(config_of):
    example = grounded(config_of(), RECORDS[1])
    prompt, answer = (m["content"] for m in example["messages"])
    assert prompt.endswith("\n\nHow many days does a parcel take?")
    shown = dict(re.findall(r"\[(\d)\] ([^\n]+)\n", prompt))
    (number,) = (n for n, title in shown.items() if title == "Parcels")
    assert len(re.findall(r"\[\d\]", prompt)) == 3 and answer == f"Two. [{number}]"
    assert "sources" not in example
    own = grounded(config_of(ids="own", distractor_rate=0.0), RECORDS[2])["messages"]
    assert own[1]["content"] == "When the parcel leaves. [money/cards]"
    assert own[0]["content"].count("[") == 1


def test_without_a_passage_that_answers_the_answer_says_so(config_of):
    example = grounded(config_of(none_rate=1.0, unknown="No idea."), RECORDS[1])
    assert example["messages"][1] == {"role": "assistant", "content": "No idea."}
    assert "Parcels" not in example["messages"][0]["content"]
    prompt = {"prompt": "{q}", "answer": "{a}", "sources": "{page}"}
    example = grounded(config_of(none_rate=1.0), RECORDS[1], prompt, "prompt")
    assert example["answer"] == "I do not know."
    assert grounded(config_of(), RECORDS[1], prompt, "prompt")["answer"] == "Two."


def test_a_records_own_passages(config_of):
    fields = {"prompt": "{q}", "response": "{a}", "passages": "{p}"}
    record = {"q": "?", "a": "x", "p": ["one", {"text": "two", "title": "T", "id": "t"}]}
    config = config_of(fields, source="", order="best_first", ids="own")
    prompt, answer = (m["content"] for m in grounded(config, record, fields)["messages"])
    assert "[1] one\n\n[t] T\ntwo\n" in prompt and answer == "x [1] [t]"
    config = config_of(fields, source="", none_rate=1.0)
    prompt, answer = (m["content"] for m in grounded(config, record, fields)["messages"])
    assert NOTHING in prompt and answer == "I do not know."


def test_draws_depend_on_the_seed_and_the_record_alone(config_of):
    config = config_of(none_rate=0.4, distractor_rate=0.5)
    make = normaliser("chat", FIELDS)
    examples = [make({"q": f"Bean {i}?", "a": "x", "page": "beans"}) for i in range(400)]
    ground = open_grounder(config, "chat", BYTES).ground
    forward = list(ground(examples, Counter()))
    backward = list(ground(examples[::-1], Counter()))[::-1]
    assert forward == backward
    answers = Counter(e["messages"][1]["content"] == "I do not know." for e in forward)
    assert 130 < answers[True] < 190
    alone = sum(e["messages"][0]["content"].count("[") == 1 for e in forward)
    assert 90 < alone < 150  # half of 240
    other = open_grounder(config_of(none_rate=0.4, seed=1), "chat", BYTES).ground
    assert list(other(examples, Counter())) != forward


def test_answers_before_the_last_question_are_not_learned(config_of):
    texts = ["Hi", "Hello", "Beans?", "May"]
    turns = [{"role": r, "content": c} for r, c in zip(["user", "assistant"] * 2, texts)]
    record = {"m": turns, "page": "beans"}
    fields = {"messages": "{m}", "sources": "{page}"}
    messages = grounded(config_of(fields), record, fields)["messages"]
    assert messages[0]["content"] == "Hi" and messages[1]["weight"] == 0
    assert "Beans?" in messages[2]["content"] and "weight" not in messages[3]


def test_passages_are_cut_to_the_tokens_and_counted(config_of):
    texts = ["word " * 40 + "end", "short text", "a b " * 30]
    fitted = fitting.fit(texts, 100, BYTES, "\n\n")
    assert fitted[1] == "short text" and fitted[0].startswith("word word")
    sizes = [len(BYTES.encode(text + "\n\n")) for text in fitted]
    assert sum(sizes) <= 100 and min(sizes[0], sizes[2]) > 35
    assert fitting.fit(texts, 0, BYTES, "\n\n") == texts
    with pytest.raises(DataError, match="no room for 3 passages"):
        fitting.fit(texts, 12, BYTES, "\n\n")
    skipped = Counter()
    examples = [normaliser("chat", FIELDS)(record) for record in RECORDS]
    list(open_grounder(config_of(tokens=90), "chat", BYTES).ground(examples, skipped))
    assert skipped == {"passages of more than data.passages.tokens=90, cut": 3}


@pytest.mark.parametrize("template", [None, open_tokenizers.CHATML, open_tokenizers.HEADERS])
def test_parts_have_weights_of_their_own(config_of, template):
    tokenizer = BYTES
    if template:
        tokenizer = HFTokenizer(open_tokenizers.files(template))
    weights = {"documents": 0.25, "answer": 3.0, "sources": 2.0}
    config = config_of(weights=weights, order="best_first")
    messages = grounded(config, RECORDS[1])["messages"]
    ids, mask = render(tokenizer, messages)
    texts = {w: tokenizer.decode(ids[mask == w]).strip() for w in (0.25, 2.0, 3.0)}
    assert texts[3.0] == "Two." and re.fullmatch(r"\[\d\]", texts[2.0])
    assert texts[0.25].startswith("[1] Parcels") and texts[0.25].endswith("often.")
    assert set(np.unique(mask)) <= {0, 0.25, 1, 2, 3}
    plain = [{k: v for k, v in m.items() if k != "parts"} for m in messages]
    np.testing.assert_array_equal(render(tokenizer, plain)[0], ids)
    # "an" is in the header of an answer too.
    messages = grounded(config_of(weights=weights), RECORDS[1] | {"a": "an"})["messages"]
    ids, mask = render(tokenizer, messages)
    assert tokenizer.decode(ids[mask == 3]).strip() == "an"
    silent = config_of(none_rate=1.0, weights={"unknown": 0.5})
    _, mask = render(tokenizer, grounded(silent, RECORDS[1])["messages"])
    assert set(np.unique(mask)) == {0, 0.5}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (dict(template="{question}"), r"data\.passages\.template has no \{documents\}"),
        (dict(template="{documents} {question} {x}"), r"has a field \{x\}; it may have"),
        (dict(retriever="bm52"), r"data\.passages\.retriever='bm52'; choose bm25.*mean bm25"),
        (dict(order="best"), r"data\.passages\.order='best'; choose random"),
        (dict(weights={"anwser": 1.0}), r"weights\.anwser: .*did you mean answer"),
        (dict(none_rate=2.0), r"data\.passages\.none_rate=2\.0; it must be"),
        (dict(language="englsh"), r"data\.passages\.language='englsh'.*did you mean english"),
    ],
)
def test_a_bad_setting_is_refused(config_of, settings, message):
    with pytest.raises(ConfigError, match=message):
        config = config_of(**settings)
        open_grounder(config, "chat", BYTES)


def test_bad_records_and_data_are_named(config_of):
    config = config_of()
    with pytest.raises(DataError, match=r"'bean'.*no passage has that id; did you mean beans"):
        grounded(config, {"q": "?", "a": "x", "page": "bean"})
    records = [*RECORDS, {"q": "?", "a": "x", "page": "bean"}, {"q": "!", "a": "x"}]
    config = config_of(records=records)
    with pytest.raises(DataError, match=r"q.jsonl:5: no field 'page'"):
        open_data(config, "chat", BYTES)
    bad, examples = BadRecords("skip", 9), [normaliser("chat", FIELDS)(r) for r in records[:4]]
    examples = [e | {"where": str(i)} for i, e in enumerate(examples)]
    assert len(list(open_grounder(config, "chat", BYTES).ground(examples, Counter(), bad))) == 3
    assert bad.skipped == {"missing_passage": 1}
    plain = {"prompt": "{q}", "response": "{a}"}
    with pytest.raises(DataError, match=r"none_rate=0\.5 needs to know the passages"):
        grounded(config_of(plain, none_rate=0.5), RECORDS[0], plain)
    with pytest.raises(DataError, match=r"data\.fields\.sources names the passages"):
        config_of(source="")
    with pytest.raises(DataError, match="this stage reads text"):
        open_grounder(config, "text", BYTES)
    with pytest.raises(DataError, match="ranking of these responses would be another"):
        open_grounder(config_of(none_rate=0.1), "preference", BYTES)


def test_rows_come_from_the_cache_until_a_page_changes(config_of, help_pages, tmp_path):
    config = config_of(none_rate=0.3)
    said = []

    def opened():
        data, save = row_cache.open_data(
            tmp_path / "rows.zip", config, "chat", BYTES, lambda: read_examples(config, "chat"),
            say=said.append,
        )  # fmt: skip
        save()
        return data.fingerprint()

    first = opened()
    assert opened() == first == open_data(config, "chat", BYTES).fingerprint()
    assert len(said) == 1 and "rows from the cache" in said[0]
    (help_pages / "parcels.md").write_text("# Parcels\n\nA parcel takes three days.")
    assert opened() != first and "other data or settings" in said[-1]


def test_prepared_rows_are_those_of_a_run(config_of, help_pages, tmp_path):
    config, folder = config_of(none_rate=0.3), str(tmp_path / "out")
    BYTES.save(tmp_path / "tokenizer")
    manifest = prepare_corpus(config, "chat", folder, tokenizer=str(tmp_path))
    rows, data = PreparedRows(folder, "train"), open_data(config, "chat", BYTES)
    for name, values in rows.take(np.arange(len(rows))).items():
        np.testing.assert_array_equal(values, data.train[name])
    assert {Path(source["name"]).name for source in manifest["sources"]} == {
        "q.jsonl", "beans.md", "parcels.md", "cards.md",
    }  # fmt: skip
    other = dataclasses.replace(config_of(none_rate=0.4), source=folder)
    with pytest.raises(DataError, match=r"prepared with other settings of data\.passages"):
        open_data(other, "chat", BYTES)
    (help_pages / "parcels.md").write_text("# Parcels\n\nOther.")
    with pytest.raises(DataError, match=r"parcels.md has changed since"):
        prepare_corpus(config, "chat", folder, tokenizer=str(tmp_path))


def test_a_source_of_a_mixture_may_have_no_passages(config_of, tmp_path):
    path = tmp_path / "labels.jsonl"
    path.write_text("".join(f'{{"q": "{i}?", "a": "label", "page": []}}\n' for i in range(9)))
    config = config_of()
    sources = {
        "answers": dict(source=config.source),
        "labels": dict(source=str(path), passages=False),
    }
    mixed = dataclasses.replace(config, source="", mixture=sources)
    data = open_data(mixed, "chat", BYTES)
    prompts = [e["messages"] for e in data.heldout_examples]
    assert {len(m[0]["content"]) > 100 for m in prompts if m[1]["content"] == "label"} == {False}
    assert any("[1]" in m[0]["content"] for m in prompts)


def test_a_plugin_adds_a_retriever(config_of):
    @RETRIEVERS.register("last")
    def last(passages, folder):
        class Last:
            def rank(self, query, count):
                return range(len(passages))[::-1][:count]

        return Last()

    try:
        config = config_of(retriever="last", order="best_first", number=1)
        found = open_grounder(config, "chat", BYTES).question("beans")
        assert found.passages[0].id == "parcels"
    finally:
        RETRIEVERS._rows.pop("last")


def test_a_job_of_another_process_has_the_same_passages(config_of, tmp_path):
    job = PrepareJob(config_of(none_rate=0.5), "chat", str(tmp_path / "out"))
    assert pickle.loads(pickle.dumps(job)) == job


def test_settings_of_a_command_line():
    config = run.default()
    config.data.source = config.data.passages.source = "x"
    config.data.passages.weights = {"sources": 2.0}
    argv = ["x", "--config.data.mixture.a.source=s", "--config.data.mixture.a.passages=False"]
    assert "'passages': False" in overrides.gather(argv, config.to_dict())[-1]
    built = run.build(config).data
    assert built.passages.weights == {"sources": 2.0} and built.grounded and not built.fields
