"""The training and the held-out examples of a run: read, cleaned, split and chosen."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np

from data.clean import duplicates, filters, redact
from data.config import DataConfig
from data.errors import DataError
from data.mixture import SourceConfig
from data.read.sources import read
from data.schemas.examples import content_key


@dataclasses.dataclass
class Examples:
    """Training and held-out examples before tokenization, and what was left out.

    Attributes:
      skipped: {reason: count} of examples that were left out.
      sizes: the number of training examples of each source of a mixture, in order; empty without a
        mixture.
      prepared: for each source its folder of prepared rows, or "". A prepared source has no
        training examples here, and only a few held-out ones.
      redacted: {kind: count} of replaced personal data.
      bad: the part of `skipped` that counts records that could not be used, up to `max_bad`.
      unused: {source: {field: number of records in which that field holds something and is not
        read}}.
      changes: {source: {change of a transform: count}}.
    """

    train: list
    heldout: list
    skipped: Counter
    sizes: tuple[int, ...] = ()
    prepared: tuple[str, ...] = ()
    redacted: Counter = dataclasses.field(default_factory=Counter)
    bad: Counter = dataclasses.field(default_factory=Counter)
    unused: dict[str, Counter] = dataclasses.field(default_factory=dict)
    changes: dict[str, Counter] = dataclasses.field(default_factory=dict)


class Read(NamedTuple):
    """The examples from which those of a run are chosen.

    Attributes:
      parts: for each source its examples; none of a prepared one. heldout: of `heldout_source`.
      redacted, bad, unused, changes: as in Examples.
    """

    parts: list[list[dict]]
    heldout: list[dict]
    redacted: Counter
    bad: Counter
    unused: dict[str, Counter]
    changes: dict[str, Counter]


# Settings that choose among the examples that were read.
_CHOOSING: dict[str, Any] = dict(subset="", keep={}, filters={}, heldout_limit=0)


def read_examples(
    config: DataConfig, schema: str, heldout_only: bool = False,
    reads: dict[str, Read] | None = None,
) -> Examples:  # fmt: skip
    """Reads both splits, or that of `heldout_source` alone.

    Args:
      schema: `text`, `chat`, `preference` or `prompt` (data/schemas).
      reads: what earlier calls have read, by settings; what this one reads is added.
    """
    reads = {} if reads is None else reads
    key = repr((dataclasses.replace(config, **_CHOOSING), schema, heldout_only))
    if key not in reads:
        reads[key] = _read(config, schema, heldout_only)
    return _chosen(reads[key], config, heldout_only)


def _read(config: DataConfig, schema: str, heldout_only: bool) -> Read:
    heldout, folders = list[dict](), config.prepared_folders()
    redacted, bad = Counter(), Counter()
    unused, changes = dict[str, Counter](), dict[str, Counter]()
    parts: list[list] = []  # the training examples of each source

    def read_clean(own: SourceConfig) -> list[dict]:
        name = own.source if isinstance(own.source, str) else ", ".join(own.source)
        examples = read(
            own.source,
            schema,
            fields=own.fields or config.fields,
            records=own.records or config.records,
            transforms=own.transforms or config.transforms,
            heldout_by=config.heldout_by,
            documents=config.documents,
            tfds_dir=config.tfds_dir,
            on_bad=config.on_bad,
            max_bad=config.max_bad,
            max_record_bytes=config.max_record_bytes,
            skipped=bad,
            unused=unused.setdefault(name, Counter()),
            changes=changes.setdefault(name, Counter()),
            settings=config,
        ).examples
        return [
            redact.redact(example, config.redact, redacted, config.redact_model)
            for example in examples
        ]

    for (name, source), folder in zip(config.sources().items(), folders, strict=True):
        if heldout_only:
            parts.append([])
            continue
        if folder:
            if source.limit:
                raise DataError(f"data.mixture.{name}.limit: the rows of {folder} are prepared")
            parts.append([])
            continue
        examples = read_clean(source)
        if config.grounded and not source.passages:
            examples = [{**example, "grounded": False} for example in examples]
        parts.append(examples)
    if config.heldout_source:
        heldout = read_clean(SourceConfig(config.heldout_source))
    return Read(parts, heldout, redacted, bad, unused, changes)


def _chosen(read: Read, config: DataConfig, heldout_only: bool) -> Examples:
    """The examples of a run."""
    skipped, folders, bad = Counter(), config.prepared_folders(), read.bad
    # Copies, as a split takes the groups out of them.
    parts = [[dict(example) for example in part] for part in read.parts]
    heldout = read.heldout
    notes: list[dict] = [{} for _ in parts]  # for each source {where an example was read: note}
    heldout_notes = []
    if config.dedup or config.decontaminate:
        runs = duplicates.evaluation_runs(
            config.decontaminate, config.tfds_dir, config.max_record_bytes
        )
        notes = [{e["where"]: duplicates.note(e, config.dedup, runs) for e in p} for p in parts]
        if config.dedup:
            heldout_notes = [duplicates.note(e, config.dedup, {}) for e in heldout]
    if not config.heldout_source:
        parts, heldout = _split(parts, notes, config, skipped)
    parts = [
        _choose(part[: source.limit or None], config, skipped)
        for part, source in zip(parts, config.sources().values())
    ]
    if config.dedup or config.decontaminate:
        chosen_notes = [own[e["where"]] for part, own in zip(parts, notes) for e in part]
        reasons = duplicates.decide(chosen_notes, config.dedup, heldout_notes)
        skipped.update(filter(None, reasons))
        remaining = iter(reasons)
        parts = [[e for e in part if not next(remaining)] for part in parts]
    for name, part, folder in zip(config.sources(), parts, folders, strict=True):
        if not part and not folder and not heldout_only:
            missing = f"of data.mixture.{name}" if name else "example"
            raise DataError(f"{_choosing_settings(config)} leaves no training {missing}")
    return Examples(
        list(itertools.chain(*parts)),
        heldout[: config.heldout_limit or None],
        bad + skipped,
        tuple(map(len, parts)) if config.mixture else (),
        folders,
        read.redacted,
        bad,
        {source: fields for source, fields in read.unused.items() if fields},
        {source: counts for source, counts in read.changes.items() if counts},
    )


def heldout_keys(
    keys: list[bytes], fraction: float, first_location: str = "", heldout_by: str = ""
) -> set[bytes]:
    """The keys (duplicates.copy_groups) whose examples are held out.

    Examples of the same key stay together. Of n different keys the max(1, round(fraction · n))
    lowest are held out, so the split does not depend on the order of the examples, and changes
    little when examples are added.

    Args:
      first_location: where the first example was read, for errors. heldout_by: the field whose
        values are the keys, or "" where the examples' content is.

    Raises:
      DataError: the fraction is outside (0, 1), or there are fewer than two keys.
    """
    if not 0 < fraction < 1:
        raise DataError(f"the held-out fraction is {fraction}, and should lie between 0 and 1")
    groups = sorted(set(keys))
    if len(groups) < 2:
        only = f"there is only one, at {first_location}" if keys else "there is none"
        if heldout_by:
            raise DataError(f"data.heldout_by={heldout_by} needs two different values, and {only}")
        raise DataError(
            f"held-out data needs two different documents or prompts, and {only}. Add data, or "
            'name a held-out source of its own. (documents="line" makes each line of a .txt one.)'
        )
    return set(groups[: min(max(1, round(fraction * len(groups))), len(groups) - 1)])


COPY = "copy of a held-out example"  # why an example is left out


def group_key(example: dict, copy: bytes) -> bytes:
    """The key of the examples with which one stays together: those of its `group`, which is taken
    out of it, or else its copies."""
    group = example.pop("group", None)
    return copy if group is None else hashlib.sha256(group.encode()).digest()


def _split(parts, notes, config: DataConfig, skipped: Counter) -> tuple[list[list], list]:
    """(the training examples of each source, the held-out examples of all). A fraction of each
    source is held out, together with its copies in every source."""
    keys = [content_key(e) for part in parts for e in part]
    all_notes = [note for own in notes for note in own.values()]
    copies = duplicates.copy_groups(keys, all_notes, config.dedup)
    remaining = iter(copies)
    groups = [[group_key(e, next(remaining)) for e in part] for part in parts]
    heldout: set[bytes] = set()
    for part, part_groups, folder in zip(parts, groups, config.prepared_folders(), strict=True):
        if not folder:
            first = part[0]["where"] if part else ""
            fraction, field = config.heldout_fraction, config.heldout_by
            heldout |= heldout_keys(part_groups, fraction, first, field)
    flat = list(itertools.chain(*groups))
    held_copies = {copy for copy, key in zip(copies, flat, strict=True) if key in heldout}
    remaining = iter(copies)
    train: list[list] = []
    held_out: list = []
    for part, part_groups in zip(parts, groups, strict=True):
        train.append([])
        for example, key in zip(part, part_groups, strict=True):
            is_copy = next(remaining) in held_copies
            if key in heldout:
                held_out.append(example)
            elif is_copy:
                skipped[COPY] += 1
            else:
                train[-1].append(example)
    return train, held_out


def _choose(examples, config: DataConfig, skipped: Counter) -> list:
    """The examples that `config.subset`, `config.filters` and `config.keep` leave."""
    part, parts = config.subset_part()
    numbers: dict[bytes, int] = {}  # of documents and prompts, in order
    examples = [
        e for e in examples if numbers.setdefault(content_key(e), len(numbers)) % parts == part
    ]
    if config.filters:
        examples = filters.apply(examples, config.filters, skipped)
    return thin_rankings(examples, config.keep) if config.keep and examples else examples


def _choosing_settings(config: DataConfig) -> str:
    """The settings that leave examples out, for an error."""
    values = {name: getattr(config, name) for name in ("filters", "dedup", "decontaminate")}
    named = [f"data.{name}={value}" for name, value in values.items() if value]
    return " with ".join([f"data.subset={config.subset!r:.80}", *named])


def thin_rankings(examples: Iterable[dict], keep: Mapping[str, float]) -> list:
    """Rankings with a share of their candidates, drawn with a fixed seed (`DataConfig.keep`). A
    ranking that is left with nothing to compare is left out.

    Raises:
      DataError: no candidate is of a named kind, or no ranking is left.
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
        columns = {
            name: [example[name][i] for i in kept] for name in ("responses", "rank", "kinds")
        }
        if len(set(columns["rank"])) > 1:
            thinned.append(example | columns)
    if not thinned:
        raise DataError("data.keep leaves no ranking with two candidates to compare")
    return thinned
