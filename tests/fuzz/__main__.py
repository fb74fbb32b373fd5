"""Fuzzes every reader and command: `python -m tests.fuzz --inputs=20000`.

Input k of a target is a function of (seed, target, k) alone, so a finding is reproduced by
`python -m tests.fuzz --target=NAME --only=K`. Exits 1 if there was a finding.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from threading import Lock, Thread

from tests.fuzz import engine

SILENCE = 120.0  # seconds after which a worker is stuck in code that no signal interrupts


def plan(targets, inputs: int) -> dict[str, int]:
    """{target: number of inputs} in proportion to the shares, at least one each."""
    total = sum(target.share for target in targets)
    return {t.name: max(1, round(inputs * t.share / total)) for t in targets}


def work(target, numbers, seed: int, say) -> None:
    """Runs inputs of one target in this process; calls `say` with a record of each."""
    with tempfile.TemporaryDirectory(prefix="seedpod-fuzz-") as name:
        folder = Path(name)
        good = target.prepare(folder)
        engine.limit_memory()
        for number in numbers:
            say({"begun": number})
            result = engine.attempt(target, number, seed, good, folder)
            if isinstance(result, engine.Finding):
                say(result._asdict())
            else:
                say({"accepted": result})


class Watched:
    """A worker process, restarted after an input that ended it or hung in it."""

    def __init__(self, target: str, numbers: range, seed: int, on_record):
        self._target, self._left, self._seed, self._say = target, numbers, seed, on_record

    def run(self) -> None:
        while self._left:
            self._once()

    def _once(self) -> None:
        numbers = self._left
        command = [sys.executable, "-m", "tests.fuzz", "--worker", f"--target={self._target}"]
        command += [f"--from={numbers.start}", f"--to={numbers.stop}", f"--seed={self._seed}"]
        current, last_record, ended = None, [time.monotonic()], False
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, cwd=engine.ROOT
        )

        def watch():
            while process.poll() is None:
                if time.monotonic() - last_record[0] > SILENCE:
                    process.kill()
                time.sleep(1)

        Thread(target=watch, daemon=True).start()
        for line in process.stdout:
            last_record[0] = time.monotonic()
            record = json.loads(line)
            if "begun" in record:
                current = record["begun"]
            elif "ended" in record:
                ended = True
            else:
                self._say(self._target, record)
        code = process.wait()
        if ended:
            self._left = range(0)
            return
        fault = (
            "a hang that no signal interrupts" if code == -9 else f"the process ended with {code}"
        )
        number = -1 if current is None else current
        self._say(self._target, engine.Finding(self._target, number, fault, "")._asdict())
        self._left = range(0) if current is None else range(current + 1, numbers.stop)


def run(targets, inputs: int, seed: int, workers: int) -> int:
    """Runs all targets and prints the findings; returns the exit code."""
    counts, accepted, lock = plan(targets, inputs), Counter(), Lock()
    findings: dict[str, list] = {}
    done, start = Counter(), time.monotonic()

    def on_record(target, record):
        with lock:
            done[target] += 1
            if "accepted" in record:
                accepted[target] += record["accepted"]
                return
            same = findings.setdefault(f"{target}: {record['fault']}", [])
            same.append(record["number"])
            if len(same) == 1:
                print(f"\n--- {target} --only={record['number']}: {record['fault']}", flush=True)
                print(record["detail"], flush=True)

    queue = sorted(targets, key=lambda t: -t.share)

    def drain():
        while True:
            with lock:
                if not queue:
                    return
                target = queue.pop(0)
            Watched(target.name, range(counts[target.name]), seed, on_record).run()
            with lock:
                name, n = target.name, done[target.name]
                print(f"{name}: {n} inputs, {accepted[name]} accepted, "
                      f"{time.monotonic() - start:.0f} s", flush=True)  # fmt: skip

    threads = [Thread(target=drain) for _ in range(workers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    total = sum(map(len, findings.values()))
    for fault, numbers in sorted(findings.items(), key=lambda item: -len(item[1])):
        print(f"{len(numbers):6} × {fault} (first --only={numbers[0]})")
    print(f"{sum(done.values())} inputs, seed {seed}: {sum(accepted.values())} accepted, "
          f"{total} findings of {len(findings)} kinds")  # fmt: skip
    return 1 if findings else 0


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--inputs", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--target", help="Only targets whose name begins with this.", default="")
    parser.add_argument("--only", type=int, help="Only this input of --target, in this process.")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--from", type=int, default=0, dest="start", help=argparse.SUPPRESS)
    parser.add_argument("--to", type=int, default=0, dest="stop", help=argparse.SUPPRESS)
    given = parser.parse_args()
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    from tests.fuzz.targets import TARGETS

    targets = [t for t in TARGETS if t.name.startswith(given.target)]
    if not targets:
        parser.error(f"no target {given.target}; there are {', '.join(t.name for t in TARGETS)}")
    if given.only is not None or given.worker:
        exact = [t for t in targets if t.name == given.target]
        if not exact:
            parser.error("--only needs the whole name of one --target")
        # Records have their own descriptor, as the output of the target is captured.
        out = os.fdopen(os.dup(1), "w", buffering=1)
        if given.only is not None:
            records = []
            work(exact[0], [given.only], given.seed, records.append)
            record = records[-1]
            print(record.get("fault", record), record.get("detail", ""), sep="\n", file=out)
            return int("fault" in record)
        work(
            exact[0], range(given.start, given.stop), given.seed,
            lambda record: print(json.dumps(record), file=out),
        )  # fmt: skip
        print(json.dumps({"ended": True}), file=out)
        return 0
    return run(targets, given.inputs, given.seed, given.workers)


if __name__ == "__main__":
    sys.exit(main())
