"""Sources: files, globs and TFDS give examples, or an error with a location."""

import gzip
import json
import pathlib

import numpy as np
import pytest
import tensorflow_datasets as tfds
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from data.errors import DataError
from data.read.sources import iterate, read
from data.schemas.examples import content_key
from data.splits import heldout_keys


class SeedpodTiny(tfds.core.GeneratorBasedBuilder):
    """A data set of preferences, so that no test needs a network."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        text = tfds.features.Text()
        features = {
            "prompt": text,
            "chosen": text,
            "rejected": tfds.features.Sequence({"kind": text, "text": text}),
            "image": text,
            "score": np.float32,
        }
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples()}

    def _generate_examples(self):
        for i in range(4):
            rejected = [{"kind": "short", "text": "a"}, {"kind": "wrong", "text": "é"}]
            yield i, {
                "prompt": f"p{i}", "chosen": "c", "rejected": rejected, "image": b"\xff\xd8",
                "score": (float("nan"), 1.5, float("inf"), 2)[i],
            }  # fmt: skip


@pytest.fixture
def write(tmp_path):
    def write(name, content):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, list):
            content = "".join(json.dumps(record) + "\n" for record in content)
        data = content if isinstance(content, bytes) else content.encode()
        path.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
        return str(path)

    return write


def texts(source, **options):
    return [example["text"] for example in read(source, "text", **options).examples]


def chat(prompt="hi", response="hello"):
    return {"prompt": prompt, "response": response}


# Accepted sources.


@pytest.mark.parametrize("name", ["a.txt", "a.txt.gz"])
def test_text_is_a_document_a_line_or_a_file(write, name):
    path = write(name, "\ufeffone\r\n\n  \n\u00a0\nzwei ü")
    assert read(path, "text").examples == [
        {"text": "one", "where": f"{path}:1"},
        {"text": "zwei ü", "where": f"{path}:5"},
    ]
    assert read(path, "text", documents="file").examples == [
        {"text": "one\n\n  \n\u00a0\nzwei ü", "where": f"{path}:1"}
    ]


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz"])
def test_jsonl_of_text(write, name):
    path = write(name, [{"text": "x"}, {"text": "  y\n", "id": 3}])
    assert texts(path) == ["x", "  y\n"]
    assert texts(path, documents="file") == ["x", "  y\n"]


def test_globs_are_sorted_recursive_and_read_a_file_once(write, tmp_path):
    write("b.txt", "b")
    write("deep/er/c.txt", "c")
    a = write("a.txt", "a")
    assert texts(f"{tmp_path}/**/*.txt") == ["a", "b", "c"]
    assert texts([f"{tmp_path}/deep/*/*.txt", f"{tmp_path}/*.txt", a]) == ["c", "a", "b"]
    assert texts((a,)) == texts(pathlib.Path(a)) == ["a"]


def test_a_name_with_glob_characters_is_a_file_if_there_is_one(write):
    assert texts(write("a[1].txt", "bracket")) == ["bracket"]


def test_home_is_expanded(write, tmp_path, monkeypatch):
    write("a.txt", "at home")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert texts("~/a.txt") == texts("~/*.txt") == ["at home"]


def test_iterate_reads_no_further_than_asked(write):
    path = write("a.jsonl", '{"text": "first"}\nnot json\n')
    assert next(iterate(path, "text"))["text"] == "first"


def test_tfds(tmp_path):
    options = {"tfds_dir": str(tmp_path)}
    name = "tfds:seedpod_tiny:train"
    examples = read(name, "preference", **options).examples
    assert sorted(example["messages"][0]["content"] for example in examples) == [
        "p0",
        "p1",
        "p2",
        "p3",
    ]
    assert examples[1]["responses"] == ["c", "a", "é"]
    assert examples[1]["kinds"] == ["chosen", "short", "wrong"]
    assert examples[1]["where"] == f"{name}[1]"
    assert examples == read(name, "preference", **options).examples
    assert len(read(f"{name}[:50%]", "prompt", **options).examples) == 2
    with pytest.raises(DataError, match=r"no field 'response'; .*'image'") as error:
        read(name, "chat", **options)
    assert f"{name}[0]: " in str(error.value)
    scores = read(name, "text", fields={"text": "{prompt} {score}"}, on_bad="skip", **options)
    assert sorted(e["text"] for e in scores.examples) == ["p0", "p1 1.5", "p3 2.0"]
    assert scores.skipped == {"not_finite": 1}
    with pytest.raises(DataError, match="'image' should be a string, and is 2 bytes"):
        read(name, "text", fields={"text": "An {image}"}, **options)
    with pytest.raises(DataError, match=r"(?s)no example.*too_large: 4.*max_record_bytes"):
        read(name, "prompt", max_record_bytes=40, on_bad="skip", **options)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("tfds:seedpod_tiny", "lacks a split.*tfds:seedpod_tiny:train"),
        ("tfds:", "lacks a split"),
        ("tfds:seedpod_tiny:trian", "Unknown split 'trian'.*train"),
        ("tfds:seedpod_tiny:train[", "train"),
        ("tfds:seedpod_tin:train", "did you mean 'seedpod_tiny'"),
        ("tfds:seedpod_tiny/prefs:train", "prefs"),
        ("tfds:pydocs/tekst:train", "text"),
    ],
)
def test_tfds_errors(tmp_path, name, message):
    with pytest.raises(DataError, match=f"(?s)tfds:.*{message}"):
        read(name, "preference", tfds_dir=str(tmp_path))


def test_tfds_in_a_format_without_random_access(tmp_path):
    name = "tfds:seedpod_tiny:train"
    read(name, "preference", tfds_dir=str(tmp_path))
    (info,) = tmp_path.glob("seedpod_tiny/*/dataset_info.json")
    info.write_text(info.read_text().replace('"array_record"', '"tfrecord"'))
    with pytest.raises(DataError, match=r"without random access.*tfds_dir"):
        read(name, "preference", tfds_dir=str(tmp_path))


# Refused sources, and their errors.


@pytest.mark.parametrize(
    ("content", "line", "reason", "message"),
    [
        ('{"text": "a"}\n{"text": }\n', 2, "bad_json", "Expecting value at column 10"),
        ('{"text": "a"}\n\n["a"]\n', 3, "not_an_object", "a JSON list"),
        ("3\n", 1, "not_an_object", "a JSON int"),
        ("[" * 100_000, 1, "bad_json", "JSON"),
        ('{"text": ' + "1" * 5000 + "}", 1, "bad_json", "JSON"),
        ('{"text": 3}\n', 1, "wrong_type", "'text' should be a string, and is 3"),
        ('{"text": null}\n', 1, "wrong_type", "is None"),
        ('{"text": " "}\n', 1, "empty_text", "'text' is empty"),
        ('{"text": "\\ud800"}\n', 1, "invalid_utf8", "surrogate pair at character 0"),
        ('{"txt": "a"}\n', 1, "missing_field", "no field 'text'; the nearest is 'txt'"),
        ("{}\n", 1, "missing_field", "the record is empty"),
        ('{"text": "a"}\n{"text": "a", "text": "b"}', 2, "duplicate_key", "'text' is there twice"),
        ('{"text": "a", "m": [{"k": 1, "k": 1}]}', 1, "duplicate_key", "the key 'k' is"),
        ('{"text": NaN}', 1, "wrong_type", "is None"),
        ('{"text": "a", "m": [{"x": -Infinity}]}', 1, "not_finite", "-Infinity is not finite"),
        ('{"text": "a", "n": [1e999]}', 1, "not_finite", "1e999 is not finite"),
        (b'{"text": "a"}\n{"text": "\xff"}\n', 2, "invalid_utf8", "byte 0xff at offset 10"),
    ],
)
def test_a_bad_record_is_named_by_file_and_line(write, content, line, reason, message):
    path = write("a.jsonl", content)
    with pytest.raises(DataError) as error:
        read(path, "text")
    assert str(error.value).startswith(f"{path}:{line}: ")
    assert message in str(error.value)
    assert error.value.reason == reason


def test_bytes_that_are_no_text_are_found_in_a_whole_file(write):
    path = write("a.txt", b"one\ntwo\nth\xe9")
    with pytest.raises(DataError, match="byte 0xe9 at offset 10, on line 3"):
        read(path, "text", documents="file")


def test_a_missing_file_names_the_nearest(write, tmp_path, monkeypatch):
    path = write("train.jsonl", [chat()])
    for wrong in ("trian.jsonl", "train.json", "*.josnl", "*/train.jsonl"):
        with pytest.raises(DataError, match=f"the nearest is {path}"):
            read(str(tmp_path / wrong), "chat")
    (tmp_path / "corpus").mkdir()
    with pytest.raises(DataError, match=f"no file {tmp_path}/corpsu/a/b.txt; .* {tmp_path}/corpus"):
        read(f"{tmp_path}/corpsu/a/b.txt", "text")
    with pytest.raises(DataError, match="corpus is empty"):
        read(f"{tmp_path}/corpus/b.txt", "text")
    monkeypatch.chdir(tmp_path / "corpus")
    with pytest.raises(DataError, match="the current directory is empty"):
        read("b.txt", "text")


@pytest.mark.parametrize("source", ["", [], [""], ()])
def test_no_source(source):
    with pytest.raises(DataError, match="no source: give a path"):
        read(source, "text")


def test_directories_and_endings(write, tmp_path):
    with pytest.raises(DataError, match=r"is an empty directory"):
        read(str(tmp_path), "text")
    write("a/b.jsonl.gz", "")
    with pytest.raises(DataError, match=r"is a directory.*\*\*/\*\.jsonl"):
        read(str(tmp_path), "text")
    with pytest.raises(DataError, match=r"read from \.jsonl, \.json, "):
        read([write("b.jsonl", "broken"), write("a.txt", "a")], "chat")  # before any is read


def test_a_file_that_cannot_be_read_is_never_skipped(write, tmp_path):
    path = pathlib.Path(write("a.txt.gz", "line\n" * 1000))
    whole = path.read_bytes()
    for data in (whole[:-12], whole[:30], whole[:15] + b"\xff\xff" + whole[17:]):
        path.write_bytes(data)
        for documents in ("line", "file"):
            with pytest.raises(DataError, match=r"a\.txt\.gz: broken gzip .*gzip -t"):
                read(str(path), "text", on_bad="skip", documents=documents)
    link = tmp_path / "loop"
    link.symlink_to(link)
    with pytest.raises(DataError, match="no file"):
        read(str(link), "text")


@pytest.mark.parametrize("content", ["", "\n", " \n\t\n"])
@pytest.mark.parametrize("name", ["a.txt", "a.jsonl", "a.txt.gz"])
def test_empty_files(write, content, name):
    path = write(name, content)
    for documents in ("line", "file"):
        with pytest.raises(DataError, match=f"{path}: holds no record"):
            read(path, "text", documents=documents)
    full = write("full.txt", "a")
    assert read([path, full], "text", on_bad="skip").skipped == {"empty_file": 1}
    with pytest.raises(DataError, match=r"no example of schema 'text' .*empty_file: 1"):
        read(path, "text", on_bad="skip")


@pytest.mark.parametrize(
    ("schema", "options", "message"),
    [
        ("chats", {}, "'chats' is no schema; did you mean 'chat'"),
        ("chat", {"documents": "lines"}, "no value of documents; did you mean 'line'"),
        ("chat", {"on_bad": "drop"}, "no value of on_bad"),
        ("chat", {"fields": {"promt": "{a}"}}, "no field of the chat schema; .* 'prompt'"),
    ],
)
def test_wrong_arguments_name_the_nearest(write, schema, options, message):
    with pytest.raises(DataError, match=message):
        read(write("a.jsonl", [chat()]), schema, **options)


def test_skipping_counts_by_reason_up_to_a_limit(write):
    good, bad = json.dumps(chat()), ["{", "[]", '{"prompt": "a"}', "{"]
    path = write("a.jsonl", "\n".join([good, *bad, good]))
    result = read(path, "chat", on_bad="skip", max_bad=4)
    assert [example["where"] for example in result.examples] == [f"{path}:1", f"{path}:6"]
    assert result.skipped == {"bad_json": 2, "not_an_object": 1, "missing_field": 1}
    with pytest.raises(DataError) as error:
        read(path, "chat", on_bad="skip", max_bad=3)
    for part in ("max_bad=3", "bad_json: 2, missing_field: 1", f"{path}:2: not JSON", f"{path}:4:"):
        assert part in str(error.value)
    assert f"{path}:5" not in str(error.value)


def test_only_bad_records(write):
    with pytest.raises(DataError, match=r"no example of schema 'chat' .*\(bad_json: 1\)"):
        read(write("a.jsonl", "{"), "chat", on_bad="skip")


NAMES = ["text", "messages", "role", "content", "prompt", "response", "system", "kind"]
NAMES += ["chosen", "rejected", "responses", "rank"]
JUNK = st.one_of(
    st.binary(max_size=200),
    st.lists(
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
            lambda inner: st.one_of(
                st.lists(inner, max_size=3),
                st.dictionaries(
                    st.sampled_from(NAMES),
                    inner,
                    max_size=4,
                ),
            ),
            max_leaves=12,
        ),
        max_size=3,
    ).map(lambda records: "\n".join(map(json.dumps, records)).encode()),
)


@settings(
    max_examples=100, deadline=5000, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    data=JUNK,
    schema=st.sampled_from(["text", "chat", "preference", "prompt"]),
    on_bad=st.sampled_from(["error", "skip"]),
    suffix=st.sampled_from([".jsonl", ".jsonl.gz"]),
)
def test_anything_in_a_file_gives_examples_or_a_data_error(tmp_path, data, schema, on_bad, suffix):
    path = tmp_path / f"junk{suffix}"
    path.write_bytes(data)
    try:
        result = read(str(path), schema, on_bad=on_bad)
    except DataError as error:
        assert str(path) in str(error)
    else:
        assert result.examples
        json.dumps(result.examples, ensure_ascii=False).encode()


# Held-out data.


def split_heldout(examples, fraction):
    keys = [content_key(example) for example in examples]
    lowest = heldout_keys(keys, fraction, examples[0]["where"] if examples else "")
    return tuple(
        [e for e, key in zip(examples, keys) if (key in lowest) == held] for held in (False, True)
    )


def _chats(n, repeats=1):
    def messages(i, j):
        return [
            {"role": "user", "content": f"question {i}"},
            {"role": "assistant", "content": f"answer {j}"},
        ]

    return [{"messages": messages(i, j), "where": "x"} for i in range(n) for j in range(repeats)]


@pytest.mark.parametrize("fraction", [0.01, 0.05, 0.3, 0.99])
def test_no_prompt_stands_on_both_sides(fraction):
    examples = _chats(30, repeats=3)
    train, heldout = split_heldout(examples, fraction)

    def prompts(examples):
        return {example["messages"][0]["content"] for example in examples}

    assert not prompts(train) & prompts(heldout)
    assert [e for e in examples if e in train] == train and len(train) + len(heldout) == 90
    assert len(heldout) == 3 * max(1, min(29, round(30 * fraction)))
    shuffled = split_heldout(examples[::-1], fraction)
    assert prompts(shuffled[1]) == prompts(heldout)


def test_a_prompt_is_the_same_in_every_schema():
    chats, prompts = _chats(9), [{**e, "messages": e["messages"][:1]} for e in _chats(9)]
    _, held_chats = split_heldout(chats, 0.3)
    _, held_prompts = split_heldout(prompts, 0.3)
    assert [e["messages"][:1] for e in held_chats] == [e["messages"] for e in held_prompts]


def test_texts_that_differ_in_white_space_stay_together():
    examples = [{"text": t, "where": "x"} for t in ("a b", "a  b\n", "c")]
    for part in split_heldout(examples, 0.5):
        assert {e["text"] for e in part} in ({"a b", "a  b\n"}, {"c"})


@pytest.mark.parametrize("fraction", [0, 1, -0.1, 1.5, float("nan")])
def test_a_fraction_is_between_0_and_1(fraction):
    with pytest.raises(DataError, match="between 0 and 1"):
        split_heldout(_chats(3), fraction)


def test_one_document_cannot_be_split():
    with pytest.raises(DataError, match=r"there is only one, at a\.txt:1"):
        split_heldout([{"text": "a", "where": "a.txt:1"}] * 3, 0.5)
    with pytest.raises(DataError, match="there is none"):
        split_heldout([], 0.5)
