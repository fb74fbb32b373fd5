"""Every shell command of the README and of docs/ runs as it is printed, from a clean clone.

Commands run in the order of PAGES, in one clone, by a shell. Training is cut short, and by nothing
but settings that are appended to the command (`cuts`); a command in SKIPPED is not run, and
test_commands.py parses it.
"""

import dataclasses
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import documentation
import open_models
import pytest
from documentation import ROOT
from quick_compile import FLAGS

from tests.data.ranking import scripted_annotator

pytestmark = [pytest.mark.slow, pytest.mark.timeout(5400)]

# The pages with commands, post_training.md before those that start from its runs.
PAGES = ("README.md", "docs/post_training.md", "docs/evaluation.md", "docs/people.md",
         "docs/experiments.md", "docs/data.md", "docs/knowledge.md",
         "docs/open_models.md", "docs/tpu.md",
         "docs/chat.md", "docs/benchmarks.md", "CONTRIBUTING.md")  # fmt: skip
# {the beginning of a command, or a flag: why it is not run}
SKIPPED = {
    "make ": "installs packages or runs the tests; `make demo` is run as MAKE_DEMO",
    "git clone": "needs an account",
    "gcloud ": "needs an account",
    "python -m tpu.launch supervise": "needs Cloud TPU",
    "python -m tpu.fit --config": "needs the TPU compiler, and minutes; docs/fit.md has its output",
    "--web": "serves until it is stopped",
    "--config.trackers": "needs wandb",
    "python -m train.lm_eval": "reads its tasks from the hub",
}
MAKE_DEMO = "python -m train.chain --config=configs/chains/demo.py --workdir=runs/demo"
# The open model that documentation imports; a small one of its shape is put in its place.
OPEN_MODEL = "HuggingFaceTB/SmolLM2-135M-Instruct"
CUT = {
    "steps": 2, "log_every": 1, "data.heldout_limit": 4, "data.batch_size": 4,
    "evaluate.samples": 1, "rl.eval_prompts": 2, "rl.response_length": 12,
}  # fmt: skip
TRAINS = ("train", "train.chain", "train.improve", "train.best_of", "train.normalize",
          "tpu.launch")  # fmt: skip
CUT_RL = {"data.batch_size": 16, "rl.rollout_batch": 16}


def test_the_pages_are_those_with_commands():
    others = {p for p in documentation.pages() if str(p.relative_to(ROOT)) not in PAGES}
    shells = {p.name for p in others if any(shell_lines(p))}
    # The first has a test of its own here, and the commands of the second are mistakes.
    assert shells == {"extending.md", "troubleshooting.md"}, "add the page to PAGES"


def shell_lines(page: Path) -> list[str]:
    """The commands of a page's shell blocks and sessions, without comments."""
    lines = []
    for block in documentation.blocks(page.read_text().replace("\\\n", "")):
        if block.language == "sh":
            lines += block.text.splitlines()
        elif not block.language:
            lines += re.findall(r"^\$ (.*)$", block.text, re.MULTILINE)
    lines = [re.sub(r"(^|\s+)#\s.*$", "", line).strip() for line in lines]
    return [line for line in lines if line]


def reason_to_skip(line: str) -> str:
    """The reason not to run a command; "" for one that is run."""
    if "--dry_run" in line:
        return ""
    flags = {word.partition("=")[0] for word in line.split()}
    reasons = (why for part, why in SKIPPED.items() if line.startswith(part) or part in flags)
    return next(reasons, "")


def cuts(line: str) -> str:
    """The settings that are appended to a command to cut it short."""
    words = shlex.split(line)
    if words[1:3] == ["-m", "tests.fuzz"]:
        return "--inputs=1"
    if words[:2] != ["python", "-m"] or words[2] not in TRAINS or "--dry_run" in words:
        return ""
    if re.search(r"--(config\.steps|hours|flops)=", line):  # the budget that it shows
        return ""
    rolls_out = re.search(r"configs/(ppo|grpo|chains/\w+)\.py", line)
    settings: dict = CUT | (CUT_RL if rolls_out else {})
    prefixes = ["--config."]
    if words[2] == "train.chain":
        stages = ("pretrain", "sft", "reward", "ppo") + (("judge",) if "demo.py" in line else ())
        prefixes = [f"--config.stages.{stage}." for stage in stages]
    elif words[2] == "train.improve":
        stages = {"reward": CUT, "policy": CUT if "method=dpo" in line else CUT | CUT_RL}
        cut = {f"stages.{s}.{name}": v for s, own in stages.items() for name, v in own.items()}
        return " ".join(f"--config.{name}={v}" for name, v in ({"improve.rounds": 1} | cut).items())
    elif re.search(r"configs/pretrain\.py(?!:smoke)", line):  # a model for an accelerator
        settings = settings | {"model.size": "tiny", "tokenizer.vocab_size": 512}
    return " ".join(f"{p}{name}={value}" for p in prefixes for name, value in settings.items())


