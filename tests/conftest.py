"""Tests run on eight simulated CPU devices, so that meshes and collectives are real.

JAX reads the variables when it is first imported, which pytest does after this file.
"""

import atexit
import gc
import os
import shutil
import tempfile

from quick_compile import FLAGS

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "") + f" --xla_force_host_platform_device_count=8 {FLAGS}"
).strip()

# Compiled programs are shared by pytest's workers and by the processes that tests start, and are
# removed at the end; set the variable to a directory of your own to keep them for the next run.
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    os.environ["JAX_COMPILATION_CACHE_DIR"] = tempfile.mkdtemp(prefix="seedpod-tests-")
    atexit.register(shutil.rmtree, os.environ["JAX_COMPILATION_CACHE_DIR"], ignore_errors=True)
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"

from object_store import bucket  # noqa: F401, a fixture of them all


def pytest_collection_finish(session):
    """Takes what imports made out of the garbage collector's sight: it takes half of the time of
    JAX's tracing otherwise."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 10, 10)
