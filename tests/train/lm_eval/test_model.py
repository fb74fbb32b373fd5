"""The model `seedpod` of lm-evaluation-harness: its scores and answers are our scorer's."""

import importlib.util
import json
import sys

import numpy as np
import open_models
import pytest

if importlib.util.find_spec("lm_eval") is None:
    pytest.skip("lm-eval is not installed (pip install lm-eval)", allow_module_level=True)

from lm_eval.api.instance import Instance

from data.text.chat import render_prompt
from ranges import ConfigError
from train.lm_eval import __main__
from train.lm_eval.model import register
from train.tasks.base import Continuation, Generation, Likelihoods, Rolling

TURNS = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "1 + 1?"}]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    directory = open_models.write(tmp_path_factory.mktemp("open") / "hf", open_models.VALUES)
    return register()(str(directory), dtype="float32", batch_size=1)


def instances(kind, *arguments):
    return [Instance(kind, {}, args, i) for i, args in enumerate(arguments)]


def answers(model, *requests):
    responses = dict(model._scorer.answer(model.opened.params, requests))
    return [responses[i] for i in range(len(requests))]


def test_scores_are_our_scorer_s(model):
    pairs = [
        ("The quick", " fox"),
        ("What is", " the dog?"),
        ("The quick ", "brown dog"),
        ("", "a"),
    ]
    ours = answers(model, *(Likelihoods((Continuation(*pair),)) for pair in pairs))
    theirs = model.loglikelihood(instances("loglikelihood", *pairs), disable_tqdm=True)
    for (scored,), (logprob, greedy) in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(logprob, scored.logprob, atol=1e-4)
        assert greedy == scored.greedy
    texts = ["The quick brown fox jumps over the lazy dog. " * 9, "hello"]
    requests = instances("loglikelihood_rolling", *((text,) for text in texts))
    rolled = model.loglikelihood_rolling(requests, disable_tqdm=True)
    wanted = [scored.logprob for (scored,) in answers(model, *map(Rolling, texts))]
    np.testing.assert_allclose(rolled, wanted, atol=1e-3)


def test_answers_are_our_scorer_s(model):
    (whole,) = answers(model, Generation("The quick", 12))[0]
    stop = whole.text[4:7]
    settings = {"until": [stop], "max_gen_toks": 12, "do_sample": False, "temperature": 1.0}
    requests = instances("generate_until", ("The quick", settings), ("The", {"max_gen_toks": 3}))
    first, second = model.generate_until(requests, disable_tqdm=True)
    assert first == whole.text[: whole.text.find(stop)]
    assert second == answers(model, Generation("The", 3))[0][0].text
    bad = instances("generate_until", ("The", {"max_gen_toks": 3, "num_beams": 4}))
    with pytest.raises(ConfigError, match="num_beams=4"):
        model.generate_until(bad, disable_tqdm=True)


def test_conversations_are_text_whose_ids_are_those_of_the_template(model):
    text = model.apply_chat_template(TURNS)
    assert text.endswith("<|im_start|>assistant\n")
    tokenizer = model.opened.tokenizer
    assert model.tok_encode(text) == render_prompt(tokenizer, TURNS).tolist()
    begun = [*TURNS, {"role": "assistant", "content": "It is"}]
    assert model.apply_chat_template(begun, add_generation_prompt=False) == text + "It is"
    assert model.chat_template(True) == tokenizer.template.source


@pytest.mark.parametrize(
    "settings, message",
    [
        ({}, "names no model"),
        ({"workdir": "x", "pretrained": "gpt2"}, "takes no pretrained"),
    ],
)
def test_arguments_that_mean_nothing_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        register()(**settings)


@pytest.mark.slow
def test_the_command_runs_a_task_of_one_s_own(model, tmp_path, monkeypatch, capsys):
    rows = [{"q": "The quick brown", "c": [" fox", " dog"], "a": i % 2} for i in range(3)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "own.yaml").write_text(
        "task: own\ndataset_path: json\noutput_type: multiple_choice\ntest_split: test\n"
        f"dataset_kwargs: {{data_files: {{test: {tmp_path}/rows.jsonl}}}}\n"
        'doc_to_text: "{{q}}"\ndoc_to_choice: "{{c}}"\ndoc_to_target: a\n'
        'target_delimiter: ""\nmetric_list: [{metric: acc}]\n'
    )
    arguments = ["--model", "seedpod", "--model_args", f"workdir={model.opened.name}"]
    arguments += ["--tasks", "own", "--include_path", str(tmp_path)]
    arguments += ["--output_path", str(tmp_path / "out")]
    monkeypatch.setattr(sys, "argv", ["lm_eval", *arguments])
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    __main__.main()
    (result,) = (tmp_path / "out").rglob("results*.json")
    assert json.loads(result.read_text())["results"]["own"]["acc,none"] in (1 / 3, 2 / 3)
    assert "own" in capsys.readouterr().out
