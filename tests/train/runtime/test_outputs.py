"""A closed pipe, a full disk or a log that cannot be written ends nothing, and is said once; what
is wrong with a command line is one line."""

import json
import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest
from absl import flags
from ml_collections import config_flags
from stage_fixtures import write_files

from train import cli
from train.runtime import outputs
from train.runtime.goodput import Goodput
from train.runtime.metrics import Metrics
from train.runtime.records import read_metrics, truncate_jsonl

ROOT = Path(__file__).parents[3]


@pytest.fixture(autouse=True)
def fresh(monkeypatch):
    monkeypatch.setattr(outputs, "_reported", set())
    outputs._failed.clear()
    yield
    outputs._failed.clear()


def closed_pipe():
    read, write = os.pipe()
    os.close(read)
    return os.fdopen(write, "w", buffering=1)


def test_what_a_closed_pipe_does_not_take_goes_to_the_log(caplog, capsys):
    caplog.set_level(logging.INFO)
    with closed_pipe() as pipe:
        stream = outputs.Stream(pipe, "stdout", lasting=True)
        for line in ("one\n", "two\n", "three\n"):
            print(line, end="", file=stream, flush=True)
        assert not stream.isatty() and stream.fileno() == pipe.fileno()
    assert [r.message for r in caplog.records] == ["stdout: one", "stdout: two", "stdout: three"]
    outputs.report()
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 2
    assert "stdout cannot be written (Broken pipe)" in said[0] and "3 times in all" in said[1]


def test_a_full_log_is_tried_again(capsys):
    full = os.fdopen(os.open("/dev/full", os.O_WRONLY), "w", buffering=1)
    handler = logging.StreamHandler(outputs.Stream(full, "log.txt", lasting=False))
    for number in range(3):
        handler.emit(logging.makeLogRecord({"msg": f"line {number}"}))
    assert outputs._failed["log.txt"] == 3
    assert "No space left on device" in capsys.readouterr().err


def test_a_log_that_cannot_be_opened_is_another(tmp_path, capsys):
    log, path = outputs.open_log(str(tmp_path))
    print("hello", file=log)
    log.close()
    assert Path(path).read_text() == "hello\n" and path in capsys.readouterr().err
    Path(path).unlink()


def test_characters_that_a_terminal_does_not_have_are_replaced(tmp_path):
    with open(tmp_path / "out", "w", encoding="ascii") as file:
        print("· done", file=outputs.Stream(file, "stdout", lasting=True))
    assert (tmp_path / "out").read_text() == "? done\n" and not outputs._failed


def test_records_wait_until_they_can_be_written(tmp_path, capsys):
    blocked = tmp_path / "logs"
    blocked.write_text("in the way")
    records = outputs.Records(blocked / "a.jsonl")
    records.write(b"1\n")
    records.sync()
    records.write(b"2\n")
    blocked.unlink()
    records.write(b"3\n")
    assert (blocked / "a.jsonl").read_bytes() == b"1\n2\n3\n"
    records.close()
    outputs.report()
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_half_a_record_never_stays(tmp_path, monkeypatch):
    records = outputs.Records(tmp_path / "a.jsonl")
    records.write(b"whole\n")
    file = records._file

    class Filling:
        """A disk with two bytes left."""

        left = 2

        def write(self, data):
            if not self.left:
                raise OSError(28, "No space left on device")
            count, self.left = file.write(data[: self.left]), 0
            return count

        def __getattr__(self, name):
            return getattr(file, name)

    records._file = Filling()
    records.write(b"second\n")
    assert (tmp_path / "a.jsonl").read_bytes() == b"whole\n"
    records._file = file
    records.write(b"third\n")
    assert (tmp_path / "a.jsonl").read_bytes() == b"whole\nsecond\nthird\n"
    monkeypatch.setattr(outputs, "MOST_WAITING", 1)
    records._file = Filling()
    for _ in range(4):
        records.write(b"lost\n")
    records.close()
    assert outputs._failed["a.jsonl"] == 4


