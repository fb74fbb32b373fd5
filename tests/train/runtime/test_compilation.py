"""The cache of compiled programs: a second run compiles nothing, with the same numbers."""

import collections
import json

import jax
import pytest
from etils import epath
from jax.experimental.compilation_cache import compilation_cache
from stage_fixtures import recipe, write_files

from model import sharding
from train import loop
from train.runtime import compilation


@pytest.fixture
def settings():
    """JAX's settings of the cache, put back after the test."""
    names = ("jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs")
    before = {name: getattr(jax.config, name) for name in names}
    compilation_cache.reset_cache()
    yield
    for name, value in before.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()


def test_a_second_run_finds_what_the_first_compiled_and_ends_alike(tmp_path, settings):
    write_files(tmp_path)
    config = recipe("pretrain", tmp_path)
    config.steps = 4
    compilation.enable(str(tmp_path / "cache"), tmp_path)
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
            loop.run(config, tmp_path / name, one_device_mesh)
            events.append(dict(counts))
            lines = map(json.loads, (tmp_path / name / "metrics.jsonl").read_text().splitlines())
            losses.append([(r["step"], r["loss"], r.get("grad_norm")) for r in lines])
    finally:
        jax.monitoring.unregister_event_listener(count)
    assert "cache_hits" not in events[0] and events[0]["cache_misses"] > 1
    assert "cache_misses" not in events[1] and events[1]["cache_hits"] > 1
    assert losses[0] == losses[1]


def test_where_it_is_kept(monkeypatch):
    workdir = epath.Path("gs://b/run")
    assert compilation.directory("auto", workdir) == ""  # the tests run on CPU
    monkeypatch.setattr(jax, "default_backend", lambda: "tpu")
    assert compilation.directory("auto", workdir) == "gs://b/run/compilation_cache"
    assert compilation.directory("none", workdir) == ""
    assert compilation.directory("gs://b/all", workdir) == "gs://b/all"
