"""Rankings by people: questions, answers in a database, a page to answer on, and their export.

A scripted annotator needs no page: `store.Store` has `add`, `next` and `record`, and
`export.export` writes what training reads (docs/people.md, "From Python").
"""
