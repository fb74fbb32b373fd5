"""The registry that the files of this folder fill (shapes.py)."""

SHAPES: dict[str, tuple[str, str, str]] = {}
NO_SYSTEM: set[str] = set()


def add(name: str, source: str, answer: str, last: str = "", system: bool = True) -> None:
    assert name not in SHAPES, name
    SHAPES[name] = (source, answer, last or answer)
    if not system:
        NO_SYSTEM.add(name)
