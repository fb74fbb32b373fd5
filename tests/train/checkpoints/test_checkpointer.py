"""Checkpoints whose files are really damaged, and saves that really fail."""

import contextlib
import json
import os
import random
import shutil
import subprocess
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest
from fault_injection.files import flip, largest, no_room

from model.config import TransformerConfig
from model.sizes import SIZES
from ranges import ConfigError
from train.checkpoints import checkpointer, failures, saved_models, saved_steps
from train.checkpoints.checkpointer import Checkpointer
from train.checkpoints.verification import Damaged
from train.runtime import processes
from train.step import TrainState

ROLES = ("policy", "opt_state", "source")


def state(step: int, size: int = 64) -> TrainState:
    """A state of random numbers, which no compression makes small."""
    rng = np.random.default_rng(step)

    def normal(dtype):
        return jnp.asarray(rng.standard_normal((size, 32)), dtype)

    policy = {"up": normal(jnp.float32), "table": {"embedding": normal(jnp.float32)}}
    opt_state = {"mu": normal(jnp.bfloat16), "count": jnp.int32(step)}
    source = {"experience": normal(jnp.float32), "step": np.asarray(step, np.int32)}
    return TrainState(jnp.int32(step), {"policy": policy}, opt_state, source, jnp.int32(0))


def abstract(size: int = 64) -> TrainState:
    """Shapes and shardings of a `state`."""
    sharding = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    return jax.tree.map(
        lambda x: (
            x
            if isinstance(x, np.ndarray)
            else jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)
        ),
        state(0, size),
    )


