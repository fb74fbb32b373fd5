"""Data sets of the hub by name, read by the real `datasets` from a hub on this machine."""

import io
import json

import pyarrow
import pytest
from pyarrow import parquet

from data.config import DataConfig
from data.errors import DataError
from data.prepare import row_cache
from data.read import hf_records, sources
from data.read.reading import ReadOptions
from data.read.sources import read
from data.splits import read_examples
from data.text import tokenizer as tokenizers

COMMIT = "0123456789abcdef0123456789abcdef01234567"

CARD = b"""---
configs:
- config_name: chats
  data_files:
  - {split: train, path: chats/*.jsonl}
  - {split: test, path: test.jsonl}
- config_name: texts
  data_files: texts.jsonl
---
"""


def lines(records) -> bytes:
    return b"".join(json.dumps(record).encode() + b"\n" for record in records)


def chat(name, i):
    return {"prompt": f"{name} {i}?", "response": f"Yes, {i}.", "id": i}


def table(records) -> bytes:
    file = io.BytesIO()
    parquet.write_table(pyarrow.Table.from_pylist(records), file)
    return file.getvalue()


@pytest.fixture
def chats(hub):
    """The hub, with `us/data` in two configurations."""
    hub.files["us/data"] = {
        "README.md": CARD,
        "chats/0.jsonl": lines(chat("a", i) for i in range(3)),
        "chats/1.jsonl": lines(chat("b", i) for i in range(2)),
        "chats/2.jsonl": lines([chat("c", 0)]),
        "test.jsonl": lines([chat("t", 0)]),
        "texts.jsonl": lines([{"text": "Text."}]),
    }
    return hub


BYTES = tokenizers.train("byte", [], 0)
PINNED = f"hf:us/data/chats@{COMMIT}:train"


def prompts(name, **options):
    examples = read(name, "prompt", **options).examples
    return [example["messages"][0]["content"] for example in examples]


def test_a_split_is_downloaded_once_and_pinned(chats):
    result = read("hf:us/data/chats:train", "chat")
    assert [e["messages"][0]["content"] for e in result.examples] == [
        "a 0?", "a 1?", "a 2?", "b 0?", "b 1?", "c 0?",
    ]  # fmt: skip
    assert result.examples[3]["where"] == f"{PINNED}[3]"
    assert result.unused == {"id": 6}
    chats.requests.clear()
    assert prompts("hf:us/data/chats:train[1:3]") == ["a 1?", "a 2?"]
    assert prompts("hf:us/data/chats:train+test")[-1] == "t 0?"
    assert not any(path.endswith(".jsonl") for path in chats.requests)
    records = [{"text": f"Text {i}.", "score": float("nan"), "image": b"\xff"} for i in range(4)]
    chats.files["us/texts"] = {"train.parquet": table(records)}
    texts = read("hf:us/texts:train", "text", fields={"text": "{text} {score}"}).examples
    assert [e["text"] for e in texts] == [f"Text {i}." for i in range(4)]
    chats.files["us/torn"] = {"train.parquet": table(records)[:-9]}
    with pytest.raises(DataError, match=r"hf:us/torn@.*:train: Parquet magic bytes not found"):
        read("hf:us/torn:train", "text")


def test_parts_are_read_apart(chats, monkeypatch):
    monkeypatch.setattr(hf_records, "SPAN_RECORDS", 2)
    (item,) = sources.inputs_of("hf:us/data/chats:train", "chat")
    assert item.name == PINNED
    parts = [list(sources.iterate(item.name, "chat", span=span)) for span in item.spans()]
    assert [len(part) for part in parts] == [2, 2, 2]
    assert [e for part in parts for e in part] == read(PINNED, "chat").examples


def test_a_bad_record_is_counted(hub):
    hub.files["us/bad"] = {"train.jsonl": lines([chat("a", 0), {"prompt": "b", "response": None}])}
    with pytest.raises(DataError, match=r"hf:us/bad@\w+:train\[1\]: "):
        read("hf:us/bad:train", "chat")
    result = read("hf:us/bad:train", "chat", on_bad="skip")
    assert len(result.examples) == result.skipped.total() == 1
    with pytest.raises(DataError, match="too_large: 2"):
        read("hf:us/bad:train", "chat", on_bad="skip", max_record_bytes=4)


def test_an_error_of_ours_is_raised_as_it_is():
    class Records:
        def with_format(self, name):
            return self

        def iter(self, size):
            yield pyarrow.table([["a"], ["b"]], names=["text", "text"])

    hub = hf_records.parse(PINNED)
    with pytest.raises(DataError, match="two columns are named 'text'") as error:
        list(hf_records._rows(hub, Records(), PINNED, 0, ReadOptions()))
    assert error.value.__cause__ is None  # its own cause would be a chain without an end


