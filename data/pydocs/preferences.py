"""Preferences over the pydocs answers: the right one, and five that are worse in known ways.

A reward model that learns from these can be evaluated on each kind:

near        the summary of a neighbour: right in tone and subject, wrong in content
far         the summary of something from another package
truncated   the right answer, cut short
repeated    the right answer, with repetitions
scolding    a reply that is rude and says nothing

Every choice comes from a hash of the name, and every neighbour from the answer's own split. The
training split asks each question `DRAWS` times, with different worse replies: there are few
functions and many wrong answers, and a model that sees the same ones again memorizes them.
"""

import builtins
import math
from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

from data.pydocs.corpus import SPLITS, Answer, fraction

KINDS = ("near", "far", "truncated", "repeated", "scolding")
DRAWS = 3  # sets of worse replies to a training question

SCOLDINGS = (
    "You should know what that does. Read the manual before wasting my time.",
    "If you have to ask about `{name}`, you should not be using it.",
    "Really? Even a beginner can look that up.",
    "I am tired of questions like this one. Go and read the source.",
    "What a lazy question. Try thinking about it first.",
    "The name `{name}` says it all. I do not see what is so hard about it.",
    "Nobody with any sense asks about `{name}`.",
    "Not this again. Find out for yourself.",
    "I have better things to do than to explain `{name}` to you.",
    "Why would you want to know? You would only use it wrongly.",
    "That is obvious to anyone who pays attention, so start paying some.",
    "Stop bothering people with `{name}` and open the documentation for once.",
    "Do your own homework. I am not here to do it for you.",
    "Asking what `{name}` does tells me that you did not even try.",
    "Is that the best question you could come up with? I will not answer it.",
    "I could tell you what `{name}` does, but you would not understand it.",
)


class Rejected(NamedTuple):
    """A reply worse than the chosen one, and in which way: one of `KINDS`."""

    kind: str
    text: str


class Preference(NamedTuple):
    """A question, its right answer, and one rejected reply of each of `KINDS`, in that order."""

    split: str
    name: str
    prompt: str
    chosen: str
    rejected: list[Rejected]


def preferences_of(answers: Sequence[Answer]) -> list[Preference]:
    """Returns a preference for each answer that is long enough to be cut short (see `truncate`),
    and `DRAWS` of them, sorted by draw, where it is for training.

    Raises:
        ValueError: all answers of a split are from one package, so that nothing is far.
    """
    preferences = []
    for split in SPLITS:
        split_answers = [answer for answer in answers if answer.split == split]
        split_answers.sort(key=lambda answer: answer.name)
        neighbours = _Neighbours(split_answers)
        for draw in range(DRAWS if split == "train" else 1):
            for answer in split_answers:
                seed = f"{answer.name} {draw}" if draw else answer.name
                truncated = truncate(answer.response, seed)
                if not truncated:
                    continue
                far = neighbours.far(answer, seed)  # raises if there is no other answer
                texts = (
                    neighbours.near(answer, seed).response,
                    far.response,
                    truncated,
                    repeat(answer.response, seed),
                    _pick(SCOLDINGS, seed + " scolding").format(name=answer.name),
                )
                rejected = [Rejected(*pair) for pair in zip(KINDS, texts, strict=True)]
                preferences.append(
                    Preference(split, answer.name, answer.prompt, answer.response, rejected)
                )
    return preferences


def _pick(options: Sequence, seed: str):
    return options[int(fraction(seed) * len(options))]


# --- Neighbours -----------------------------------------------------------------------------


def package(name: str) -> str:
    """Returns the top-level package of a name; names of builtins are written without theirs."""
    first = name.partition(".")[0]
    return "builtins" if hasattr(builtins, first) else first


def _home(answer: Answer) -> str:
    """The module or class in which the name is defined; for a module itself its own name."""
    return answer.name if answer.kind == "module" else answer.name.rpartition(".")[0]


class _Neighbours:
    """Finds other answers of one split that are near an answer, or far from it."""

    def __init__(self, answers: Sequence[Answer]):
        self._answers = answers
        self._by_home: dict[str, list[Answer]] = defaultdict(list)
        self._by_package: dict[str, list[Answer]] = defaultdict(list)
        for answer in answers:
            self._by_home[_home(answer)].append(answer)
            self._by_package[package(answer.name)].append(answer)
        self._outside: dict[str, list[Answer]] = {}
        self._grams = {answer.name: _grams(answer.name) for answer in answers}

    def near(self, answer: Answer, seed: str) -> Answer:
        """One of the same module or class; if there is none, the one with the most similar name."""
        siblings = [a for a in self._by_home[_home(answer)] if a.name != answer.name]
        if siblings:
            return _pick(siblings, seed + " near")
        in_package = self._by_package[package(answer.name)]
        return self._most_similar(answer, in_package if len(in_package) > 1 else self._answers)

    def far(self, answer: Answer, seed: str) -> Answer:
        """One of another package."""
        inside = package(answer.name)
        if inside not in self._outside:
            self._outside[inside] = [
                other
                for name, others in self._by_package.items()
                if name != inside
                for other in others
            ]
        if not self._outside[inside]:
            raise ValueError(
                f"every answer of the {answer.split} split is from {inside}: there is none far "
                f"from {answer.name}. Build from entries of two packages or more."
            )
        return _pick(self._outside[inside], seed + " far")

    def _most_similar(self, answer: Answer, others: Sequence[Answer]) -> Answer:
        grams = self._grams[answer.name]

        def similarity(other: Answer) -> tuple[float, str]:
            other_grams = self._grams[other.name]
            return len(grams & other_grams) / len(grams | other_grams), other.name

        return max((other for other in others if other.name != answer.name), key=similarity)


def _grams(name: str) -> set[str]:
    """The runs of three characters in a name: similar names share many."""
    padded = f" {name.lower()} "
    return {padded[i : i + 3] for i in range(len(padded) - 2)}


# --- Worse answers --------------------------------------------------------------------------


def truncate(text: str, seed: str) -> str:
    """Returns the first 30-60% of the words of a text, or "" where the cut would not be noticeable.

    That is so for fewer than 4 words, and where every cut would be at the end of a sentence: a
    shorter right answer is not a worse one.
    """
    words = text.split()
    if len(words) < 4:
        return ""
    lengths = range(math.ceil(0.3 * len(words)), math.floor(0.6 * len(words)) + 1)
    lengths = [length for length in lengths if words[length - 1][-1] not in ".!?"]
    return " ".join(words[: _pick(lengths, seed + " truncated")]) if lengths else ""


def repeat(text: str, seed: str) -> str:
    """Returns a text two or three times over, or with a phrase of 2-4 words repeated."""
    words = text.split()
    times = _pick((2, 3), seed + " times")
    if fraction(seed + " whole") < 0.5 or len(words) < 4:
        return " ".join([text] * times)
    length = _pick((2, 3, 4), seed + " length")
    start = _pick(range(len(words) - length + 1), seed + " start")
    phrase = words[start : start + length]
    return " ".join(words[:start] + phrase * (times + 1) + words[start + length :])
