"""Exports: dtypes, shards, what was cut off, memory, and the flags of a command."""

import dataclasses
import json
import subprocess
import sys
import textwrap

import jax
import ml_dtypes
import numpy as np
import open_models
import pytest
from open_models import CONFIG, VALUES, refused, stored

from train.checkpoints import loading
from train.interop import convert, export, published, unfinished, weights, workdirs


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_an_export_has_the_dtype_of_its_source(dtype, tmp_path):
    kind = weights.DTYPES[dtype]
    values = {n: v.astype(kind) for n, v in VALUES.items()}
    hf = open_models.write(tmp_path / "hf", values)
    convert.import_model(str(hf), tmp_path / "base")
    # A run that began as it.
    run = tmp_path / "run"
    (tmp_path / "base").rename(tmp_path / "moved")
    run.mkdir()
    for name in ("models.json", "tokenizer", "checkpoints"):
        (tmp_path / "moved" / name).rename(run / name)
    facts = {"stage": "sft", "init_from": {"policy": str(tmp_path / "moved")}}
    (run / "config.json").write_text(json.dumps(facts))
    assert export.export_model(run, tmp_path / "out") == dtype
    found = stored(tmp_path / "out")
    for name, value in values.items():
        assert found[name].dtype == kind
        np.testing.assert_array_equal(found[name], value)
    assert json.loads((tmp_path / "out" / "config.json").read_text())["dtype"] == dtype


def test_bfloat16_is_rounded_as_numpy_rounds(run, tmp_path):
    export.export_model(run, tmp_path / "out", dtype="bfloat16")
    for name, value in stored(tmp_path / "out").items():
        np.testing.assert_array_equal(value, VALUES[name].astype(ml_dtypes.bfloat16), name)


def test_a_step_of_a_run_is_exported(steps_run, tmp_path):
    export.export_model(f"{steps_run}@3", tmp_path / "out")
    for name, value in stored(tmp_path / "out").items():
        np.testing.assert_allclose(value, 3 * VALUES[name], rtol=1e-6)
    said = refused(export.export_model, f"{steps_run}@4", tmp_path / "none")
    assert f"the nearest is {steps_run}@3" in said and not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    "text, size",
    [("5GB", 5 * 10**9), ("500MB", 5 * 10**8), ("1.5kb", 1500), ("123", 123), ("0", 0),
     ("-1GB", 0), ("nan", 0), ("GB", 0), ("5 elephants", 0)],
)  # fmt: skip
def test_shard_sizes(text, size):
    if size:
        assert export.shard_bytes(text) == size
    else:
        assert "--shard_size" in refused(export.shard_bytes, text)


def tree(directory):
    return {p.name: p.read_bytes() for p in sorted(directory.iterdir())}


def test_a_killed_export_is_finished_by_the_same_command(run, tmp_path, monkeypatch):
    command = run, tmp_path / "out", "", "", None, 20_000
    export.export_model(*command[:1], tmp_path / "whole", *command[2:])
    for last in (0, 2):
        with monkeypatch.context() as patch:
            write, calls = weights.safetensors_files.write, []

            def killed(path, tensors, dtype, write=write, calls=calls, last=last):
                calls.append(path)
                if len(calls) > last:
                    path.write_bytes(b"half")
                    raise KeyboardInterrupt  # as a kill, nothing is cleared up
                write(path, tensors, dtype)

            patch.setattr(weights.safetensors_files, "write", killed)
            with pytest.raises(KeyboardInterrupt):
                export.export_model(*command)
    assert not (tmp_path / "out" / "config.json").exists()
    said = refused(export.export_model, run, tmp_path / "out", dtype="bfloat16")
    assert "unfinished output" in said
    export.export_model(*command)
    assert tree(tmp_path / "out") == tree(tmp_path / "whole")
    assert "is not empty" in refused(export.export_model, *command)


def test_a_killed_import_is_finished_by_the_same_command(hf_dir, tmp_path, monkeypatch):
    run = tmp_path / "run"
    with monkeypatch.context() as patch:

        def killed(workdir, *values):
            (workdir / "checkpoints" / "0.orbax-checkpoint-tmp").mkdir(parents=True)
            raise KeyboardInterrupt

        patch.setattr(workdirs, "save_weights", killed)
        with pytest.raises(KeyboardInterrupt):
            convert.import_model(str(hf_dir), run)
    said = refused(convert.import_model, str(hf_dir), run, dtype="bfloat16")
    assert "unfinished output" in said
    convert.import_model(str(hf_dir), run)
    jax.tree.map(np.testing.assert_array_equal, loading.load(run)[1], published.load(hf_dir)[1])
    assert not (run / unfinished.MARK).exists() and len([*(run / "checkpoints").iterdir()]) == 1
    assert "holds a run already" in refused(convert.import_model, str(hf_dir), run)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("keep")
    assert "is not empty" in refused(convert.import_model, str(hf_dir), tmp_path / "mine")
    assert [p.name for p in (tmp_path / "mine").iterdir()] == ["notes.txt"]
    assert "is a file" in refused(convert.import_model, str(hf_dir), tmp_path / "mine/notes.txt")


# Memory

PEAK = """
    import resource, sys
    import jax, jax.numpy as jnp
    from train.interop import export
    jnp.ones(3).block_until_ready()
    def peak():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    before = peak()
    export.export_model(sys.argv[1], sys.argv[2])
    print(peak() - before)
"""


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16])
def test_an_export_holds_little_beside_its_tensors(dtype, tmp_path):
    layers = 11 if dtype is np.float32 else 23
    config = dataclasses.replace(
        CONFIG, vocab_size=16_000, embed_dim=768, num_layers=layers, num_heads=12, num_kv_heads=12,
        head_dim=64, mlp_dim=2816,
    )  # fmt: skip
    values = open_models.tensors(config, dtype)
    size = sum(v.nbytes for v in values.values())
    hf = open_models.write(tmp_path / "hf", values, config)
    del values
    convert.import_model(str(hf), tmp_path / "run")
    script = tmp_path / "peak.py"
    script.write_text(textwrap.dedent(PEAK))
    done = subprocess.run(
        [sys.executable, script, tmp_path / "run", tmp_path / "out"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert int(done.stdout.split()[-1]) < 1.3 * size


def test_flags_that_a_command_does_not_read_are_named():
    assert convert.unread("import", {"from", "workdir", "item", "v"}) == ["item"]
    assert convert.unread("export", {"workdir", "to", "chat_template"}) == ["chat_template"]
    given = {"workdir", "to", "adapter", "base", "dtype", "shard_size", "logtostderr"}
    assert convert.unread("export --adapter", given) == ["dtype", "shard_size"]
    assert convert.unread("export", given) == ["base"]
