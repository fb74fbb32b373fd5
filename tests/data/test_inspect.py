"""A batch shown to people: what is learned, what is not, borders, padding."""

import json

import numpy as np
import pytest
from rich.console import Console

from configs import base
from data import inspect
from data.packing import pack_chats, preference_rows
from data.tokenizer import train

TOKENIZER = train("byte", [], 0)
CHATS = [
    {"messages": [{"role": "user", "content": q}, {"role": "assistant", "content": a}],
     "where": "x:1"}
    for q, a in (("why", "because"), ("né?", "oui"))
]  # fmt: skip


def printed(renderable) -> str:
    console = Console(width=100, file=open("/dev/null", "w"), record=True, color_system=None)  # noqa: SIM115
    console.print(renderable)
    return console.export_text()


def spans(text, style):
    return [text.plain[s.start : s.end] for s in text.spans if style in str(s.style)]


def test_what_is_learned_is_in_colour_and_markers_have_names():
    rows, _ = pack_chats(CHATS, TOKENIZER, 32, "error", True, {})
    row = {name: values[0] for name, values in rows.items()}
    first, second = (
        inspect.readable(TOKENIZER, row["tokens"][s], row["loss_mask"][s])
        for s in inspect.segments(row)
    )
    assert {first.plain, second.plain} == {
        "<bos><|user|>why<eos><|assistant|>because<eos>",
        "<bos><|user|>né?<eos><|assistant|>oui<eos>",
    }
    assert sorted(spans(first, "green") + spans(second, "green")) == ["because", "oui"]
    assert spans(first, "underline") == ["<eos>"], "the end is learned too"


def test_a_batch_of_conversations():
    rows, _ = pack_chats(CHATS, TOKENIZER, 32, "error", True, {})
    text = printed(inspect.render(TOKENIZER, rows, 5, sources=["web"]))
    assert "row 0 · web" in text and "tokens, 8 learned" in text and "tokens, 4 learned" in text
    real = np.sum(rows["segment_ids"] > 0)
    assert f"{real} tokens" not in text and f"{real}, " in text and "padding" in text


@pytest.mark.parametrize("share_prompt", [False, True])
def test_a_batch_of_rankings_shows_each_candidate_behind_its_prompt(share_prompt):
    example = dict(CHATS[0], responses=["so", "as if"], rank=[1, 0], kinds=["near", ""])
    args = TOKENIZER, 24, 2, share_prompt, "error", {}, ("", "near")
    rows, _ = preference_rows([example], *args)
    example["messages"] = CHATS[0]["messages"][:1]
    rows, _ = preference_rows([example], *args)
    text = printed(inspect.render(TOKENIZER, rows, 1, kinds=("", "near")))
    best, worse = text.index("rank 0, 6 tokens"), text.index("rank 1, near, 3 tokens")
    assert best < text.index("why<eos><|assistant|>as if<eos>") < worse
    assert worse < text.index("why<eos><|assistant|>so<eos>")


def test_a_recipe_is_shown_as_training_would_see_it(tmp_path):
    (tmp_path / "a.jsonl").write_text(
        "".join(json.dumps({"prompt": f"q{i}", "response": f"a{i}"}) + "\n" for i in range(20))
    )
    config = base.get_config()
    config.stage, config.tokenizer.kind = "sft", "byte"
    config.init_from.policy = ""
    config.data.source = ""
    config.data.mixture = {"mine": dict(source=str(tmp_path / "a.jsonl"))}
    config.data.length, config.data.batch_size = 32, 4
    text = printed(inspect.view(config, step=2, rows=1))
    assert "sft, step 2" in text and "row 0 · mine" in text and "<|assistant|>a" in text
    assert "row 1" not in text
