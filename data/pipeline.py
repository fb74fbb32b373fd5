"""From what the config names to rows.

`open_data` reads, splits, tokenizes and packs; data/loader.py gives this host's rows of batch k.
"""

from __future__ import annotations

import bisect
import dataclasses
import itertools
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Annotated

import numpy as np

import ranges
from data import packing, summary
from data.bad_records import BadRecords
from data.clean import duplicates, filters, redact
from data.errors import DataError
from data.mixture import SourceConfig, source_config
from data.prepare import prepared
from data.read.reading import MAX_RECORD_BYTES
from data.read.sources import content_key, heldout_keys, read
from data.read.templates import one_of
from data.text.base import Tokenizer
from ranges import CountOr0, NonNegative, Range, Share, Size


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """Where examples come from and how rows are made of them.

    Attributes:
      source: a path, a glob, a folder of Hugging Face `datasets` or of prepared rows
        (data/prepare/prepare.py), `tfds:name/config:split`, or a tuple of the first two.
      mixture: instead of `source`, {name: the settings of data/mixture.py's SourceConfig}.
      heldout_source: the same for evaluation; empty sets `heldout_fraction` of `source` aside,
        by a hash of what identifies an example, so that none stands on both sides: not the same
        document or prompt, nor a copy of it as `dedup` knows them, in any source of a mixture.
      heldout_limit: most held-out examples used; 0 is all. heldout_length: tokens a held-out row;
        0 is `length`. Training may drop what is long, and evaluation still score it.
      fields: templates such as `prompt='{instruction}\\n{input}'` over the fields of a record.
      documents: text files hold a document a `line` or a `file`.
      tfds_dir: where TFDS keeps data sets.
      subset: "i/n" keeps the training examples of every n-th document or prompt from the i-th;
        empty keeps all.
      keep: of preferences, {kind: share} of the training rankings in which candidates of a kind
        stand, such as those that are soon told apart; kinds that are not named stand in all.
      filters: {name: limit} of data/clean/filters.py, such as `max_symbols`: training documents
      that fail
        one are left out and counted; held-out ones all stay.
      redact: kinds of personal data of data/clean/redact.py, "email,phone" or a tuple of them:
      `[EMAIL]`
        and so on take their place.
      dedup: `exact` leaves out training documents that are the same as an earlier one, but for the
        amount of white space, `near` those too that are much alike (MinHash of runs of five words,
        Jaccard similarity of 0.8); empty keeps all. So are copies of what `heldout_source` holds.
        What a word is: data/clean/words.py.
      decontaminate: {name: {source, fields}} of evaluation sets, read as text: a training document
        with thirteen words in a row of one is left out.
      batch_size: rows a step, over all devices and microbatches. length: tokens a row (T).
      sub_rows: a row of preferences is so many of `length` tokens (S).
      share_prompt: candidates of a ranking stand behind one copy of their prompt, which is less to
        compute; in plain XLA, so for rows of up to 2,048 tokens without a sliding window.
      on_long: an example longer than a row is an `error`, `cut`, or `drop`ped, counted. One that is
        cut down to no answer, or to equal answers that are ranked apart, is dropped, too.
      on_bad: a record that cannot be read or rendered is an `error` or `skip`ped and counted, up to
        `max_bad` in all.
      max_record_bytes: a larger record is malformed; it is never held in memory.
      pack: several conversations a row.
      truncate: "4000 characters" or "512 tokens" of a training document (text) stay, and its end is
        cut off without an <eos>, counted; empty cuts none.
      fim_rate: of the training documents of text, the share whose middle is moved to their end to
        be filled in (data/text/fim.py), of those `fim_spm` with the suffix first.
    """

    source: str | tuple[str, ...]
    mixture: Mapping[str, Mapping] = dataclasses.field(default_factory=dict)
    heldout_source: str | tuple[str, ...] = ""
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
    dedup: str = ""
    decontaminate: Mapping[str, Mapping] = dataclasses.field(default_factory=dict)
    batch_size: Size = 32
    length: Annotated[int, Range(2, 2**24)] = 128
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

    def __post_init__(self):
        ranges.check(self, "data.")
        if bool(self.source) == bool(self.mixture):
            raise DataError(
                "data.source is empty; set --config.data.source=PATH (or tfds:NAME:SPLIT)"
                if not self.source
                else "data.source and data.mixture are both given; leave one empty"
            )
        if self.on_long not in packing.ON_LONG:
            raise DataError(
                f"data.on_long={self.on_long!r:.80}; choose {', '.join(packing.ON_LONG)}"
            )
        self.subset_part()
        self.text_change(True)
        self.sources()
        filters.check(self.filters)
        if isinstance(self.redact, str):
            object.__setattr__(self, "redact", tuple(filter(None, self.redact.split(","))))
        for kind in self.redact:
            one_of("kind of data.redact", kind, redact.KINDS)
        duplicates.check(self.dedup, self.decontaminate)

    def sources(self) -> dict[str, SourceConfig]:
        """The sources by name, of a mixture or the only one."""
        if not self.mixture:
            return {"": SourceConfig(self.source)}
        return {name: source_config(name, given) for name, given in self.mixture.items()}

    def prepared(self) -> tuple[str, ...]:
        """The folder of each source that is one of prepared rows (prepared.py), else ""."""
        sources = [source.source for source in self.sources().values()]
        return tuple(source if prepared.is_prepared(source) else "" for source in sources)

    def subset_part(self) -> tuple[int, int]:
        """(i, n) of `subset`; (0, 1) where it is empty."""
        part, _, parts = (self.subset or "0/1").partition("/")
        if not (part.isdecimal() and parts.isdecimal() and int(part) < int(parts)):
            raise DataError(
                f'data.subset={self.subset!r:.80}; write "0/2" for the first of two parts'
            )
        return int(part), int(parts)

    def text_change(self, training: bool) -> packing.TextChange:
        """What is done to the documents of text; nothing to those that are held out."""
        count, _, unit = (self.truncate or "0 tokens").partition(" ")
        if not count.isdecimal() or unit not in ("characters", "tokens"):
            raise DataError(
                f'data.truncate={self.truncate!r:.80}; write "4000 characters" or "512 tokens"'
            )
        if not training:
            return packing.AS_IT_IS
        return packing.TextChange(
            **{unit: int(count)}, fim_rate=self.fim_rate, fim_spm=self.fim_spm
        )


