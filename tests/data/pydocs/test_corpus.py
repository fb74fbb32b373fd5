"""The splits of pydocs, in cases small enough to check by eye."""

from data.pydocs import corpus
from data.pydocs.extract import Entry, normalise


def _named(split: str, prefix: str) -> str:
    """A paragraph that hashes to `split`."""
    return next(
        text
        for text in (f"{prefix} the number {i} of all things" for i in range(1000))
        if corpus.split_of(text) == split
    )


def test_an_answer_that_quotes_another_goes_with_it():
    short = _named("test", "return")
    long = next(
        text
        for text in (f"to begin {short} and more of {i}" for i in range(1000))
        if corpus.split_of(text) == "train"
    )
    both = f"{short} or {_named('train', 'give')}"
    entries = [
        Entry("a.short", "function", short),
        Entry("b.long", "function", long),
        Entry("c.other", "function", _named("train", "give")),
        Entry("d.both", "function", both),
    ]
    answers = {a.name: a.split for a in corpus.answers_of(entries)}
    assert answers == {"a.short": "test", "b.long": "test", "c.other": "train"}


def test_a_document_loses_what_another_split_answers():
    secret, own = _named("test", "return"), _named("train", "give")
    broken = "\n\n".join(["Well, it", *secret.split(maxsplit=3), "and so on"])
    entries = [
        Entry("a.secret", "function", secret),
        Entry("b.own", "function", f"{own}\n\nAs said: {secret}.\n\nThe end of it."),
        *(Entry(f"c._broken{i}", "function", f"{broken} to {i}") for i in range(20)),
    ]
    documents = corpus.build(entries).documents
    texts = {document.name: document.text for document in documents}
    assert texts["b.own"] == f"function b.own\n\n{own}\n\nThe end of it."
    train = [d for d in documents if d.name.startswith("c._broken") and d.split == "train"]
    assert train
    for document in train:
        assert secret not in normalise(document.text)
        assert "Well, it\n\nand so on" in document.text


def test_boilerplate_is_nobodys_answer():
    entries = [Entry(f"m.f{i}", "function", "Not implemented yet.") for i in range(8)]
    assert corpus.answers_of(entries) == []
    assert [a.name for a in corpus.answers_of(entries[:7])] == ["m.f0"]
