"""Packing: every token once, separate segments, and errors that locate what is too long."""

from collections import Counter

import numpy as np
import open_tokenizers
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.batch import segment_row
from data.errors import DataError
from data.packing.base import NothingLeft
from data.packing.chats import best_fit, pack_chats
from data.packing.preferences import preference_rows, round_up
from data.packing.prompts import prompt_rows
from data.packing.text import pack_text
from data.read.bad_records import BadRecords
from data.text.builtin import ASSISTANT, BOS, EOS, USER
from data.text.chat import render
from data.text.hf_tokenizer import HFTokenizer
from data.text.tokenizer import train

TOKENIZER = train("byte", [], 0)


def chat(question, answer, where="chats.jsonl:1"):
    messages = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return {"messages": messages, "where": where}


def segments_of(row):
    """The (tokens, positions, loss_mask) of each segment of a row, in order."""
    for number in range(1, row["segment_ids"].max() + 1):
        at = np.flatnonzero(row["segment_ids"] == number)
        assert len(at) and np.array_equal(at, np.arange(at[0], at[-1] + 1))  # side by side
        yield tuple(row[n][at] for n in ("tokens", "positions", "loss_mask"))


def rows_of(stacked):
    return [{n: v[i] for n, v in stacked.items()} for i in range(len(stacked["tokens"]))]


def check_row(row):
    """Positions restart with each segment, whose first token is not predicted; padding is 0."""
    for _, positions, mask in segments_of(row):
        np.testing.assert_array_equal(positions, np.arange(len(positions)))
        assert mask[0] == 0
    padding = row["segment_ids"] == 0
    assert not np.any(np.diff(padding.astype(int)) < 0)  # at the end
    for values in row.values():
        assert not values[padding].any()


def test_segment_row_by_hand():
    row = segment_row([([5, 6, 7], [1, 1, 0]), ([8, 9], [1, 1])], 7)
    assert {name: values.tolist() for name, values in row.items()} == {
        "tokens": [5, 6, 7, 8, 9, 0, 0],
        "positions": [0, 1, 2, 0, 1, 0, 0],
        "segment_ids": [1, 1, 1, 2, 2, 0, 0],
        "loss_mask": [0, 1, 0, 0, 1, 0, 0],
    }
    with pytest.raises(ValueError, match="do not fit a row of 4"):
        segment_row([([5, 6, 7], 1), ([8, 9], 1)], 4)


# Text.


@settings(max_examples=60, deadline=None)
@given(st.lists(st.text(alphabet="ab", min_size=1, max_size=40), min_size=1), st.integers(2, 20))
def test_packed_text_predicts_every_token_exactly_once(texts, length):
    rows, *_ = pack_text([{"text": text} for text in texts], TOKENIZER, length)
    predicted, whole = [], []
    for row in rows_of(rows):
        assert len(row["tokens"]) == length
        check_row(row)
        for tokens, _, mask in segments_of(row):
            assert len(tokens) >= 2  # a single token would predict nothing
            np.testing.assert_array_equal(mask[1:], 1)
            if tokens[0] != BOS:  # continues from the last token of the row before it
                assert tokens[0] == whole[-1]
            else:
                whole.append(BOS)
            whole += tokens[1:].tolist()
            predicted += tokens[mask > 0].tolist()
    wanted = [[*TOKENIZER.encode(text), EOS] for text in texts]
    assert predicted == [i for ids in wanted for i in ids]
    assert whole == [i for ids in wanted for i in (BOS, *ids)]
    assert rows["loss_mask"].sum() == sum(map(len, wanted))


def test_text_leaves_at_most_one_token_of_a_full_row_empty():
    rows, *_ = pack_text([{"text": "ab" * n} for n in range(1, 12)], TOKENIZER, 16)
    assert np.all((rows["segment_ids"][:-1] == 0).sum(axis=1) <= 1)


# Best fit.


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(1, 30), min_size=1, max_size=40))
def test_best_fit_bins_hold_everything_once_and_no_two_could_be_one(sizes):
    """This bounds their number as well: less than twice the minimum."""
    bins = best_fit(sizes, 30)
    assert sorted(i for b in bins for i in b) == list(range(len(sizes)))
    full = sorted(sum(sizes[i] for i in b) for b in bins)
    assert full[-1] <= 30
    assert len(full) == 1 or full[0] + full[1] > 30
    assert all(b == sorted(b) for b in bins)


