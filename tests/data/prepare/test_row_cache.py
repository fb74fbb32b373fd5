"""The row cache: the same rows as without it, and never those of other data."""

import hashlib
import io
import json
import os
import random
import shutil
import zipfile
from collections.abc import Iterator

import numpy as np
import pytest

from data.config import DataConfig
from data.errors import DataError
from data.pipeline import open_data
from data.prepare import row_cache
from data.prepare.run import prepare_corpus
from data.splits import read_examples
from data.text.tokenizer import train

TOKENIZER = train("byte", [], 0)


@pytest.fixture
def folder(tmp_path):
    texts = [{"text": f"{'word ' * (i % 9)}number {i} of a@b.org"} for i in range(60)]
    chats = [
        {"prompt": f"ask {i} é", "response": "yes " * (1 + i % 7), "id": i, "weight": i % 3 / 2}
        for i in range(60)
    ]
    pairs = [
        {"prompt": c["prompt"], "chosen": "good", "rejected": f"bad {i}"}
        for i, c in enumerate(chats)
    ]
    for name, records in (("text", texts), ("chats", chats), ("pairs", pairs)):
        lines = "".join(json.dumps(record) + "\n" for record in records)
        (tmp_path / f"{name}.jsonl").write_text(lines)
    return tmp_path


class Opened:
    """The result of `row_cache.open_data`, whether it read the source, and its messages."""

    def __init__(self, folder, schema, tokenizer=TOKENIZER, prompt_length=16, **settings):
        self.messages, self.read = [], 0
        config = DataConfig(**{"length": 64} | settings)

        def examples():
            self.read += 1
            return read_examples(config, schema)

        path = folder / "rows/data.zip"
        self.data, keep = row_cache.open_data(
            path, config, schema, tokenizer, examples, prompt_length, self.messages.append
        )
        keep()
        self.fresh = open_data(config, schema, tokenizer, None, prompt_length)


def same(a, b):
    for split in ("train", "heldout"):
        assert getattr(a, split).keys() == getattr(b, split).keys()
        for name, values in getattr(a, split).items():
            other = getattr(b, split)[name]
            assert values.dtype == other.dtype
            np.testing.assert_array_equal(values, other)
    names = ("heldout_examples", "skipped", "kinds", "train_examples", "sizes", "redacted")
    for name in (*names, "unused"):
        assert getattr(a, name) == getattr(b, name), name
        assert type(getattr(a, name)) is type(getattr(b, name)), name


@pytest.mark.parametrize(
    ("schema", "name", "settings"),
    [
        ("text", "text", {"redact": "email", "filters": {"min_length": 20}, "heldout_length": 32}),
        ("chat", "chats", {"on_long": "drop", "length": 40}),
        ("preference", "pairs", {}),
        ("prompt", "chats", {}),
        ("text", "", {}),
    ],
)
def test_a_second_start_finds_the_same_rows_and_reads_nothing(folder, schema, name, settings):
    if name:
        settings = settings | {"source": str(folder / f"{name}.jsonl")}
    else:
        given = {"a": {"source": str(folder / "text.jsonl")}, "b": {"source": f"{folder}/t*.jsonl"}}
        settings = {"source": "", "mixture": given}
    first, second = (Opened(folder, schema, **settings) for _ in range(2))
    assert (first.read, second.read) == (1, 0)
    assert first.messages == [] and "rows from the cache" in second.messages[0]
    same(first.data, first.fresh)
    same(second.data, first.fresh)
    assert Opened(folder, schema, **settings, batch_size=3).read == 0
    second.data.train["tokens"][0] = 0  # a copy, owned by the run


