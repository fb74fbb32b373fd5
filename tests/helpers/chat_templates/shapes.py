"""A hundred chat templates of the shapes that occur, each written for these tests.

`SHAPES[name]` is (template, form of an answer that is learned, form of the last one); "{}" stands
for the answer. Those in `NO_SYSTEM` refuse a system message.
"""

from chat_templates import (  # noqa: F401, they fill the registry
    brackets,
    chatml,
    others,
    registry,
    roles,
    thoughts,
    tools,
)

SHAPES, NO_SYSTEM = registry.SHAPES, registry.NO_SYSTEM