def test_best_fit_finds_the_perfect_packing_that_first_come_misses():
    sizes = [4, 6, 5, 5, 3, 7, 10, 2, 8]  # in this order next-fit would need 6 bins
    assert len(best_fit(sizes, 10)) == 5
    assert best_fit([7, 6, 3], 10) == [[0, 2], [1]]  # into the fullest with room


# Chats.


def test_packed_chats_are_the_rendered_ones():
    examples = [chat("q" * n, "a" * m) for n, m in [(3, 5), (1, 1), (9, 2), (4, 4), (2, 7)]]
    rendered = [render(TOKENIZER, e["messages"]) for e in examples]
    for pack in (True, False):
        rows, kept, _ = pack_chats(examples, TOKENIZER, 24, "error", pack, Counter())
        collected = []
        for row in rows_of(rows):
            check_row(row)
            collected += [(t.tolist(), m.tolist()) for t, _, m in segments_of(row)]
        assert sorted(collected) == sorted((i.tolist(), m.tolist()) for i, m in rendered)
        assert (len(rows["tokens"]) < len(examples)) == pack
        assert kept == examples


def test_a_long_chat_is_an_error_that_says_where_and_what_to_type():
    examples = [chat("q", "a"), chat("q" * 9, "a" * 9, "chats.jsonl:7")]
    message = r"chats\.jsonl:7: 23 tokens, and data\.length is 16\..*--config\.data\.on_long=cut"
    with pytest.raises(DataError, match=message):
        pack_chats(examples, TOKENIZER, 16, "error", True, Counter())


def test_long_chats_are_cut_or_dropped_and_counted():
    examples = [chat("q", "a"), chat("q", "a" * 30), chat("q" * 30, "a")]
    skipped = Counter()
    rows, kept, _ = pack_chats(examples, TOKENIZER, 16, "drop", False, skipped)
    assert len(rows["tokens"]) == 1 and kept == examples[:1]
    assert skipped == {"longer than 16 tokens, drop": 2}
    skipped = Counter()
    rows, kept, _ = pack_chats(examples, TOKENIZER, 16, "cut", False, skipped)
    assert len(rows["tokens"]) == 2 and kept == examples[:2]  # the third's answer is cut off
    ids, mask = render(TOKENIZER, examples[1]["messages"])
    np.testing.assert_array_equal(rows["tokens"][1], ids[:16])
    np.testing.assert_array_equal(rows["loss_mask"][1], mask[:16])
    assert skipped == {
        "longer than 16 tokens, cut": 1,
        "no token of an answer within the length": 1,
    }
    with pytest.raises(DataError, match=r"no conversation fits data\.length=16"):
        pack_chats(examples[2:], TOKENIZER, 16, "drop", True, Counter())


def test_a_chat_with_nothing_to_learn_is_an_error():
    silent = {"messages": [{"role": "user", "content": "q"}], "where": "chats.jsonl:3"}
    with pytest.raises(DataError, match=r"chats\.jsonl:3: no token of an answer to learn from"):
        pack_chats([silent], TOKENIZER, 16, "error", True, Counter())


def test_weights_go_into_the_rows_and_nothing_is_learned_from_weights_of_0():
    turns = chat("q", "ab")["messages"] + chat("r", "cd")["messages"]
    half, none = ([turns[0], turns[1] | {"weight": w}, *turns[2:]] for w in (0.5, 0.0))
    silent = [turns[0], turns[1] | {"weight": 0.0}]
    examples = [{"messages": m, "where": "c.jsonl:1"} for m in (turns, half, none, silent)]
    skipped = Counter()
    rows, kept, _ = pack_chats(examples, TOKENIZER, 24, "error", False, skipped)
    ones = rows["loss_mask"][0]
    first = np.arange(24) < np.flatnonzero(ones)[3]
    np.testing.assert_array_equal(rows["loss_mask"][1], np.where(first, ones / 2, ones))
    np.testing.assert_array_equal(rows["loss_mask"][2], np.where(first, 0, ones))
    assert kept == examples[:3] and skipped == {"every answer has a weight of 0": 1}
    with pytest.raises(NothingLeft, match="no token of an answer within the length"):
        pack_chats(examples[2:3], TOKENIZER, 12, "cut", True, Counter())
    with pytest.raises(NothingLeft, match="weight of 0"):
        pack_chats(examples[3:], TOKENIZER, 24, "error", True, Counter())
    skipped = Counter()
    texts = [{"text": "abc", "weight": 0.5}, {"text": "no", "weight": 0.0}, {"text": "de"}]
    rows, kept, origins = pack_text(texts, TOKENIZER, 9, skipped=skipped)
    np.testing.assert_array_equal(rows["loss_mask"], [[0, 0.5, 0.5, 0.5, 0.5, 0, 1, 1, 1]])
    assert kept == [texts[0], texts[2]] and origins == [[0, 1]] and skipped["a weight of 0"] == 1


