"""Fill in the middle: documents are cut as in the paper, and can be reassembled."""

import json
import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.config import DataConfig
from data.errors import DataError
from data.packing.text import TextChange, pack_text
from data.pipeline import open_data
from data.prepare.run import prepare_corpus
from data.rows import take_rows
from data.text import fim
from data.text.builtin import BOS, EOS, FIM, SPECIAL
from data.text.hf_files import hf_files
from data.text.hf_tokenizer import HFTokenizer
from data.text.tokenizer import load, train
from ranges import ConfigError

TEXTS = ["the cat sat on the mat, and the other cat that sat there sat too\n" * 4, "0123 aaaa é"]
TOKENIZERS = {kind: train(kind, TEXTS, 300, fim=True) for kind in ("sentencepiece", "char", "byte")}
BYTES = TOKENIZERS["byte"]
KNOWN = st.text(st.sampled_from(sorted(set("".join(TEXTS)))))


def rows_of(texts, length, tokenizer=BYTES, **change):
    rows, *_ = pack_text([{"text": t} for t in texts], tokenizer, length, TextChange(**change))
    return rows


@pytest.mark.parametrize("suffix_first", [0.0, 1.0])
@given(KNOWN)
def test_the_parts_make_the_document_again(suffix_first, text):
    parts = fim.cut(text, 1.0, suffix_first)
    assert parts.prefix + parts.middle + parts.suffix == text
    for tokenizer in TOKENIZERS.values():
        ids, signs = fim.encode(parts, tokenizer)
        names = [tokenizer.special_name(ids[i]) for i in signs]
        assert names == list(FIM) and sum(i < len(tokenizer.specials) for i in ids) == 3
        _, suffix, middle = signs
        between = [ids[1:suffix], ids[suffix + 1 : middle], ids[middle + 1 :]]
        first, second, last = map(tokenizer.decode, between)
        # In suffix-prefix-middle order the prefix follows the last marker.
        assert first + last + second == text if suffix_first == 0 else last + second == text
        if suffix_first:
            assert not first and second == parts.suffix
        else:
            assert (first, second, last) == (parts.prefix, parts.suffix, parts.middle)


@pytest.mark.parametrize("suffix_first", [0.0, 1.0])
def test_ids_and_mask_of_a_document_written_by_hand(suffix_first):
    parts = fim.cut("ijklmnop", 1.0, suffix_first)
    assert all(parts[:3])
    row = {
        k: v[0].tolist()
        for k, v in rows_of(["ijklmnop"], 16, fim_rate=1.0, fim_spm=suffix_first).items()
    }
    prefix, middle, suffix = (BYTES.encode(part) for part in parts[:3])
    pre, suf, mid = BYTES.fim_ids
    if suffix_first:
        ids = [BOS, pre, suf, *suffix, mid, *prefix, *middle, EOS]
    else:
        ids = [BOS, pre, *prefix, suf, *suffix, mid, *middle, EOS]
    assert row["tokens"] == ids + [0] * 3
    assert row["loss_mask"] == [float(i not in (BOS, pre, suf, mid)) for i in ids] + [0.0] * 3
    assert row["positions"] == [*range(13), 0, 0, 0]


@given(
    st.lists(st.text("ab ", min_size=1, max_size=30), min_size=1, max_size=8), st.integers(4, 20)
)
def test_every_token_but_the_signs_is_predicted_once_however_rows_are_split(texts, length):
    rows = rows_of(texts, length, fim_rate=0.7)
    predicted = rows["tokens"][rows["loss_mask"] > 0].tolist()
    assert not set(predicted) & set(BYTES.fim_ids)
    wanted = []
    for text in texts:
        parts = fim.cut(text, 0.7, 0.5)
        ids = fim.encode(parts, BYTES)[0] if parts else BYTES.encode(text)
        wanted += [i for i in ids if i not in BYTES.fim_ids] + [EOS]
    assert predicted == wanted


def test_the_rate_the_share_and_the_places_are_what_they_should_be():
    texts, n = [f"{i:08d}" for i in range(4000)], 4000
    documents = [fim.cut(text, 0.6, 0.25) for text in texts]
    chosen = [parts for parts in documents if parts]
    assert abs(len(chosen) / n - 0.6) < 4 * math.sqrt(0.24 / n)
    share = np.mean([parts.suffix_first for parts in chosen])
    assert abs(share - 0.25) < 4 * math.sqrt(0.1875 / len(chosen))
    lengths = np.array([[len(parts.prefix), len(parts.middle)] for parts in chosen])
    np.testing.assert_allclose(lengths.mean(0), [8 / 3 - 1 / 6, 8 / 3 + 1 / 3], atol=0.15)
    assert {tuple(pair) for pair in lengths.tolist()} == {
        (i, j - i) for i in range(9) for j in range(i, 9)
    }
    assert documents == [fim.cut(text, 0.6, 0.25) for text in texts]
    assert all(fim.cut(text, 0.0, 0.5) is None for text in texts)
    # A higher rate cuts more of them, and the same ones in the same way.
    more = [fim.cut(text, 0.9, 0.25) for text in texts]
    assert all(b == a for a, b in zip(documents, more) if a)