@pytest.fixture(scope="module")
def clone(tmp_path_factory):
    """A clone of the working tree, committed, with `python` first in PATH."""
    root = tmp_path_factory.mktemp("clone") / "seedpod"
    if not (ROOT / ".git").exists():
        pytest.skip("this is no clone of the repository")

    def git(*arguments, cwd=root):
        return subprocess.run(
            ["git", *arguments], cwd=cwd, check=True, capture_output=True, text=True
        ).stdout

    git("clone", "--quiet", "--no-hardlinks", str(ROOT), str(root), cwd=ROOT)
    for name in git("ls-files", "-mo", "--exclude-standard", cwd=ROOT).splitlines():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        if (ROOT / name).exists():
            (root / name).write_bytes((ROOT / name).read_bytes())
        else:
            (root / name).unlink()
    git("add", "-A")
    who = ("-c", "user.name=test", "-c", "user.email=test@example.com")
    git(*who, "commit", "--quiet", "--allow-empty", "-m", "as it is")
    (root / ".venv").symlink_to(sys.prefix)
    config = dataclasses.replace(open_models.CONFIG, max_length=1024)
    open_models.write(root / OPEN_MODEL, open_models.tensors(), config)
    return root


def collect(command: str, clone: Path, environment: dict) -> subprocess.CompletedProcess:
    """Runs a page of rankings until its annotators have answered some, and interrupts it; one of
    `train.improve` until it ends."""
    process = subprocess.Popen(
        ["bash", "-c", f"exec {command}"], cwd=clone, env=environment, stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    printed = []
    for line in process.stdout:
        printed.append(line)
        if line.startswith("Answers are kept"):
            for link in re.findall(r"http://\S+/#\S+", "".join(printed)):
                scripted_annotator.answer(link, 16)
            process.send_signal(signal.SIGINT)
        if "questions to answer;" in line:
            (link,) = re.findall(r"me +(http://\S+)", "".join(printed))
            scripted_annotator.answer(link, 16)
    return subprocess.CompletedProcess(command, process.wait(300), "".join(printed), "")


def failures(clone: Path, lines: list[str]) -> list[str]:
    """Runs each command once; the output of those that fail."""
    environment = {
        **os.environ,
        "PYTHONPATH": str(clone),
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "XLA_FLAGS": FLAGS,
    }
    out = []
    for line in dict.fromkeys(lines):
        command = f"{line} {cuts(line)}".strip()
        print("$", command, flush=True)
        served = "-m train.improve" in line and "--annotator" not in line
        if served or ("-m data.ranking" in line and "--export" not in line):
            done = collect(command, clone, environment)
        else:
            done = subprocess.run(
                ["bash", "-c", command], cwd=clone, env=environment, stdin=subprocess.DEVNULL,
                capture_output=True, text=True, timeout=1200,
            )  # fmt: skip
        print(done.stdout[-2000:], flush=True)
        if done.returncode:
            out.append(f"$ {command}\n{done.stdout[-1000:]}\n{done.stderr[-2000:]}")
            print(out[-1], flush=True)
    return out


def test_every_command_runs_and_leaves_the_clone_clean(clone):
    lines = [line for page in PAGES for line in shell_lines(ROOT / page)]
    lines = [MAKE_DEMO, *(line for line in lines if not reason_to_skip(line))]
    assert not failures(clone, lines)
    status = subprocess.run(
        ["git", "status", "--porcelain"], cwd=clone, check=True, capture_output=True, text=True
    )
    assert status.stdout == "", "add it to .gitignore"


def test_the_commands_of_the_recipes_run(clone):
    """The first command of each recipe that no page has; they start from the runs above."""
    lines = []
    for name in ("preferences/orpo", "preferences/simpo", "grpo", "shakespeare"):
        commands = documentation.documented_commands(ROOT / f"configs/{name}.py")
        lines.append(shlex.join(next(words for words in commands if words[2] == "train")))
    assert not failures(clone, lines)


def test_the_commands_of_the_changes_run(clone):
    page = ROOT / "docs/extending.md"
    documentation.apply_page(page, clone)
    # A change adds a weight, which earlier runs lack.
    shutil.rmtree(clone / "runs", ignore_errors=True)
    starts = shell_lines(ROOT / "docs/post_training.md")[:2]
    assert not failures(clone, [*starts, *shell_lines(page)])
