"""Exports of helpdesks and chats, mailboxes, and pages of HTML, one file a kind.

A reader of an export or a mailbox gives a record for each conversation: the fields that the export
has, and

    messages   [{"author": {"id", "name", "email", "kind"}, "content": str, "private": bool}]
    status, rating, tags, subject, customer     where the export knows them, else null

`kind` is the export's own word for who wrote a message (data/transforms/roles.py has those that are
known). The transforms of `data.transforms`, of which some are on by default for these sources, turn
such records into chats.
"""
