"""What the command lines make of errors."""

import jax
import pytest

from train import cli
from train.cli import process


@pytest.mark.parametrize(
    "error, message",
    [
        (MemoryError("Unable to allocate 8. TiB"), "not enough memory (Unable to allocate 8. TiB)"),
        (
            jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes."),
            "lower data.batch_size",
        ),
        (
            jax.errors.JaxRuntimeError("INTERNAL: dispatching: Out of memory allocating 9 bytes."),
            "lower data.batch_size",
        ),
        (
            RuntimeError("Unable to initialize backend 'tpu': NOT_FOUND: no libtpu.so. (set …)"),
            "cannot use tpu on this machine: NOT_FOUND: no libtpu.so. For the CPU, type JAX_PLATF",
        ),
        (ValueError("x" * 10**5), "x" * 80),
    ],
    ids=lambda x: type(x).__name__,
)
@pytest.mark.parametrize("log", ["", "log.txt"])
def test_an_error_is_a_few_lines(error, message, log, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(process, "_log", log and str(tmp_path / log))
    monkeypatch.delenv("JAX_PLATFORMS", raising=False)

    def main(argv):
        raise error

    with pytest.raises(SystemExit) as ended:
        cli.guarded(main, [])
    said = capsys.readouterr().err
    assert ended.value.code == 1 and said.startswith("error: ") and message in said
    assert said.count("\n") <= 2 and len(said) < 2500
    explained = "cannot use tpu" in message
    assert not log or explained or "Traceback" in (tmp_path / log).read_text()


def test_a_library_for_devices_that_are_not_there(monkeypatch, capsys):
    """JAX with its library for CUDA asserts that it has found a device."""

    def backends():
        assert not 1

    code = backends.__code__.replace(co_filename="jax/_src/xla_bridge.py")
    monkeypatch.setattr(backends, "__code__", code)
    monkeypatch.setenv("JAX_PLATFORMS", "cuda")
    with pytest.raises(SystemExit):
        cli.guarded(lambda argv: backends(), [])
    assert capsys.readouterr().err == (
        "error: JAX cannot use cuda on this machine, which JAX_PLATFORMS=cuda asks for. For the "
        "CPU, type JAX_PLATFORMS=cpu before the command\n"
    )
