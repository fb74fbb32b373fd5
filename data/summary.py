"""Summary of reading data, for the log: what was left out, cut, replaced and not read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

from data.packing.base import CUT
from data.text.base import Tokenizer
from data.text.chat_template import ChatTemplate, TemplateError

MAX_FIELDS, MAX_CHANGES = 12, 24  # that are named
# Fields of messages that a chat format may ignore.
_OPTIONAL = ("name", "tool_call_id")


def lines(
    skipped: Mapping, redacted: Mapping, unused: Mapping[str, Mapping],
    changes: Mapping[str, Mapping],
) -> list[str]:  # fmt: skip
    """Lines on the counts of data/pipeline.py's `Data`."""
    out = []
    for source, counts in changes.items():
        if not counts:
            continue
        by_count = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
        out.append(f"{source}, changed and left out:")
        out += [f"  {name}: {count:,}" for name, count in by_count[:MAX_CHANGES]]
        if more := by_count[MAX_CHANGES:]:
            total = sum(count for _, count in more)
            out.append(f"  {len(more)} other changes: {total:,}")
    for reason, count in skipped.items():
        if reason.endswith(CUT):
            out.append(f"cut {count:,} examples: {reason.removesuffix(CUT)}")
        else:
            out.append(f"passed over {count:,} examples: {reason}")
    out += [f"redacted: {kind}, {count:,} times" for kind, count in redacted.items()]
    for source, fields in unused.items():
        if not fields:
            continue
        by_count = sorted(fields.items(), key=lambda item: (-item[1], item[0]))
        named = [f"{name[:40]} ({count:,})" for name, count in by_count[:MAX_FIELDS]]
        more = f" and {len(by_count) - MAX_FIELDS} more" if len(by_count) > MAX_FIELDS else ""
        out.append(f"{source}: fields not used: {', '.join(named)}{more}")
    return out


def unread(tokenizer: Tokenizer, examples: Iterable[dict]) -> Counter:
    """{field: count} of the fields of messages that the chat format does not read."""
    template = tokenizer.template
    keys = [key for key in _OPTIONAL if template is None or key not in template.source]
    counts = Counter()
    for example in examples:
        messages = example.get("messages", ())
        counts.update(f"messages[].{key}" for m in messages for key in keys if key in m)
        if any("</think>" in answer for answer in _last_answers(example)):
            counts["the thought before </think>"] += 1
    if template is None or _shows_thoughts(template):
        del counts["the thought before </think>"]
    return counts


def _last_answers(example) -> list[str]:
    """The texts of the last turn: many templates leave the thoughts of earlier turns out."""
    if "responses" in example:
        return example["responses"]
    return [m["content"] for m in example.get("messages", ())[-1:] if m["role"] == "assistant"]


def _shows_thoughts(template: ChatTemplate) -> bool:
    """Whether a template renders a thought inside an answer's content; many, such as those of
    DeepSeek's R1, leave it out of every answer."""
    answer = {"role": "assistant", "content": "<think>\nthought\n</think>\n\nb"}
    try:
        return "thought" in template.text([{"role": "user", "content": "a"}, answer], False)
    except TemplateError:
        return True  # reported where the template is used
