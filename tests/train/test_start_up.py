"""The start of a command: its imports, and the memory of the process."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

# Each command in a child of a process that has imported what all commands do.
HELP = """
import os, runpy, sys
from train import cli

for command in {commands}:
    child = os.fork()
    if not child:
        sys.argv[:] = [command, "--help"]
        try:
            runpy.run_module(command, run_name="__main__", alter_sys=True)
        except SystemExit:
            os._exit(bool({{"jax", "tensorboard", "scipy"}} & sys.modules.keys()))
        os._exit(2)
    if status := os.waitpid(child, 0)[1]:
        raise SystemExit(f"{{command}}: {{status}}")
"""
COMMANDS = (
    "train", "train.best_of", "train.chain", "train.chat", "train.convert", "train.normalize",
    "data.inspect", "data.prepare", "tpu.fit", "tpu.launch",
)  # fmt: skip
LOOP = """
import ctypes, json, resource, sys
from train import loop
from model import cpu

cpu.keep_memory()
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_void_p]

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    block = libc.malloc(64 << 20)
    ctypes.memset(block, 1, 64 << 20)
    libc.free(block)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

faults()
kept = faults()
libc.malloc_trim(0)  # as protobuf does while data sets are read
print(json.dumps([sorted(sys.modules), kept, faults()]))
"""


def run(code: str) -> str:
    return subprocess.run(
        [sys.executable, "-c", code], check=True, text=True, capture_output=True
    ).stdout


def test_help_imports_neither_jax_nor_what_only_some_runs_use():
    run(HELP.format(commands=COMMANDS))


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's settings")
def test_the_loop_imports_what_runs_use_and_keeps_its_memory():
    modules, kept, trimmed = json.loads(run(LOOP))
    assert {"scipy", "tensorboard", "grain"}.isdisjoint(modules)
    assert kept < 100  # 64 MiB are 16,384 pages
    huge_pages = Path("/sys/kernel/mm/transparent_hugepage/enabled")
    if huge_pages.exists() and "[never]" not in huge_pages.read_text():
        assert trimmed < 1000