def test_what_cannot_be_rendered_is_an_error_with_its_place_or_skipped():
    tool = {"role": "tool", "content": "x"}
    bad = chat("q", "a", "c.jsonl:7")
    bad["messages"] = [bad["messages"][0], tool, bad["messages"][1]]
    examples, letters = [chat("q", "a"), bad, chat("q", "b")], train("char", ["abq"], 0)
    unknown = [{"text": "ab"}, {"text": "zz", "where": "t.txt:3"}]
    ranking = preference(["a", "b"], [0, 1], ["", ""], "p.jsonl:5") | {"messages": bad["messages"]}
    asked = {"messages": bad["messages"][:2], "where": "q.jsonl:2"}
    cases = (
        (r"c\.jsonl:7: ", 2, lambda b: pack_chats(
            examples, TOKENIZER, 16, "error", False, Counter(), b)),
        (r"t\.txt:3: ", 1, lambda b: pack_text(unknown, letters, 8, bad=b)),
        (r"p\.jsonl:5: ", 2, lambda b: preference_rows(
            [*PREFERENCES, ranking], TOKENIZER, 18, 3, False, "error", Counter(), KINDS, b)),
        (r"q\.jsonl:2: ", 1, lambda b: prompt_rows(
            [prompt("a"), asked], TOKENIZER, 8, "error", Counter(), b)),
    )  # fmt: skip
    for place, left, pack in cases:
        with pytest.raises(DataError, match=place + r"[^$]*on_bad=skip"):
            pack(None)
        bad = BadRecords("skip", 1)
        assert len(pack(bad).examples) == left and bad.skipped.total() == 1
        with pytest.raises(DataError, match="more than max_bad=1 bad records[^$]*" + place):
            pack(BadRecords("skip", 1, Counter(bad_json=1)))


def test_a_ranking_that_does_not_fit_its_rows_can_be_skipped():
    bad = BadRecords("skip", 9)
    rows, kept, _ = preference_rows(
        PREFERENCES, TOKENIZER, 10, 2, False, "error", Counter(), KINDS, bad
    )
    assert kept == PREFERENCES[:1] and bad.skipped == {"too_many_candidates": 1}


# Preferences.

KINDS = ("", "chosen", "worse")


def preference(responses, rank, kinds, where="pairs.jsonl:1"):
    messages = [{"role": "user", "content": "q"}]
    return dict(messages=messages, responses=responses, rank=rank, kinds=kinds, where=where)


PREFERENCES = [
    preference(["good", "bad"], [0, 1], ["chosen", "worse"]),
    preference(["a", "bb", "ccc"], [1, 0, 1], ["worse", "chosen", "worse"]) | {"confidence": 0.75},
]


def pack_preferences(
    examples, length, on_long="error", sub_rows=3, skipped=None, share_prompt=False
):
    skipped = Counter() if skipped is None else skipped
    return preference_rows(
        examples, TOKENIZER, length, sub_rows, share_prompt, on_long, skipped, KINDS
    )


