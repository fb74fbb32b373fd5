"""A built-in tokenizer and its Hugging Face files give the same ids."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.text.chat import render, render_prompt
from data.text.hf_files import hf_files
from data.text.hf_tokenizer import HFTokenizer
from data.text.tokenizer import train

TEXTS = ["the cat sat on the mat, and the other cat that sat there sat too\n" * 4, "0123 aaaa"]
OURS = {
    "sentencepiece": train("sentencepiece", TEXTS, 300),
    "char": train("char", TEXTS, 0),
    "byte": train("byte", TEXTS, 0),
}
THEIRS = {kind: HFTokenizer(hf_files(tokenizer, 64)) for kind, tokenizer in OURS.items()}
TEXT = st.text(st.characters(exclude_characters="\u2581\0", exclude_categories=["Cs"]))
KNOWN = st.text(st.sampled_from(sorted(set("".join(TEXTS)))))


@given(text=TEXT, known=KNOWN)
def test_text_has_the_same_ids(text, known):
    for kind, ours in OURS.items():
        theirs = THEIRS[kind]
        for given_text in (known,) if kind == "char" else (known, text):
            ids = ours.encode(given_text)
            assert theirs.encode(given_text) == ids
            assert theirs.decode(ids) == given_text


@pytest.mark.parametrize("kind", OURS)
def test_chats_and_special_ids_are_the_same(kind):
    ours, theirs = OURS[kind], THEIRS[kind]
    messages = [
        {"role": "system", "content": "the mat"},
        {"role": "user", "content": "cat sat "},
        {"role": "assistant", "content": "sat too"},
        {"role": "user", "content": "there"},
        {"role": "assistant", "content": "on the mat"},
    ]
    for a, b in zip(render(ours, messages), render(theirs, messages)):
        assert a.tolist() == b.tolist()
    assert (
        render_prompt(ours, messages[:-1]).tolist() == render_prompt(theirs, messages[:-1]).tolist()
    )
    assert theirs.token_bytes == ours.token_bytes
    for name in ("pad_id", "prefix", "eos_id", "stop_ids", "banned_ids", "vocab_size"):
        assert getattr(theirs, name) == getattr(ours, name), name
