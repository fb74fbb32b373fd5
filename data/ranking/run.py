"""The command: a set of questions begun or resumed, served, and exported."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol

from rich.console import Console

from data.atomic import is_remote, write_atomically
from data.errors import DataError, with_flags
from data.ranking import reading
from data.ranking.export import Exported, export, grouped
from data.ranking.formats import argilla, label_studio
from data.ranking.questions import MOST_CANDIDATES, Question
from data.ranking.sampling import Answerer, Sampler, Score
from data.ranking.store import Store
from printable import SafeConsole

FORMATS = {"jsonl": None, "label_studio": label_studio.exported, "argilla": argilla.exported}
_NAME = re.compile(r"\w[\w.@+-]{0,63}")


class Settings(NamedTuple):
    """The flags of `python -m data.ranking`, which say what they mean."""

    out: str
    workdirs: Sequence[str] = ()
    prompts: str = ""
    gold: str = ""
    answers: int = 0
    sampling: Mapping[str, Any] = MappingProxyType({})
    seed: int = 0
    annotators: Sequence[str] = ("me",)
    each: int = 1
    order: str = "random"
    reward: str = ""
    port: int = 8001
    hosts: Sequence[str] = ()
    export: str = ""
    leave_out: Sequence[str] = ()
    fields: Mapping[str, str] = MappingProxyType({})
    passages: str = ""
    records: str = ""
    transforms: Mapping[str, Any] = MappingProxyType({})

    @property
    def database(self) -> Path:
        return Path(self.out).with_suffix(".db")

    def check(self) -> None:
        """Raises DataError for settings that contradict each other."""
        if is_remote(self.out) or not self.out.endswith(".jsonl"):
            raise DataError(
                f"--out={self.out}: name a file of this machine that ends in .jsonl; the answers "
                "are kept in a database beside it"
            )
        for flag, names in (("annotators", self.annotators), ("workdir", self.workdirs)):
            if twice := sorted({name for name in names if list(names).count(name) > 1}):
                raise DataError(f"--{flag} has {twice[0]} twice; each name is one person or run")
        for name in self.annotators:
            if not _NAME.fullmatch(name):
                raise DataError(f"--annotators={name!r:.80}: a name has letters, digits and ._-@+")
        if not self.annotators:
            raise DataError("--annotators is empty; name those who answer, as --annotators=ana,ben")
        if self.each > len(self.annotators) and not self.export:
            raise DataError(
                f"--each={self.each} asks for more people than --annotators names "
                f"({len(self.annotators)})"
            )
        if not max(2, len(self.workdirs)) <= self.per_prompt <= MOST_CANDIDATES:
            raise DataError(
                f"{len(self.workdirs)} runs, {self.per_prompt} answers to compare; there are 2 to "
                f"{MOST_CANDIDATES}, and one or more of each run: set --answers"
            )
        if self.answers and not self.workdirs:
            raise DataError("--answers is the number that --workdir samples; name a run")
        if len(self.workdirs) == 1 and self.sampling.get("temperature") == 0:
            raise DataError(
                "--temperature=0 samples the same answer each time; name two runs, or set it above"
            )
        if self.export and (self.workdirs or self.reward):
            raise DataError("--export writes the answers that there are; leave runs out")
        if self.passages and not (self.workdirs and self.prompts):
            raise DataError(
                "--passages is written into --prompts that --workdir answers; name both, or leave "
                "it out"
            )
        if bool(self.reward) != (self.order == "uncertain"):
            raise DataError("--next=uncertain and --reward=RUN, the judge, go together")

    def read_prompts(self) -> reading.Read:
        """The questions of `prompts`."""
        return reading.read(
            self.prompts, self.fields, records=self.records, transforms=self.transforms
        )

    @property
    def per_prompt(self) -> int:
        """The number of sampled answers to a prompt."""
        return self.answers or max(2, len(self.workdirs))


class Models(Protocol):
    """A way to open runs: those that answer, and a reward model; `ground` writes passages into
    questions as a run reads them, and `hints` says which runs were trained with some."""

    def open_answerers(
        self, names: Sequence[str], sampling: Mapping[str, Any], seed: int
    ) -> Sequence[Answerer]: ...

    def open_score(self, name: str) -> Score: ...

    def ground(self, questions: Sequence[Question], name: str, passages: str) -> None: ...

    def hints(self, names: Sequence[str]) -> list[str]: ...


def run(settings: Settings, models: Callable[[], Models]) -> None:
    """Collects answers on a page until Ctrl-C, or exports those that there are.

    Args:
      models: called only if a run is to be opened, as importing what opens it takes seconds.

    Raises:
      DataError, ValueError: of the settings, the files, the database or the runs; nothing is lost.
    """
    settings.check()
    console = SafeConsole()
    if settings.export:
        with _open(settings, models, console) as store:
            _print_exported(console, _export_as(store, settings))
        return
    import loopback
    from data.ranking import server  # it says what is not installed

    listening = loopback.listen(settings.port)
    with _open(settings, models, console) as store:
        answerers: Sequence[Answerer] = []
        if store.waiting():
            answerers = _answerers(store, settings, models)
            hints = [] if store.note("passages") else models().hints(settings.workdirs)
            for hint in hints:
                console.print(hint)
        score = models().open_score(settings.reward) if settings.reward else None
        sampler = Sampler(store, answerers, settings.per_prompt, score, settings.reward)
        room = server.Room(
            store, settings.annotators, lambda: export(store, settings.out, settings.leave_out),
            settings.each, settings.order, sampler, settings.hosts,
        )  # fmt: skip
        room.export()
        app = server.build(room)
        port = listening.getsockname()[1]
        for address in [
            f"http://{loopback.HOST}:{port}",
            *(f"https://{h}" for h in settings.hosts),
        ]:
            for name, link in server.links(room, address).items():
                console.print(f"{name if name != server.OWNER else 'overview'}  {link}")
        console.print(f"Answers are kept in {settings.database}; Ctrl-C ends.")
        sampler.start()
        try:
            loopback.serve(app, listening)
        finally:
            sampler.stop()
            _print_exported(console, room.export())
        if sampler.error:
            raise ValueError(f"sampling stopped: {sampler.error}")
        if sampler.unjudged:
            console.print(f"{sampler.unjudged} questions do not fit {settings.reward}: asked last")


def _open(settings: Settings, models: Callable[[], Models], console: Console) -> Store:
    """The database of a set of questions, which is begun if it is not there."""
    path = settings.database
    if not path.exists():
        if not settings.prompts:
            raise DataError(f"there is no {path}; --prompts=FILE begins a set of questions")
        if Path(settings.out).exists():
            raise DataError(
                f"{settings.out} exists, and is not of this command; give another --out"
            )
    try:
        read = settings.read_prompts() if settings.prompts else None
    except DataError as error:
        raise with_flags(error) from None
    gold = reading.read(settings.gold, gold=True) if settings.gold else None
    if read and not path.exists():
        _check_answers(read, settings)
    if read and settings.passages:
        models().ground(read.questions, settings.workdirs[0], settings.passages)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"--out={settings.out} cannot be written: {error}") from None
    store = Store(path)
    try:
        if read:
            _begin(store, settings, read, console)
        if gold:
            store.add(gold.questions, settings.seed)
        known = {answer.annotator for answer in store.answers()} | set(settings.annotators)
        if strangers := sorted(set(settings.leave_out) - known):
            raise DataError(
                f"--leave_out={strangers[0]}: nobody of that name has answered; there are "
                f"{', '.join(sorted(known))}"
            )
    except BaseException:
        store.close()
        raise
    return store


def _check_answers(read: reading.Read, settings: Settings) -> None:
    """Checks that each prompt has answers, or a run that samples them."""
    lacking = next((q for q in read.questions if not q.candidates), None)
    if lacking and not (settings.workdirs or settings.export):
        raise DataError(
            f"{lacking.where} has no answers to compare; --workdir=RUN samples them, or give them "
            "as 'responses'"
        )
    if settings.workdirs and not lacking:
        raise DataError(
            f"{settings.prompts} has answers to all its prompts, so --workdir samples none; leave "
            "it out"
        )


def _begin(store: Store, settings: Settings, read: reading.Read, console: Console) -> None:
    """Adds the questions of a file, or checks that the database has those."""
    known, digest = store.note("prompts"), reading.digest(read.questions)
    if known is not None:
        if known != digest:
            if (passages := store.note("passages") or "") != settings.passages:
                raise DataError(
                    f"{settings.database} was begun with --passages={passages}; give the same, or "
                    "another --out"
                )
            raise DataError(
                f"{settings.database} is of another set of questions than {settings.prompts}, that "
                f"of {store.note('source')}; give another --out, or leave --prompts out"
            )
        return
    ids = store.add(read.questions, settings.seed)
    for number, answers in zip(ids, read.answers, strict=True):
        for given in answers:
            current = store.current(given.annotator, number)
            replaces = current.id if current else ""
            store.record(given.annotator, number, given.answer, replaces=replaces, time=given.time)
    store.note("source", settings.prompts)
    store.note("passages", settings.passages)
    store.note("prompts", digest)
    if read.repeated:
        console.print(f"{read.repeated} records ask what another asks, and are asked once")
    for name, count in sorted(read.changes.items()):
        console.print(f"{name}: {count:,}")
    if read.unread:
        counts = ", ".join(f"{name} ({count})" for name, count in read.unread.most_common(8))
        console.print(f"fields of {settings.prompts} that are not used: {counts}")


def _answerers(
    store: Store, settings: Settings, models: Callable[[], Models]
) -> Sequence[Answerer]:
    """The runs that sample what is still to be sampled: those with which it was begun."""
    if not settings.workdirs:
        raise DataError(
            f"{len(store.waiting())} prompts of {settings.database} have no answers yet; "
            f"--workdir={store.note('runs') or 'RUN'} samples them"
        )
    answerers = models().open_answerers(settings.workdirs, settings.sampling, settings.seed)
    wanted = json.dumps([",".join(settings.workdirs), settings.per_prompt, dict(settings.sampling)])
    known = store.note("sampling", wanted)
    if known != wanted:
        runs, count, sampling = json.loads(known or "")
        flags = " ".join(f"--{name}={value}" for name, value in sampling.items())
        raise DataError(
            f"the answers in {settings.database} were sampled otherwise; type --workdir={runs} "
            f"--answers={count} {flags}, or give another --out"
        )
    store.note("runs", ",".join(settings.workdirs))
    return answerers


def _export_as(store: Store, settings: Settings) -> Exported:
    """Writes the files, and one in the format of another tool if one is asked for."""
    exported = export(store, settings.out, settings.leave_out)
    write = FORMATS[settings.export]
    if write is None:
        return exported
    records = [write(q, answers) for q, answers in grouped(store, settings.leave_out)
               if q.gold is None]  # fmt: skip
    path = Path(settings.out).with_suffix(f".{settings.export}.json")
    write_atomically(path, json.dumps(records, ensure_ascii=False, indent=1))
    return exported._replace(paths=(*exported.paths, path))


def _print_exported(console: Console, exported: Exported) -> None:
    count, decided = exported.answers, exported.preferences
    undecided = f", {exported.undecided} without one" * bool(exported.undecided)
    console.print(
        f"{count} answer{'s' * (count != 1)}: {decided} preference{'s' * (decided != 1)}"
        f"{undecided}; {', '.join(map(str, exported.paths))}"
    )
