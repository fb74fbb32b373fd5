"""Damaged and unusual GGUF files."""

import dataclasses
import time

import gguf
import numpy as np
import open_models
import pytest
from open_models import CONFIG, LFS, UP, VALUES, refused, write_gguf

from data.text.hf_tokenizer import byte_alphabet
from ranges import ConfigError
from train.interop import gguf_files, published


@pytest.fixture(scope="module")
def gguf_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("gguf") / "model.gguf"
    write_gguf(path, "llama", CONFIG, VALUES)
    return path


def test_damaged_gguf_files_are_one_line(gguf_file, tmp_path):
    content, rng = gguf_file.read_bytes(), np.random.default_rng(0)
    header = content.index(b"blk.") + 2000
    path = tmp_path / "x.gguf"
    for number in range(150):
        damaged = bytearray(content)
        if number % 3:
            for at in rng.integers(4, header, 1 + number % 4):
                damaged[at] = rng.integers(256)
        else:
            damaged = damaged[: rng.integers(len(content))]
        path.write_bytes(damaged)
        try:
            published.open_source(str(path))
        except ConfigError as e:
            assert str(path) in str(e) and "\n" not in str(e) and len(str(e)) < 700
    path.write_bytes(content[:-10])
    assert "broke off" in refused(published.load, path)
    path.write_bytes(LFS)
    assert "pointer of Git LFS" in refused(published.load, path)


def test_gguf_weights_that_are_no_numbers_or_of_unknown_types(tmp_path):
    values = VALUES | {UP: np.full_like(VALUES[UP], np.nan)}
    write_gguf(tmp_path / "nan.gguf", "llama", CONFIG, values)
    said = refused(published.load, tmp_path / "nan.gguf")
    assert f"nan.gguf: {UP} holds NaN" in said
    write_gguf(tmp_path / "a.gguf", "llama", CONFIG, VALUES)
    model = gguf_files.GGUFModel(tmp_path / "a.gguf")
    stored_as = gguf.GGMLQuantizationType.I32
    model._tensors["output.weight"] = model._tensors["output.weight"]._replace(
        tensor_type=stored_as
    )
    assert "stored as I32" in refused(model.read, "lm_head.weight")


@pytest.mark.slow
def test_a_vocabulary_of_150_000_tokens_is_read_in_seconds(tmp_path):
    writer = gguf.GGUFWriter(str(tmp_path / "v.gguf"), "llama")
    config = dataclasses.replace(CONFIG, vocab_size=150_000)
    letters = list(byte_alphabet())
    words, merges = [*letters], []
    for word in words:  # which grows
        room = config.vocab_size - 2 - len(words)
        words += [word + letter for letter in letters[:room]]
        merges += [f"{word} {letter}" for letter in letters[:room]]
        if not room:
            break
    tokens = ["<s>", "</s>", *words]
    for name, value in dict(
        block_count=2, embedding_length=16, feed_forward_length=24, context_length=64,
        head_count=4, head_count_kv=2, key_length=8, layer_norm_rms_eps=1e-5,
        tokenizer_model="gpt2", tokenizer_pre="gpt-2", token_list=tokens, token_merges=merges,
        token_types=[3, 3] + [1] * (len(tokens) - 2), bos_token_id=0, eos_token_id=1,
    ).items():  # fmt: skip
        getattr(writer, f"add_{name}")(value)
    table = gguf.get_tensor_name_map(gguf_files.ARCHITECTURES["llama"], 2)
    for name, value in open_models.tensors(config).items():
        writer.add_tensor(table.get_name(name, (".weight", ".bias")), value)
    for step in ("write_header", "write_kv_data", "write_tensors"):
        getattr(writer, f"{step}_to_file")()
    writer.close()
    begun = time.time()
    assert published.open_source(str(tmp_path / "v.gguf")).tokenizer.vocab_size == 150_000
    assert time.time() - begun < 10
