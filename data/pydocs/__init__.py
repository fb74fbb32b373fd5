"""pydocs, the built-in corpus: the documentation of the Python that runs Seedpod.

Real text on every machine, without a download: about 2.7 MB of prose and more than 7,000 questions
with answers, in a few seconds. Importing this module registers the TFDS builder, so that

    import data.pydocs
    tfds.data_source("pydocs/chat", split="train", data_dir=DIR)

reads it like any other data set; `build_dataset` writes the ArrayRecord files first, without
output. Neither needs TensorFlow. Three configs, each with train, validation and test splits (about
90 / 5 / 5):

text         name, text: a docstring or a chapter of the language reference, under its name
chat         name, kind, prompt, response: "What does `shutil.copytree` do?" and the first
             paragraph of its docstring
preferences  name, prompt, chosen, rejected: the right answer, and for each kind of mistake in
             data/pydocs/preferences.py's KINDS one worse reply ({"kind": [...], "text": [...]});
             each training question occurs three times, with different worse replies

No answer is in two splits, of one config or of different ones (data/pydocs/corpus.py).
"""

import contextlib
import functools
import io
import os
import sys
from collections.abc import Iterator, Sequence
from typing import ClassVar

import tensorflow_datasets as tfds
from absl import logging

from data.pydocs import corpus, extract
from data.pydocs.preferences import Preference, preferences_of

CONFIGS = {
    "text": "Docstrings and chapters of the language reference, one a document.",
    "chat": "What a name of the standard library does: questions and answers.",
    "preferences": "The right answer to each question, and five kinds of worse ones.",
}


class _LocalInfo(tfds.core.DatasetInfo):
    """Information made here; TFDS would look for it on Google Cloud Storage first."""

    def initialize_from_bucket(self) -> None:
        pass


class Pydocs(tfds.core.GeneratorBasedBuilder):
    """The documentation of the running Python, as text, questions and preferences."""

    # The first number is this code's: raise it when the records change. The others are Python's,
    # because the records are its documentation and differ between versions.
    VERSION = tfds.core.Version(f"2.{sys.version_info.minor}.{sys.version_info.micro}")
    BUILDER_CONFIGS: ClassVar = [
        tfds.core.BuilderConfig(name=name, description=description)
        for name, description in CONFIGS.items()
    ]

    def _info(self) -> tfds.core.DatasetInfo:
        text = tfds.features.Text
        features = {
            "text": {"name": text(), "text": text()},
            "chat": {"name": text(), "kind": text(), "prompt": text(), "response": text()},
            "preferences": {
                "name": text(),
                "prompt": text(),
                "chosen": text(),
                "rejected": tfds.features.Sequence({"kind": text(), "text": text()}),
            },
        }[self.builder_config.name]
        return _LocalInfo(
            builder=self,
            description=__doc__,
            features=tfds.features.FeaturesDict(features),
            homepage="https://docs.python.org/3/",
            license="Python Software Foundation License Version 2",
            disable_shuffling=True,  # the order is by name, the same on every machine
        )

    def _split_generators(self, dl_manager):
        return {split: self._generate_examples(split) for split in corpus.SPLITS}

    def _generate_examples(self, split: str) -> Iterator[tuple[int, dict]]:
        yield from enumerate(records(self.builder_config.name, split))


@functools.cache
def _corpus() -> corpus.Corpus:
    return corpus.build(extract.entries())


@functools.cache
def _preferences() -> list[Preference]:
    return preferences_of(_corpus().answers)


def records(config_name: str, split: str) -> Iterator[dict]:
    """Yields the records of one config and split, sorted by name.

    Raises:
        ValueError: there is no such config or split.
    """
    for what, given, known in (
        ("config", config_name, CONFIGS),
        ("split", split, corpus.SPLITS),
    ):
        if given not in known:
            raise ValueError(f"pydocs has no {what} {given!r}; it has {', '.join(known)}.")
    rows: Sequence[corpus.Document | corpus.Answer | Preference]
    if config_name == "text":
        rows = _corpus().documents
    elif config_name == "chat":
        rows = _corpus().answers
    else:
        rows = _preferences()
    for row in rows:
        if row.split == split:
            record = row._asdict()
            del record["split"]
            if isinstance(row, Preference):
                record["rejected"] = [rejected._asdict() for rejected in row.rejected]
            yield record


def build_dataset(config_name: str, data_dir: str | os.PathLike) -> tfds.core.DatasetBuilder:
    """Writes the ArrayRecord files of a config of pydocs under `data_dir`; returns its builder.

    The first call takes some seconds; later ones use the files. It prints nothing and uses no
    network. A call that is killed leaves an `incomplete.*` folder, which nothing reads, and the
    next call starts again; several processes may call it at once.

    Args:
        config_name: "text", "chat" or "preferences".
        data_dir: the folder in which TFDS keeps its data sets; created if necessary.

    Raises:
        ValueError: there is no such config.
        RuntimeError: this Python ships without its source.
    """
    if config_name not in CONFIGS:
        raise ValueError(f"pydocs has no config {config_name!r}; it has {', '.join(CONFIGS)}.")
    with _quiet():
        builder = _builder(config_name, data_dir)
        try:
            builder.download_and_prepare(
                download_config=tfds.download.DownloadConfig(try_download_gcs=False)
            )
        except FileExistsError:
            # Another process has finished the same build meanwhile. TFDS renames a whole folder
            # into place, so the files there are complete, and equal to these.
            builder = _builder(config_name, data_dir)
    return builder


def _builder(config_name: str, data_dir: str | os.PathLike) -> tfds.core.DatasetBuilder:
    return tfds.builder(
        f"pydocs/{config_name}", data_dir=os.fspath(data_dir), file_format="array_record"
    )


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Suppresses the output of TFDS while it writes: two lines, progress bars and its log."""
    verbosity = logging.get_verbosity()
    tfds.disable_progress_bar()
    logging.set_verbosity(logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logging.set_verbosity(verbosity)
