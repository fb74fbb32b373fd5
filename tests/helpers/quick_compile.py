"""Compiler flags of the tests, which compile many tiny programs and run each a few times."""

from importlib import metadata

# Without optimization compiling takes a third of the time.
FLAGS = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
# A third again where loops are emitted as LLVM's code and not through MLIR. Later releases of
# JAX no longer have this flag, and XLA aborts on a flag that it does not know.
if metadata.version("jaxlib").startswith("0.10."):
    FLAGS += " --xla_cpu_use_fusion_emitters=false"
