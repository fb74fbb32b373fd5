"""Tokenizers of open models: a Hugging Face `tokenizer.json` and the files beside it.

`encode` reads everything as plain text and gives no special token. Special ids come from `prefix`
and `eos_id`, and from the model's chat template where the template itself wrote them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import tokenizers
from etils import epath

from data.errors import DataError
from data.read import json_files
from data.text.base import SPACE, Tokenizer
from data.text.chat_template import (
    CHATML,
    CHATML_MARKERS,
    WHAT_TO_TYPE,
    ChatTemplate,
    Rendered,
    TemplateError,
)
from data.text.text_encoder import Encoder

# The files of a tokenizer in a directory; only the first is required. The last is not read, only
# copied, on import and on export, for other programs.
FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
    "generation_config.json",
    "tokenizer.model",
)
UNREAD = ("tokenizer.model",)
# Seedpod's keys in tokenizer_config.json: the date that a template's strftime_now gives, and how
# many ids have a row in the embedding, where some added tokens have none.
DATE, ROWS = "seedpod_date", "seedpod_rows"
# A vocabulary is a list by id; a damaged file may name ids in the billions.
_MOST_IDS = 1 << 24
_SPECIAL_NAMES = tuple(f"{n}_token" for n in ("bos", "eos", "pad", "unk", "sep", "cls", "mask"))
# Names of the special tokens of fill in the middle in open models.
_FIM_NAMES = ("<fim_{}>", "<|fim_{}|>")
_PROBE = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]


class HFTokenizer(Tokenizer):
    """A tokenizer of the `tokenizers` library.

    Args:
      files: {name: bytes}, names as in `FILES`. origin: where it was read, for error messages.

    Attributes:
      files: as given. special: {"bos_token": text, …}, the named special tokens that it has.
      tool_template: the chat template for records with tools, where that is another.

    Raises:
      DataError: the files lack a tokenizer, or an end-of-text token, or are damaged.
    """

    def __init__(self, files: Mapping[str, bytes], origin: str = "tokenizer"):
        self.kind, self.files, self.origin = "hf", dict(files), origin
        try:
            self._open()
        except (DataError, KeyboardInterrupt, SystemExit):
            raise
        except BaseException as e:  # `tokenizers` raises Exception, and a panic is no Exception
            reason = str(e).strip().splitlines() or [type(e).__name__]
            raise DataError(
                f"{origin}: its tokenizer files cannot be read ({reason[0][:200]}). They are "
                "damaged, or of a later version of `tokenizers`: download them again"
            ) from e

    def _open(self) -> None:
        config = self._json("tokenizer_config.json")
        content = self.files["tokenizer.json"]
        json_files.check_content(content, f"{self.origin}/tokenizer.json")
        self._tokenizer = tokenizers.Tokenizer.from_str(content.decode())
        added = self._tokenizer.get_added_tokens_decoder()
        self._special_ids = {t.content: i for i, t in added.items() if t.special}
        self.special = self._special_tokens(config)
        for text in self.special.values():  # a named token is special whatever the file says
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
            raise TemplateError(f"{self.origin}: {e}") from e
        self._set_ids()
        for name in _FIM_NAMES:
            part_ids = [self.token_id(name.format(part)) for part in ("prefix", "suffix", "middle")]
            ids = [i for i in part_ids if i is not None]
            if len(ids) == len(part_ids) and max(ids) < self.vocab_size:
                self.fim_ids = tuple(ids)
        read = sorted(self.files.keys() - set(UNREAD))
        content = b"\0".join(n.encode() + b"\0" + self.files[n] for n in read)
        self.fingerprint = hashlib.sha256(content).hexdigest()[:16]

    @classmethod
    def read(cls, directory: epath.PathLike) -> HFTokenizer:
        """The tokenizer whose files are in a directory."""
        directory = epath.Path(directory)
        paths = {name: directory / name for name in FILES if (directory / name).exists()}
        return cls({name: path.read_bytes() for name, path in paths.items()}, str(directory))

    def save(self, directory: epath.PathLike) -> None:
        directory = epath.Path(directory)
        directory.mkdir(parents=True, exist_ok=True)
        for name, content in self.files.items():
            (directory / name).write_bytes(content)

    def special_name(self, i: int) -> str:
        return self.token_of(i) if i in self._control else ""

    def _json(self, name: str) -> dict:
        return json_files.parse(self.files.get(name, b"{}"), f"{self.origin}/{name}")

    def added_from(self, first: int) -> list[str]:
        """The added tokens with ids of at least `first`.

        Raises:
          ValueError: one of these ids belongs to the vocabulary itself.
        """
        added = self._tokenizer.get_added_tokens_decoder()
        if not set(range(first, self.vocab_size)) <= added.keys():
            raise ValueError(f"{self.origin}: id {first} is of the vocabulary itself")
        return [added[i].content for i in range(first, self.vocab_size)]

    def with_config(self, **settings) -> HFTokenizer:
        """A copy with these keys of its tokenizer_config.json set."""
        config = self._json("tokenizer_config.json") | settings
        content = json.dumps(config, indent=2, ensure_ascii=False).encode()
        return HFTokenizer(self.files | {"tokenizer_config.json": content}, self.origin)

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
        """(the template, the one for records with tools); "" where there is none."""
        if "chat_template.jinja" in self.files:
            return self.files["chat_template.jinja"].decode(), ""
        source = config.get("chat_template") or ""
        if isinstance(source, list):  # several named templates
            named = {t["name"]: t["template"] for t in source}
            return named.get("default", ""), named.get("tool_use", "")
        return source, ""

    def _set_ids(self) -> None:
        """Sets the ids of the interface: prefix, eos, stop, pad and banned ids."""
        ids = self._tokenizer.encode("a", add_special_tokens=True).ids
        plain = self._tokenizer.encode("a", add_special_tokens=False).ids
        start = next((i for i in range(len(ids)) if ids[i : i + len(plain)] == plain), 0)
        self.prefix = tuple(ids[:start])
        self._encoder = Encoder(self._tokenizer, self._special_ids)
        generation = self._json("generation_config.json")
        stops = generation.get("eos_token_id")
        stops = stops if isinstance(stops, list) else [] if stops is None else [stops]
        for i in stops:
            if not isinstance(i, int) or isinstance(i, bool) or not 0 <= i < 2**31:
                raise DataError(
                    f"{self.origin}/generation_config.json has {i!r:.40} in eos_token_id, which is "
                    "no id; set it to the id, or the list of ids, that end an answer"
                )
        eos = self._special_id("eos_token")
        if eos is None and not stops:
            raise DataError(
                f"{self.origin} names no eos_token that is in its vocabulary, so nothing would end "
                'a text; set "eos_token" in its tokenizer_config.json'
            )
        self.eos_id = stops[0] if eos is None else eos
        self.bos_id = self._special_id("bos_token")
        self.stop_ids = tuple(dict.fromkeys([self.eos_id, *stops, *self._turn_end_ids()]))
        pad = self._special_id("pad_token")
        self.pad_id = self.eos_id if pad is None or pad >= self.vocab_size else pad
        self.banned_ids = tuple(sorted(self._control - set(self.stop_ids)))

    def _special_id(self, name: str) -> int | None:
        """The id of a named special token, if it is named and in the vocabulary."""
        text = self.special.get(name)
        return None if text is None else self._special_ids.get(text)

    def _turn_end_ids(self) -> list[int]:
        """The special token that the template writes after an answer, if any."""
        if self.template is None:
            return []
        try:
            rendered = self.template.plain(_PROBE)
        except TemplateError:
            return []  # a template that refuses two plain turns is reported when it is used
        after = rendered.text[max((end for _, end in rendered.content), default=0) :]
        ends = [(at, -len(t), t) for t in self._special_ids if (at := after.find(t)) >= 0]
        return [self._special_ids[min(ends)[-1]]] if ends else []

    def _check_rows(self, ids: list[int]) -> list[int]:
        """The ids, after a check that each has a row in the embedding.

        Raises:
          DataError: one has none; the message names the token.
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
        """The text of an id; "" for one that the tokenizer does not have."""
        return self._tokenizer.id_to_token(index) or ""

    def encode(self, text: str) -> list[int]:
        """Ids of plain text, none of them special; a token that the model's makers added without
        making it special (`<think>`) is recognized."""
        text.encode()  # raises on a lone surrogate, as the built-in tokenizers do
        return self._check_rows(self._encoder.text(text))

    def encode_further(self, text: str) -> list[int]:
        text.encode()
        return self._check_rows(self._encoder.further(text))

    def encode_marked(self, text: str) -> list[int]:
        return self._check_rows(self._encoder.page(text, ()).ids)

    def decode(self, ids: Iterable[int]) -> str:
        return self._tokenizer.decode([int(i) for i in ids if int(i) not in self._control])

    # Conversations.

    def render(
        self, messages: Sequence[Mapping], tools: list | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        rendered = self._template(tools).conversation(messages, tools)
        responses = [self._with_end(rendered, n) for n in range(len(rendered.responses))]
        last_starts = [
            start
            for (start, _), author in zip(responses, rendered.authors, strict=True)
            if author == rendered.authors[-1]
        ]
        tokens = self._encoder.page(rendered.text, rendered.content, min(last_starts, default=None))
        authors = np.full(len(tokens.ids), -1, np.int32)
        begins, ends = np.array(tokens.offsets, np.int64).reshape(-1, 2).T
        for (start, end), author in zip(responses, rendered.authors, strict=True):
            inside = np.flatnonzero((begins < end) & (ends > start))
            # A token that straddles the start belongs to the answer if its part of the prompt is
            # spaces alone; otherwise it is not learned.
            if len(inside) and (prompt := rendered.text[begins[inside[0]] : start]):
                special = tokens.ids[inside[0]] in self._control
                inside = inside[1:] if special or prompt.strip(" ") else inside
            authors[inside] = author
        return np.array(self._check_rows(tokens.ids), np.int32), authors

    def render_prompt(self, messages: Sequence[Mapping], tools: list | None = None) -> np.ndarray:
        """The ids that `transformers` gives, except that the text of a special token in a message
        is plain text here."""
        rendered = self._template(tools).plain(messages, tools, prompt=True)
        ids = self._encoder.page(rendered.text, rendered.content).ids
        return np.array(self._check_rows(ids), np.int32)

    def _template(self, tools=None) -> ChatTemplate:
        if self.template is None:
            raise TemplateError(
                f"{self.origin} has no chat template, so conversations have no form; import the "
                "model with --chat_template=chatml (or a Jinja file)",
                reason="",  # not the fault of one record
            )
        return self.tool_template if tools and self.tool_template else self.template

    def _with_end(self, rendered: Rendered, n: int) -> tuple[int, int]:
        """(start, end) of response n, including the token that ends the turn."""
        start, end = rendered.responses[n]
        if rendered.marked:
            return start, end
        rest = rendered.text[end : rendered.limits[n]]
        stops = [t for t, i in self._special_ids.items() if i in self.stop_ids]
        ends = [(at, -len(t), at + len(t)) for t in stops if (at := rest.find(t)) >= 0]
        if not ends and n + 1 < len(rendered.responses):
            return start, end  # an earlier answer: the last one teaches how to stop
        if not ends:
            raise TemplateError(
                f"{rendered.line(end)} ends an answer with no token that stops generation (those "
                f"are {', '.join(map(str, self.stop_ids))}), so the model could not learn to stop. "
                f"{WHAT_TO_TYPE}"
            )
        return start, end + min(ends)[-1]


def byte_alphabet() -> dict[str, int]:
    """{character: byte} of byte-level BPE: printable Latin-1 characters stand for themselves, the
    other bytes for characters from U+0100 on."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = [b for b in range(256) if b not in printable]
    return {chr(b): b for b in printable} | {chr(0x100 + n): b for n, b in enumerate(others)}


def _token_bytes(tokenizer, special: set[int]) -> list[bytes]:
    """The UTF-8 that each id stands for; b"" for special and missing ids."""
    decoder = json.loads(tokenizer.decoder.__getstate__()) if tokenizer.decoder else {}
    byte_level = "ByteLevel" in [d.get("type") for d in [decoder, *decoder.get("decoders", ())]]
    fallback = getattr(tokenizer.model, "byte_fallback", None)
    if fallback is None:  # a Unigram model has it in its JSON alone, which is long
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
            out[i] = piece.replace(SPACE, " ").encode()
    return out


def with_template(tokenizer: HFTokenizer, template: str) -> HFTokenizer:
    """A copy with another chat template; its vocabulary may have grown.

    Args:
      template: `chatml`, whose markers become special tokens and stop ids, or Jinja text, which
        uses the existing tokens.
    """
    files = dict(tokenizer.files)
    if template == "chatml":
        template = CHATML
        inner = tokenizers.Tokenizer.from_str(files["tokenizer.json"].decode())
        inner.add_special_tokens(list(CHATML_MARKERS))
        files["tokenizer.json"] = inner.to_str().encode()
    files["chat_template.jinja"] = template.encode()
    return HFTokenizer(files, tokenizer.origin)