@dataclasses.dataclass
class Examples:
    """Training and held-out examples before tokenization, and what was passed over.

    Attributes:
      sizes: how many of the training examples each source of a mixture has, one after the other;
        empty where there is one source.
      redacted: how often personal data of each kind was replaced.
      prepared: the folder of each source whose rows are prepared, "" of the others. Of such there
        are no examples here, but for a few of the held-out ones.
      bad: of those skipped, the records that could not be used, up to `max_bad`.
      unused: {source: {field: how many records hold it and were not asked for it}}.
    """

    train: list
    heldout: list
    skipped: Counter
    sizes: tuple[int, ...] = ()
    prepared: tuple[str, ...] = ()
    redacted: Counter = dataclasses.field(default_factory=Counter)
    bad: Counter = dataclasses.field(default_factory=Counter)
    unused: dict[str, Counter] = dataclasses.field(default_factory=dict)


def read_examples(config: DataConfig, schema: str) -> Examples:
    """Reads both splits. `schema`: `text`, `chat`, `preference` or `prompt` (sources.py)."""

    skipped, heldout, folders = Counter(), [], config.prepared()
    redacted, bad, unused = Counter(), Counter(), {}
    parts: list[list] = []

    def one(source, fields):
        name = source if isinstance(source, str) else ", ".join(source)
        return read(
            source,
            schema,
            fields=fields or config.fields,
            documents=config.documents,
            tfds_dir=config.tfds_dir,
            on_bad=config.on_bad,
            max_bad=config.max_bad,
            max_record_bytes=config.max_record_bytes,
            skipped=bad,
            unused=unused.setdefault(name, Counter()),
        ).examples

    def clean(examples):
        return [redact.redact(example, config.redact, redacted) for example in examples]

    for (name, source), folder in zip(config.sources().items(), folders, strict=True):
        if folder:
            if source.limit:
                raise DataError(f"data.mixture.{name}.limit: the rows of {folder} are prepared")
            parts.append([])
            continue
        parts.append(clean(one(source.source, source.fields)))
    if config.heldout_source:
        heldout = clean(one(config.heldout_source, ()))
    notes: list[dict] = [{} for _ in parts]  # by where an example was read
    heldout_notes = []
    if config.dedup or config.decontaminate:
        runs = duplicates.evaluation_runs(
            config.decontaminate, config.tfds_dir, config.max_record_bytes
        )
        notes = [{e["where"]: duplicates.note(e, config.dedup, runs) for e in p} for p in parts]
        if config.dedup:
            heldout_notes = [duplicates.note(e, config.dedup, {}) for e in heldout]
    if not config.heldout_source:
        parts, heldout = _split(parts, notes, config)
    parts = [
        _chosen(part[: source.limit or None], config, skipped)
        for part, source in zip(parts, config.sources().values())
    ]
    if config.dedup or config.decontaminate:
        those = [of[e["where"]] for part, of in zip(parts, notes) for e in part]
        left = duplicates.decide(those, config.dedup, heldout_notes)
        skipped.update(filter(None, left))
        reasons = iter(left)
        parts = [[e for e in part if not next(reasons)] for part in parts]
    for name, part, folder in zip(config.sources(), parts, folders, strict=True):
        if not part and not folder:
            where = f"of data.mixture.{name}" if name else "example"
            raise DataError(f"{_choosers(config)} leaves no training {where}")
    return Examples(
        list(itertools.chain(*parts)),
        heldout[: config.heldout_limit or None],
        bad + skipped,
        tuple(map(len, parts)) if config.mixture else (),
        folders,
        redacted,
        bad,
        {source: fields for source, fields in unused.items() if fields},
    )


