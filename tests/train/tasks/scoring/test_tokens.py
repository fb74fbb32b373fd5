"""Ids of requests, and the windows of a text."""

import numpy as np
import open_tokenizers
import pytest

from data.errors import DataError
from data.text.builtin import BOS, BuiltinTokenizer
from data.text.chat import render_prompt
from data.text.hf_tokenizer import HFTokenizer
from ranges import ConfigError
from train.tasks.base import Continuation, Likelihoods, Rolling
from train.tasks.scoring.tokens import continuation_passages, window_passages

BYTES = BuiltinTokenizer("byte", b"")
PAIRS = [
    ("What is the capital of France?", " Paris."),
    ("What is the capital of France? ", "Paris."),
    ("The quick brown  \n", "fox"),
    ("The quick bro", "wn fox jumps"),  # tokens of the whole cross the end of the context
    ("", "hello"),
    ("hello hello", " hello hello"),
]


def passages(tokenizer, pairs, max_length=1000):
    request = Likelihoods(tuple(Continuation(*pair) for pair in pairs))
    return continuation_passages(tokenizer, request, max_length)


def test_ids_by_hand():
    """A byte is an id from 7 on; white space at the end of the context is scored."""
    ids = [BOS, *(b + 7 for b in b"ab c")]
    first, second, alone = passages(BYTES, [("ab ", "c"), ("ab", " c"), ("", "c")])
    assert list(first.ids) == list(second.ids) == ids and first.scored == second.scored == 2
    assert list(alone.ids) == [BOS, ids[-1]] and alone.scored == 1
    (cut,) = passages(BYTES, [("ab", " c")], max_length=3)
    assert list(cut.ids) == ids[1:] and cut.scored == 2 and cut.cut == 1


def test_a_continuation_continues_a_conversation():
    tokenizer = HFTokenizer(open_tokenizers.files())
    messages = ({"role": "user", "content": "capital of France?"},)
    (passage,) = passages(tokenizer, [(messages, "Paris.")])
    prompt = render_prompt(tokenizer, messages).tolist()
    assert list(passage.ids) == [*prompt, *tokenizer.encode("Paris.")]
    assert passage.scored == len(tokenizer.encode("Paris."))


def test_what_cannot_be_scored_is_refused():
    with pytest.raises(DataError, match="no token"):
        passages(BYTES, [("ab", "")])
    with pytest.raises(DataError, match="has 3 tokens, and the model reads 2"):
        passages(BYTES, [("ab", "cde")], max_length=2)


@pytest.mark.parametrize("bos", [False, True])
def test_ids_are_those_of_lm_evaluation_harness(bos, tmp_path):
    model = pytest.importorskip("lm_eval.api.model", reason="lm-eval is not installed")
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    ours = HFTokenizer(open_tokenizers.files(bos=bos))
    ours.save(tmp_path)
    theirs = transformers.PreTrainedTokenizerFast.from_pretrained(tmp_path)

    class Recorder(model.TemplateLM):
        """Its language model returns the ids that it is given."""

        eot_token_id = theirs.eos_token_id
        prefix_token_id = theirs.bos_token_id
        loglikelihood_rolling = generate_until = None

        def tok_encode(self, string, add_special_tokens=None, **kwargs):
            keep = {} if add_special_tokens is None else {"add_special_tokens": add_special_tokens}
            return theirs.encode(string, **keep)

        def _loglikelihood_tokens(self, requests, **kwargs):
            return [
                (context + continuation, len(continuation)) for _, context, continuation in requests
            ]

    from lm_eval.api.instance import Instance

    requests = [Instance("loglikelihood", {}, pair, i) for i, pair in enumerate(PAIRS)]
    wanted = Recorder().loglikelihood(requests, disable_tqdm=True)
    assert [(list(ids), scored) for ids, scored, _ in passages(ours, PAIRS)] == wanted


@pytest.mark.parametrize("count", [0, 1, 9, 10, 11, 23, 40])
@pytest.mark.parametrize("stride", [0, 1, 4, 10])
def test_windows_score_each_token_once_with_the_most_context(stride, count):
    text, most = "x" * 50, 10
    text = "".join(chr(97 + i % 26) for i in range(count))
    ids = [BOS, *BYTES.encode(text)]
    windows = window_passages(BYTES, Rolling(text, stride), most)
    at, wanted, first = 0, [], True
    while at < count:
        new = min(most if first else stride or most, count - at)
        end, first = at + new, False
        wanted.append((ids[max(end - most, 0) : end + 1], new, 0))
        at = end
    assert [(list(w.ids), w.scored, w.cut) for w in windows] == wanted
    assert sum(w.scored for w in windows) == count
    assert all(len(w.ids) <= most + 1 and len(w.ids) > w.scored for w in windows)


def test_windows_are_those_of_lm_evaluation_harness():
    utils = pytest.importorskip("lm_eval.utils", reason="lm-eval is not installed")
    ids = np.arange(100, 137).tolist()
    text = "".join(chr(i) for i in ids)
    tokenizer = BuiltinTokenizer("byte", b"")
    wanted = [
        utils.make_disjoint_window(window)
        for window in utils.get_rolling_token_windows(tokenizer.encode(text), BOS, 10, 1)
    ]
    windows = window_passages(tokenizer, Rolling(text), 10)
    assert [(w.ids[: -w.scored], w.ids[-w.scored :]) for w in windows] == wanted


def test_a_stride_that_leaves_tokens_out_is_refused():
    with pytest.raises(ConfigError, match="stride=11"):
        window_passages(BYTES, Rolling("text", 11), 10)