def test_metrics_of_a_full_disk(tmp_path, capsys, monkeypatch):
    """Files that are full, a folder in the place of one, a name that is too long for a file."""
    for name in ("metrics.jsonl", "samples.jsonl"):
        (tmp_path / name).symlink_to("/dev/full")
    monkeypatch.setattr("socket.gethostname", lambda: "host" * 100)
    (tmp_path / "goodput.json").mkdir()
    assert truncate_jsonl(tmp_path / "metrics.jsonl", 3) == []
    assert read_metrics(tmp_path, "train") == []
    metrics, goodput = Metrics(tmp_path, 0, 9), Goodput(tmp_path)
    for step in (1, 2):
        metrics.write(step, "train", {"loss": 1.0})
        metrics.write_samples(step, [{"text": "é"}])
        metrics.sync()
        goodput.write()
    metrics.close()
    said = capsys.readouterr().err
    for name, count in (("metrics.jsonl", 2), ("samples.jsonl", 2), ("events.", 7)):
        assert said.count(f"warning: {name}") == 2, said
        (line,) = [x for x in said.splitlines() if f"warning: {name}" in x and "in all" in x]
        assert f" {count} times" in line
    assert said.count("goodput.json cannot be written") == 1


SPEAKS = """
import logging, sys
from train.runtime import outputs
outputs.guard()
from rich.console import Console
console = Console()
for number in range(2000):
    console.print("line", number)
    print("more", flush=True)
    print("warn", file=sys.stderr)
    logging.warning("logged")
open(sys.argv[1], "w").write("done")
"""


@pytest.mark.parametrize("where", ["pipe", "full", "both"])
def test_a_program_goes_on_without_its_streams(tmp_path, where):
    with closed_pipe() if where != "full" else open("/dev/full", "w") as out:
        work = subprocess.run(
            [sys.executable, "-X", "dev", "-c", SPEAKS, tmp_path / "done"],
            stdout=out, stderr=out if where == "both" else subprocess.PIPE, text=True, cwd=ROOT,
        )  # fmt: skip
    assert work.returncode == 0 and (tmp_path / "done").read_text() == "done"
    if where != "both":
        assert work.stderr.count("warning: stdout") == 2 and "Traceback" not in work.stderr


def test_a_program_goes_on_where_streams_are_closed_from_the_start(tmp_path):
    program = (
        "import sys; from train.runtime import outputs; outputs.guard(); print('x', flush=True);"
        "from train.runtime.metrics import quiet_to_file; quiet_to_file(sys.argv[1]);"
        "import logging; logging.info('logged')"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "log")]
    work = subprocess.run(["sh", "-c", '"$@" >&- 2>&-', "sh", *command], cwd=ROOT)
    assert work.returncode == 0 and "logged" in (tmp_path / "log").read_text()


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ("--xla_nothing=1", "Unknown flag in XLA_FLAGS: --xla_nothing=1"),
        ("--xla_dump_max_hlo_modules=x", "interpret value x for flag xla_dump_max_hlo_modules"),
    ],
)
def test_flags_that_xla_refuses_are_said_on_the_terminal(flags, said, tmp_path):
    program = (
        "import sys; from train.runtime import metrics; from ranges import ConfigError\n"
        "try: metrics.quiet_to_file(sys.argv[1])\nexcept ConfigError as e: print(e)"
    )
    work = subprocess.run(
        [sys.executable, "-c", program, tmp_path / "log"], cwd=ROOT, text=True, capture_output=True,
        env=os.environ | {"XLA_FLAGS": flags},
    )  # fmt: skip
    assert work.stdout.startswith(f"XLA refuses XLA_FLAGS={flags}: ") and said in work.stdout
    assert work.stdout.endswith(". Correct or unset XLA_FLAGS\n") and not work.stderr


def test_a_workdir_that_cannot_be_made_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file", tmp_path / "file" / "a" / "b"):
        with pytest.raises(ValueError, match=f"{path} cannot .*{tmp_path}/file is a file"):
            outputs.make_folder(path)
    with pytest.raises(ValueError, match=r"/proc/x cannot be created: [^\n]*$"):
        outputs.make_folder(Path("/proc/x"))


# Command lines.

RECIPES = {
    "broken.py": "def get_config(:",
    "raises.py": "raise RuntimeError('one\\ntwo')",
    "key.py": "def get_config(): return {}['a']",
    "none.py": "x = 1",
    "dict.py": "def get_config(): return {}",
    "leaves.py": "import nowhere",
    "not.txt": "def get_config(): return 1",
    "bytes.py": b"\xff\xfe\0",
}


