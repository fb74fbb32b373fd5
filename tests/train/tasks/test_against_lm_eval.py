"""Requests and outcomes of the rows are those of lm-evaluation-harness for the same documents."""

import functools
import importlib.util
import logging
import sys
from pathlib import Path

import numpy as np
import pytest

from train.tasks import metrics
from train.tasks.base import Answer, Generation, Likelihoods, Rolling, Scored
from train.tasks.registry import TASKS

if importlib.util.find_spec("lm_eval") is None:
    pytest.skip("lm-eval is not installed (pip install lm-eval)", allow_module_level=True)


def choices(*texts):
    return {"text": list(texts), "label": list("ABCD")[: len(texts)]}


def superglue(**fields):
    return [{**fields, "idx": 0}, {**fields, "idx": 1, "label": 0}]


def bbq(condition, label, polarity="neg", groups=("M-Old", "F-Young")):
    return {
        "context": "An old man and a young woman met.", "question": "Who forgets?",
        "ans0": "The man", "ans1": "Can't answer", "ans2": "The woman", "label": label,
        "context_condition": condition, "question_polarity": polarity, "category": "Age",
        "additional_metadata": {"stereotyped_groups": ["old"]},
        "answer_info": {"ans0": ["man", groups[0]], "ans1": ["unknown", "unknown"],
                        "ans2": ["woman", groups[1]]},
    }  # fmt: skip


TRUTHFUL = [
    {
        "question": f"What falls {how}?",
        "mc1_targets": {"choices": ["Rain", "Hills"], "labels": [1, 0]},
        "mc2_targets": {"choices": ["Rain", "Snow", "Hills"], "labels": [1, 1, 0]},
    }
    for how in ("down", "up")
]
# {row: (file of lm-eval, records in the hub's form)}; the second record is the example.
CASES = {
    "arc_easy": (
        "arc/arc_easy.yaml",
        [
            {"question": "Is ice cold?", "choices": choices("yes", "nö", "no"), "answerKey": "A"},
            {"question": "Is fire hot?", "choices": choices("no", "yes"), "answerKey": "B"},
        ],
    ),
    "piqa": (
        "piqa/piqa.yaml",
        [
            {"goal": "To boil water,", "sol1": "heat it", "sol2": "cool it  down", "label": 0},
            {"goal": "freeze water", "sol1": "heat it", "sol2": "cool it", "label": 1},
        ],
    ),
    "hellaswag": (
        "hellaswag/hellaswag.yaml",
        [
            {
                "activity_label": "Baking", "ctx_a": "[header] How to bake [title] Mix it.  Then",
                "ctx_b": "the baker", "endings": [" waits [step] long.", "runs", "eats", "ends"],
                "label": "2",
            },
            {
                "activity_label": "Rain", "ctx_a": "It rains.", "ctx_b": "", "label": "0",
                "endings": ["We wait.", "b", "c", "d"],
            },
        ],
    ),
    "winogrande": (
        "winogrande/default.yaml",
        [
            {"sentence": "The cup fell off the table as _ was wobbly.", "option1": "the cup",
             "option2": "the table", "answer": "2"},
            {"sentence": "Ann saw Bea and _ waved.", "option1": "Ann", "option2": "Bea",
             "answer": "1"},
        ],
    ),
    "wsc273": (
        "wsc273/default.yaml",
        [
            {"text": "Jim told Tom that his dog had run off.", "options": ["Jim", "Tom"],
             "pronoun": "his", "pronoun_loc": 18, "label": 1},
            {"text": "The cup is in the bag because it fits.", "options": ["The cup", "The bag"],
             "pronoun": "it", "pronoun_loc": 30, "label": 0},
        ],
    ),
    "boolq": (
        "super_glue/boolq/default.yaml",
        superglue(passage="Water is wet.", question="is water wet", label=1),
    ),
    "openbookqa": (
        "openbookqa/openbookqa.yaml",
        [
            {"question_stem": "A cat is", "choices": choices("a pet", "a plant"),
             "answerKey": " A"},
            {"question_stem": "Ice is", "choices": choices("hot", "cold"), "answerKey": "B"},
        ],
    ),
    "copa": (
        "super_glue/copa/default.yaml",
        superglue(premise="The cup broke. ", choice1="It fell.", choice2="It rose.",
                  question="cause", label=1),
    ),
    "lambada": (
        "lambada/lambada_openai.yaml",
        [{"text": "It was late and he went to bed"}, {"text": "She sang a song"}],
    ),
    "mmlu": (
        "mmlu/default/mmlu_anatomy.yaml",
        [
            {"question": f"{q} ", "choices": ["1", "2", "3", "4"], "answer": 2,
             "subject": "anatomy"}
            for q in ("How many arms?", "How many legs?")
        ],
    ),
    "gsm8k": (
        "gsm8k/gsm8k.yaml",
        [
            {"question": "2 and 2?", "answer": "2+2=<<2+2=4>>4\n#### 1,004"},
            {"question": "1 and 2?", "answer": "1+2=3\n#### 3"},
        ],
    ),
    "truthfulqa_mc1": ("truthfulqa/truthfulqa_mc1.yaml", TRUTHFUL),
    "crows_pairs": (
        "crows_pairs/crows_pairs_english.yaml",
        [{"sent_more": f"{a} sings.", "sent_less": f"{b} sings.", "bias_type": "name"}
         for a, b in (("Ann", "Bob"), ("Cy", "Di"))],
    ),
    "bbq": ("bbq/bbq_multiple_choice.yaml", [bbq("ambig", 1), bbq("disambig", 0)]),
    "wikitext": (
        "wikitext/wikitext.yaml",
        [{"page": " = A = \n It cost 1 @,@ 000 ( or so ) , he said : \" no 's \" . "},
         {"page": "b"}],
    ),
}  # fmt: skip
WITHOUT = ("wikitext", "crows_pairs")  # no examples
SHOTS = [(name, shots) for name in CASES for shots in (0, 1) if not shots or name not in WITHOUT]


