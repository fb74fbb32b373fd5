"""One line of settings maps each public data set to a schema."""

import os
import pathlib

import pytest

from data.read.sources import read

HERE = pathlib.Path(os.environ.get("SEEDPOD_TEST_DATA", ""))
if not os.environ.get("SEEDPOD_TEST_DATA"):
    HERE = pathlib.Path(__file__).parents[4] / "shared/data"
pytestmark = pytest.mark.skipif(
    not HERE.is_dir(), reason="the collections are not here; set SEEDPOD_TEST_DATA to their folder"
)

GSM = ("6b_finetuning", "6b_verification", "175b_finetuning", "175b_verification")
TURNS = {"prompt": "{turns[0]}"}
ALPACA = {"prompt": "{instruction}\n{input}", "response": "{output}"}
PAIR = {"prompt": "{input}", "responses": ["{output_1}", "{output_2}"], "best": "{label}"}
PANDALM = {
    "prompt": "{instruction}\n{input}",
    "responses": ["{response1}", "{response2}"],
    "best": "{annotator1}",
}
SOLUTIONS = {
    "prompt": "{question}",
    "responses": [f"{{{name}.solution}}" for name in GSM],
    "good": [f"{{{name}.is_correct}}" for name in GSM],
}
QA = {
    "prompt": "{question}",
    "responses": ["{prediction 1}", "{prediction 2}"],
    "best": "{preference[0]}",
}
THUMBS = {"prompt": "{context}", "response": "{generation}", "good": "{reward}"}
INSTANCES = {"prompt": "{instruction}\n{instances[0].input}", "response": "{instances[0].output}"}


@pytest.mark.parametrize(
    ("path", "schema", "fields", "least"),
    [
        ("tinyshakespeare/input.txt", "text", {}, 30_000),
        ("wikitext-2/valid.txt.gz", "text", {}, 2_000),
        ("banking77/*.jsonl.gz", "chat", {"prompt": "{text}", "response": "{category}"}, 11_759),
        ("clinc150/train.jsonl.gz", "chat", {"prompt": "{text}", "response": "{intent}"}, 13_484),
        ("bitext-support/*.gz", "chat", {"prompt": "{instruction}"}, 4_031),
        ("dolly-hhrlhf-small/*.gz", "chat", {}, 889),
        ("gsm8k/train.jsonl.gz", "chat", {"prompt": "{question}", "response": "{answer}"}, 6_731),
        ("gsm8k/test.jsonl.gz", "prompt", {"prompt": "{question}"}, 1_196),
        ("multidogo/finance.dev.tsv.gz", "text", {"text": "{utterance}"}, 1_900),
        ("mt-bench/mt_bench_question.jsonl", "prompt", TURNS, 80),
        ("rasbt-instruct/*.gz", "chat", ALPACA, 980),
        ("self-instruct/seed_tasks.jsonl.gz", "chat", INSTANCES, 150),
        ("t0-p3-sample/*.gz", "chat", {"response": "{completion}"}, 2_700),
        ("taskmaster4-coffee/*.gz", "chat", {"messages": "{utterances}"}, 500),
        ("dpo-en-demo/*.gz", "preference", {"prompt": "{conversations}"}, 260),
        ("gsm8k-solutions/*.gz", "preference", SOLUTIONS, 600),
        ("hh-rlhf-harmless/*.gz", "preference", {}, 2_000),
        ("llmbar/*.gz", "preference", PAIR, 700),
        ("pandalm/*.gz", "preference", PANDALM, 700),
        ("qa-feedback/*.gz", "preference", QA, 250),
        ("rasbt-preference/*.gz", "preference", {"prompt": "{instruction}\n{input}"}, 980),
        ("eval-mc/piqa.jsonl.gz", "prompt", {"prompt": "{query}"}, 1_838),
    ],
)
def test_one_line_reads_a_collection(path, schema, fields, least):
    result = read(str(HERE / path), schema, fields=fields, on_bad="skip", max_bad=10**6)
    assert len(result.examples) >= least, dict(result.skipped)