def test_whatever_decides_the_rows_makes_them_anew(folder, monkeypatch):
    source = folder / "text.jsonl"
    Opened(folder, "text", source=str(source))
    stat = source.stat()

    def changed(**settings):
        opened = Opened(folder, "text", **{"source": str(source)} | settings)
        same(opened.data, opened.fresh)
        if opened.read:
            assert "other data or settings: the data is read again" in opened.messages[0]
        return opened.read

    assert not changed()
    assert changed(length=32) and changed() and not changed()
    assert changed(filters={"min_length": 30}) and changed()
    assert changed(tokenizer=train("char", ["".join(map(chr, range(32, 200)))], 0)) and changed()
    # Another text of the same size; then the same text, written again.
    source.write_text(source.read_text().replace("number 7", "number 8"))
    assert changed() and not changed()
    os.utime(source, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert changed()
    more = folder / "more.jsonl"
    shutil.copy(source, more)
    assert changed(source=f"{folder}/[mt]*e*.jsonl") and not changed(
        source=f"{folder}/[mt]*e*.jsonl"
    )
    more.unlink()
    assert changed(source=f"{folder}/[mt]*e*.jsonl")
    wiki = {"e": {"source": str(folder / "eval.txt"), "fields": {}}}
    (folder / "eval.txt").write_text("one two three four five six seven\n")
    assert changed(decontaminate=wiki) and not changed(decontaminate=wiki)
    (folder / "eval.txt").write_text("one two three four five six seven eight\n")
    assert changed(decontaminate=wiki)
    monkeypatch.setattr(row_cache, "LIBRARIES", ("sentencepiece",))
    assert changed(decontaminate=wiki)


def hostile(whole: bytes) -> Iterator[bytes]:
    """Caches with the right key and checksum, made by somebody else."""
    with zipfile.ZipFile(io.BytesIO(whole[32:])) as file:
        header = file.read(row_cache.HEADER)
    huge = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        huge, {"descr": "<i4", "fortran_order": False, "shape": (1 << 40, 1 << 10)}
    )
    objects = io.BytesIO()
    np.save(objects, np.array([{"a": 1}], object), allow_pickle=True)
    for name, content in (
        ("train/tokens.npy", huge.getvalue()),
        ("train/tokens.npy", objects.getvalue()),
        ("../../tokens.npy", b""),
        ("train/tokens.npy", b"no array"),
        ("train/tokens.npy", None),
    ):
        out = io.BytesIO()
        with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as file:
            file.writestr(row_cache.HEADER, header)
            if content is None:  # zeros, which pack to a thousandth
                with file.open(name, "w", force_zip64=True) as member:
                    for _ in range(3):
                        member.write(bytes(16 << 20))
            else:
                file.writestr(name, content)
        yield hashlib.sha256(out.getvalue()).digest() + out.getvalue()


def test_a_damaged_file_is_made_anew(folder, monkeypatch):
    monkeypatch.setattr(row_cache, "MAX_BYTES", 16 << 20)
    source = str(folder / "text.jsonl")
    first = Opened(folder, "text", source=source)
    path = folder / "rows/data.zip"
    whole, rng, messages = path.read_bytes(), random.Random(0), set()
    broken = [b"", whole[:1], whole[: len(whole) // 2], whole[:-1], b"no zip"]
    # All of the zip's directory at the end, where a changed count would hide arrays.
    for at in (*rng.sample(range(len(whole)), 60), *range(len(whole) - 22, len(whole))):
        broken.append(whole[:at] + bytes([whole[at] ^ 0x41]) + whole[at + 1 :])
    config = DataConfig(source=source, length=64)
    examples = read_examples(config, "text")
    for content in broken:
        path.write_bytes(content)
        data, keep = row_cache.open_data(
            path, config, "text", TOKENIZER, lambda: examples, 16, messages.add
        )
        keep()
        same(data, first.fresh)
    assert any("is damaged" in text and "read again" in text for text in messages)
    for content in hostile(whole):
        path.write_bytes(content)
        data, _ = row_cache.open_data(
            path, config, "text", TOKENIZER, lambda: examples, 16, messages.add
        )
        same(data, first.fresh)
    assert any("unpacks to more than any row cache" in text for text in messages)
    path.write_bytes(whole)
    assert [p.name for p in path.parent.iterdir()] == ["data.zip"]
    with zipfile.ZipFile(path) as file:
        assert "train/tokens.npy" in file.namelist()


def test_nothing_is_written_before_it_is_asked_for_and_errors_come_through(folder):
    path = folder / "rows/data.zip"
    config = DataConfig(source=str(folder / "text.jsonl"), length=64)
    row_cache.open_data(path, config, "text", TOKENIZER, lambda: read_examples(config, "text"))
    assert not path.exists()
    with pytest.raises(DataError, match="no file"):
        Opened(folder, "text", source=str(folder / "txet.jsonl"))
    with pytest.raises(DataError, match="no field 'prompt'"):
        Opened(folder, "chat", source=str(folder / "text.jsonl"))
    assert not path.exists()


def test_many_rows_are_not_kept(folder, monkeypatch):
    monkeypatch.setattr(row_cache, "MAX_BYTES", 10_000)
    opened = Opened(folder, "text", source=str(folder / "text.jsonl"))
    assert "python -m data.prepare" in opened.messages[0] and not (folder / "rows").exists()


def test_prepared_rows_are_not_copied(folder):
    config = DataConfig(source=str(folder / "text.jsonl"), length=64)
    TOKENIZER.save(folder / "tokenizer")
    prepare_corpus(config, "text", str(folder / "out"), tokenizer=str(folder))
    assert Opened(folder, "text", source=str(folder / "out")).read == 1
    assert not (folder / "rows").exists()