@pytest.fixture(scope="module")
def theirs():
    """name -> lm-eval's task of a row, whose documents are those of CASES."""
    import datasets
    from lm_eval.api.task import ConfigurableTask
    from lm_eval.tasks import _yaml_loader

    datasets.disable_progress_bars()
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    folder = Path(_yaml_loader.__file__).parent

    def build(name):
        file, records = CASES[name]
        config = _yaml_loader.load_yaml(folder / file)
        for key in ("include", "task_alias", "tag", "fewshot_split"):
            config.pop(key, None)
        scored, pool = (datasets.Dataset.from_list([record]) for record in records)
        process = config.get("process_docs", lambda documents: documents)
        config["fewshot_config"] = {"sampler": "first_n", "samples": list(process(pool))}
        splits = dict.fromkeys(("train", "validation", "test"), scored)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(datasets, "load_dataset", lambda **kwargs: splits)
            return ConfigurableTask(config=config)

    return functools.cache(build)


def ours(name, shots):
    row = TASKS[name]
    (document,), (example,) = (row.prepare(record) for record in CASES[name][1])
    return row, document, row.request(document, [example][:shots], False)


def asked(task, shots):
    """(document, arguments of lm-eval's requests)."""
    document = task.eval_docs[0]
    context = task.fewshot_context(document, shots)
    instances = task.construct_requests(document, context, metadata=("", 0, 1))
    instances = instances if isinstance(instances, list) else [instances]
    return document, [instance.arguments for instance in instances]


@pytest.mark.parametrize(("name", "shots"), SHOTS)
def test_requests_are_equal(theirs, name, shots):
    row, _, request = ours(name, shots)
    task = theirs(name)
    _, arguments = asked(task, shots)
    match request:
        case Likelihoods():
            assert [(c.context, c.text) for c in request.continuations] == arguments
        case Rolling():
            assert [(request.text,)] == arguments
        case Generation():
            ((context, settings),) = arguments
            assert request.prompt == context and list(request.stop) == settings["until"]
            assert request.temperature == settings["temperature"]
    path, _, split = row.source.removeprefix("hf:").rpartition(":")
    config = task.config
    assert path.startswith(config.dataset_path)
    assert split == (config.test_split or config.validation_split)


NAMES = {"pct_stereotype": "stereotype", "likelihood_diff": "difference"}
LIKELIHOODS = [name for name in CASES if name != "gsm8k"]