def _split(parts, notes, config: DataConfig):
    """(training examples of each source, held-out examples of all). A fraction of each source is
    held out, and with it whatever is a copy of that in any source."""
    keys = [content_key(e) for part in parts for e in part]
    noted = [note for of in notes for note in of.values()]
    groups = iter(duplicates.copy_groups(keys, noted, config.dedup))
    groups = [list(itertools.islice(groups, len(part))) for part in parts]
    lowest: set[bytes] = set()
    for part, of, folder in zip(parts, groups, config.prepared(), strict=True):
        if not folder:
            first = part[0]["where"] if part else ""
            lowest |= heldout_keys(of, config.heldout_fraction, first)
    pairs = [list(zip(part, of, strict=True)) for part, of in zip(parts, groups, strict=True)]
    return (
        [[e for e, key in part if key not in lowest] for part in pairs],
        [e for part in pairs for e, key in part if key in lowest],
    )


def _chosen(examples, config: DataConfig, skipped: Counter) -> list:
    """Those that `config.subset`, `config.filters` and `config.keep` leave."""
    part, parts = config.subset_part()
    numbers: dict[bytes, int] = {}  # of documents and prompts, as they come
    examples = [
        e for e in examples if numbers.setdefault(content_key(e), len(numbers)) % parts == part
    ]
    if config.filters:
        examples = filters.apply(examples, config.filters, skipped)
    return thin_rankings(examples, config.keep) if config.keep and examples else examples


def _choosers(config: DataConfig) -> str:
    """The settings that leave examples out, for an error."""
    given = {name: getattr(config, name) for name in ("filters", "dedup", "decontaminate")}
    named = [f"data.{name}={value}" for name, value in given.items() if value]
    return " with ".join([f"data.subset={config.subset!r:.80}", *named])


def thin_rankings(examples, keep: Mapping[str, float]) -> list:
    """Rankings with a share of their candidates, drawn with a fixed seed (`DataConfig.keep`); one
    that is left with nothing to compare is left out.

    Raises:
      DataError: a kind that no candidate has, or no ranking is left.
    """
    known = {kind for example in examples for kind in example.get("kinds", ())}
    if unknown := sorted(keep.keys() - known):
        raise DataError(
            f"data.keep.{unknown[0]}: no candidate is of that kind; there are "
            + (", ".join(sorted(filter(None, known))) or "no kinds in this data")
        )
    rng, thinned = np.random.default_rng(0), []
    for example in examples:
        kept = [i for i, kind in enumerate(example["kinds"]) if rng.random() < keep.get(kind, 1)]
        parts = {name: [example[name][i] for i in kept] for name in ("responses", "rank", "kinds")}
        if len(set(parts["rank"])) > 1:
            thinned.append(example | parts)
    if not thinned:
        raise DataError("data.keep leaves no ranking with two candidates to compare")
    return thinned


@dataclasses.dataclass
class Data:
    """Rows of both splits (data/batch.py), and what was passed over.

    Attributes:
      heldout_examples: those that are in the held-out rows; of prompts, row i is example i.
      kinds: names that `kind` counts in, for preferences.
      train_examples: of prompts, those in the training rows; row i is example i.
      sizes: training rows of each source of a mixture, one after the other; empty without one.
      redacted: how often personal data of each kind was replaced.
      unused: as of `Examples`.
      where: (training row) -> where what is in it was read, if that was asked for.
    """

    train: dict[str, np.ndarray] | prepared.PreparedRows | prepared.Joined
    heldout: dict[str, np.ndarray]
    heldout_examples: list
    skipped: Counter
    kinds: tuple[str, ...] = ()
    train_examples: tuple = ()
    sizes: tuple[int, ...] = ()
    redacted: Counter = dataclasses.field(default_factory=Counter)
    unused: dict[str, Counter] = dataclasses.field(default_factory=dict)
    where: Callable[[int], list[str]] = lambda row: []


