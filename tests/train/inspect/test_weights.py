"""Weights that are read when they are touched, and what is computed of them."""

import dataclasses
import os
import subprocess
import sys

import jax
import numpy as np
import open_models
import pytest
from fault_injection.files import flip, largest
from sample_runs.random_runs import CONFIG, write_run

from model.sharding import MeshConfig, make_mesh
from ranges import ConfigError
from train import inspect
from train.assembly import partition as parts_
from train.checkpoints import loading, networks, saved_models, stored
from train.config import run as configs
from train.inspect.spectra import _singular
from train.interop import opening


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """(a workdir with the steps 1 and 2, {step: its parameters})."""
    path = tmp_path_factory.mktemp("run")
    return path, {step: write_run(path, step=step)["policy"] for step in (1, 2)}


def leaves(m):
    return {path: np.asarray(w) for path, w in m.params.flat().items()}


def equal(m, params):
    flat = jax.tree_util.tree_leaves_with_path(params)
    names = {jax.tree_util.keystr(path, simple=True, separator="/"): x for path, x in flat}
    assert leaves(m).keys() == names.keys()
    for path, value in leaves(m).items():
        np.testing.assert_array_equal(value, names[path])
    return names


def test_a_run_is_opened_at_a_step_and_nothing_is_read_before_it_is_touched(run, monkeypatch):
    path, params = run
    reads = []
    read = stored.StoredArray.read

    def noted(self, index):
        reads.append((self._name, index))
        return read(self, index)

    monkeypatch.setattr(stored.StoredArray, "read", noted)
    assert inspect.open(path).name == f"{path}@2"
    m = inspect.open(f"{path}@1")
    assert m.name == f"{path}@1" and repr(m).startswith(m.name)
    repr(m.params), repr(m.summary(rms=False)), m.names()
    assert not reads
    part = m.params["layers"]["query"][-1, 2:4]
    assert reads == [("layers.query", (2, slice(2, 4, 1), slice(0, 4, 1), slice(0, 6, 1)))]
    np.testing.assert_array_equal(part, params[1]["layers"]["query"][2, 2:4])
    equal(m, params[1])


def test_a_weight_is_indexed_as_numpy_does(run):
    path, params = run
    w, array = inspect.open(path).params["layers/out"], np.asarray(params[2]["layers"]["out"])
    assert (w.shape, w.axes) == ((3, 4, 6, 16), ("layers", "heads", "head_dim", "embed"))
    odd = (0, ..., slice(None, None, 5)), (slice(0, 3, 2), 1, slice(None, None, -2))
    for index in (1, -1, slice(None), slice(2, 0, -1), (slice(1, 1),), (..., 3), *odd):
        np.testing.assert_array_equal(w[index], array[index], err_msg=str(index))
    assert len(list(w)) == len(w) == 3
    with pytest.raises(IndexError, match="3 is out of range for an axis of 3"):
        w[3]
    with pytest.raises(IndexError, match="4 axes"):
        w[0, 0, 0, 0, 0]
    with pytest.raises(TypeError, match="integers and slices"):
        w[[0, 1]]
    with pytest.raises(KeyError, match="no weight 'qury'; did you mean query"):
        inspect.open(path).params["layers/qury"]


def test_what_is_not_there_is_refused(run, tmp_path):
    path, _ = run
    for name, role, reason in (
        (f"{path}@3", "", "no checkpoint of step 3; the nearest is"),
        (path, "reward", "has no reward model; it has policy"),
        (tmp_path / "none", "", "there is no such directory; a name on the hub is"),
        (f"{path}x", "", f"there is no such directory; did you mean {path}"),
        (tmp_path / "none@3", "", "is not the workdir of a run"),
    ):
        with pytest.raises(ConfigError, match=reason):
            inspect.open(name, role)
    with pytest.raises(AttributeError, match="no attribute 'oppen'"):
        inspect.oppen  # noqa: B018
    with pytest.raises(ConfigError, match="as its policy model; open one with role='reward'"):
        inspect.open(path).rewards([])
    with pytest.raises(ConfigError, match="has no critic"):
        inspect.open(path).values("a")


