"""Preparing a corpus: the parts in processes or as a Beam pipeline, then the manifest."""

from __future__ import annotations

import concurrent.futures
import functools
import multiprocessing
import os
import shlex

from absl import flags
from rich import progress
from rich.console import Console

from data import summary
from data.errors import DataError
from data.pipeline import DataConfig
from data.prepare import prepared
from data.prepare.shards import (
    Job,
    clean,
    decide,
    finish,
    make_plan,
    make_tokenizer,
    same,
    survey,
    unchanged,
    write,
)

console = Console(highlight=False, soft_wrap=True)
COLUMNS = (
    progress.TextColumn("{task.description}"),
    progress.BarColumn(),
    progress.MofNCompleteColumn(),
    progress.TimeElapsedColumn(),
    progress.TimeRemainingColumn(),
)


def run_local(job: Job, count: int, processes: int) -> None:
    """The steps on processes of this machine (this one, if it is to be one), with progress."""
    processes = min(processes, count)
    if processes == 1:
        _all((survey(job, number) for number in range(count)), count, "reading")
        decide(job)
        _all((write(job, number) for number in range(count)), count, "writing")
        return
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(processes, context) as pool:
        try:
            for step, what in ((survey, "reading"), (write, "writing")):
                futures = [pool.submit(step, job, number) for number in range(count)]
                finished = concurrent.futures.as_completed(futures)
                _all((future.result() for future in finished), count, what)
                if step is survey:
                    decide(job)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _all(results, count: int, what: str) -> None:
    """Takes all results, with progress."""
    with progress.Progress(*COLUMNS, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task(f"{what} {count} part{'s' * (count > 1)}", total=count)
        for _ in results:
            bar.advance(task)


def run_beam(job: Job, count: int, options: list[str]) -> None:
    """The same as an Apache Beam pipeline."""
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
        each(numbers, write, "write")


def run(
    config: DataConfig, schema: str, folder: str, *, processes: int = 1, kind: str = "",
    vocab_size: int = 0, fim: bool = False, tokenizer: str = "", beam: list[str] | None = None,
) -> dict:  # fmt: skip
    """Prepares a corpus, or goes on with it; returns the manifest.

    Args:
      schema: `text` or `chat`. folder: where it goes. beam: options of a Beam pipeline.
      kind, vocab_size, fim: of the tokenizer to make, where `tokenizer` names none.

    Raises:
      DataError: as reading and packing would, and where the folder holds something else.
    """
    if config.mixture:
        raise DataError("a mixture is not prepared as a whole: prepare each of its sources")
    if schema not in ("text", "chat"):
        raise DataError(f"rows of {schema} are few, and are made when a run starts")
    job = Job(config, schema, os.path.expanduser(folder))
    if prepared.is_prepared(job.folder):  # the manifest is written when all is there
        manifest = prepared.read_manifest(job.folder)
        same(job, manifest["settings"])
        unchanged(job, manifest["sources"])
        clean(job)
        return manifest
    count = make_plan(job)
    make_tokenizer(job, kind, vocab_size, tokenizer, fim)
    if beam is None:
        run_local(job, count, processes)
    else:
        run_beam(job, count, beam)
    return finish(job)


def describe(manifest: dict, folder: str) -> str:
    packing_, lines = manifest["packing"], []
    size = sum(s["bytes"] for split in manifest["splits"].values() for s in split)
    lines.append(
        f"{folder}: {packing_['tokens']:,} tokens in {packing_['rows']:,} rows of "
        f"{manifest['length']:,}, {packing_['efficiency']:.1%} full; {size / 1e6:,.1f} MB in "
        f"{sum(map(len, manifest['splits'].values()))} shards"
    )
    if manifest["documents"]:
        found = ", ".join(f"{name}: {n:,}" for name, n in manifest["documents"].items())
        lines.append(f"documents: {found}")
    unused = {str(manifest["settings"]["source"]): manifest.get("unused", {})}
    lines += summary.lines(manifest["skipped"], manifest["redacted"], unused)
    return "\n".join(lines)


def main(argv):
    del argv
    from train.cli import EXPECTED, fail
    from train.config.run import build
    from train.objectives import registry

    FLAGS = flags.FLAGS
    try:
        config = build(FLAGS.config)
        manifest = run(
            config.data, registry.find(config).schema, FLAGS.output, processes=FLAGS.processes,
            kind=config.tokenizer.kind, vocab_size=config.tokenizer.vocab_size,
            fim=config.tokenizer.fim, tokenizer=config.tokenizer.path,
            beam=shlex.split(FLAGS.beam_options) if FLAGS.beam else None,
        )  # fmt: skip
    except EXPECTED as e:
        fail(str(e))
    console.print(describe(manifest, FLAGS.output))
    console.print(f"train on it with --config.data.source={FLAGS.output}")
