"""Properties of a normalised example (data/schemas)."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping

from data.schemas.messages import texts_of


def example_text(example: Mapping) -> str:
    """All text of an example: its messages with thoughts and tool calls, and its responses."""
    if "text" in example:
        return example["text"]
    parts = [text for message in example["messages"] for text in texts_of(message)]
    return "\n".join([*parts, *example.get("responses", ())])


def content_key(example: Mapping) -> bytes:
    """A hash that identifies an example: of its text, or of its messages before the answer."""
    if "text" in example:
        content = [["text", example["text"]]]
    else:
        content = [[message["role"], message["content"]] for message in example["messages"]]
        if content[-1][0] == "assistant":
            content.pop()
    content = [[kind, " ".join(text.split())] for kind, text in content]
    return hashlib.sha256(json.dumps(content).encode()).digest()
