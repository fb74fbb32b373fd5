"""The state of a set of questions: who answered what, how far they agree, which source wins."""

from __future__ import annotations

import itertools
import math
import statistics
from collections import Counter, defaultdict
from typing import Any

from data.ranking.agreement import agreement
from data.ranking.questions import Question, Recorded, is_right
from data.ranking.store import Store


def overview(store: Store, each: int = 1) -> dict[str, Any]:
    """The state as JSON: `questions`, `answered` (by `each` people or more), `waiting`, `dropped`,
    `annotators`, `agreement` and `sources`."""
    questions = {question.id: question for question in store.questions()}
    answers = store.answers()
    asked = [a for a in answers if questions[a.question].gold is None]
    judged = Counter(a.question for a in asked if a.answer.rank is not None)
    return {
        "questions": sum(q.gold is None for q in questions.values()),
        "answered": sum(count >= each for count in judged.values()),
        "waiting": len(store.waiting()),
        "dropped": store.dropped(),
        "annotators": annotators(answers, questions),
        "agreement": agreement_lines(asked),
        "sources": wins(asked, questions),
    }


def annotators(answers: list[Recorded], questions: dict[int, Question]) -> list[dict[str, Any]]:
    """A row for each annotator: counts, the median of seconds, gold questions that were right, and
    the share of pairs in which the one shown first was preferred."""
    rows = []
    for name in sorted({answer.annotator for answer in answers}):
        own = [answer for answer in answers if answer.annotator == name]
        tested = [(a.answer, gold) for a in own if (gold := questions[a.question].gold)]
        golds = [bool(is_right(a, gold)) for a, gold in tested if a.rank is not None]
        first = [
            a.answer.rank[i] < a.answer.rank[j]
            for a in own if a.answer.rank and not questions[a.question].gold
            for i, j in itertools.combinations(a.answer.order, 2)
            if a.answer.rank[i] != a.answer.rank[j]
        ]  # fmt: skip
        rows.append({
            "name": name,
            "answers": len(own),
            "skipped": sum(a.answer.rank is None for a in own),
            "ties": sum(a.answer.tied for a in own),
            "unsafe": sum(bool(a.answer.unsafe) for a in own),
            "ideal": sum(bool(a.answer.ideal) for a in own),
            "comments": sum(bool(a.answer.comment) for a in own),
            "seconds": statistics.median(a.answer.seconds for a in own),
            "gold": [sum(golds), len(golds)],
            "first": [sum(first), len(first)],
        })  # fmt: skip
    return rows


def agreement_lines(answers: list[Recorded]) -> list[str]:
    """The agreement of annotators in words, or why there is none."""
    try:
        result = agreement(answers)
    except ValueError as error:
        return [str(error)]
    if result is None:
        return ["no two people have answered the same question"]
    pairs = f"{result.pairs} pair{'s' * (result.pairs != 1)}"
    lines = [f"{result.share:.0%} of ratings equal, of {pairs} that two or more people rated"]
    lines.append(f"Krippendorff's alpha {_number(result.alpha)}")
    lines.append(f"Fleiss' kappa {_number(result.fleiss)}, of pairs with {result.raters} ratings")
    lines += [f"Cohen's kappa {_number(k)}, {a} and {b}" for (a, b), k in result.cohen.items()]
    return lines


def _number(value: float) -> str:
    if math.isnan(value):
        return "undefined: all ratings are the same"
    return f"{value:.2f}".replace("-", "−")


def wins(answers: list[Recorded], questions: dict[int, Question]) -> list[dict[str, Any]]:
    """For each source the share of pairs with another that it won; a tie is half a win."""
    won: dict[str, float] = defaultdict(float)
    pairs = Counter[str]()
    for answer in answers:
        rank = answer.answer.rank or []
        names = [source_name(c.source) for c in questions[answer.question].candidates]
        for i, j in itertools.permutations(range(len(rank)), 2):
            if names[i] and names[j] and names[i] != names[j]:
                pairs[names[i]] += 1
                won[names[i]] += (rank[i] < rank[j]) + (rank[i] == rank[j]) / 2
    return [{"name": n, "share": won[n] / pairs[n], "pairs": pairs[n]} for n in sorted(pairs)]


def source_name(source: dict[str, Any]) -> str:
    """A short name of a candidate's source, or ""."""
    if "run" in source:
        step = source.get("step")
        return f"{source['run']}@{step}" if step is not None else str(source["run"])
    return str(source.get("name", ""))