def test_a_preference_is_read_at_the_eos_of_each_answer():
    """Five candidates of 7 to 9 tokens in one row of 3 × 18: two a sub-row, none cut in two. The
    row has room for six (`round_up`)."""
    rows, kept, _ = pack_preferences(PREFERENCES, 18)
    assert rows["tokens"].shape == (1, 3, 18) and kept == PREFERENCES
    np.testing.assert_array_equal(rows["rank"], [[0, 1, 1, 0, 1, -1]])
    np.testing.assert_array_equal(rows["group"][:, :5], [[0, 0, 1, 1, 1]])
    np.testing.assert_array_equal(rows["kind"][:, :5], [[1, 2, 2, 1, 2]])
    np.testing.assert_array_equal(rows["doubt"][:, :5], [[0.0, 0, 0.25, 0.25, 0.25]])
    flat = {name: rows[name].reshape(-1) for name in ("tokens", "positions", "segment_ids")}
    c, covered = 0, 0
    for example in PREFERENCES:
        for response in example["responses"]:
            end = rows["end"][0, c]
            ids = [BOS, USER, *TOKENIZER.encode("q"), EOS, ASSISTANT, *TOKENIZER.encode(response)]
            segment = slice(end - len(ids), end + 1)
            assert flat["tokens"][segment].tolist() == [*ids, EOS]
            np.testing.assert_array_equal(flat["positions"][segment], np.arange(len(ids) + 1))
            assert np.ptp(flat["segment_ids"][segment]) == 0 and flat["segment_ids"][end] > 0
            assert end - rows["start"][0, c] == len(TOKENIZER.encode(response))
            covered += len(ids) + 1
            c += 1
    assert np.sum(flat["segment_ids"] > 0) == covered


def test_rows_of_about_as_many_candidates_have_one_shape():
    counts = [1, 2, 3, 4, 5, 6, 7, 8, 9, 12, 13, 17, 56, 58, 64, 65]
    expected = [1, 2, 3, 4, 6, 6, 8, 8, 12, 12, 16, 24, 64, 64, 64, 96]
    assert list(map(round_up, counts)) == expected


def test_a_ranking_never_splits():
    rows, kept, _ = pack_preferences(PREFERENCES * 4, 10)  # two or three candidates fill a row
    assert len(kept) == 8 and rows["tokens"].shape[0] == 8
    np.testing.assert_array_equal(np.sum(rows["rank"] >= 0, axis=1), [2, 3] * 4)
    with pytest.raises(DataError, match=r"its 3 candidates do not fit 2 rows.*sub_rows"):
        pack_preferences(PREFERENCES, 10, sub_rows=2)


def test_candidates_share_a_prompt():
    """A prompt of 5 tokens and answers of 2, 3 and 4 in two sub-rows of 12: two behind one copy of
    the prompt, which they fill, the shortest behind another."""
    rows, kept, _ = pack_preferences(PREFERENCES[1:], 12, sub_rows=2, share_prompt=True)
    assert rows["tokens"].shape == (1, 2, 12) and kept == PREFERENCES[1:]
    columns = [rows[name][0].tolist() for name in ("segment_ids", "branch_ids", "positions")]
    assert columns[0] == [[1] * 7 + [0] * 5, [1] * 12]
    assert columns[1] == [[0] * 5 + [1] * 2 + [0] * 5, [0] * 5 + [2] * 3 + [3] * 4]
    assert columns[2] == [[*range(7), *[0] * 5], [*range(5), 5, 6, 7, 5, 6, 7, 8]]
    flat = rows["tokens"].reshape(-1)
    for c, response in enumerate(PREFERENCES[1]["responses"]):
        answer = flat[rows["start"][0, c] : rows["end"][0, c] + 1]
        assert answer.tolist() == [*TOKENIZER.encode(response), EOS]
    with pytest.raises(DataError, match=r"its 3 candidates do not fit 1 rows.*sub_rows"):
        pack_preferences(PREFERENCES[1:], 13, sub_rows=1, share_prompt=True)


def test_long_preferences():
    examples = [*PREFERENCES, preference(["x" * 20, "y"], [0, 1], ["", ""], "pairs.jsonl:9")]
    message = r"pairs\.jsonl:9: 26 tokens, and data\.length is 12"
    with pytest.raises(DataError, match=message):
        pack_preferences(examples, 12)
    skipped = Counter()
    rows, kept, _ = pack_preferences(examples, 12, "drop", skipped=skipped)
    assert len(rows["tokens"]) == 2 and kept == PREFERENCES
    assert skipped == {"longer than 12 tokens, drop": 1}
    rows, kept, _ = pack_preferences(examples, 12, "cut")
    assert kept == examples
    np.testing.assert_array_equal(rows["end"][2, :2], [11, 12 + 6])
    assert rows["tokens"][2, 0, 11] == TOKENIZER.encode("x")[0]
    with pytest.raises(DataError, match=r"no preference fits data\.length=4"):
        pack_preferences(examples, 4, "drop")


