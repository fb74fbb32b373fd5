"""The capacity drill: a supervised run that is moved between numbers of devices."""

import json
import os
import re
import signal
import sys
import time

import numpy as np
import pytest
from local_runs import last_step, launch, records, start, workers
from stage_fixtures import write_files

from tpu.launch.history import FILE

STEPS = 70
RECIPE = f"""
import sys
from pathlib import Path

from stage_fixtures import recipe

sys.path.insert(0, str(Path(__file__).parent))


def get_config():
    config = recipe("pretrain", Path(__file__).parent)
    config.steps, config.checkpoint.every, config.checkpoint.keep = {STEPS}, 5, 3
    config.accumulate = 2
    config.plugins = ("rows_seen",)
    return config
"""
# Notes the tokens of every batch, and slows the run down so that a signal finds it at work.
PLUGIN = """
import hashlib
import json
import os
import time

import jax
import numpy as np

from train.objectives.base import LoaderSource

next_batch = LoaderSource.next


def noted_next(self, state, frozen, s, step):
    batch, after, metrics = next_batch(self, state, frozen, s, step)
    digest = hashlib.sha256(np.asarray(batch["tokens"]).tobytes()).hexdigest()
    with open(os.environ["ROWS"], "a") as file:
        print(json.dumps([step, digest, jax.device_count()]), file=file)
    time.sleep(0.05)
    return batch, after, metrics


LoaderSource.next = noted_next
"""


def rows_of(path):
    """({step: the hashes of its rows}, the numbers of devices in turn)."""
    seen, counts = {}, []
    for step, digest, count in map(json.loads, path.read_text().splitlines()):
        seen.setdefault(step, set()).add(digest)
        counts += [count] if counts[-1:] != [count] else []
    return seen, counts


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.skipif(sys.platform != "linux", reason="finds processes in /proc")
def test_moved_from_4_to_2_to_8_devices_twice_it_is_the_same_run(tmp_path, monkeypatch):
    """Taken away by SIGTERM and by SIGKILL in turn; once the supervisor is killed too."""
    write_files(tmp_path)
    (tmp_path / "moved.py").write_text(RECIPE)
    (tmp_path / "rows_seen.py").write_text(PLUGIN)
    recipe = f"--config={tmp_path / 'moved.py'}"
    whole, workdir = tmp_path / "whole", tmp_path / "run"
    flags = ["local", "--processes=1", "--supervise"]

    monkeypatch.setenv("ROWS", str(tmp_path / "whole.jsonl"))
    code, output = launch(*flags, "--devices=4", "--", recipe, f"--workdir={whole}")
    assert code == 0, output

    monkeypatch.setenv("ROWS", str(tmp_path / "run.jsonl"))
    command = ["-m", "tpu.launch", *flags, "--devices=4,2,8", "--", recipe, f"--workdir={workdir}"]
    run, outputs = start(command), []
    for number, step in enumerate((8, 18, 28, 38, 48)):
        limit = time.monotonic() + 240
        while last_step(workdir) < step or not workers(workdir):
            assert run.poll() is None and time.monotonic() < limit, run.stdout.read()
            time.sleep(0.02)
        if number == 2:  # the supervisor too, and first
            run.kill()
            run.wait()
        os.kill(workers(workdir)[0], (signal.SIGTERM, signal.SIGKILL)[number % 2])
        if number == 2:
            while workers(workdir):
                time.sleep(0.05)
            outputs.append(run.stdout.read())
            run = start(command)
    outputs.append(run.communicate(timeout=240)[0])
    output = "".join(outputs)
    assert run.returncode == 0, output

    seen, counts = rows_of(tmp_path / "run.jsonl")
    assert counts == [4, 2, 8, 4, 2, 8], output
    expected, _ = rows_of(tmp_path / "whole.jsonl")
    assert seen == expected and len(seen) == STEPS
    for got, want in zip(records(workdir), records(whole), strict=True):
        assert got["step"] == want["step"]
        if got["kind"] == "train":
            np.testing.assert_allclose(got["loss"], want["loss"], rtol=0, atol=1e-5)
    moves = [line for line in output.splitlines() if line.startswith("launch: moving to")]
    assert len(moves) == 5 and "moving to 2 devices (4 devices: taken away, saved)" in moves[0]
    assert "mesh fsdp 2, 2 microbatches" in moves[0]
    stays = json.loads((workdir / FILE).read_text())["stays"]
    assert [s["accelerator"] for s in stays] == [f"{n} devices" for n in (4, 2, 8, 4, 2, 8)]
    assert stays[2]["outcome"] == "lost while nobody supervised"
    assert stays[-1]["outcome"] == "done" and stays[-1]["last_step"] == STEPS
    last = output.splitlines()[-1]
    assert re.fullmatch(r"launch: 8 devices  steps \d+ to 70  \d+:\d\d  done", last), last