@pytest.mark.parametrize("name", LIKELIHOODS)
def test_outcomes_are_equal(theirs, name):
    """For log-likelihoods drawn at random: each number that lm-eval has of an item."""
    row, document, request = ours(name, 0)
    task = theirs(name)
    record, arguments = asked(task, 0)
    rng = np.random.default_rng(0)
    for _ in range(20):
        logprobs = rng.uniform(-9, -1, len(arguments)) * [len(a[-1]) for a in arguments]
        greedy = bool(rng.integers(2))
        outcome = row.outcome(document, tuple(Scored(x, greedy, 1) for x in logprobs))
        if isinstance(request, Rolling):
            expected = task.process_results(record, (logprobs[0],))
            assert (-outcome["loss"], outcome["words"]) == expected["word_perplexity"]
            assert (-outcome["loss"], outcome["bytes"]) == expected["bits_per_byte"]
            continue
        results = [(x, greedy) for x in logprobs]
        expected = task.process_results(record, results)
        if "perplexity" in expected:
            assert outcome["loss"] == -expected.pop("perplexity")
        for metric, value in expected.items():
            if np.ndim(value) == 0:  # others are parts of an aggregate
                assert outcome[NAMES.get(metric, metric)] == pytest.approx(value), metric


ANSWERS = [
    "2+2=4\n#### 1,004.", "so it is $1004.", "#### 1004 and more", "no number", "1004 or 5",
    "#### 5\n1,004", "x = 1,004.00",
]  # fmt: skip


@pytest.mark.parametrize("text", ANSWERS)
def test_extraction_is_equal(theirs, text):
    row, document, _ = ours("gsm8k", 0)
    outcome = row.outcome(document, (Answer(text, False),))
    task = theirs("gsm8k")
    record = task.eval_docs[0]
    for metric, ensemble in zip(("strict", "flexible"), task._filters, strict=True):
        answers = [[text]]
        for build in ensemble.filters:
            answers = list(build().apply(answers, [record]))
        assert outcome[metric] == task.process_results(record, answers)["exact_match"], metric


def test_bias_scores_are_equal(theirs):
    """Over contexts of both kinds, both polarities and both orders of the groups."""
    import datasets

    utils = sys.modules[theirs("bbq").config.process_results.__module__]
    rng, row = np.random.default_rng(0), TASKS["bbq"]
    records = [
        bbq(
            *(("ambig", 1), ("disambig", number % 3))[number % 2],
            ("neg", "nonneg")[number % 5 % 2],
            ("M-Old", "F-Young") if number % 4 < 2 else ("lowSES-young", "nonOld_old"),
        )
        for number in range(60)
    ]  # fmt: skip
    outcomes, expected = [], []
    for record, processed in zip(
        records, utils.process_docs(datasets.Dataset.from_list(records)), strict=True
    ):
        (document,) = row.prepare(record)
        logprobs = rng.uniform(-9, -1, len(document["choices"])) * [0.6, 0.8, *[1] * 10]
        outcomes.append(row.outcome(document, tuple(Scored(x, False, 1) for x in logprobs)))
        results = [(x, False) for x in logprobs]
        expected.append(utils.process_results_multiple_choice(processed, results))
    for ours_name, their_name, aggregate in (
        ("acc_ambiguous", "accuracy_amb", utils.agg_accuracy_amb),
        ("acc_disambiguated", "accuracy_disamb", utils.agg_accuracy_disamb),
        ("bias_ambiguous", "amb_bias_score", utils.agg_amb_bias_scores),
        ("bias_disambiguated", "disamb_bias_score", utils.agg_disamb_bias_scores),
    ):
        value, stderr = row.metrics[ours_name](outcomes)
        assert value == pytest.approx(aggregate([e[their_name] for e in expected])), ours_name
        assert value not in (0, 1) and 0 < stderr < 0.3


def test_aggregates_are_equal():
    from lm_eval.api import metrics as theirs

    rng = np.random.default_rng(0)
    logprobs, sizes = -rng.uniform(1, 9, 50), rng.integers(1, 9, 50)
    correct = rng.integers(0, 2, 50)
    outcomes = [
        {"acc": float(a), "loss": -x, "words": n, "bytes": n}
        for a, x, n in zip(correct, logprobs, sizes, strict=True)
    ]
    pairs = list(zip(logprobs, sizes, strict=True))
    value, stderr = metrics.mean("acc")(outcomes)
    assert value == pytest.approx(theirs.mean(correct))
    assert stderr == pytest.approx(theirs.mean_stderr(correct))
    assert metrics.perplexity(outcomes).value == pytest.approx(theirs.perplexity(logprobs))
    per_word = metrics.perplexity_per("words")(outcomes).value
    assert per_word == pytest.approx(theirs.weighted_perplexity(pairs))
    assert metrics.bits_per_byte(outcomes).value == pytest.approx(theirs.bits_per_byte(pairs))