def test_rankings_that_are_cut_to_nothing_or_to_equals_are_left_out():
    """Prompts have 4 tokens more than their text; the rows have 12."""
    question = [{"role": "user", "content": "q" * 9}]
    examples = [
        preference(["a", "b"], [0, 1], ["", ""]) | {"messages": question},  # 13 before the answer
        preference(["x" * 20, "x" * 20 + "y"], [0, 1], ["", ""]),  # equal once cut
        preference(["x" * 20, "x" * 30, "y"], [0, 0, 1], ["", "", ""]),  # equal, and tied
        preference(["x" * 20, "y" * 20], [0, 1], ["", ""]),
    ]
    for share in (False, True):
        skipped = Counter()
        rows, kept, _ = pack_preferences(examples, 12, "cut", skipped=skipped, share_prompt=share)
        assert kept == examples[2:]
        assert skipped == {
            "no token of an answer within the length": 1,
            "answers that are equal within the length": 1,
            "longer than 12 tokens, cut": 2,
        }
        for c in np.argwhere(rows["rank"] >= 0):
            start, end = rows["start"][tuple(c)], rows["end"][tuple(c)]
            answer = rows["tokens"][c[0]].reshape(-1)[start : end + 1]
            assert TOKENIZER.decode(answer[:1].tolist()) in ("x", "y")


# Prompts.


def prompt(text, where="prompts.jsonl:1"):
    return {"messages": [{"role": "user", "content": text}], "where": where}


def test_a_ranking_whose_answers_are_rendered_the_same_is_bad():
    """A template that leaves thoughts out, such as those of DeepSeek's R1."""
    template = (
        "{% for m in messages %}<|im_start|>{{ m.content.split('</think>')[-1] }}<|im_end|>"
        "{% endfor %}"
    )
    tokenizer = HFTokenizer(open_tokenizers.files(template))
    answers = ["<think>a</think>yes", "<think>b</think>yes", "no"]
    apart, tied = (preference(answers, rank, [""] * 3) for rank in ([0, 1, 1], [0, 0, 1]))
    bad = BadRecords("skip", 9)
    _, kept, _ = preference_rows(
        [apart, tied], tokenizer, 64, 4, False, "error", Counter(), KINDS, bad
    )
    assert kept == [tied] and bad.skipped == {"identical_responses": 1}


def test_prompts_are_padded_on_the_left():
    rows, *_ = prompt_rows([prompt("ab"), prompt("")], TOKENIZER, 8, "error", Counter())
    a, b = TOKENIZER.encode("ab")
    np.testing.assert_array_equal(
        rows["tokens"],
        [[0, 0, BOS, USER, a, b, EOS, ASSISTANT], [0, 0, 0, 0, BOS, USER, EOS, ASSISTANT]],
    )
    np.testing.assert_array_equal(rows["mask"].sum(axis=1), [6, 4])
    assert rows["mask"].dtype == bool and rows["mask"][:, -1].all()


@pytest.mark.parametrize("on_long", ["error", "cut"])
def test_a_long_prompt_is_never_cut(on_long):
    examples = [prompt("a"), prompt("a" * 9, "prompts.jsonl:4")]
    message = r"prompts\.jsonl:4: a prompt of 13 tokens, and rl\.prompt_length is 8"
    with pytest.raises(DataError, match=message):
        prompt_rows(examples, TOKENIZER, 8, on_long, Counter())
    skipped = Counter()
    rows, kept, _ = prompt_rows(examples, TOKENIZER, 8, "drop", skipped)
    assert len(rows["tokens"]) == 1 and kept == examples[:1]
    assert skipped.total() == 1
    with pytest.raises(DataError, match=r"no prompt fits rl\.prompt_length=4"):
        prompt_rows(examples, TOKENIZER, 4, "drop", Counter())
