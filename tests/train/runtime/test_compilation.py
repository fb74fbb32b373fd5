"""The cache of compiled programs: a second run compiles nothing, with the same numbers."""

import collections
import json
import os
from pathlib import Path

import jax
import pytest
import quick_compile
from etils import epath
from jax.experimental.compilation_cache import compilation_cache

from model import sharding
from train import loop
from train.runtime import compilation, outputs


@pytest.fixture
def settings():
    """JAX's settings of the cache, which is on, put back after the test."""
    names = ("jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs",
             "jax_compilation_cache_max_size", "jax_enable_compilation_cache")  # fmt: skip
    before = {name: getattr(jax.config, name) for name in names}
    jax.config.update("jax_enable_compilation_cache", True)
    compilation_cache.reset_cache()
    yield
    for name, value in before.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()


def test_a_second_run_finds_what_the_first_compiled_and_ends_alike(tiny, tmp_path, settings):
    tiny.checkpoint.every = 0
    compilation.enable(str(tmp_path / "cache"), epath.Path(tmp_path))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    one_device_mesh = sharding.make_mesh(sharding.MeshConfig(), jax.devices()[:1])
    counts = collections.Counter()

    def count(event, **facts):
        counts[event.rsplit("/", 1)[1]] += 1

    losses, events = [], []
    jax.monitoring.register_event_listener(count)
    try:
        for name in ("first", "second"):
            jax.clear_caches()
            counts.clear()
            loop.run(tiny, tmp_path / name, one_device_mesh)
            events.append(dict(counts))
            lines = map(json.loads, (tmp_path / name / "metrics.jsonl").read_text().splitlines())
            losses.append([(r["step"], r["loss"], r.get("grad_norm")) for r in lines])
    finally:
        jax.monitoring.unregister_event_listener(count)
    assert "cache_hits" not in events[0] and events[0]["cache_misses"] > 1
    assert "cache_misses" not in events[1] and events[1]["cache_hits"] > 1
    assert losses[0] == losses[1]


@pytest.fixture
def users_cache(settings, tmp_path, monkeypatch):
    """The user's cache, as of a user who has not configured JAX's."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    jax.config.update("jax_compilation_cache_dir", None)
    return tmp_path / "home" / "seedpod" / compilation.processor_key()


def test_on_cpu_it_is_the_users_for_this_processor(users_cache, tmp_path):
    compilation.enable("auto", epath.Path(tmp_path))
    assert jax.config.jax_compilation_cache_dir == str(users_cache) and users_cache.is_dir()
    assert jax.config.jax_compilation_cache_max_size == compilation.MOST_BYTES
    assert jax.config.jax_persistent_cache_min_compile_time_secs == 0


def test_the_setting_and_jaxs_variable_come_first(users_cache, monkeypatch):
    workdir = epath.Path("gs://b/run")
    monkeypatch.setattr(jax, "default_backend", lambda: "tpu")
    compilation.enable("auto", workdir)
    assert jax.config.jax_compilation_cache_dir == "gs://b/run/compilation_cache"
    compilation.enable("gs://b/all", workdir)
    assert jax.config.jax_compilation_cache_dir == "gs://b/all"
    compilation.enable("auto", workdir)
    assert jax.config.jax_compilation_cache_dir == "gs://b/all"
    compilation.enable("none", workdir)
    assert not jax.config.jax_enable_compilation_cache
    assert not users_cache.exists()


def test_a_cache_that_cannot_be_written_is_a_warning(users_cache, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(outputs, "_failed", collections.Counter())
    (tmp_path / "home").touch()
    compilation.enable("auto", epath.Path(tmp_path))
    assert "seedpod" in (said := capsys.readouterr().err) and "compiled at every start" in said
    assert jax.config.jax_compilation_cache_dir is None


def test_damaged_entries_are_compiled_again_and_unfinished_ones_removed(users_cache, tmp_path):
    def program(x):
        return x * 3 + 1

    def run():
        jax.clear_caches()
        compilation_cache.reset_cache()
        compilation.enable("auto", epath.Path(tmp_path))
        return float(jax.jit(program)(2.0))

    assert run() == 7
    (entry,) = users_cache.glob("jit_program-*-cache")
    entry.write_bytes(entry.read_bytes()[:100])
    jax.config.update("jax_compilation_cache_dir", None)
    with pytest.warns(UserWarning, match="Error reading persistent compilation cache"):
        assert run() == 7
    (used,) = users_cache.glob("jit_program-*-atime")
    used.unlink()
    jax.config.update("jax_compilation_cache_dir", None)
    compilation.prepare(users_cache)
    assert entry.exists()  # another process may be writing it
    os.utime(entry, (0, 0))
    compilation.prepare(users_cache)
    assert not entry.exists()


@pytest.mark.parametrize("changed", ["flags", "model name", "cores"])
def test_another_processor_has_another_cache(changed, monkeypatch):
    text = "processor : 0\nmodel name : A\ncpu MHz : {}\nflags : avx\n\nprocessor : 1\n"
    cpuinfo = {"text": text.format(1000)}
    monkeypatch.setattr(Path, "exists", lambda path: True)
    monkeypatch.setattr(Path, "read_text", lambda path: cpuinfo["text"])
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1}, raising=False)
    name = compilation.processor_key()
    cpuinfo["text"] = text.format(2000)
    assert compilation.processor_key() == name
    if changed == "cores":
        monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0})
    cpuinfo["text"] = cpuinfo["text"].replace(f"{changed} : ", f"{changed} : new ")
    assert compilation.processor_key() != name


def test_whole_programs_that_tests_compiled_are_kept(settings, tmp_path, monkeypatch):
    run, kept = tmp_path / "run", tmp_path / "kept"
    jax.config.update("jax_compilation_cache_dir", str(run))
    jax.jit(lambda x: x * 5 + 1)(2.0)
    (program,) = run.glob("*-cache")
    (run / "half-cache").write_bytes(program.read_bytes()[:-20])
    quick_compile.keep(run, kept)
    assert [path.name for path in kept.iterdir()] == [program.name]
    monkeypatch.setattr(quick_compile, "MOST_BYTES", 0)
    quick_compile.keep(run, kept)
    assert not list(kept.iterdir())
