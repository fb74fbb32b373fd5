"""Tests run on eight simulated CPU devices, so that meshes and collectives are real.

JAX reads both variables when it is first imported, which pytest does after this file.
"""

import os

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "")
    + " --xla_force_host_platform_device_count=8"
    # Tiny programs take longer to compile than to run: three times less without optimization.
    + " --xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
).strip()

from object_store import bucket  # noqa: F401, a fixture of them all