def open_data(
    config: DataConfig,
    schema: str,
    tokenizer: Tokenizer,
    examples: Examples | None = None,
    prompt_length: int = 0,
    trace: bool = False,
) -> Data:
    """Tokenizes and packs. `examples` may be passed where they were read already; `trace`: keeps
    them in memory for `Data.where`."""
    examples = examples or read_examples(config, schema)
    skipped, kinds = Counter(examples.skipped), ()
    bad = BadRecords(config.on_bad, config.max_bad, Counter(examples.bad))
    if schema == "preference":
        both = examples.train + examples.heldout
        kinds = tuple(sorted({kind for e in both for kind in e["kinds"]}))

    if schema != "text" and (config.truncate or config.fim_rate):
        name = "truncate" if config.truncate else "fim_rate"
        raise DataError(f"data.{name} is for documents of text, and this stage reads {schema}")

    def rows(part, length, training=True):
        if schema == "text":
            change = config.text_change(training)
            return packing.pack_text(part, tokenizer, length, change, skipped, bad)
        if schema == "chat":
            return packing.pack_chats(
                part, tokenizer, length, config.on_long, config.pack, skipped, bad
            )
        if schema == "preference":
            return packing.preference_rows(
                part, tokenizer, length, config.sub_rows, config.share_prompt, config.on_long,
                skipped, kinds, bad,
            )  # fmt: skip
        return packing.prompt_rows(part, tokenizer, prompt_length, config.on_long, skipped, bad)

    rest, parts = iter(examples.train), []
    sizes = examples.sizes or (len(examples.train),)
    folders = examples.prepared or ("",) * len(sizes)
    for size, folder in zip(sizes, folders, strict=True):
        if folder:
            prepared.check(folder, schema, config, tokenizer)
            rows_of = prepared.PreparedRows(folder, "train")
            if not len(rows_of):
                raise DataError(f"{folder} has no training rows; prepare it with more data")
            parts.append(packing.Packed(rows_of, (), ()))
        else:
            parts.append(rows(list(itertools.islice(rest, size)), config.length))
    counts = tuple(prepared.size_of(part.rows) for part in parts)
    train = _joined([part.rows for part in parts])
    asked = ()
    if schema == "prompt":
        asked = tuple(itertools.chain(*(part.examples for part in parts)))
        train["example"] = np.arange(len(asked), dtype=np.int32)
    try:
        heldout, kept = _heldout(config, examples, folders, rows)
    except packing.NothingLeft as error:
        raise DataError(f"held out: {error}") from None
    unused = dict(examples.unused)
    if passed := summary.unread(tokenizer, itertools.chain(examples.train, examples.heldout)):
        unused["the chat format"] = passed
    data = Data(
        train, heldout, kept, skipped + bad.skipped - examples.bad, kinds, asked,
        counts if examples.sizes else (), examples.redacted, unused,
    )  # fmt: skip
    if trace:
        ends = list(itertools.accumulate(counts))

        def where(row: int) -> list[str]:
            part = bisect.bisect_right(ends, row)
            of = parts[part] if isinstance(parts[part].rows, dict) else parts[part].rows
            return of.where(row - (ends[part] - counts[part]))

        data.where = where
    return data


def _heldout(config: DataConfig, examples: Examples, folders, rows):
    """(held-out rows in memory, the examples in them); of prepared rows a few of the examples."""
    aside = [] if config.heldout_source else [folder for folder in folders if folder]
    if not aside:
        return rows(examples.heldout, config.heldout_length or config.length, False)[:2]
    if config.heldout_length not in (0, config.length):
        raise DataError("data.heldout_length: prepared held-out rows have data.length tokens")
    parts, kept = [], list(examples.heldout)
    if kept:
        parts.append(rows(kept, config.length, False).rows)
    for folder in aside:
        found = prepared.PreparedRows(folder, "heldout")
        if not len(found):
            raise DataError(f"{folder} has no held-out rows; name a data.heldout_source")
        parts.append(found.take(np.arange(min(len(found), config.heldout_limit or len(found)))))
        kept += prepared.heldout_examples(folder)
    return _concatenate(parts), kept


def _joined(parts):
    if all(isinstance(part, dict) for part in parts):
        return _concatenate(parts)
    return parts[0] if len(parts) == 1 else prepared.Joined(parts)


def _concatenate(parts) -> dict[str, np.ndarray]:
    """Rows one after the other; of rankings, filled up to the same number of candidates."""
    out = {}
    for name in parts[0]:
        columns = [part[name] for part in parts]
        if len({x.shape[1:] for x in columns}) > 1:
            most = max(x.shape[1] for x in columns)
            fill = -1 if name == "rank" else 0
            columns = [
                np.pad(x, ((0, 0), (0, most - x.shape[1])), constant_values=fill) for x in columns
            ]
        out[name] = columns[0] if len(columns) == 1 else np.concatenate(columns)
    return out
