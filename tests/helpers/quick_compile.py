"""How tests compile, many tiny programs that run a few times each: flags, and a cache that is kept
from one run of the tests to the next."""

import atexit
import contextlib
import hashlib
import os
import platform
import shutil
import tempfile
import zlib
from importlib import metadata
from pathlib import Path

try:  # as JAX chooses
    from zstandard import ZstdDecompressor, ZstdError
except ImportError:
    decompress, damaged = zlib.decompress, zlib.error
else:
    decompress, damaged = ZstdDecompressor().decompress, ZstdError

# Without optimization compiling takes a third of the time.
FLAGS = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
# A third again where loops are emitted as LLVM's code and not through MLIR, and a quarter of the
# rest where LLVM gets a program in one part. Later releases of JAX lack the first of these two
# flags, and XLA aborts on a flag that it does not know.
if metadata.version("jaxlib").startswith("0.10."):
    FLAGS += " --xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"

MOST_BYTES = 1 << 30
# What programs depend on (train/runtime/compilation.py, which imports JAX).
_CPUINFO = ("model name", "flags", "Features", "CPU ")


def users_folder() -> Path:
    """The folder of the tests' programs for this processor, in the user's cache."""
    home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    cpuinfo = Path("/proc/cpuinfo")
    text = cpuinfo.read_text() if cpuinfo.exists() else platform.node()
    facts = [line for line in text.partition("\n\n")[0].splitlines() if line.startswith(_CPUINFO)]
    key = hashlib.sha256("\n".join([*facts, platform.machine()]).encode()).hexdigest()[:16]
    return Path(home) / "seedpod" / f"tests-{key}"


def cache() -> str:
    """A directory for JAX_COMPILATION_CACHE_DIR until this process ends, for all that it starts.

    It begins with the programs of earlier runs, and those that it adds are kept if they are whole:
    tests kill processes that may be writing.
    """
    directory, kept = Path(tempfile.mkdtemp(prefix="seedpod-tests-")), users_folder()
    for path in kept.glob("*-cache"):
        _link(path, directory / path.name)
    atexit.register(_end, directory, kept, os.getpid())
    return str(directory)


def _end(directory: Path, kept: Path, owner: int) -> None:
    if os.getpid() == owner:  # not a process that a test has forked
        with contextlib.suppress(OSError):  # there may be no folder of the user that can be written
            keep(directory, kept)
        shutil.rmtree(directory, ignore_errors=True)


def keep(directory: Path, kept: Path) -> None:
    """Adds the whole programs of one folder to another, and removes its oldest above
    `MOST_BYTES`."""
    kept.mkdir(0o700, parents=True, exist_ok=True)
    for path in directory.glob("*-cache"):
        if not (kept / path.name).exists():
            try:
                decompress(path.read_bytes())
            except damaged:
                continue
            _link(path, kept / path.name)
    size = 0
    for path in sorted(kept.glob("*-cache"), key=lambda path: -path.stat().st_mtime):
        size += path.stat().st_size
        if size > MOST_BYTES:
            path.unlink(missing_ok=True)


def _link(source: Path, target: Path) -> None:
    """Gives a file another name, or copies it to another file system."""
    try:
        os.link(source, target)
    except FileExistsError:
        pass
    except OSError:
        part = target.with_name(f"{target.name}.{os.getpid()}")
        shutil.copy2(source, part)
        part.replace(target)
