"""Rankings by people: questions, answers in a database, a page to answer on, and their export.

A scripted annotator needs no page:

    from data.ranking.export import export
    from data.ranking.questions import Answer, Candidate, Question
    from data.ranking.store import Store

    with Store("prefs.db") as store:
        prompt = [{"role": "user", "content": "What does len do?"}]
        store.add([Question(prompt, [Candidate("It counts."), Candidate("No idea.")])])
        while question := store.next("rule"):
            best = max(range(len(question.candidates)),
                       key=lambda i: len(question.candidates[i].text))
            store.record("rule", question.id, Answer.choice(best, len(question.candidates)))
        export(store, "prefs.jsonl")

`Question.doubt` decides which questions come first with `store.next(name, order="uncertain")`.
"""