def test_damage_is_found_by_verify_and_by_what_computes(tmp_path):
    write_run(tmp_path)
    m = inspect.open(tmp_path)
    m.verify()
    path = largest(tmp_path / "checkpoints/1/policy")
    flip(path, 8 * path.stat().st_size // 2)
    for ask in (inspect.open(tmp_path).verify, lambda: inspect.open(tmp_path).token_losses("a")):
        with pytest.raises(ConfigError, match="checkpoint 1"):
            ask()


@pytest.mark.parametrize("dtype", ["float32", "int8"])
def test_adapters_are_merged_layer_by_layer_as_a_load_merges_them(dtype, run, tmp_path):
    base, _ = run
    mesh = make_mesh(MeshConfig(), jax.devices()[:1])
    whole = networks.abstract_params("reward", CONFIG, mesh)
    settings = configs.default()
    settings.lora.rank, settings.freeze.dtype = 2, dtype
    part = parts_.divide(configs.build(settings), {"reward": whole})["reward"]
    rng = np.random.default_rng(0)
    trained = jax.tree.map(
        lambda x: rng.standard_normal(x.shape).astype(np.float32), part.trained(whole)
    )
    work = tmp_path / "run"
    work.mkdir()
    open_models.save_role(work, "reward", trained, CONFIG)
    _, fingerprint = loading.load_base(base, "policy", "reward", whole)
    origin = {"from": str(base), "role": "policy", "fingerprint": fingerprint}
    saved_models.save_parts(work, {"reward": part}, {"reward": origin})
    (work / "tokenizer").symlink_to(base / "tokenizer")
    names = equal(inspect.open(work), loading.load(work, "reward")[1])
    query = inspect.open(work).params["backbone/layers/query"]
    np.testing.assert_array_equal(query[1, 3:5], names["backbone/layers/query"][1, 3:5])


def test_an_open_model_is_read_tensor_by_tensor(tmp_path):
    hf = open_models.write(tmp_path / "hf", open_models.VALUES)
    m = inspect.open(hf)
    opened = opening.open_model(str(hf))
    equal(m, opened.params)
    np.testing.assert_array_equal(m.params["layers/up"][1], opened.params["layers"]["up"][1])
    assert m.token_losses("ab").mean > 0


def test_the_summary_counts_and_measures(run, monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    path, params = run
    m = inspect.open(path)
    summary = m.summary()
    flat = leaves(m)
    assert summary.parameters == sum(x.size for x in flat.values())
    assert summary.nbytes == 4 * summary.parameters
    for name, value in flat.items():
        axes = tuple(range(value.ndim))[name.startswith("layers/") :]
        expected = np.sqrt(np.mean(value.astype(np.float64) ** 2, axis=axes))
        np.testing.assert_allclose(summary.rms[name], np.atleast_1d(expected))
    assert "layers heads head_dim embed" in repr(summary)


def test_singular_values_are_those_of_an_svd(run):
    path, params = run
    spectra = inspect.open(path).spectra(["out", "layers/ga*"], layers=[2, 0])
    assert set(spectra) == {"layers/out", "layers/gate"}
    for path_, rows in (("layers/out", 24), ("layers/gate", 16)):
        w = np.asarray(params[2]["layers"][path_[7:]], np.float64)
        for i, layer in enumerate((2, 0)):
            expected = np.linalg.svd(w[layer].reshape(rows, -1), compute_uv=False)
            np.testing.assert_allclose(spectra[path_][i], expected, rtol=1e-6)
            stable = np.sum(w[layer] ** 2) / expected[0] ** 2
            np.testing.assert_allclose(spectra.stable_rank(path_)[i], stable)
    with pytest.raises(ValueError, match="'qeury'; did you mean query"):
        inspect.open(path).spectra("qeury")
    with pytest.raises(ValueError, match="layers=9; the model has layers 0 to 2"):
        inspect.open(path).spectra("query", [9])
    with pytest.raises(ValueError, match="layers/query holds NaN or infinity"):
        _singular("layers/query", np.full((4, 2, 2), np.nan))


def test_a_difference_is_by_weight_and_layer_and_names_what_one_lacks(run, tmp_path):
    path, params = run
    a, b = (jax.tree.map(lambda x: np.asarray(x, np.float64), params[s]) for s in (2, 1))
    diff = inspect.open(path).diff(f"{path}@1")
    x, y = a["layers"]["up"], b["layers"]["up"]
    gap, norm = (np.linalg.norm(z.reshape(3, -1), axis=1) for z in (x - y, y))
    np.testing.assert_allclose(diff.relative["layers/up"], gap / norm)
    cosine = [np.sum(p * q) / np.linalg.norm(p) / np.linalg.norm(q) for p, q in zip(x, y)]
    np.testing.assert_allclose(diff.cosine["layers/up"], cosine)
    same = inspect.open(path).diff(inspect.open(path))
    assert all((v == 0).all() for v in same.relative.values()) and not same.only_here
    write_run(tmp_path, roles={"reward": 1})
    across = inspect.open(path).diff(tmp_path, "reward")
    assert across.only_there == ["head"] and set(across.relative) == set(diff.relative)


GROWTH = """
import sys
from train import inspect

def memory():
    lines = dict(line.split(":", 1) for line in open("/proc/self/status"))
    return [int(lines[name].split()[0]) / 1024 for name in ("VmRSS", "VmHWM")]

inspect.open(sys.argv[2]).params["layers/query"][0]  # what the first read of all imports
open("/proc/self/clear_refs", "w").write("5")  # the peak from here on
before, _ = memory()
m = inspect.open(sys.argv[1])
for weight in m.params["layers"].values():
    weight[1]
print(memory()[1] - before)
"""


def grown(big, small) -> float:
    """MB by which the resident memory of a process grew at most while it read a layer of `big`."""
    env = {**os.environ, "XLA_FLAGS": "", "PYTHONPATH": os.getcwd()}
    out = subprocess.run(
        [sys.executable, "-c", GROWTH, str(big), str(small)],
        capture_output=True, text=True, check=True, env=env, timeout=250,
    )  # fmt: skip
    return float(out.stdout)


def large(layers, width):
    return dataclasses.replace(
        CONFIG, embed_dim=width, num_layers=layers, mlp_dim=4 * width, num_heads=16,
        num_kv_heads=16, head_dim=width // 16,
    )  # fmt: skip


@pytest.mark.slow
def test_one_layer_of_two_gigabytes_takes_less_than_200_mb(run, tmp_path):
    write_run(tmp_path, large(31, 1024))
    assert inspect.open(tmp_path).summary(rms=False).nbytes > 2e9
    assert grown(tmp_path, run[0]) < 200


def test_one_layer_of_a_large_stack_is_stored_by_itself(tmp_path):
    """The quick form of the test above."""
    write_run(tmp_path, large(8, 192))
    rows = {name: w._source.rows for name, w in inspect.open(tmp_path).params["layers"].items()}
    assert rows["up"] == rows["gate"] == rows["down"] == 1 and rows["mlp_norm"] == 8
