"""Data is never code: nothing that is read from a file can run (docs/security.md)."""

import ast
import io
import pickle
from pathlib import Path

import numpy as np
import pytest

# What reads objects, and with them code, from bytes.
MODULES = ("pickle", "cPickle", "cloudpickle", "dill", "joblib", "shelve", "marshal", "torch",
           "jsonpickle")  # fmt: skip
# Functions that run text, or give it to a shell.
FUNCTIONS = ("eval", "exec", "compile", "__import__", "os.system", "os.popen", "pickle.load",
             "pickle.loads", "torch.load", "subprocess.getoutput")  # fmt: skip
# Readers of modules that have safe ones too, pandas and yaml.
UNSAFE = ("read_pickle", "read_hdf", "yaml.load", "yaml.unsafe_load", "yaml.full_load",
          "yaml.Loader", "yaml.FullLoader", "yaml.UnsafeLoader")  # fmt: skip
ROOT = Path(__file__).parents[1]
ROOMS = ("model", "data", "train", "tpu", "configs", "scripts")


def calls(tree: ast.AST):
    return (node for node in ast.walk(tree) if isinstance(node, ast.Call))


def faults(source: str) -> list[str]:
    """The imports and calls by which data could become code."""
    tree, found = ast.parse(source), []
    for node in ast.walk(tree):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        names += [str(node.module)] if isinstance(node, ast.ImportFrom) else []
        found += [f"imports {name}" for name in names if name.split(".")[0] in MODULES]
    for call in calls(tree):
        name, keywords = ast.unparse(call.func), {k.arg: k.value for k in call.keywords}
        if name in FUNCTIONS or name.endswith(UNSAFE):
            found.append(f"calls {name}")
        if name.endswith(("np.load", "numpy.load")):
            allowed = keywords.get("allow_pickle")
            if not (isinstance(allowed, ast.Constant) and allowed.value is False):
                found.append(f"{name} without allow_pickle=False")
        for keyword, bad in (("allow_pickle", True), ("shell", True), ("trust_remote_code", True)):
            value = keywords.get(keyword)
            if value is not None and not (isinstance(value, ast.Constant) and value.value != bad):
                found.append(f"{name}({keyword}={ast.unparse(value)})")
    return found


@pytest.mark.parametrize("room", [*ROOMS, "."])
def test_no_file_of_the_tree_reads_objects_or_runs_text(room):
    paths = ROOT.glob("*.py") if room == "." else (ROOT / room).rglob("*.py")
    wrong = {str(p): found for p in paths if (found := faults(p.read_text()))}
    assert not wrong


@pytest.mark.parametrize(
    "source",
    ["import pickle", "from torch import load", "pandas.read_pickle(p)", "yaml.load(f)",
     "yaml.FullLoader(f)", "x = eval(y)", "np.load(path)", "os.system(c)",
     "np.load(path, allow_pickle=True)", "subprocess.run(c, shell=True)", "np.load(p, None, x)",
     "datasets.load_dataset(n, trust_remote_code=True)", "subprocess.run(c, shell=flag)"],
)  # fmt: skip
def test_the_test_sees_what_it_looks_for(source):
    assert faults(source)


class Bomb:
    """An object that sets a mark when it is unpickled."""

    exploded = False

    def __reduce__(self):
        return setattr, (Bomb, "exploded", True)


def test_a_pickle_in_the_place_of_an_array_does_not_run():
    file = io.BytesIO()
    np.save(file, np.array([Bomb()], object), allow_pickle=True)
    pickle.loads(pickle.dumps(Bomb()))
    assert Bomb.exploded
    Bomb.exploded = False
    with pytest.raises(ValueError, match="allow_pickle=False"):
        np.load(io.BytesIO(file.getvalue()), allow_pickle=False)
    assert not Bomb.exploded
