"""DataConfig: the settings of a run's data."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Annotated

import ranges
import registry
from data import ramp
from data.clean import duplicates, filters, redact
from data.clean.people import MODEL
from data.errors import DataError
from data.mixture import SourceConfig, source_config
from data.packing.base import ON_LONG
from data.packing.text import UNCHANGED, TextChange
from data.passages.config import PassagesConfig
from data.prepare.manifest import is_prepared
from data.read.json_records import record_steps
from data.read.readers import READERS, may_be_document
from data.read.reading import MAX_RECORD_BYTES
from data.schemas.templates import one_of
from data.transforms.registry import Change
from ranges import CountOr0, NonNegative, Range, Share, Size, split_names


@registry.open_to(READERS.fields)
@dataclasses.dataclass(frozen=True)
class DataConfig:
    """The source of examples, and how they become rows.

    Attributes:
      source: a path, a glob, a folder of Hugging Face `datasets` or of prepared rows
        (`python -m data.prepare`), `tfds:name/config:split`, `hf:owner/name/config:split`, or a
        tuple of paths, globs and names; `zendesk:PATH`, `intercom:PATH` and `slack:FOLDER` are
        exports (docs/knowledge.md).
      records: the place of the list of records in a .json, `tickets` or `result.tickets`, or
        `[].tickets` in a list of pages; empty where the document is the list.
      transforms: {name: setting} of data/transforms, changes of records before `fields`, such as
        `drop_quotes=True` or `keep.status=solved`; those that exports need are on unless False.
      mixture: instead of `source`, {name: the settings of data/mixture.py's SourceConfig}.
      heldout_source: the source of held-out examples. Empty holds out `heldout_fraction` of
        `source`, chosen by a hash of what identifies an example, so that no example is on both
        sides: neither the same document or prompt, nor a copy of it as defined by `dedup`, in any
        source of a mixture.
      heldout_by: a field of the records, such as `customer`: `heldout_fraction` is then of its
        values, so that all records of one value are on one side; training examples that equal a
        held-out one are left out.
      heldout_limit: the largest number of held-out examples; 0 uses all. heldout_length: tokens in
        a held-out row; 0 uses `length`. Training may drop long examples that evaluation scores.
      fields: templates such as `prompt='{instruction}\\n{input}'` over the fields of a record.
      documents: whether a document of a text file is a `line` or the whole `file`.
      tfds_dir: where TFDS keeps data sets.
      subset: "i/n" keeps the training examples of every n-th document or prompt, starting with the
        i-th; empty keeps all.
      keep: for preferences, {kind: share of the training candidates of that kind to keep}; kinds
        that are not named are kept.
      filters: {name: limit} of data/clean/filters.py, such as `max_symbols`; training documents
        that fail one are left out and counted, held-out documents are not filtered.
      redact: kinds of personal data of data/clean/redact.py, "email,phone" or a tuple, to replace
        by `[EMAIL]` and the like. redact_model: the pipeline of spaCy that finds `name`, or a
        folder with one.
      dedup: `exact` leaves out training documents that equal an earlier one, up to the amount of
        white space; `near` also those that are nearly the same (MinHash over runs of five words,
        Jaccard similarity at least 0.8); empty keeps all. Copies of the documents of
        `heldout_source` are left out as well. Words are defined in data/clean/words.py.
      decontaminate: {name: {source, fields}} of evaluation sets, read as text; a training document
        that shares thirteen consecutive words with one is left out.
      batch_size: rows a step, over all devices and microbatches. length: tokens in a row (T).
      batch_ramp: {step: rows a step until then}, fewer than `batch_size`, which follows; a step has
        as many microbatches as keep them no larger than in the end.
      length_ramp: {step: tokens in a row until then}, each length a divisor of the next; a row of
        `length` is cut into shorter ones, so that a step reads as many tokens
        (data/ramp.py).
      sub_rows: for preferences, the number of sub-rows of `length` tokens in a row (S).
      share_prompt: store the prompt of a ranking once, before its candidates, to compute less; runs
        in plain XLA, so it suits rows of up to 2,048 tokens without a sliding window.
      on_long: an example longer than a row is an `error`, is `cut`, or is `drop`ped and counted. An
        example is also dropped if the cut leaves no answer, or equal answers of different rank.
      on_bad: a record that cannot be read or rendered is an `error`, or is `skip`ped and counted,
        up to `max_bad` records in all.
      max_record_bytes: a larger record is bad; it is never held in memory.
      pack: put several conversations in a row.
      truncate: "4000 characters" or "512 tokens" to keep of each training document (text); the cut
        end gets no <eos>, and cuts are counted; empty cuts nothing.
      passages: retrieved passages in prompts, on with `passages.source` or `fields.passages`.
      fim_rate: the share of training documents (text) whose middle is moved to the end for fill in
        the middle (data/text/fim.py). fim_spm: the share of those with the suffix first.
    """

    source: str | tuple[str, ...]
    records: str = ""
    transforms: Mapping[str, object] = dataclasses.field(default_factory=dict)
    mixture: Mapping[str, Mapping] = dataclasses.field(default_factory=dict)
    heldout_source: str | tuple[str, ...] = ""
    heldout_by: str = ""
    heldout_fraction: Annotated[float, Range(0, 1, "()")] = 0.05
    heldout_limit: CountOr0 = 0
    heldout_length: Annotated[int, Range(2, 2**24, also=0)] = 0
    fields: Mapping[str, str] = dataclasses.field(default_factory=dict)
    documents: str = "line"
    tfds_dir: str = "~/.cache/seedpod/tfds"
    subset: str = ""
    keep: Mapping[str, Share] = dataclasses.field(default_factory=dict)
    filters: Mapping[str, NonNegative] = dataclasses.field(default_factory=dict)
    redact: str | tuple[str, ...] = ()
    redact_model: str = MODEL
    dedup: str = ""
    decontaminate: Mapping[str, Mapping] = dataclasses.field(default_factory=dict)
    batch_size: Size = 32
    length: Annotated[int, Range(2, 2**24)] = 128
    batch_ramp: Mapping[str, Size] = dataclasses.field(default_factory=dict)
    length_ramp: Mapping[str, Annotated[int, Range(2, 2**24)]] = dataclasses.field(
        default_factory=dict
    )
    sub_rows: Size = 4
    share_prompt: bool = False
    on_long: str = "error"
    on_bad: str = "error"
    max_bad: CountOr0 = 100
    max_record_bytes: Annotated[int, Range(1, 10**12)] = MAX_RECORD_BYTES
    pack: bool = True
    truncate: str = ""
    fim_rate: Share = 0.0
    fim_spm: Share = 0.5
    passages: PassagesConfig = dataclasses.field(default_factory=PassagesConfig)

    def __post_init__(self):
        ranges.check(self, "data.")
        if bool(self.source) == bool(self.mixture):
            raise DataError(
                "data.source is empty; set --config.data.source=PATH (or hf:OWNER/NAME:SPLIT)"
                if not self.source
                else "data.source and data.mixture are both given; leave one empty"
            )
        if self.on_long not in ON_LONG:
            raise DataError(f"data.on_long={self.on_long!r:.80}; choose {', '.join(ON_LONG)}")
        self.subset_part()
        self.text_change(training=True)
        self.sources()
        ramp.check("batch_ramp", self.batch_ramp, self.batch_size)
        ramp.check("length_ramp", self.length_ramp, self.length)
        self.row_lengths()
        filters.check_limits(self.filters)
        object.__setattr__(self, "redact", split_names(self.redact))
        for kind in self.redact:
            one_of("kind of data.redact", kind, dict.fromkeys(redact.ALL_KINDS))
        if self.redact_model != MODEL and "name" not in self.redact:
            raise DataError("data.redact_model finds names; add name to data.redact")
        if self.heldout_by and self.heldout_source:
            raise DataError(
                "data.heldout_by divides data.source, and data.heldout_source is held-out data of "
                "its own; leave one empty"
            )
        self._check_reading()
        duplicates.check_settings(self.dedup, self.decontaminate)
        if "sources" in self._names() and not self.grounded:
            raise DataError(
                "data.fields.sources names the passages that answer, and there are none; set "
                "--config.data.passages.source=FOLDER or --config.data.fields.passages='{FIELD}'"
            )

    def _names(self) -> set[str]:
        """The names of the schema that have a template."""
        mixed = (source.fields for source in self.sources().values())
        return set(self.fields).union(*mixed)

    @property
    def grounded(self) -> bool:
        """Whether prompts get passages."""
        return bool(self.passages.source) or "passages" in self._names()

    def _check_reading(self) -> None:
        """Raises DataError for a place of records or a transform that there is not."""
        Change(self.transforms)
        sources = self.sources()
        every = [self.heldout_source, *(source.source for source in sources.values())]
        places = {"data.": (self.records, every)}
        for name, source in sources.items():
            Change(source.transforms)
            places |= {f"data.mixture.{name}.": (source.records, [source.source])} if name else {}
        for prefix, (place, named) in places.items():
            record_steps(place)
            if place and not any(may_be_document(source) for source in named):
                raise DataError(
                    f"{prefix}records={place!r:.80} is a place in a .json, and {prefix}source "
                    "names none"
                )

    def sources(self) -> dict[str, SourceConfig]:
        """{name: source} of a mixture; {"": source} without one."""
        if not self.mixture:
            return {"": SourceConfig(self.source)}
        return {name: source_config(name, settings) for name, settings in self.mixture.items()}

    def row_lengths(self) -> tuple[int, ...]:
        """The lengths of training rows, ascending, of which each divides the next."""
        return ramp.nested_lengths(self.length, self.length_ramp)

    def prepared_folders(self) -> tuple[str, ...]:
        """For each source its folder of prepared rows; "" for a source of examples."""
        sources = [source.source for source in self.sources().values()]
        return tuple(source if is_prepared(source) else "" for source in sources)

    def subset_part(self) -> tuple[int, int]:
        """(i, n) of `subset`; (0, 1) where it is empty."""
        part, _, parts = (self.subset or "0/1").partition("/")
        if not (part.isdecimal() and parts.isdecimal() and int(part) < int(parts)):
            raise DataError(
                f'data.subset={self.subset!r:.80}; write "0/2" for the first of two parts'
            )
        return int(part), int(parts)

    def text_change(self, training: bool) -> TextChange:
        """The change of documents of text before packing; held-out ones are unchanged."""
        count, _, unit = (self.truncate or "0 tokens").partition(" ")
        if not count.isdecimal() or unit not in ("characters", "tokens"):
            raise DataError(
                f'data.truncate={self.truncate!r:.80}; write "4000 characters" or "512 tokens"'
            )
        if not training:
            return UNCHANGED
        return TextChange(**{unit: int(count)}, fim_rate=self.fim_rate, fim_spm=self.fim_spm)
