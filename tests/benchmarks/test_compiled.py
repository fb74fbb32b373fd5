"""Compilations that end without a report: what benchmarks/compiled.py records of them."""

import subprocess

import pytest
from jax.experimental import topologies

from benchmarks import compiled
from tpu.chips import topology


def test_a_libtpu_in_use_is_said_and_is_no_row_of_a_table(monkeypatch):
    def busy(**_):
        raise RuntimeError("ABORTED: Internal error when accessing libtpu multi-process lockfile.")

    monkeypatch.setattr(topologies, "get_topology_desc", busy)
    with pytest.raises(ValueError, match="one process at a time") as found:
        topology("v5e:2x2")
    ended = subprocess.CompletedProcess([], 1, "", f"error: {found.value}\n")
    monkeypatch.setattr(subprocess, "run", lambda *args, **kwargs: ended)
    with pytest.raises(RuntimeError, match="one process at a time"):
        compiled.compile_one([])


def test_what_does_not_fit_is_a_row(monkeypatch):
    ended = subprocess.CompletedProcess([], 1, "", "notice\nerror: out of memory: 9\n")
    monkeypatch.setattr(subprocess, "run", lambda *args, **kwargs: ended)
    assert compiled.compile_one([]) == {"fits": False, "error": "out of memory: 9"}