def test_it_is_mixed_and_held_out_like_a_file(chats, tmp_path):
    (tmp_path / "own.jsonl").write_bytes(lines([chat("own", 0)]))
    mixture = {
        "hub": {"source": "hf:us/data/chats:train", "weight": 1.0, "limit": 2},
        "own": {"source": str(tmp_path / "own.jsonl"), "weight": 1.0},
    }
    config = DataConfig("", mixture=mixture, heldout_source="hf:us/data/chats:test")
    examples = read_examples(config, "chat")
    assert examples.sizes == (2, 1)
    assert [e["where"].partition(":")[0] for e in examples.train[:2]] == ["hf", "hf"]
    assert examples.heldout[0]["messages"][0]["content"] == "t 0?"


def test_rows_are_cached_by_revision(chats, tmp_path):
    config = DataConfig("hf:us/data/chats:train", heldout_source="hf:us/data/chats:test")
    key = row_cache._key(config, "chat", BYTES, 0)
    assert key == row_cache._key(config, "chat", BYTES, 0) != ""
    hf_records._attempt.cache_clear()
    chats.move("f" * 40)
    assert row_cache._key(config, "chat", BYTES, 0) not in (key, "")
    pinned = DataConfig(PINNED, heldout_source=PINNED.replace("train", "test"))
    chats.requests.clear()
    assert row_cache._key(pinned, "chat", BYTES, 0) and not chats.requests


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("hf:us/data", "lacks a split.*as in hf:us/data:train"),
        ("hf:data:train", "write hf:OWNER/NAME"),
        ("hf:us/data:train", r"has several configurations; name one: hf:us/data/chats:train, hf:"),
        ("hf:us/data/chat:train", r"no configuration 'chat'; name one: hf:us/data/chats:train,"),
        ("hf:us/data/chats:trian", "no split 'trian'; there are train, test; did you mean train"),
        ("hf:us/data/chats:train[:x]", r"train\[:x\]"),
        ("hf:us/data/chats@v2:train", "Revision 'v2' doesn't exist"),
        ("hf:us/none:train", "doesn't exist.*datasets/us/none; if it is private, log in: hf auth"),
        ("hf:us/gated:train", "gated.*Ask for access on .*us/gated, then log in: hf auth login"),
        ("hf:us/script:train", r"no longer supported.*hf:us/script@refs/convert/parquet:train"),
        ("hf-stream:us/data/chats:train[:10%]", r"cut by records, as in train\[:1000\]"),
    ],
)
def test_typical_mistakes(chats, name, message):
    chats.files["us/gated"] = {"README.md": b"", "train.jsonl": b"{}\n"}
    chats.files["us/script"] = {"script.py": b"raise SystemExit\n"}
    chats.gated.add("us/gated")
    with pytest.raises(DataError, match=f"(?s){message}") as error:
        read(name, "chat")
    assert str(error.value).count("\n") == 0


def test_without_a_network(chats, monkeypatch):
    prompts("hf:us/data/chats:train")
    hf_records._attempt.cache_clear()
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    assert len(prompts("hf:us/data/chats:train")) == len(prompts(PINNED)) == 6
    with pytest.raises(DataError, match=f"copy on this machine is of revision {COMMIT}"):
        prompts("hf:us/data/chats@v1:train")
    with pytest.raises(DataError, match=r"(?s)be reached.*save_to_disk.*/tree/main") as error:
        prompts("hf:us/other/big:train[:9]")
    typed = str(error.value).split('python -c "')[1].split('"\n')[0]
    assert "load('us/other', 'big', split='train').save_to_disk('FOLDER')" in typed
    compile(typed, "typed", "exec")


def test_a_hub_that_cannot_be_reached_is_asked_once(chats, monkeypatch):
    prompts("hf:us/data/chats:train")
    hf_records._attempt.cache_clear()
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")  # nobody
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", False)
    chats.requests.clear()
    assert len(prompts("hf:us/data/chats:train")) == 6  # of the cache
    with pytest.raises(DataError, match=r"127\.0\.0\.1:9 cannot be reached .*no copy\. Where"):
        prompts("hf:us/other:train")
    assert not chats.requests  # the libraries would try for half a minute


def test_without_the_library(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "datasets", None)
    hf_records._attempt.cache_clear()
    with pytest.raises(DataError, match=r"pip install 'seedpod\[hf\]'"):
        read("hf:us/data:train", "text")


@pytest.mark.slow  # as the library imports torch, where that is installed
def test_a_stream_reads_no_further_than_its_cut(chats, tmp_path):
    name = "hf-stream:us/data/chats:train"
    assert prompts(name) == prompts("hf:us/data/chats:train")
    (item,) = sources.inputs_of(name, "chat")
    parts = [list(sources.iterate(item.name, "chat", span=span)) for span in item.spans()]
    assert [len(part) for part in parts] == [3, 2, 1]
    assert len({e["where"] for part in parts for e in part}) == 6
    chats.requests.clear()
    assert prompts(f"{name}[1:3]") == ["a 1?", "a 2?"]
    assert not any(path.endswith("chats/2.jsonl") for path in chats.requests)
    assert not list((tmp_path / "datasets").glob("**/stream*"))
    with pytest.raises(DataError, match="no split 'trian'; there are train, test"):
        prompts("hf-stream:us/data/chats:trian")