@pytest.fixture
def parsed(tmp_path, monkeypatch):
    for name, content in RECIPES.items():
        (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    values = flags.FlagValues()
    config_flags.DEFINE_config_file("config", None, "", lock_config=True, flag_values=values)
    flags.mark_flag_as_required("config", values)
    monkeypatch.setattr(flags, "FLAGS", values)
    monkeypatch.setattr(outputs, "guard", lambda: None)

    def parse(*words):
        monkeypatch.setattr(sys, "argv", ["program", *words])  # ml_collections looks there
        return cli.parse_flags(sys.argv)

    return parse


GIVEN = "--config=configs/pretrain.py"


@pytest.mark.parametrize(
    "words",
    [
        ["--config=/etc/passwd"], ["--config=/etc"], ["--config="], ["--config"], ["--config=."],
        ["--config", "/etc/passwd"], ["-config=/etc/passwd"], ["--config=/etc/nowhere.py"], [],
        [GIVEN, "word"], [GIVEN, "--config.data.pack", "False"], [GIVEN, "--", "--config.steps=3"],
        [GIVEN, GIVEN],
        ["--config=:smoke"], ["--config=configs/pretrain.py:nothing"], ["--noconfig"],
        *([f"--config={{tmp}}/{name}"] for name in RECIPES),
        *([GIVEN, f"--config.{odd}"] for odd in (
            "(1,2)=", "(1,2)=3", "a..b=1", ".a=1", "=1", "", "steps.x=1", "steps=", "steps=x",
            "steps=1e400", "[0]=1", "data.source[0]=1", "data=1", "'=1", "{}=1", "steps[=1", "é=1",
            "data.length=nan", "__class__=1", "data.fields.__init__=1",
        )),
    ],
    ids=str,
)  # fmt: skip
def test_a_command_line_that_is_none_is_one_line(parsed, tmp_path, capsys, words):
    with pytest.raises(SystemExit) as ended:
        parsed(*(word.replace("{tmp}", str(tmp_path)) for word in words))
    said = capsys.readouterr()
    assert ended.value.code in (1, 2) and not said.out
    assert said.err.startswith("error: ") and said.err.count("\n") == 1


def test_a_recipe_is_taken_as_before(parsed):
    parsed("--config", "configs/pretrain.py:smoke", "--config.steps=9")
    assert cli.config().steps == 9


COMMANDS = ("train", "train.chain", "train.best_of", "train.normalize", "data.prepare",
            "data.inspect", "tpu.fit")  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_says_so(name):
    for words in (["--config=/etc/passwd"], [GIVEN, "--config.(1,2)="]):
        work = subprocess.run(
            [sys.executable, "-m", name, *words], capture_output=True, text=True, cwd=ROOT
        )
        assert work.returncode in (1, 2)
        assert work.stderr.startswith("error: ") and work.stderr.count("\n") == 1


@pytest.mark.slow
def test_a_run_trains_to_its_end_without_a_log(tmp_path):
    write_files(tmp_path)
    (tmp_path / "recipe.py").write_text(
        "import pathlib, sys\n"
        f"sys.path.insert(0, {str(ROOT / 'tests/helpers')!r})\n"
        "from stage_fixtures import recipe\n"
        f"get_config = lambda: recipe('pretrain', pathlib.Path({str(tmp_path)!r}))\n"
    )
    run = [sys.executable, "-m", "train", f"--config={tmp_path}/recipe.py"]
    work = tmp_path / "run"
    (work / "goodput.json").mkdir(parents=True)
    for name in ("log.txt", "metrics.jsonl", "samples.jsonl"):
        (work / name).symlink_to("/dev/full")
    with closed_pipe() as out:
        done = subprocess.run([*run, f"--workdir={work}"], stdout=out, stderr=out, cwd=ROOT)
    assert done.returncode == 0 and (work / "checkpoints" / "8").exists()
    for path in (work / "log.txt", tmp_path / "text.txt" / "run"):
        refused = subprocess.run([*run, f"--workdir={path}"], capture_output=True, cwd=ROOT)
        assert refused.returncode == 1 and refused.stderr.count(b"\n") == 1
    with open(work / "config.json") as file:
        assert json.load(file)["stage"] == "pretrain"
