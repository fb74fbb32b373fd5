"""Preparing a corpus: the steps over its parts, in processes or as an Apache Beam pipeline.

Every part is read twice: `survey` notes what each document is, `decide` compares the notes of all
parts, and `write_shards` packs the documents that are kept.
"""

from __future__ import annotations

import concurrent.futures
import functools
import multiprocessing
import os
import signal

from rich import progress

from data import summary
from data.config import DataConfig
from data.errors import DataError
from data.prepare.manifest import is_prepared, read_manifest
from data.prepare.plan import (
    PrepareJob,
    check_settings,
    check_sources,
    make_plan,
    make_tokenizer,
)
from data.prepare.prepared_rows import check_nested
from data.prepare.shards import finish, remove_intermediate, write_shards
from data.prepare.survey import decide, survey
from printable import SafeConsole

console = SafeConsole()
COLUMNS = (
    progress.TextColumn("{task.description}"),
    progress.BarColumn(),
    progress.MofNCompleteColumn(),
    progress.TimeElapsedColumn(),
    progress.TimeRemainingColumn(),
)


def prepare_corpus(
    config: DataConfig, schema: str, folder: str, *, processes: int = 1, kind: str = "",
    vocab_size: int = 0, fim: bool = False, tokenizer: str = "", beam: list[str] | None = None,
) -> dict:  # fmt: skip
    """Prepares a corpus, or resumes it; returns the manifest.

    Args:
      schema: `text` or `chat`. folder: where the result is written.
      processes: how many parts are processed at a time.
      kind, vocab_size, fim: of the tokenizer to train, where `tokenizer` names none.
      tokenizer: a directory whose tokenizer is used.
      beam: options of a Beam pipeline, to run as one.

    Raises:
      DataError: the data cannot be read or packed, or the folder holds something else.
    """
    if config.mixture:
        raise DataError("a mixture is not prepared as a whole: prepare each of its sources")
    check_nested(schema, config)
    if schema not in ("text", "chat"):
        raise DataError(f"rows of {schema} are few, and are made when a run starts")
    job = PrepareJob(config, schema, os.path.expanduser(folder))
    if is_prepared(job.folder):  # the manifest is written last
        manifest = read_manifest(job.folder)
        check_settings(job, manifest["settings"])
        check_sources(job, manifest["sources"])
        remove_intermediate(job)
        return manifest
    count = make_plan(job)
    make_tokenizer(job, kind, vocab_size, tokenizer, fim)
    if beam is None:
        _run_local(job, count, processes)
    else:
        _run_beam(job, count, beam)
    return finish(job)


def _run_local(job: PrepareJob, count: int, processes: int) -> None:
    """Runs the steps in processes of this machine (in this one if `processes` is 1)."""
    processes = min(processes, count)
    if processes == 1:
        _consume((survey(job, number) for number in range(count)), count, "reading")
        decide(job)
        _consume((write_shards(job, number) for number in range(count)), count, "writing")
        return
    context = multiprocessing.get_context("spawn")
    ignore = signal.SIGINT, signal.SIG_IGN  # a Ctrl-C reaches them through this process
    with concurrent.futures.ProcessPoolExecutor(
        processes, context, initializer=signal.signal, initargs=ignore
    ) as pool:
        try:
            for step, verb in ((survey, "reading"), (write_shards, "writing")):
                futures = [pool.submit(step, job, number) for number in range(count)]
                finished = concurrent.futures.as_completed(futures)
                _consume((future.result() for future in finished), count, verb)
                if step is survey:
                    decide(job)
        except BaseException as error:
            pool.shutdown(wait=False, cancel_futures=True)
            if isinstance(error, KeyboardInterrupt):  # the parts that are being read are lost
                for process in multiprocessing.active_children():
                    process.terminate()
            raise


def _consume(results, count: int, verb: str) -> None:
    """Takes all results, with a progress bar."""
    with progress.Progress(*COLUMNS, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task(f"{verb} {count} part{'s' * (count > 1)}", total=count)
        for _ in results:
            bar.advance(task)


def _run_beam(job: PrepareJob, count: int, options: list[str]) -> None:
    """Runs the steps as an Apache Beam pipeline."""
    import apache_beam as beam
    from apache_beam.options.pipeline_options import PipelineOptions

    def each(numbers, step, label):
        done = numbers | f"spread {label}" >> beam.Reshuffle()
        done = done | label >> beam.Map(functools.partial(step, job))
        return done | f"all of {label}" >> beam.combiners.Count.Globally()

    with beam.Pipeline(options=PipelineOptions(options)) as pipeline:
        surveyed = each(pipeline | beam.Create(range(count)), survey, "survey")
        decided = surveyed | "decide" >> beam.Map(lambda _: decide(job))
        numbers = decided | "parts" >> beam.FlatMap(lambda _: range(count))
        each(numbers, write_shards, "write")


def describe(manifest: dict, folder: str) -> str:
    """A summary of a prepared corpus, in lines of text."""
    packing, lines = manifest["packing"], []
    size = sum(s["bytes"] for split in manifest["splits"].values() for s in split)
    lines.append(
        f"{folder}: {packing['tokens']:,} tokens in {packing['rows']:,} rows of "
        f"{manifest['length']:,}, {packing['efficiency']:.1%} full; {size / 1e6:,.1f} MB in "
        f"{sum(map(len, manifest['splits'].values()))} shards"
    )
    if manifest["documents"]:
        counts = ", ".join(f"{name}: {n:,}" for name, n in manifest["documents"].items())
        lines.append(f"documents: {counts}")
    source = str(manifest["settings"]["source"])
    unused, changes = ({source: manifest.get(name, {})} for name in ("unused", "changes"))
    lines += summary.lines(manifest["skipped"], manifest["redacted"], unused, changes)
    return "\n".join(lines)
