"""Tokenizer and config files of open models: read as transformers reads them, or refused with the
file's name and what to do."""

import json

import open_models
import open_tokenizers
import pytest
from open_models import CONFIG, LFS, VALUES, refused

from data.text import tokenizer as tokenizers
from data.text.hf_tokenizer import ROWS, HFTokenizer
from train.interop import convert, export


def copy_of(directory, files=1, values=VALUES):
    return open_models.write(directory / "hf", values, files=files)


def one_more_token(special=True):
    """A tokenizer with an added token of id 320, which the 320 rows of CONFIG lack."""
    files = open_tokenizers.files()
    settings = json.loads(files["tokenizer.json"])
    last = max(t["id"] for t in settings["added_tokens"])
    token = dict(settings["added_tokens"][last], id=320, content="<image>", special=special)
    settings["added_tokens"].append(token)
    return files | {"tokenizer.json": json.dumps(settings).encode()}


def test_an_added_token_without_a_row(hf_dir, tmp_path, capsys):
    files = one_more_token(special=False) | {"tokenizer.model": b"\x0a\x00 of SentencePiece"}
    hf = open_models.write(tmp_path / "hf", VALUES, tokenizer_files=files)
    assert convert.import_model(str(hf), tmp_path / "run") == CONFIG
    assert "1 added tokens have no row" in capsys.readouterr().out
    tokenizer, plain = tokenizers.load(tmp_path / "run"), tokenizers.load(hf_dir)
    assert tokenizer.vocab_size == 320 and tokenizer.encode("hello") == plain.encode("hello")
    with pytest.raises(ValueError, match=r"holds '<image>', token 320 .* has no embedding"):
        tokenizer.encode("see <image> now")
    with pytest.raises(ValueError, match=r"holds '<image>', token 320 .* has no embedding"):
        tokenizer.render_prompt([{"role": "user", "content": "see <image> now"}])
    export.export_model(tmp_path / "run", tmp_path / "out")
    for name in ("tokenizer.json", "tokenizer.model"):
        assert (tmp_path / "out" / name).read_bytes() == files[name]
    assert "seedpod" not in (tmp_path / "out" / "tokenizer_config.json").read_text()


def test_a_special_token_without_a_row_is_text_as_any_special_token_is():
    tokenizer = HFTokenizer(one_more_token()).with_config(**{ROWS: 320})
    assert tokenizer.vocab_size == 320 and max(tokenizer.banned_ids) < 320
    text = "see <image> now"
    assert max(tokenizer.encode(text)) < 320 and tokenizer.decode(tokenizer.encode(text)) == text


def test_a_vocabulary_beyond_the_rows_is_of_another_model(tmp_path):
    files = open_tokenizers.files(vocab_size=330)
    hf = open_models.write(tmp_path / "hf", VALUES, tokenizer_files=files)
    assert "are not of one model" in refused(convert.import_model, str(hf), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "name, content, said",
    [
        ("tokenizer.json", b'{"version": "1.0", "model"', "tokenizer.json is not readable JSON"),
        ("tokenizer.json", b'{"model": {"type": "BPE"}}', "tokenizer files cannot be read"),
        ("tokenizer.json", LFS, "tokenizer.json is a pointer"),
        ("tokenizer_config.json", b"[1]", "tokenizer_config.json is not of the form"),
        ("tokenizer_config.json", b'{"eos_token": 5}', "tokenizer files cannot be read"),
        ("tokenizer_config.json", b"{}", "names no eos_token"),
        ("tokenizer_config.json", b"\xff\xfe{", "tokenizer_config.json is not readable JSON"),
        ("generation_config.json", b'{"eos_token_id": "2"}', "'2' in eos_token_id, which is no id"),
        ("generation_config.json", b'{"eos_token_id": [-1]}', "-1 in eos_token_id"),
        ("config.json", b"{", "config.json is not readable JSON"),
        ("config.json", LFS, "config.json is a pointer"),
    ],
)
def test_damaged_tokenizer_and_config_files(name, content, said, tmp_path):
    hf = copy_of(tmp_path)
    (hf / name).write_bytes(content)
    message = refused(convert.import_model, str(hf), tmp_path / "run")
    assert said in message and str(hf) in message


def test_ids_in_the_billions_are_refused():
    files = open_tokenizers.files()
    settings = json.loads(files["tokenizer.json"])
    settings["model"]["vocab"]["zzz"] = 4_000_000_000
    with pytest.raises(ValueError, match="4000000000"):
        HFTokenizer(files | {"tokenizer.json": json.dumps(settings).encode()})