def equal(a: TrainState, b: TrainState) -> bool:
    pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return all(np.asarray(x).tobytes() == np.asarray(y).tobytes() for x, y in pairs)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A workdir with checkpoints 1 and 2."""
    workdir = tmp_path_factory.mktemp("saved") / "run"
    workdir.mkdir()
    saved_models.save_models(workdir, {"policy": TransformerConfig(vocab_size=32, **SIZES["tiny"])})
    saver = Checkpointer(workdir, keep=5)
    for step in (1, 2):
        saver.save(state(step), {"config": "{}"})
    saver.close()
    return workdir


@pytest.fixture
def run(saved, tmp_path):
    """A copy of `saved`."""
    return Path(shutil.copytree(saved, tmp_path / "run"))


@contextlib.contextmanager
def opened(workdir, said=None, **settings):
    say = ([] if said is None else said).append
    saver = Checkpointer(workdir, **{"keep": 5, "say": say} | settings)
    try:
        yield saver
    finally:
        saver.close()


def outcome(workdir) -> str:
    """`exact`, or the reason for which checkpoint 2 is rejected."""
    with opened(workdir) as saver:
        try:
            restored = saver.restore(2, abstract())
        except Damaged as error:
            return str(error)
    assert equal(restored, state(2))
    return "exact"


def test_what_is_saved_is_restored(saved):
    assert outcome(saved) == "exact"


@pytest.mark.parametrize("item", ROLES)
def test_a_flipped_bit_of_an_array_is_found(item, run):
    path, rng, caught = largest(run / "checkpoints" / "2" / item), random.Random(item), 0
    size = 8 * path.stat().st_size
    for bit in (rng.randrange(size) for _ in range(12)):
        flip(path, bit)
        caught += outcome(run).startswith(item)  # else the flip changed nothing that is read
        flip(path, bit)
    assert caught >= 11


def test_a_flipped_bit_of_the_meta_is_found(run):
    path, rng = run / "checkpoints" / "2" / "meta" / "metadata", random.Random(0)
    for bit in (rng.randrange(8 * path.stat().st_size) for _ in range(40)):
        flip(path, bit)
        reason = outcome(run)
        assert reason.startswith("meta: ") and "\n" not in reason and len(reason) < 300
        flip(path, bit)


def test_a_damaged_file_is_never_restored_as_something_else(run):
    """Each file of a checkpoint truncated, emptied, removed; each item and the whole removed."""
    folder = run / "checkpoints" / "2"
    rejected = set()
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        content = path.read_bytes()
        for damage in (content[: len(content) // 2], b"", None):
            path.unlink() if damage is None else path.write_bytes(damage)
            if (reason := outcome(run)) != "exact":
                assert "\n" not in reason and len(reason) < 300
                rejected.add(path.relative_to(folder))
            path.write_bytes(content)
    data = {largest(folder / item).relative_to(folder) for item in (*ROLES, "meta")}
    assert data <= rejected
    for item in (*ROLES, "meta"):
        (folder / item).rename(run / "away")
        assert outcome(run).startswith(f"{item}")
        (run / "away").rename(folder / item)
    shutil.rmtree(folder)
    folder.mkdir()
    assert outcome(run) == "it is empty"


def test_another_dtype_or_shape_is_found(run):
    """Orbax casts a wrong dtype in silence."""
    folder = run / "checkpoints" / "2" / "policy"
    wrong = jax.tree.map(lambda x: x.astype(jnp.bfloat16), state(2).trainable["policy"])
    shutil.rmtree(folder)
    with contextlib.closing(ocp.StandardCheckpointer()) as saver:
        saver.save(folder, wrong)
        saver.wait_until_finished()
    assert "is not what was saved: its fingerprint is" in outcome(run)
    with opened(run) as saver, pytest.raises(Damaged, match="policy"):
        saver.restore(1, abstract(size=32))


def test_the_newest_valid_checkpoint_is_restored_and_others_are_set_aside(run):
    flip(largest(run / "checkpoints" / "2" / "source"), 1000)
    said, checked = [], []
    with opened(run, said) as saver:
        step, restored, meta = saver.restore_newest(abstract(), lambda *a: checked.append(a))
        assert step == 1 and equal(restored, state(1)) and meta["config"] == "{}"
        assert [s for s, _ in checked] == [2, 1]
        moved = run / "checkpoints_rejected" / "2"
        assert moved.is_dir() and not (run / "checkpoints" / "2").exists()
        assert len(said) == 1 and "checkpoint 2 is rejected: source" in said[0]
        assert str(moved) in said[0]
        saver.save(state(2), {})  # the step is taken again
        assert saver.latest() == 2
        flip(largest(run / "checkpoints" / "2" / "policy"), 1000)
        assert saver.restore_newest(abstract())[0] == 1
    assert {p.name for p in moved.parent.iterdir()} == {"2", "2-1", "2.txt", "2-1.txt"}
    assert (moved.parent / "2-1.txt").read_text().startswith("policy")


def test_where_all_are_damaged_each_is_named_and_none_is_moved(run):
    for step in (1, 2):
        largest(run / "checkpoints" / str(step) / "policy").write_bytes(b"")
    before = sorted(run.rglob("*"))
    with opened(run) as saver, pytest.raises(ConfigError) as refused:
        saver.restore_newest(abstract())
    assert "checkpoint 2: policy" in str(refused.value)
    assert "checkpoint 1: policy" in str(refused.value) and "--workdir" in str(refused.value)
    assert sorted(run.rglob("*")) == before


def test_a_run_that_has_saved_is_never_a_new_one(run):
    shutil.rmtree(run / "checkpoints")
    with opened(run) as saver, pytest.raises(ConfigError, match="has saved step 2, and its check"):
        saver.restore_newest(abstract())


def test_a_step_that_is_gone_is_named(run):
    shutil.rmtree(run / "checkpoints" / "2")
    said = []
    with opened(run, said) as saver:
        assert saver.restore_newest(abstract())[0] == 1
    assert said == ["  warning: checkpoint 2 was saved, and is gone"]


def test_a_run_without_a_checkpoint_is_new(tmp_path):
    with opened(tmp_path / "run") as saver:
        assert saver.restore_newest(abstract()) is None
    with opened(tmp_path / "run") as saver:  # killed before its first
        assert saver.restore_newest(abstract()) is None


@pytest.mark.parametrize(
    "every, step, unfinished, text",
    [(5, 38, False, "has logged step 38"), (5, 4, False, ""), (5, 5, False, ""), (5, 7, True, ""),
     (0, 30, False, ""), (0, 40, False, "has logged step 40")],
)  # fmt: skip
def test_an_old_run_has_saved_if_its_log_says_so(every, step, unfinished, text, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"steps": 40, "checkpoint": {"every": every}}))
    record = {"step": step, "kind": "train"}
    (tmp_path / "metrics.jsonl").write_text(json.dumps(record) + "\n")
    if unfinished:
        (tmp_path / "checkpoints" / "5.orbax-checkpoint-tmp").mkdir(parents=True)
    assert saved_steps.lost(tmp_path, saved_steps.has_unfinished(tmp_path)) == text


def test_an_old_checkpoint_is_restored_with_a_line_that_says_so(run):
    path = run / "checkpoints" / "2" / "meta" / "metadata"
    meta = json.loads(path.read_text())
    for key in ("arrays", "files", "checksum"):
        del meta[key]
    path.write_text(json.dumps(meta))
    (run / "saved.json").unlink()
    said = []
    with opened(run, said) as saver:
        step, restored, _ = saver.restore_newest(abstract())
    assert step == 2 and equal(restored, state(2))
    assert len(said) == 1 and "checkpoint 2 carries no fingerprints" in said[0]


def test_readers_take_the_newest_valid_one_and_move_nothing(run, capsys):
    flip(largest(run / "checkpoints" / "2" / "policy"), 1000)
    like = abstract().trainable["policy"]
    for _ in range(2):
        params = checkpointer.restore_item(run, "policy", like)
        np.testing.assert_array_equal(params["up"], state(1).trainable["policy"]["up"])
    warnings = capsys.readouterr().err.splitlines()
    assert len(warnings) == 1 and "checkpoint 2 is damaged (policy" in warnings[0]
    assert "step 1 is read instead" in warnings[0] and (run / "checkpoints" / "2").exists()
    largest(run / "checkpoints" / "1" / "policy").unlink()
    with pytest.raises(ConfigError, match=r"no valid checkpoint \(checkpoint 2: .*checkpoint 1: "):
        checkpointer.restore_item(run, "policy", like)


def test_files_beside_the_checkpoints_are_known(run):
    """An architecture that was changed would give the weights another meaning."""
    like = abstract().trainable["policy"]
    models = json.loads((run / "models.json").read_text())
    models["policy"]["scan_unroll"] = 2  # of the execution
    (run / "models.json").write_text(json.dumps(models))
    checkpointer.restore_item(run, "policy", like)
    models["policy"]["rope_base"] = 10001.0
    (run / "models.json").write_text(json.dumps(models))
    with pytest.raises(ConfigError, match=r"models\.json was changed or damaged"):
        checkpointer.restore_item(run, "policy", like)


def test_a_state_that_is_not_finite_is_not_saved(tmp_path):
    said = []
    with opened(tmp_path, said, keep=1) as saver:
        saver.save(state(1), {})
        bad = state(2)
        bad.trainable["policy"]["up"] = bad.trainable["policy"]["up"].at[3, 4].set(jnp.nan)
        saver.save(bad, {})
        assert saver.latest() == 1 and saver.refused == 1
        assert said == ["  warning: step 2 is not saved: policy/up holds NaN or infinity"]
        with pytest.raises(FloatingPointError, match=r"policy/up holds NaN.*Step 1 is the newest"):
            saver.save(bad, {}, wait=True)
        assert saver.latest() == 1


def test_the_newest_the_best_and_those_for_good_stay(tmp_path):
    scores = {1: 3.0, 2: 1.5, 3: 2.0, 4: None, 5: 1.5, 6: 1.7, 7: 1.6, 8: 2.0}
    with opened(tmp_path, keep=2, keep_every=3) as saver:
        for step in (1, 2, 3, 4):
            saver.save(state(step), {}, score=scores[step])
    steps = [int(p.name) for p in (tmp_path / "checkpoints").iterdir()]
    assert sorted(steps) == [2, 3, 4]
    with opened(tmp_path, keep=2, keep_every=3) as saver:  # it knows the scores from saved.json
        for step in (5, 6, 7, 8):
            saver.save(state(step), {}, score=scores[step])
    steps = [int(p.name) for p in (tmp_path / "checkpoints").iterdir()]
    assert sorted(steps) == [3, 5, 6, 7, 8]


def test_a_save_that_fails_is_retried_and_harms_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(failures, "FIRST_PAUSE", 0.2)
    said = []
    with opened(tmp_path, said, keep=1) as saver:
        saver.save(state(1), {})
        saver.settle()
        with no_room():
            saver.save(state(2), {})
            assert saver.latest() == 1
        assert len(said) == 1 and "WARNING: step 2 could not be saved (" in said[0]
        assert "failure 1 of 8" in said[0] and "step 1 stays saved" in said[0]
        assert [p.name for p in (tmp_path / "checkpoints").iterdir()] == ["1"]
        assert not saver.due(asked=True)  # the pause
        while not saver.due(asked=False):
            pass
        saver.save(state(3), {})
        assert saver.latest() == 3 and not saver.due(asked=False)
        assert said[1:] == ["  step 3 is saved, after 1 failed"]
        assert equal(saver.restore(3, abstract()), state(3))
    assert [p.name for p in (tmp_path / "checkpoints").iterdir()] == ["3"]


def test_saves_that_fail_in_a_row_end_the_run(tmp_path, monkeypatch):
    monkeypatch.setattr(failures, "FIRST_PAUSE", 0.0)
    monkeypatch.setattr(failures, "MOST", 3)
    said = []
    with opened(tmp_path, said) as saver:
        saver.save(state(1), {}, wait=True)
        with no_room(), pytest.raises(processes.Unsaved, match=r"3 saves in a row .*step 1 stays"):
            saver.save(state(2), {}, wait=True)
        assert len(said) == 3 and "giving up" in said[2]
        assert equal(saver.restore_newest(abstract())[1], state(1))


def test_a_full_disk(tmp_path, monkeypatch):
    """A file system of 1 MB, in which there is room again later."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)]
    if os.getuid() or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("this user may not mount a tmpfs")
    try:
        monkeypatch.setattr(failures, "FIRST_PAUSE", 0.0)
        with opened(disk) as saver:
            saver.save(state(1), {})
            saver.settle()
            (disk / "ballast").write_bytes(b"0" * (1024 * 1024 - 200_000))
            saver.save(state(2, size=1024), {})
            assert saver.latest() == 1 and saver.failures.total == 1
            (disk / "ballast").unlink()
            saver.save(state(3), {})
            assert saver.latest() == 3
            assert equal(saver.restore_newest(abstract())[1], state(3))
    finally:
        subprocess.run(["umount", str(disk)], check=True)
