"""A hundred chat templates of the shapes that occur, each written for these tests."""

from chat_templates import brackets, chatml, others, roles, thoughts, tools  # noqa: F401
