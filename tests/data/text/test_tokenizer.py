"""Tokenizers: round trips of any text, no special id from text, and training on any line."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.text import tokenizer as tokenizers
from data.text.builtin import EOS, NEVER_SAMPLED, PAD, ROLES, SPECIAL, BuiltinTokenizer
from data.text.tokenizer import train

TEXTS = [
    "def read(path):\n    return open(path).read()\n",
    "The quick brown fox jumps over the lazy dog, and the dog sleeps on.\n\nIt is a dog.",
    "naïve café, 日本語のテキスト, and 🙂 emoji 👩‍👩‍👧",
    *(f"line {i} of the text has some words and the number {i * i}" for i in range(60)),
]
# Difficult text: SentencePiece's space, NUL, white space, combining and wide characters.
AWKWARD = "\u2581\0\n\r\t  \u00a0\u2028é\u0301日🙂\ufeff\ufffd<|assistant>0xA"
KINDS = ["sentencepiece", "char", "byte"]

any_text = st.text() | st.text(alphabet=AWKWARD) | st.lists(st.sampled_from(TEXTS)).map("  ".join)


@pytest.fixture(scope="module")
def makers():
    return {kind: train(kind, [*TEXTS, AWKWARD], 420) for kind in KINDS}


def check_round_trip(tokenizer, text):
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert all(len(SPECIAL) <= i < tokenizer.vocab_size for i in ids)
    assert sum(len(tokenizer.token_bytes[i]) for i in ids) == len(text.encode())


@settings(max_examples=150, deadline=None)
@given(any_text)
def test_sentencepiece_and_bytes_give_any_text_back(makers, text):
    check_round_trip(makers["sentencepiece"], text)
    check_round_trip(makers["byte"], text)


@settings(max_examples=50, deadline=None)
@given(st.text(alphabet="".join(TEXTS) + AWKWARD))
def test_characters_give_any_text_of_theirs_back(makers, text):
    check_round_trip(makers["char"], text)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "  a  ",
        "\n\n a",
        "a\0b\0\0",
        "\0",
        "\u2581",
        "a\u2581 \u2581\u2581b",
        "🙂",
        "\t\n",
        "a b ",
    ],
)
def test_awkward_texts_round_trip(kind, text):
    check_round_trip(train(kind, [*TEXTS, AWKWARD, text], 420), text)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("forged", [*SPECIAL, "<0x41>", "<s>", "</s>"])
def test_no_text_can_forge_a_special_id(makers, kind, forged):
    tokenizer = train("char", [forged, "a"], 0) if kind == "char" else makers[kind]
    check_round_trip(tokenizer, f"a{forged}a")


@pytest.mark.parametrize("kind", ["sentencepiece", "byte"])
def test_half_a_surrogate_pair_is_an_error(makers, kind):
    with pytest.raises(ValueError, match="surrogate"):
        makers[kind].encode("a\ud800b")


def test_an_unknown_character_is_an_error_that_names_it(makers):
    with pytest.raises(ValueError, match=r"character 'ж' is not in the char tokenizer"):
        makers["char"].encode("aж")


def test_special_ids_decode_to_nothing_and_broken_bytes_to_the_replacement(makers):
    for tokenizer in makers.values():
        assert tokenizer.decode(range(len(SPECIAL))) == ""
    byte = makers["byte"]
    assert byte.decode(byte.encode("é")[:1]) == "\ufffd"


def test_special_ids_are_the_first_ones():
    names = {name: i for i, name in enumerate(SPECIAL)}
    assert (names["<pad>"], names["<eos>"]) == (PAD, EOS)
    assert names["<|assistant|>"] == ROLES["assistant"]
    assert set(range(len(SPECIAL))) - set(NEVER_SAMPLED) == {EOS}


def test_a_long_line_trains_whole():
    """SentencePiece would drop it: a word that only this line contains must become one piece."""
    line = " ".join(["some common words and a zyzzyva here"] * 3000)
    assert len(line) > 100_000
    tokenizer = train("sentencepiece", [line, *TEXTS], 420)
    assert b" zyzzyva" in tokenizer.token_bytes
    check_round_trip(tokenizer, line[:5000])


@pytest.mark.parametrize("character", ["x", "é", "日", "🙂"])
def test_a_long_line_without_spaces_is_cut_between_characters(character):
    text = "a" + character * 9000
    lines = list(tokenizers._lines([text]))
    assert "".join(lines) == text
    assert max(len(line.encode()) for line in lines) <= 4192
    assert len(lines) < 3 + len(text.encode()) / 4000  # nearly full


def test_long_lines_are_cut_at_spaces():
    text = "word " * 2000
    lines = list(tokenizers._lines([text, "b"]))
    assert "".join(lines) == text + "b"
    assert len(lines) > 2
    assert {word for line in lines[:-1] for word in line.split()} == {"word"}


def test_words_are_the_same_but_for_case_and_spaces():
    tokenizer = train("sentencepiece", ["Tree tree a Tree a tree "] * 40, 280)
    words = tokenizer.words()
    assert len(words) == tokenizer.vocab_size
    pieces = {piece: i for i, piece in enumerate(tokenizer.token_bytes)}
    tree = {words[pieces[variant]] for variant in (b"Tree", b" Tree", b" tree")}
    assert len(tree) == 1 and words[pieces[b" t"]] == words[pieces[b" T"]] not in tree
    # Specials, and bytes that are no text by themselves, remain distinct.
    assert words[: len(SPECIAL)] == list(range(len(SPECIAL)))
    assert words[tokenizer._byte_id[b"\xff"]] == tokenizer._byte_id[b"\xff"]


def test_the_same_text_gives_the_same_tokenizer(makers):
    for kind in KINDS:
        again = train(kind, [*TEXTS, AWKWARD], 420)
        assert again.fingerprint == makers[kind].fingerprint
        assert again.encode(TEXTS[0]) == makers[kind].encode(TEXTS[0])
    other = train("sentencepiece", [*TEXTS, "another sentence"], 420)
    assert other.fingerprint != makers["sentencepiece"].fingerprint
    assert len({t.fingerprint for t in makers.values()}) == 3


@pytest.mark.parametrize("kind", KINDS)
def test_save_and_load(makers, tmp_path, kind):
    tokenizer = makers[kind]
    tokenizer.save(tmp_path / "tokenizer")
    for directory in (tmp_path, tmp_path / "tokenizer"):  # a workdir, or the directory itself
        loaded = tokenizers.load(directory)
        assert loaded.fingerprint == tokenizer.fingerprint
        assert loaded.encode(TEXTS[1]) == tokenizer.encode(TEXTS[1])


def test_another_tokenizers_model_is_noticed(makers, tmp_path):
    makers["char"].save(tmp_path)
    (tmp_path / "tokenizer.model").write_bytes(makers["char"].model + "ж".encode())
    with pytest.raises(ValueError, match=r"tokenizer\.model and tokenizer\.json differ"):
        tokenizers.load(tmp_path)


def test_a_corrupted_model_is_noticed(makers, tmp_path):
    makers["sentencepiece"].save(tmp_path)
    model = makers["sentencepiece"].model
    flipped = model[:100] + bytes([model[100] ^ 1]) + model[101:]
    for broken in (model[: len(model) // 2], flipped, b""):
        (tmp_path / "tokenizer.model").write_bytes(broken)
        with pytest.raises(ValueError, match=r"tokenizer\.model and tokenizer\.json differ"):
            tokenizers.load(tmp_path)


def test_a_directory_without_a_tokenizer_says_so(tmp_path):
    with pytest.raises(
        FileNotFoundError, match=r"holds no tokenizer\.json; is it a Seedpod workdir"
    ):
        tokenizers.load(tmp_path)


def test_too_large_a_vocabulary_says_what_to_type():
    with pytest.raises(ValueError, match=r"vocabulary of 5000 .*--config\.tokenizer\.vocab_size"):
        train("sentencepiece", ["a few words"], 5000)


def test_an_unknown_kind_is_an_error():
    with pytest.raises(ValueError, match=r"tokenizer\.kind='words'; choose"):
        BuiltinTokenizer("words", b"")
