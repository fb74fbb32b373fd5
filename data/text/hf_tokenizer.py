"""Tokenizers of open models: a Hugging Face `tokenizer.json` and the files beside it.

`encode` takes text for text: no special token comes out of it. Special ids are put in by
`document` and by the model's chat template, where the template itself wrote them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence

import numpy as np
import tokenizers
from etils import epath

from data.errors import DataError
from data.read import json_files
from data.text.chat_template import (
    CHATML,
    CHATML_MARKERS,
    WHAT_TO_TYPE,
    ChatTemplate,
    TemplateError,
)
from data.text.text_encoder import Encoder
from data.text.tokenizer import Tokenizer

# What a directory may hold of a tokenizer; the first it must. The last is not read: it is kept for
# other programs, and leaves again at an export.
FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
    "generation_config.json",
    "tokenizer.model",
)
UNREAD = ("tokenizer.model",)
# Our keys in tokenizer_config.json: the day that a template's strftime_now tells, and how many ids
# have a row in the embedding, where added tokens have none.
DATE, ROWS = "seedpod_date", "seedpod_rows"
# A vocabulary is a list by id; a damaged file may name ids in the billions.
_MOST_IDS = 1 << 24
_SPECIAL_NAMES = tuple(f"{n}_token" for n in ("bos", "eos", "pad", "unk", "sep", "cls", "mask"))
# How models' makers call the signs of fill in the middle.
_FIM_NAMES = ("<fim_{}>", "<|fim_{}|>")
_PROBE = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]


class HFTokenizer(Tokenizer):
    """A tokenizer of the `tokenizers` library, with the interface of our own.

    Args:
      files: {name: bytes}, of `FILES`. where: what messages call it.

    Attributes:
      files: as given. special: {"bos_token": text, …} of those there are. template: ChatTemplate
        or None.

    Raises:
      ValueError: the files lack a tokenizer, or an end-of-text token, or are damaged.
    """

    def __init__(self, files: Mapping[str, bytes], where: str = "tokenizer"):
        self.kind, self.files, self.where = "hf", dict(files), where
        try:
            self._open()
        except (DataError, KeyboardInterrupt, SystemExit):
            raise
        except TemplateError as e:
            raise TemplateError(f"{where}: {e}") from e
        except BaseException as e:  # `tokenizers` raises plain Exceptions, and its panics are none
            reason = str(e).strip().splitlines() or [type(e).__name__]
            raise DataError(
                f"{where}: its tokenizer files cannot be read ({reason[0][:200]}). They are "
                "damaged, or of a later version of `tokenizers`: download them again"
            ) from e

    def _open(self) -> None:
        config = self._json("tokenizer_config.json")
        content = self.files["tokenizer.json"]
        json_files.check_content(content, f"{self.where}/tokenizer.json")
        self._tokenizer = tokenizers.Tokenizer.from_str(content.decode())
        added = self._tokenizer.get_added_tokens_decoder()
        self._special_ids = {t.content: i for i, t in added.items() if t.special}
        self.special = self._special_tokens(config)
        for text in self.special.values():  # named ones are special whatever the file says
            if (index := self._tokenizer.token_to_id(text)) is not None:
                if text not in self._special_ids:
                    self._tokenizer.add_special_tokens([text])
                self._special_ids[text] = index
        self._control = set(self._special_ids.values())
        self.token_bytes = _token_bytes(self._tokenizer, self._control)
        rows = config.get(ROWS, len(self.token_bytes))
        del self.token_bytes[rows:]
        self._control = {i for i in self._control if i < rows}
        try:
            self.template, self.tool_template = (
                ChatTemplate(source, self.special, config.get(DATE, "")) if source else None
                for source in self._template_sources(config)
            )
        except TemplateError as e:
            raise TemplateError(f"{self.where}: {e}") from e
        self._set_ids()
        for name in _FIM_NAMES:
            ids = [self.token_id(name.format(part)) for part in ("prefix", "suffix", "middle")]
            if None not in ids and max(ids) < self.vocab_size:
                self.fim_ids = tuple(ids)
        read = sorted(self.files.keys() - set(UNREAD))
        content = b"\0".join(n.encode() + b"\0" + self.files[n] for n in read)
        self.fingerprint = hashlib.sha256(content).hexdigest()[:16]

    @classmethod
    def read(cls, directory) -> HFTokenizer:
        directory = epath.Path(directory)
        found = {n: directory / n for n in FILES if (directory / n).exists()}
        return cls({n: path.read_bytes() for n, path in found.items()}, str(directory))

    def save(self, directory) -> None:
        directory = epath.Path(directory)
        directory.mkdir(parents=True, exist_ok=True)
        for name, content in self.files.items():
            (directory / name).write_bytes(content)

    def special_name(self, i: int) -> str:
        return self._tokenizer.id_to_token(i) if i in self._control else ""

    def _json(self, name: str) -> dict:
        return json_files.parse(self.files.get(name, b"{}"), f"{self.where}/{name}")

    def added_from(self, first: int) -> list[str]:
        """The added tokens with ids of at least `first`, if every such id is one of an added token.

        Raises:
          ValueError: one is of the vocabulary itself.
        """
        added = self._tokenizer.get_added_tokens_decoder()
        if not set(range(first, self.vocab_size)) <= added.keys():
            raise ValueError(f"{self.where}: id {first} is of the vocabulary itself")
        return [added[i].content for i in range(first, self.vocab_size)]

    def with_config(self, **facts) -> HFTokenizer:
        """The tokenizer with keys of its tokenizer_config.json set."""
        facts = self._json("tokenizer_config.json") | facts
        content = json.dumps(facts, indent=2, ensure_ascii=False).encode()
        return HFTokenizer(self.files | {"tokenizer_config.json": content}, self.where)

    def _special_tokens(self, config) -> dict[str, str]:
        given = self._json("special_tokens_map.json") | config
        named = {}
        for name in _SPECIAL_NAMES:
            value = given.get(name)
            value = value.get("content") if isinstance(value, dict) else value
            if value:
                named[name] = value
        return named

    def _template_sources(self, config) -> tuple[str, str]:
        """The template, and the one for records with tools if that is another."""
        if "chat_template.jinja" in self.files:
            return self.files["chat_template.jinja"].decode(), ""
        source = config.get("chat_template") or ""
        if isinstance(source, list):  # several by name
            named = {t["name"]: t["template"] for t in source}
            return named.get("default", ""), named.get("tool_use", "")
        return source, ""

    def _set_ids(self) -> None:
        """The ids of the interface: bos before a document, eos after it, what stops an answer."""
        one = self._tokenizer.encode("a", add_special_tokens=True).ids
        inside = self._tokenizer.encode("a", add_special_tokens=False).ids
        at = next((i for i in range(len(one)) if one[i : i + len(inside)] == inside), 0)
        self.prefix = tuple(one[:at])
        self._encoder = Encoder(self._tokenizer, self._special_ids)
        generation = self._json("generation_config.json")
        stops = generation.get("eos_token_id")
        stops = stops if isinstance(stops, list) else [] if stops is None else [stops]
        for i in stops:
            if not isinstance(i, int) or isinstance(i, bool) or not 0 <= i < 2**31:
                raise DataError(
                    f"{self.where}/generation_config.json has {i!r:.40} in eos_token_id, which is "
                    "no id; set it to the id, or the list of ids, that end an answer"
                )
        eos = self._special_ids.get(self.special.get("eos_token"))
        if eos is None and not stops:
            raise DataError(
                f"{self.where} names no eos_token that is in its vocabulary, so nothing would end "
                'a text; set "eos_token" in its tokenizer_config.json'
            )
        self.eos_id = stops[0] if eos is None else eos
        self.stop_ids = tuple(dict.fromkeys([self.eos_id, *stops, *self._ends_of_turn()]))
        pad = self._special_ids.get(self.special.get("pad_token"))
        self.pad_id = self.eos_id if pad is None or pad >= self.vocab_size else pad
        self.banned_ids = tuple(sorted(self._control - set(self.stop_ids)))

    def _ends_of_turn(self) -> list[int]:
        """The special token that the template writes after an answer, if it does."""
        if self.template is None:
            return []
        try:
            seen = self.template.plain(_PROBE)
        except TemplateError:
            return []  # what it cannot show of two plain turns is said when it is used
        after = seen.text[max((end for _, end in seen.content), default=0) :]
        ends = [(at, -len(t), t) for t in self._special_ids if (at := after.find(t)) >= 0]
        return [self._special_ids[min(ends)[-1]]] if ends else []

    def _in_rows(self, ids: list[int]) -> list[int]:
        """The ids, none of which is beyond the embedding: it would be another token's row.

        Raises:
          DataError: naming the token.
        """
        beyond = next((i for i in ids if i >= self.vocab_size), None)
        if beyond is not None:
            raise DataError(
                f"the text holds {self.token_of(beyond)!r}, token {beyond} of the tokenizer, for "
                f"which the model has no embedding (it has {self.vocab_size}); take it out of the "
                "text",
                "no_embedding",
            )
        return ids

    def token_id(self, text: str) -> int | None:
        """The id of one token, special or not."""
        return self._tokenizer.token_to_id(text)

    def token_of(self, index: int) -> str:
        return self._tokenizer.id_to_token(index)

    def encode(self, text: str) -> list[int]:
        """Ids of plain text; special ids never come out of it.

        Tokens that the model's makers added without making them special (`<think>`) do.
        """
        text.encode()  # a lone surrogate raises here, as it does with our own
        return self._in_rows(self._encoder.text(text))

    def encode_further(self, text: str) -> list[int]:
        text.encode()
        return self._in_rows(self._encoder.further(text))

    def decode(self, ids) -> str:
        """Text of ids; special ids are dropped."""
        return self._tokenizer.decode([int(i) for i in ids if int(i) not in self._control])

    # Conversations.

    def render(self, messages: Sequence[Mapping], tools=None):
        """A whole conversation, by the chat template.

        Returns:
          (ids [n] int32, authors [n] int32): which message each token is to be learned of, by its
          number; -1 for what the assistant does not write.

        Raises:
          TemplateError: there is no template, it has no place for what the messages say, or which
            tokens are the assistant's cannot be told.
        """
        seen = self._template(tools).conversation(messages, tools)
        responses = [self._with_end(seen, n) for n in range(len(seen.responses))]
        last = [r[0] for r, i in zip(responses, seen.authors, strict=True) if i == seen.authors[-1]]
        tokens = self._encoder.page(seen.text, seen.content, min(last, default=None))
        authors = np.full(len(tokens.ids), -1, np.int32)
        begins, ends = np.array(tokens.offsets, np.int64).reshape(-1, 2).T
        for (start, end), author in zip(responses, seen.authors, strict=True):
            found = np.flatnonzero((begins < end) & (ends > start))
            # A token across the start goes with the answer if all that it has of the prompt is
            # spaces, and is not learned otherwise.
            if len(found) and (prompt := seen.text[begins[found[0]] : start]):
                special = tokens.ids[found[0]] in self._control
                found = found[1:] if special or prompt.strip(" ") else found
            authors[found] = author
        return np.array(self._in_rows(tokens.ids), np.int32), authors

    def render_prompt(self, messages: Sequence[Mapping], tools=None) -> np.ndarray:
        """A conversation that awaits an answer -> ids that end where it begins, [n] int32.

        They are those of `transformers`, but that the text of a special token in a message is text.
        """
        seen = self._template(tools).plain(messages, tools, prompt=True)
        return np.array(self._in_rows(self._encoder.page(seen.text, seen.content).ids), np.int32)

    def _template(self, tools=None) -> ChatTemplate:
        if self.template is None:
            raise TemplateError(
                f"{self.where} has no chat template, so conversations have no form; import the "
                "model with --chat_template=chatml (or a Jinja file)",
                reason="",  # no record's fault
            )
        return self.tool_template if tools and self.tool_template else self.template

    def _with_end(self, seen, n: int):
        """Response n through the token that ends the turn."""
        start, end = seen.responses[n]
        if seen.marked:
            return start, end
        rest = seen.text[end : seen.limits[n]]
        stops = [t for t, i in self._special_ids.items() if i in self.stop_ids]
        ends = [(at, -len(t), at + len(t)) for t in stops if (at := rest.find(t)) >= 0]
        if not ends and n + 1 < len(seen.responses):
            return start, end  # of the past: the last answer shows how to stop
        if not ends:
            raise TemplateError(
                f"{seen.line(end)} ends an answer with no token that stops generation (those are "
                f"{', '.join(map(str, self.stop_ids))}), so the model could not learn to stop. "
                f"{WHAT_TO_TYPE}"
            )
        return start, end + min(ends)[-1]


def byte_alphabet() -> dict[str, int]:
    """Character -> byte of byte-level BPE: printable Latin-1 is itself, the rest is from U+0100."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = [b for b in range(256) if b not in printable]
    return {chr(b): b for b in printable} | {chr(0x100 + n): b for n, b in enumerate(others)}


