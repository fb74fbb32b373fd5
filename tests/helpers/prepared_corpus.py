"""A small corpus and its preparation."""

import random
from pathlib import Path
from typing import Any

from data.config import DataConfig
from data.prepare.run import prepare_corpus
from data.text.tokenizer import train

TOKENIZER = train("byte", [], 0)


def text(seed: int, count: int) -> str:
    rng = random.Random(seed)
    return " ".join(f"w{rng.randrange(900)}" for _ in range(count))


def config_of(corpus: Path, name: str, **settings: Any) -> DataConfig:
    return DataConfig(source=str(corpus / name), **{"length": 96} | settings)


def prepared_to(
    folder: Path, corpus: Path, config: DataConfig, schema: str = "text", **settings: Any
) -> dict:
    return prepare_corpus(config, schema, str(folder), tokenizer=str(corpus), **settings)


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in sorted(folder.iterdir()) if p.is_file()}
