"""Lines of the log on what reading data left out, cut, replaced and passed over."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from data.packing import CUT
from data.text.base import Tokenizer
from data.text.chat_template import ChatTemplate, TemplateError

MOST_FIELDS = 12  # that are named
# Fields of messages that a chat format may do without.
_BESIDE = ("name", "tool_call_id")


def lines(skipped: Mapping, redacted: Mapping, unused: Mapping[str, Mapping]) -> list[str]:
    """Arguments as of `Data` in data/pipeline.py."""
    out = []
    for reason, count in skipped.items():
        if reason.endswith(CUT):
            out.append(f"cut {count:,} examples: {reason.removesuffix(CUT)}")
        else:
            out.append(f"passed over {count:,} examples: {reason}")
    out += [f"redacted: {kind}, {count:,} times" for kind, count in redacted.items()]
    for source, fields in unused.items():
        if not fields:
            continue
        most = sorted(fields.items(), key=lambda item: (-item[1], item[0]))
        named = [f"{name[:40]} ({count:,})" for name, count in most[:MOST_FIELDS]]
        more = f" and {len(most) - MOST_FIELDS} more" if len(most) > MOST_FIELDS else ""
        out.append(f"{source}: fields not used: {', '.join(named)}{more}")
    return out


def unread(tokenizer: Tokenizer, examples) -> Counter:
    """{field: count} of what messages hold beside and the format does not read."""
    template = tokenizer.template
    keys = [key for key in _BESIDE if template is None or key not in template.source]
    found = Counter()
    for example in examples:
        messages = example.get("messages", ())
        found.update(f"messages[].{key}" for m in messages for key in keys if key in m)
        if any("</think>" in answer for answer in _new_answers(example)):
            found["the thought before </think>"] += 1
    if template is None or _shows_thoughts(template):
        del found["the thought before </think>"]
    return found


def _new_answers(example):
    """The texts that a template shows as new: of past ones many leave the thoughts out."""
    if "responses" in example:
        return example["responses"]
    return [m["content"] for m in example.get("messages", ())[-1:] if m["role"] == "assistant"]


def _shows_thoughts(template: ChatTemplate) -> bool:
    """Whether an answer's thought that stands in its content is in the text; many templates, as
    those of DeepSeek's R1, leave it out of every answer."""
    answer = {"role": "assistant", "content": "<think>\nthought\n</think>\n\nb"}
    try:
        return "thought" in template.text([{"role": "user", "content": "a"}, answer], False)
    except TemplateError:
        return True  # that is said where it is used