def _token_bytes(tokenizer, special: set[int]) -> list[bytes]:
    """The UTF-8 that each id stands for; b"" for special ids and for ids that are not there."""
    decoder = json.loads(tokenizer.decoder.__getstate__()) if tokenizer.decoder else {}
    byte_level = "ByteLevel" in [d.get("type") for d in [decoder, *decoder.get("decoders", ())]]
    fallback = getattr(tokenizer.model, "byte_fallback", None)
    if fallback is None:  # of Unigram it is in the JSON alone, which is long
        fallback = json.loads(tokenizer.model.__getstate__()).get("byte_fallback", False)
    alphabet, added = byte_alphabet(), tokenizer.get_added_tokens_decoder()
    vocab = tokenizer.get_vocab(with_added_tokens=True)
    if max(vocab.values()) >= _MOST_IDS:
        raise ValueError(f"tokenizer.json has the id {max(vocab.values())}")
    out = [b""] * (max(vocab.values()) + 1)
    for piece, i in vocab.items():
        if i in special:
            continue
        if i in added:
            out[i] = piece.encode()
        elif byte_level:
            known = all(c in alphabet for c in piece)
            out[i] = bytes(alphabet[c] for c in piece) if known else piece.encode()
        elif fallback and len(piece) == 6 and piece.startswith("<0x"):
            out[i] = bytes([int(piece[3:5], 16)])
        else:
            out[i] = piece.replace("\u2581", " ").encode()
    return out


def with_template(tokenizer: HFTokenizer, template: str) -> HFTokenizer:
    """A tokenizer with another chat template; its vocabulary may have grown.

    Args:
      template: `chatml`, whose markers become special tokens and stop ids, or Jinja text, which
        must do with the tokens there are.
    """
    files = dict(tokenizer.files)
    if template == "chatml":
        template = CHATML
        inner = tokenizers.Tokenizer.from_str(files["tokenizer.json"].decode())
        inner.add_special_tokens(list(CHATML_MARKERS))
        files["tokenizer.json"] = inner.to_str().encode()
    files["chat_template.jinja"] = template.encode()
    return HFTokenizer(files, tokenizer.where)
