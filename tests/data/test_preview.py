"""Previews of batches: learned tokens and context, segments, padding."""

import json
import re

import numpy as np
import pytest
from rich.console import Console

from configs import base
from data import inspect, preview
from data.config import DataConfig
from data.packing.chats import pack_chats
from data.packing.preferences import preference_rows
from data.pipeline import open_data
from data.prepare.prepared_rows import PreparedRows
from data.prepare.run import prepare_corpus
from data.rows import num_rows, take_rows
from data.splits import read_examples
from data.text.tokenizer import train

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
    rows, *_ = pack_chats(CHATS, TOKENIZER, 32, "error", True, {})
    row = {name: values[0] for name, values in rows.items()}
    first, second = (
        preview.readable(TOKENIZER, row["tokens"][s], row["loss_mask"][s])
        for s in preview.segments(row)
    )
    assert {first.plain, second.plain} == {
        "<bos><|user|>why<eos><|assistant|>because<eos>",
        "<bos><|user|>né?<eos><|assistant|>oui<eos>",
    }
    assert sorted(spans(first, "green") + spans(second, "green")) == ["because", "oui"]
    assert spans(first, "underline") == ["<eos>"], "the end is learned too"


def test_what_was_left_out_and_changed_is_listed(tmp_path):
    turns = [{"role": "user", "content": "a"}, {"role": "gpt", "content": "b"}]
    records = [{"messages": [*turns, turns[0]], "state": s, "n": 1} for s in ("new", "old", "old")]
    for i, record in enumerate(records):
        record["messages"][0] = {"role": "user", "content": f"a{i}"}
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    transforms = {"keep": {"state": "old"}, "trim": True}
    config = DataConfig(source=str(tmp_path / "a.jsonl"), transforms=transforms, batch_size=1)
    examples = read_examples(config, "chat")
    shown = preview.preview_batch(
        config, "chat", TOKENIZER, examples, 0, batch_size=1, seed=0, rows=1
    )
    text = " ".join(printed(shown).replace("│", "").split())
    for line in ("records left out, state is new: 1", "after the assistant's last: 2", "n (2)"):
        assert line in text


def test_a_batch_of_conversations():
    rows, *_ = pack_chats(CHATS, TOKENIZER, 32, "error", True, {})
    text = printed(preview.render_batch(TOKENIZER, rows, 5, origins=["web"]))
    assert "row 0 · web" in text and "tokens, 8 learned" in text and "tokens, 4 learned" in text
    real = np.sum(rows["segment_ids"] > 0)
    assert f"{real} tokens" not in text and f"{real}, " in text and "padding" in text


def test_weights_are_said():
    chats = [{"messages": [m | {"weight": 0.5} for m in c["messages"]]} for c in CHATS]
    rows, *_ = pack_chats(chats, TOKENIZER, 32, "error", True, {})
    assert "tokens, 8 learned with weight 0.5" in printed(preview.render_batch(TOKENIZER, rows, 5))


@pytest.mark.parametrize("share_prompt", [False, True])
def test_a_batch_of_rankings_shows_each_candidate_behind_its_prompt(share_prompt):
    example = dict(CHATS[0], responses=["so", "as if"], rank=[1, 0], kinds=["near", ""])
    args = TOKENIZER, 24, 2, share_prompt, "error", {}, ("", "near")
    rows, *_ = preference_rows([example], *args)
    example["messages"] = CHATS[0]["messages"][:1]
    rows, *_ = preference_rows([example], *args)
    text = printed(preview.render_batch(TOKENIZER, rows, 1, kinds=("", "near")))
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
    assert "sft, step 2" in text and "row 0 · mine: " in text and "<|assistant|>a" in text
    assert "row 1" not in text
    # Line n holds question n - 1, and the location of each row is shown.
    lines = [int(n) for n in re.findall(r"a\.jsonl:(\d+)", text.replace("\n", ""))]
    asked = [int(n) for n in re.findall(r"<\|user\|>q(\d+)", text)]
    assert [n - 1 for n in lines] == asked and asked


def test_every_row_says_where_it_was_read(tmp_path):
    """For packed text, chats, a mixture and prepared rows: all documents in a row and no others."""
    texts = [f"document {i} " * (1 + i % 9) for i in range(40)]
    for name, part in (("a", texts[:25]), ("b", texts[25:])):
        records = [{"text": t, "prompt": f"q{i}", "response": t} for i, t in enumerate(part)]
        lines = [json.dumps(record) + "\n" for record in records]
        (tmp_path / f"{name}.jsonl").write_text("".join(lines))
    TOKENIZER.save(tmp_path / "tokenizer")
    a, b = (str(tmp_path / f"{name}.jsonl") for name in "ab")
    prepare_corpus(
        DataConfig(source=b, length=48), "text", str(tmp_path / "c"), tokenizer=str(tmp_path)
    )
    mixture = {"a": {"source": a}, "c": {"source": str(tmp_path / "c")}, "b": {"source": b}}
    for schema, settings in (
        ("text", {"source": (a, b)}),
        ("chat", {"source": a, "length": 120}),
        ("text", {"source": "", "mixture": mixture}),
    ):
        config = DataConfig(**{"length": 48} | settings)
        data = open_data(config, schema, TOKENIZER)
        rows = take_rows(data.train, np.arange(num_rows(data.train)))["tokens"]
        shards = 0
        for number, tokens in enumerate(rows):
            locations = data.locations(number)
            if "array_record" in locations[0]:
                path, record = re.fullmatch(r"(.*)\[(\d+)\]", locations[0]).groups()
                record_tokens = PreparedRows(tmp_path / "c", "train").take([int(record)])["tokens"][
                    0
                ]
                assert str(tmp_path / "c/train-00000-of-00001.array_record") == path
                np.testing.assert_array_equal(record_tokens, tokens)
                shards += 1
                continue
            numbers = []
            for place in locations:
                path, line = place.rsplit(":", 1)
                numbers.append(int(line) - 1 + 25 * (path == b))
            documents = [int(n) for n in re.findall(r"document (\d+) ", TOKENIZER.decode(tokens))]
            # At the beginning or end of a document there may be too few tokens to identify it.
            assert set(documents) <= set(numbers) and len(numbers) <= len(set(documents)) + 2
        assert bool(shards) == ("mixture" in settings)
    assert preview.short_list(["x:1", "x:2"]) == "x:1, x:2"
    assert preview.short_list([f"x:{i}" for i in range(5)]) == "x:0, x:1, x:2 and 2 more"
