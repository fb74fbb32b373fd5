"""Tokenizers: SentencePiece BPE trained on the run's own text, characters, or bytes.

All share the special ids below. They are inserted by id, never parsed from text, so no text can
forge a role or an end. `decode(encode(x)) == x` for every `x` that is valid Unicode (a character
tokenizer raises on a character it was not made with).
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterable, Sequence
from typing import Literal, NotRequired, TypedDict

import sentencepiece
from etils import epath

from data.read import json_files

SPECIAL = ("<pad>", "<unk>", "<bos>", "<eos>", "<|system|>", "<|user|>", "<|assistant|>")
PAD, UNK, BOS, EOS, SYSTEM, USER, ASSISTANT = range(len(SPECIAL))
# Of a tokenizer made with `fim` (data/text/fim.py), which come next.
FIM = ("<fim_prefix>", "<fim_suffix>", "<fim_middle>")
ROLES = {"system": SYSTEM, "user": USER, "assistant": ASSISTANT}
# Never sampled: nothing may open a role or a document inside a response.
NEVER_SAMPLED = (PAD, UNK, BOS, SYSTEM, USER, ASSISTANT)

# SentencePiece drops longer training lines without a word.
_LONGEST_LINE = 4192
# What SentencePiece writes for a space; literal ones are encoded as bytes instead.
_SPACE = "\u2581"


def _fingerprint(kind: str, model: bytes, fim: bool) -> str:
    kind += "+fim" if fim else ""
    return hashlib.sha256(kind.encode() + b"\0" + model).hexdigest()[:16]


class Tokenizer:
    """Ids are [0, vocab_size); `token_bytes[id]` is the UTF-8 that an id stands for.

    Attributes:
      kind: `sentencepiece`, `char` or `byte`.
      model: what the kind needs to be rebuilt, as bytes.
      pad_id: what fills a row. prefix: ids that open a document. eos_id: the id that ends one.
      stop_ids: ids that end an answer. banned_ids: never sampled, as nothing may open a role or a
        document inside a response.
      specials: names of the special ids, which are the first. fim_ids: those of `FIM`, if any.
    """

    pad_id, prefix, eos_id, stop_ids = PAD, (BOS,), EOS, (EOS,)
    banned_ids, fim_ids = NEVER_SAMPLED, ()

    def __init__(self, kind: str, model: bytes, fim: bool = False):
        self.kind, self.model, self.specials = kind, model, SPECIAL
        if fim:
            self.specials = SPECIAL + FIM
            self.fim_ids = tuple(range(len(SPECIAL), len(self.specials)))
            self.banned_ids = NEVER_SAMPLED + self.fim_ids
        first = len(self.specials)
        if kind == "sentencepiece":
            self._sp = sentencepiece.SentencePieceProcessor(model_proto=model)
            size = self._sp.get_piece_size()
            self.token_bytes = [b""] * first
            self.token_bytes += [self._piece_bytes(i) for i in range(first, size)]
            self._byte_id = {self.token_bytes[i]: i for i in range(size) if self._sp.is_byte(i)}
        elif kind == "char":
            self._id = {c: i for i, c in enumerate(model.decode(), start=first)}
            self.token_bytes = [b""] * first + [c.encode() for c in self._id]
        elif kind == "byte":
            self.token_bytes = [b""] * first + [bytes([b]) for b in range(256)]
        else:
            raise ValueError(f"tokenizer.kind={kind!r}; choose sentencepiece, char or byte")
        self.fingerprint = _fingerprint(kind, model, fim)

    def _piece_bytes(self, i: int) -> bytes:
        piece = self._sp.id_to_piece(i)
        return bytes([int(piece[3:5], 16)]) if self._sp.is_byte(i) else (
            piece.replace(_SPACE, " ").encode()
        )  # fmt: skip

    @property
    def vocab_size(self) -> int:
        return len(self.token_bytes)

    def special_name(self, i: int) -> str:
        """What a special id is called, for people; "" of one that stands for text."""
        return self.specials[i] if i < len(self.specials) else ""

    def encode(self, text: str) -> list[int]:
        """Ids of plain text; special ids never come out of it.

        Raises:
          ValueError: a lone surrogate, or a character that a `char` tokenizer does not know.
        """
        if self.kind == "byte":
            return [b + len(self.specials) for b in text.encode()]
        if self.kind == "char":
            try:
                return [self._id[c] for c in text]
            except KeyError as e:
                raise ValueError(
                    f"character {e.args[0]!r} is not in the char tokenizer of "
                    f"{len(self._id)}; use tokenizer.kind=sentencepiece or byte, which know all"
                ) from None
        text.encode()  # raises on a lone surrogate, as SentencePiece does with no good word
        ids = []
        for i, part in enumerate(text.split(_SPACE)):
            if i:
                ids += [self._byte_id[bytes([b])] for b in _SPACE.encode()]
            for j, line in enumerate(part.split("\0")):
                if j:  # SentencePiece would read NUL as the end of the text
                    ids.append(self._byte_id[b"\0"])
                if line:
                    ids += self._sp.encode(line)
        return ids

    def encode_further(self, text: str) -> list[int]:
        """Ids of text that goes on where other text ended."""
        return self.encode(text)

    def decode(self, ids: Iterable[int]) -> str:
        """Text of ids; special ids are dropped, and bytes that are not UTF-8 become U+FFFD."""
        return b"".join(self.token_bytes[i] for i in ids).decode("utf-8", errors="replace")

    def words(self) -> list[int]:
        """For each id the lowest id that is the same word: but for spaces around it, and case."""
        lowest: dict[str, int] = {}
        words = []
        for i, piece in enumerate(self.token_bytes):
            word = piece.decode("utf-8", errors="ignore").strip().lower()
            words.append(lowest.setdefault(word, i) if word else i)
        return words

    def save(self, directory) -> None:
        directory = epath.Path(directory)
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "tokenizer.model").write_bytes(self.model)
        facts = {"kind": self.kind, "fingerprint": self.fingerprint}
        if self.fim_ids:
            facts["fim"] = True
        (directory / "tokenizer.json").write_text(json.dumps(facts) + "\n")


class Facts(TypedDict):
    """What the tokenizer.json of `Tokenizer.save` says."""

    kind: Literal["sentencepiece", "char", "byte"]
    fingerprint: str
    fim: NotRequired[bool]


def load(directory) -> Tokenizer:
    """The tokenizer of a workdir, of a directory that `save` wrote, or of a Hugging Face directory.

    Raises:
      FileNotFoundError: there is none. ValueError: its files do not belong together.
    """
    from data.text.hf_tokenizer import HFTokenizer  # it builds on this file

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
    facts = json_files.read(path, Facts)
    model = (directory / "tokenizer.model").read_bytes()
    # Before it is parsed: SentencePiece does not say what is wrong with a broken one.
    fim = facts.get("fim", False)
    if _fingerprint(facts["kind"], model, fim) != facts["fingerprint"]:
        raise ValueError(f"{directory}: tokenizer.model and tokenizer.json differ; copy both again")
    return Tokenizer(facts["kind"], model, fim)


def _pieces(texts: Iterable[str]) -> Iterable[str]:
    """Cuts texts so that no training line is over the limit in bytes, at a space if it can."""
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


def train(kind: str, texts: Sequence[str], vocab_size: int, fim: bool = False) -> Tokenizer:
    """Makes a tokenizer from training text; the same texts give the same tokenizer.

    Args:
      kind: `sentencepiece`, `char` or `byte`. vocab_size: of sentencepiece, special ids included.
      fim: with the signs of fill in the middle.
    """
    if kind == "char":
        return Tokenizer(kind, "".join(sorted(set("".join(texts)))).encode(), fim)
    if kind != "sentencepiece":
        return Tokenizer(kind, b"", fim)
    out = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(_pieces(texts)),
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
        reason = str(e).splitlines()[-1]
        raise ValueError(
            f"SentencePiece cannot make a vocabulary of {vocab_size} from this text: {reason} "
            "Set --config.tokenizer.vocab_size lower, or give it more text."
        ) from e
    return Tokenizer(kind, out.getvalue(), fim)
