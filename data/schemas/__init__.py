"""Records to examples: schemas, messages, and templates over a record's fields.

A schema maps a record (a dict, from a JSON line, a table or TFDS) to a normalised example, the one
form that the rest of Seedpod reads:

    text        {"text": str}, and "weight": float where the record has one
    chat        {"messages": [...]}, ending with the assistant's
    prompt      {"messages": [...]}, ending with the user's or a tool's; and "answer": str, the
                reference for verifiers, where there is one
    preference  {"messages": [...], "responses": [str], "rank": [int], "kinds": [str]}, and
                "confidence": float where the record says how certain its ranking is

All except text have "tools" (a list of objects) where the record has them, and by templates
"passages" and "sources" (data/schemas/fields.py), until the passages are in the prompt. Messages
are described in data/schemas/messages.py. A system message comes first, if at all; the user's and
the assistant's alternate after it, and results of tools follow the assistant's. A preference's
messages end as a prompt's do. `rank` counts from 0, lower is better, ties are allowed; a single
response is good (0) or not (1). A kind says how a response came about: "chosen", a kind of a
built-in corpus, or "" where nothing says. Weights are those of the tokens in the loss: a record's
multiplies its messages'.
"""
