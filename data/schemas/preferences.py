"""The preference schema: candidates and their rank, from the forms that data sets use."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from data.errors import DataError
from data.schemas.fields import (
    is_blank,
    number_of,
    optional,
    prompt_messages,
    record_weight,
    tools_field,
    unweighted,
    with_system,
)
from data.schemas.messages import ANSWER_FIELDS, Record, message_of, messages_of
from data.schemas.templates import has, is_number, required_text, value_of, wrong_type

_HH_TURN = re.compile(r"(?:^|\n\n)(Human|Assistant): ?")
_HH_ROLES = {"Human": "user", "Assistant": "assistant"}


def preference_example(record: Record, templates: Mapping) -> dict:
    """An example from one of: chosen and rejected; chosen and a list of rejected; responses and a
    rank; one response that is good or not. An optional `confidence` is the probability that the
    ranking is right, such as the share of people who gave it."""
    blank = is_blank(record, templates, "responses", "chosen")
    if has(record, templates, "responses") and "chosen" not in templates and not blank:
        answers, rank, kinds = _ranked(record, templates)
    elif not has(record, templates, "chosen") and _is_rated(record, templates):
        answers = [(value_of(record, templates, "response"), "response")]
        rank, kinds = [0 if _is_good(value_of(record, templates, "good")) else 1], [""]
    else:
        answers, rank, kinds = _chosen_rejected(record, templates)
    dialogues = (_split_dialogue(value, name, record) for value, name in answers)
    prefixes, responses = zip(*dialogues, strict=True)
    ranks: dict[str, int] = {}
    for response, place in zip(responses, rank, strict=True):
        if ranks.setdefault(response.strip(), place) != place:
            raise DataError(
                f"two responses are the same text and ranked apart: {response.strip()[:60]!r}; "
                "there is nothing to prefer",
                "identical_responses",
            )
    if any(prefix != prefixes[0] for prefix in prefixes):
        raise DataError(
            "the dialogues differ before their last answer, so they do not compare answers to "
            "one prompt",
            "different_prefix",
        )
    messages = prefixes[0]
    prompt = optional(record, templates, "prompt")
    if prompt is not None or not messages:
        if prompt is None:
            prompt = value_of(record, templates, "prompt")
        prompt = prompt_messages(prompt, record)
        if messages and messages[-len(prompt) :] != prompt:
            raise DataError(
                "'prompt' is not what the dialogues say before their last answer; "
                "leave one of the two out",
                "different_prefix",
            )
        messages = messages or prompt
    messages = with_system(record, templates, unweighted(messages, record))
    if record_weight(record, templates) != 1:
        raise DataError(
            "a ranking has no 'weight'; 'confidence', from 0.5 to 1, says how sure it is",
            "bad_weight",
        )
    return (
        {"messages": messages, "responses": list(responses), "rank": rank, "kinds": kinds}
        | _confidence(record, templates)
        | tools_field(record, templates)
    )


def _confidence(record: Record, templates: Mapping) -> dict:
    value = optional(record, templates, "confidence")
    if value is None:
        return {}
    confidence = number_of(value)
    if not is_number(confidence) or not 0.5 <= confidence <= 1:
        raise wrong_type("confidence", "a number from 0.5 (nobody knows) to 1 (certain)", value)
    return {"confidence": float(confidence)}


def _ranked(record: Record, templates: Mapping) -> tuple[list, list[int], list[str]]:
    """((response, its name for errors) pairs, ranks, kinds) from a list of responses."""
    responses = value_of(record, templates, "responses")
    if not isinstance(responses, list) or len(responses) < (1 if "good" in templates else 2):
        raise wrong_type("responses", "a list of two responses or more", responses)
    rank = list(range(len(responses)))
    if "best" in templates:
        rank = _rank_of_best(value_of(record, templates, "best"), len(responses))
    elif "good" in templates:
        rank = [0 if _is_good(value) else 1 for value in value_of(record, templates, "good")]
    elif has(record, templates, "rank"):
        rank = value_of(record, templates, "rank")
        if not isinstance(rank, list) or any(type(place) is not int for place in rank):
            raise wrong_type("rank", "a list of whole numbers", rank)
    if len(rank) != len(responses):
        raise DataError(
            f"'rank' has {len(rank)} numbers for {len(responses)} responses", "bad_rank"
        )
    answers = [(response, f"responses[{i}]") for i, response in enumerate(responses)]
    kinds = [""] * len(responses)
    if len(responses) == 1:
        return answers, rank, kinds
    places = {place: i for i, place in enumerate(sorted(set(rank)))}
    if len(places) == 1:
        raise DataError("all responses are tied: there is nothing to prefer", "bad_rank")
    return answers, [places[place] for place in rank], kinds


def _rank_of_best(best: Any, count: int) -> list[int]:
    """Ranks from the number of the best response, counted from 1; 0 means that none is better."""
    if isinstance(best, str) and re.fullmatch(r"\s*[0-9]{1,9}\s*", best):
        best = int(best)
    if isinstance(best, bool) or not isinstance(best, int) or not 0 <= best <= count:
        raise wrong_type("best", f"the number of a response, 1 to {count}, or 0", best)
    return [int(best not in (0, i)) for i in range(1, count + 1)]


def _is_rated(record: Record, templates: Mapping) -> bool:
    """Whether the record is of one response that is good or not."""
    return all(has(record, templates, name) for name in ("response", "good"))


def _is_good(value: Any) -> bool:
    """A thumb up or down: true or false, 1 or 0, or such a word."""
    words = {"true": True, "1": True, "1.0": True, "up": True, "good": True, "yes": True}
    words |= {"false": False, "0": False, "0.0": False, "down": False, "bad": False, "no": False}
    good = words.get(str(value).strip().lower())
    if good is None:
        raise wrong_type("good", "true or false", value)
    return good


def _chosen_rejected(record: Record, templates: Mapping) -> tuple[list, list[int], list[str]]:
    """As `_ranked`, from a chosen answer and one rejected, or a list of {"kind", "text"}."""
    chosen = value_of(record, templates, "chosen")
    rejected = value_of(record, templates, "rejected")
    if not (isinstance(rejected, list) and all(_is_candidate(item) for item in rejected)):
        return [(chosen, "chosen"), (rejected, "rejected")], [0, 1], ["chosen", ""]
    if not rejected:
        raise DataError("'rejected' is an empty list: nothing was preferred to", "missing_field")
    answers = [(chosen, "chosen")]
    answers += [(item["text"], f"rejected[{i}].text") for i, item in enumerate(rejected)]
    kinds = ["chosen", *(required_text(item["kind"], "kind") for item in rejected)]
    return answers, [0] + [1] * len(rejected), kinds


def _is_candidate(item: Any) -> bool:
    return isinstance(item, dict) and {"kind", "text"} <= set(item)


def _split_dialogue(value: Any, name: str, record: Record) -> tuple[list[dict], str]:
    """(messages before the last answer, the last answer); no messages for a bare answer.

    A dialogue is a list of messages, or a string in the form of Anthropic's hh-rlhf:
    "\\n\\nHuman: ...\\n\\nAssistant: ...".
    """
    if isinstance(value, str) and _HH_TURN.match(value) and "\n\nAssistant:" in value:
        _, *parts = _HH_TURN.split(value)
        value = [
            {"role": _HH_ROLES[speaker], "content": content.strip()}
            for speaker, content in zip(parts[::2], parts[1::2], strict=True)
        ]
    if isinstance(value, dict):
        value = [value]
    if not isinstance(value, list):
        return [], required_text(value, name)
    if len(value) == 1:
        only = message_of(value[0], f"{name}[0]", record)
        if only["role"] == "assistant":
            return [], _answer_text(only, name)
    *messages, answer = messages_of(value, name, ("assistant",), record)
    return messages, _answer_text(answer, name)


def _answer_text(message: dict, name: str) -> str:
    """The text of a ranked answer, which may have no other field."""
    for key in (*ANSWER_FIELDS, "weight"):
        if key in message:
            raise DataError(
                f"the last message of {name!r} has {key!r}, and answers are ranked as texts alone; "
                "leave it out, or such rankings",
                "not_text",
            )
    return message["content"]
