"""The registry of templates.

`SHAPES[name]` is (template, form of an answer that is learned, form of the last one); "{}" stands
for the answer. Those in `NO_SYSTEM` refuse a system message.
"""

SHAPES: dict[str, tuple[str, str, str]] = {}
NO_SYSTEM = set()


def add(name, source, answer, last="", system=True):
    assert name not in SHAPES, name
    SHAPES[name] = (source, answer, last or answer)
    if not system:
        NO_SYSTEM.add(name)
