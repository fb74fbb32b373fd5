"""The interface of all tokenizers: the built-in ones and those of open models."""

from __future__ import annotations

import abc
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from data.text.chat_template import ChatTemplate

SPACE = "\u2581"  # SentencePiece's character for a space


class Tokenizer(abc.ABC):
    """Text and conversations to ids in [0, vocab_size), and back.

    Attributes:
      kind: `sentencepiece`, `char`, `byte`, or `hf` (of an open model).
      fingerprint: a hash of everything that determines the ids.
      token_bytes: the UTF-8 that each id stands for; b"" for special ids.
      pad_id: fills a row. prefix: ids that open a document. eos_id: ends one.
      bos_id: the id named as the one that opens a document, whether or not `prefix` has it; None
        if no id is.
      stop_ids: ids that end an answer. banned_ids: ids that are never sampled, because nothing may
        open a role or a document inside an answer.
      fim_ids: the prefix, suffix and middle ids of fill in the middle, if there are any.
      template: the chat template, None for the built-in format and where there is none.
    """

    kind: str
    fingerprint: str
    token_bytes: list[bytes]
    pad_id: int
    prefix: tuple[int, ...]
    eos_id: int
    bos_id: int | None
    stop_ids: tuple[int, ...]
    banned_ids: tuple[int, ...]
    fim_ids: tuple[int, ...] = ()
    template: ChatTemplate | None = None

    @property
    def vocab_size(self) -> int:
        return len(self.token_bytes)

    @abc.abstractmethod
    def special_name(self, i: int) -> str:
        """The name of a special id, to show to people; "" for an id that stands for text."""

    @abc.abstractmethod
    def encode(self, text: str) -> list[int]:
        """Ids of plain text, none of them special.

        Raises:
          ValueError: the text has a lone surrogate, or a character without an id.
        """

    @abc.abstractmethod
    def encode_further(self, text: str) -> list[int]:
        """Ids of text that continues other text."""

    @abc.abstractmethod
    def encode_marked(self, text: str) -> list[int]:
        """Ids of text in which the names of special tokens stand for them: of a rendered
        conversation whose parts are no longer known."""

    @abc.abstractmethod
    def decode(self, ids: Iterable[int]) -> str:
        """Text of ids; special ids are dropped, and bytes that are not UTF-8 become U+FFFD."""

    @abc.abstractmethod
    def render(
        self, messages: Sequence[Mapping], tools: list | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """A whole conversation in the chat format.

        Returns:
          (ids [n] int32, authors [n] int32): the index of the message whose answer each token
          belongs to; -1 for tokens that the assistant does not write.

        Raises:
          DataError: the format cannot express the messages, or does not tell which tokens are the
            assistant's.
        """

    @abc.abstractmethod
    def render_prompt(self, messages: Sequence[Mapping], tools: list | None = None) -> np.ndarray:
        """Ids [n] int32 of a conversation that awaits an answer; the answer begins after them."""

    @abc.abstractmethod
    def save(self, directory: Any) -> None:
        """Writes the files from which `data.text.tokenizer.load` makes the same tokenizer."""

    def words(self) -> list[int]:
        """For each id the lowest id of the same word, ignoring case and surrounding spaces."""
        lowest: dict[str, int] = {}
        words = []
        for i, piece in enumerate(self.token_bytes):
            word = piece.decode("utf-8", errors="ignore").strip().lower()
            words.append(lowest.setdefault(word, i) if word else i)
        return words
