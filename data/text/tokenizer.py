"""Training a tokenizer on text, and loading one from a directory."""

from __future__ import annotations

import io
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Literal, NotRequired, TypedDict

import sentencepiece
from etils import epath

from data.errors import DataError
from data.read import json_files
from data.text import builtin
from data.text.base import Tokenizer
from data.text.builtin import BOS, EOS, FIM, PAD, SPECIAL, SYSTEM, UNK, BuiltinTokenizer
from data.text.hf_tokenizer import HFTokenizer

# SentencePiece silently drops longer training lines (in bytes).
_LONGEST_LINE = 4192


class _Header(TypedDict):
    """The tokenizer.json of a built-in tokenizer."""

    kind: Literal["sentencepiece", "char", "byte"]
    fingerprint: str
    fim: NotRequired[bool]


def load(directory: epath.PathLike) -> Tokenizer:
    """The tokenizer of a workdir, of a directory that `Tokenizer.save` wrote, or of a Hugging Face
    directory.

    Raises:
      FileNotFoundError: there is none. ValueError: its files do not belong together.
    """
    directory = epath.Path(directory)
    if (directory / "tokenizer").exists():
        directory = directory / "tokenizer"
    if not (directory / "tokenizer.json").exists():
        raise FileNotFoundError(
            f"{directory} holds no tokenizer.json; is it a Seedpod workdir, or a Hugging Face "
            "directory with a fast tokenizer? transformers makes one of tokenizer.model: "
            "AutoTokenizer.from_pretrained(DIR).save_pretrained(DIR)"
        )
    path = directory / "tokenizer.json"
    if "kind" not in json_files.read(path):
        return HFTokenizer.read(directory)
    header = json_files.read(path, _Header)
    model = (directory / "tokenizer.model").read_bytes()
    # Checked before the model is parsed: SentencePiece's errors do not say what is damaged.
    fim = header.get("fim", False)
    if builtin.fingerprint(header["kind"], model, fim) != header["fingerprint"]:
        raise ValueError(f"{directory}: tokenizer.model and tokenizer.json differ; copy both again")
    return BuiltinTokenizer(header["kind"], model, fim)


def train(kind: str, texts: Sequence[str], vocab_size: int, fim: bool = False) -> BuiltinTokenizer:
    """Makes a tokenizer from training text; the same texts give the same tokenizer.

    Args:
      kind: `sentencepiece`, `char` or `byte`.
      vocab_size: ids of a `sentencepiece` tokenizer, special ones included.
      fim: add the special ids of fill in the middle.

    Raises:
      DataError: SentencePiece cannot make a vocabulary of that size from the text.
    """
    if kind == "char":
        return BuiltinTokenizer(kind, "".join(sorted(set("".join(texts)))).encode(), fim)
    if kind != "sentencepiece":
        return BuiltinTokenizer(kind, b"", fim)
    out = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=_lines(texts),
            model_writer=out,
            model_type="bpe",
            vocab_size=vocab_size,
            byte_fallback=True,
            normalization_rule_name="identity",
            add_dummy_prefix=False,
            remove_extra_whitespaces=False,
            max_sentence_length=_LONGEST_LINE,
            pad_id=PAD,
            unk_id=UNK,
            bos_id=BOS,
            eos_id=EOS,
            pad_piece=SPECIAL[PAD],
            unk_piece=SPECIAL[UNK],
            bos_piece=SPECIAL[BOS],
            eos_piece=SPECIAL[EOS],
            control_symbols=[*SPECIAL[SYSTEM:], *(FIM if fim else ())],
            num_threads=1,  # the result must not depend on the machine
            minloglevel=2,
        )
    except RuntimeError as e:
        reason = re.sub(r"^INTERNAL: \S+ \[.*?\] ", "", str(e).splitlines()[-1])
        raise DataError(
            f"SentencePiece cannot make a vocabulary of {vocab_size} from this text: {reason} "
            "Set --config.tokenizer.vocab_size lower, or give it more text."
        ) from e
    return BuiltinTokenizer(kind, out.getvalue(), fim)


def _lines(texts: Iterable[str]) -> Iterator[str]:
    """Training lines of at most _LONGEST_LINE bytes, cut at a space where there is one."""
    for text in texts:
        data = text.replace("\0", "").encode()
        while data:
            end = len(data)
            if end > _LONGEST_LINE:
                end = data.rfind(b" ", 1, _LONGEST_LINE)
                if end < 1:
                    end = _LONGEST_LINE
                    while data[end] & 0xC0 == 0x80:  # not inside a character
                        end -= 1
            yield data[:end].decode()
            data = data[end:]
