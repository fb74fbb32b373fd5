"""Values of flags that are refused, by the flag that was typed."""

import pytest
from documentation import ROOT, type_command


@pytest.mark.parametrize(
    "flag, message",
    [
        ("--goodput=2", "--goodput=2: "),
        ("--deadline=-1", "--deadline=-1: "),
        ("--deadline=nan", "--deadline=nan: it must be a finite number"),
        ("--slices=many", "--slices=many: it must be an int"),
    ],
)
def test_a_wrong_number_is_not_a_missing_flag(flag, message, monkeypatch):
    """An optional flag with bounds is not required."""
    monkeypatch.chdir(ROOT)
    typed = type_command(f"python -m tpu.fit --topology=v5e-4 {flag}")
    assert typed.code == 1 and f"error: {message}" in typed.text and "missing" not in typed.text