# Tokenizers.


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_a_tokenizer_with_signs_is_another_and_round_trips(tmp_path, kind):
    plain, made = train(kind, TEXTS, 300), TOKENIZERS[kind]
    assert plain.fingerprint != made.fingerprint and plain.fim_ids == ()
    assert made.fim_ids == tuple(range(len(SPECIAL), len(SPECIAL) + 3))
    assert set(made.fim_ids) <= set(made.banned_ids) and set(plain.banned_ids) <= set(
        made.banned_ids
    )
    assert made.vocab_size == plain.vocab_size + (3 if kind != "sentencepiece" else 0)
    for text in TEXTS:
        assert made.decode(made.encode(text)) == text
    made.save(tmp_path)
    again = load(tmp_path)
    assert (again.fingerprint, again.fim_ids) == (made.fingerprint, made.fim_ids)
    assert again.encode(TEXTS[0]) == made.encode(TEXTS[0])
    theirs = HFTokenizer(hf_files(made, 64))
    assert theirs.fim_ids == made.fim_ids and theirs.banned_ids == made.banned_ids
    assert theirs.encode(TEXTS[0]) == made.encode(TEXTS[0])


def test_no_text_can_forge_a_sign():
    for kind in ("sentencepiece", "byte"):
        ids = TOKENIZERS[kind].encode("a <fim_middle> b")
        assert not set(ids) & set(TOKENIZERS[kind].fim_ids)


# From the config to rows, and prepared.


@pytest.fixture
def corpus(tmp_path):
    lines = [json.dumps({"text": f"{'word ' * (i % 9)}number {i}"}) for i in range(150)]
    (tmp_path / "text.jsonl").write_text("\n".join(lines))
    BYTES.save(tmp_path / "tokenizer")
    return tmp_path


def test_heldout_text_stays_and_prepared_rows_are_those_of_a_run(corpus):
    settings = dict(length=64, fim_rate=0.5, truncate="40 characters")
    config = DataConfig(source=str(corpus / "text.jsonl"), **settings)
    wanted = open_data(config, "text", BYTES)
    assert np.isin(wanted.train["tokens"], BYTES.fim_ids).sum() > 100
    assert not np.isin(wanted.heldout["tokens"], BYTES.fim_ids).any()
    assert wanted.skipped["longer than 40 characters, cut"] > 10
    manifest = prepare_corpus(config, "text", str(corpus / "out"), tokenizer=str(corpus))
    assert manifest["settings"]["fim_rate"] == 0.5
    assert manifest["skipped"] == dict(wanted.skipped)
    there = DataConfig(source=str(corpus / "out"), **settings)
    data = open_data(there, "text", BYTES)
    for split in ("train", "heldout"):
        rows = getattr(wanted, split)
        again = take_rows(getattr(data, split), np.arange(len(rows["tokens"])))
        for name, values in rows.items():
            np.testing.assert_array_equal(again[name], values)
    with pytest.raises(DataError, match=r"prepared with data\.fim_rate=0\.5"):
        open_data(DataConfig(source=str(corpus / "out"), length=64, fim_rate=0.9), "text", BYTES)


def test_what_cannot_be_filled_in_is_said(corpus):
    config = DataConfig(source=str(corpus / "text.jsonl"), length=64, fim_rate=0.5)
    with pytest.raises(DataError, match=r"<fim_prefix>.*--config\.tokenizer\.fim=True"):
        open_data(config, "text", train("byte", [], 0))
    with pytest.raises(DataError, match=r"data\.fim_rate is for documents of text.* reads chat"):
        open_data(config, "chat", BYTES, examples=packing_examples())
    with pytest.raises(ConfigError, match=r"data\.fim_rate=1\.5; it must be .* at most 1"):
        DataConfig(source="x", fim_rate=1.5)
    for given_text in ("40", "40 words", "many tokens"):
        with pytest.raises(DataError, match=r'data\.truncate=.*"4000 characters"'):
            DataConfig(source="x", truncate=given_text)


def packing_examples():
    from data.splits import Examples

    return Examples([], [], Counter())


# Truncation.


def test_documents_are_cut_and_counted_and_do_not_end():
    texts, skipped = ["abcdefgh", "abc", "é" * 9], Counter()
    examples = [{"text": text} for text in texts]
    rows, *_ = pack_text(examples, BYTES, 64, TextChange(characters=5), skipped)
    ids = [
        [BOS, *BYTES.encode("abcde")],
        [BOS, *BYTES.encode("abc"), EOS],
        [BOS, *BYTES.encode("é" * 5)],
    ]
    assert rows["tokens"][0].tolist()[: sum(map(len, ids))] == [i for part in ids for i in part]
    assert skipped == {"longer than 5 characters, cut": 2}
    skipped = Counter()
    rows, *_ = pack_text(examples, BYTES, 64, TextChange(tokens=5), skipped)
    ids[2] = [BOS, *BYTES.encode("é" * 2)]  # not half of the third
    assert rows["tokens"][0].tolist()[: sum(map(len, ids))] == [i for part in ids for i in part]
    assert skipped == {"longer than 5 tokens, cut": 2}
    whole = pack_text(examples, BYTES, 64)[0]
    longer = pack_text(examples, BYTES, 64, TextChange(characters=9))[0]
    np.testing.assert_array_equal(whole["tokens"], longer["tokens"])
