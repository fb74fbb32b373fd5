"""Tests run on eight simulated CPU devices, so that meshes and collectives are real.

JAX reads the variables when it is first imported, which pytest does after this file.
"""

import gc
import os
import re

from quick_compile import FLAGS, cache

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "") + f" --xla_force_host_platform_device_count=8 {FLAGS}"
).strip()

# Set it to an empty directory to compile everything anew.
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    os.environ["JAX_COMPILATION_CACHE_DIR"] = cache()
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"

from object_store import bucket  # noqa: F401, a fixture of them all


def pytest_ignore_collect(collection_path, config):
    """Modules that are slow as a whole are not imported where slow tests are left out: some import
    torch or transformers."""
    if config.option.markexpr == "not slow" and collection_path.suffix == ".py":
        slow = r"^pytestmark = .*pytest\.mark\.slow"
        return re.search(slow, collection_path.read_text(), re.MULTILINE) is not None or None
    return None


def pytest_collection_finish(session):
    """Takes what imports made out of the garbage collector's sight: it takes half of the time of
    JAX's tracing otherwise."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 10, 10)
