"""The rows: records of the hub and of llm-foundry's files, chat, and rules by hand."""

import json
import math

import pytest

from data.config import DataConfig
from data.errors import DataError
from data.splits import read_examples
from train.rl.verifiers import VERIFIERS, Verifier
from train.tasks import sources
from train.tasks.base import Answer, Likelihoods, Scored, Suite
from train.tasks.registry import TASKS, find
from train.tasks.rows import ifeval, memorisation, refusals, scores


def choices(*texts):
    return {"text": list(texts), "label": list("ABCD")[: len(texts)]}


# {row: (record of the hub, the same of llm-foundry)}
FORMS = {
    "arc_easy": (
        {"question": "Is ice cold?", "choices": choices("no", "yes"), "answerKey": "B"},
        {"query": "Question: Is ice cold?", "choices": ["no", "yes"], "gold": 1},
    ),
    "piqa": (
        {"goal": "boil", "sol1": "heat", "sol2": "cool", "label": 0},
        {"query": "Question: boil\n", "choices": ["heat", "cool"], "gold": 0},
    ),
    "boolq": (
        {"passage": "Ice: cold.", "question": "is it", "label": 1},
        {"query": "Passage: Ice: cold.\nQuestion: is it?", "choices": ["no", "yes"], "gold": 1},
    ),
    "openbookqa": (
        {"question_stem": "Ice is", "choices": choices("hot", "cold"), "answerKey": "B"},
        {"query": "Ice is", "choices": ["hot", "cold"], "gold": 1},
    ),
    "copa": (
        {"premise": "I ran.", "question": "effect", "choice1": "I won.", "choice2": "It rose.",
         "label": 0},
        {"query": "I ran, therefore", "choices": ["i won.", "it rose."], "gold": 0},
    ),
    "winogrande": (
        {"sentence": "Ann saw Bea and _ waved.", "option1": "Ann", "option2": "Bea", "answer": "2"},
        {"context_options": ["Ann saw Bea and Ann", "Ann saw Bea and Bea"],
         "continuation": "waved.", "gold": 1},
    ),
    "wsc273": (
        {"text": "The cup broke as it fell.", "options": ["The cup", "The sky"], "pronoun": "it",
         "pronoun_loc": 17, "label": 0},
        {"context_options": ["The cup broke as the cup", "The cup broke as the sky"],
         "continuation": "fell.", "gold": 0},
    ),
    "lambada": (
        {"text": "He went to bed"}, {"context": "He went to", "continuation": "bed"},
    ),
    "svamp": (
        {"Body": "He has 5", "Question": "How many?", "Equation": "( 5.0 )", "Answer": "5.0"},
        {"context": "He has 5. How many?", "chain_of_thought": "( 5.0 )", "answer": "5"},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", FORMS)
def test_both_forms_give_the_same_document(name):
    hub, foundry = (find(name).prepare(record) for record in FORMS[name])
    assert hub == foundry and len(hub) == 1


def test_records_of_tfds_give_the_same_documents():
    listed = [{"text": "no", "label": 0}, {"text": "yes", "label": 1}]
    arc = {"question": "Is ice cold?", "choices": listed, "answerKey": 1}
    grande = {k: v for k, v in FORMS["winogrande"][0].items() if k != "answer"} | {"label": 1}
    for name, record in (
        ("arc_easy", arc), ("winogrande", grande), ("lambada", {"passage": "He went to bed"}),
    ):  # fmt: skip
        assert find(name).prepare(record) == find(name).prepare(FORMS[name][0])


def test_a_value_of_another_type_is_refused_with_its_line(tmp_path):
    arc = {"question": "?", "choices": {"text": ["a", "b"], "label": ["A"]}, "answerKey": "A"}
    boolq = {"passage": "a", "question": "b", "answer": "perhaps"}
    for name, record in (("arc_easy", arc), ("boolq", boolq)):
        path = tmp_path / f"{name}.jsonl"
        path.write_text(json.dumps(record))
        with pytest.raises(DataError, match=rf"{name}.jsonl:1: .*(labels|perhaps)"):
            sources.load(find(name), [str(tmp_path)])


def test_rows_say_where_they_come_from():
    for name, row in TASKS.items():
        assert row.name == name and row.description
        if isinstance(row, Suite):
            assert all(part.task in TASKS for part in row.parts.values()) and len(row.parts) == 22
        else:
            assert list(row.metrics) and row.kind in ("likelihood", "rolling", "generation")


def test_chat_has_examples_as_turns_and_answers_without_the_delimiter():
    row = find("copa")
    (document,) = row.prepare(FORMS["copa"][0])
    request = row.request(document, [document], True)
    assert isinstance(request, Likelihoods)
    assert [turn["content"] for turn in request.continuations[0].context] == [
        "I ran therefore", "i won.", "I ran therefore",
    ]  # fmt: skip
    assert [turn["role"] for turn in request.continuations[0].context] == [
        "user", "assistant", "user",
    ]  # fmt: skip
    assert [c.text for c in request.continuations] == ["i won.", "it rose."]


def test_a_choice_s_length_in_bytes_and_characters_and_its_confidence():
    """-4 and -6: of 2 and 4 characters, of 2 and 8 bytes; e⁻⁴/(e⁻⁴ + e⁻⁶)."""
    document = {"context": "", "choices": ["no", "éééé"], "gold": 1}
    row = find("arc_easy")
    outcome = row.outcome(document, (Scored(-4, False, 1), Scored(-6, False, 1)))
    assert (outcome["acc"], outcome["acc_norm"], outcome["acc_bytes"]) == (0, 1, 1)
    outcome = row.outcome(document, (Scored(-4, False, 1), Scored(-12, False, 1)))
    assert (outcome["acc_norm"], outcome["acc_bytes"]) == (0, 1)
    assert outcome["confidence"] == pytest.approx(1 / (1 + math.exp(-8)))


def test_truthfulqa_mc2_is_the_share_of_the_true_choices():
    document = {"labels": [1, 0, 1]}
    response = tuple(Scored(math.log(p) - 2000, False, 1) for p in (0.1, 0.3, 0.2))
    assert find("truthfulqa_mc2").outcome(document, response)["acc"] == pytest.approx(0.5)


def test_wikitext_is_split_at_titles():
    text = " \n = A = \n \n one \n = = B = = \n two \n = C = \n three \n"
    documents = find("wikitext").prepare({"text": text})
    assert [d["original"].split()[:3] for d in documents] == [["=", "A", "="], ["=", "C", "="]]


# Generated answers.


def test_scores_by_hand():
    document = {"context": "", "answer": ["The cat!", "a dog"]}
    # {big, cat} and {cat}: precision 1/2, recall 1.
    assert scores.f1("the big cat", document) == pytest.approx(2 / 3)
    assert scores.f1("", {"answer": "x"}) == 0
    assert scores.exact_match(ignore_case=True, ignore_punctuation=True)("THE CAT", document) == 1
    assert scores.verified("gsm8k")("so 1,004.", {"context": "", "answer": "#### 1004"}) == 1


def test_a_verifier_that_reads_ids_is_refused(monkeypatch):
    row = Verifier(lambda episode: float(len(episode.response_ids)))
    monkeypatch.setitem(VERIFIERS._rows, "ids", row)
    with pytest.raises(DataError, match="token ids"):
        scores.verified("ids")("text", {"context": "", "answer": ""})


def test_pass_at_k_of_a_task(tmp_path):
    path = tmp_path / "sums.yaml"
    path.write_text(
        "kind: generation\nsource: sums.jsonl\nprompt: '{{q}}='\nanswer: '{{a}}'\n"
        "samples: 4\ntemperature: 0.8\npasses: [1, 2]\n"
    )
    row = find(str(path))
    (document,) = row.prepare({"q": "1+1", "a": 2})
    request = row.request(document, (), False)
    assert (request.samples, request.temperature, request.prompt) == (4, 0.8, "1+1=")
    outcome = row.outcome(document, tuple(Answer(text, False) for text in "2342"))
    assert [row.metrics[m]([outcome]).value for m in ("exact_match", "pass@1", "pass@2")] == [
        0.5, 0.5, pytest.approx(5 / 6),
    ]  # fmt: skip


RULES = [
    ("keywords:frequency", {"keyword": "a", "frequency": 2, "relation": "less than"}, "a b", "a a"),
    ("length_constraints:number_sentences", {"relation": "at least", "num_sentences": 2},
     "Dr. J. Roe came. He left", "Only this: 1.5 m."),
    ("length_constraints:nth_paragraph_first_word",
     {"num_paragraphs": 2, "nth_paragraph": 2, "first_word": "Then"}, "A.\n\nthen, b", "A.\n\nb"),
    ("detectable_format:json_format", {}, '```json\n{"a": 1}\n```', "{a}"),
    ("combination:two_responses", {}, "a******b", "a******a"),
    ("change_case:capital_word_frequency",
     {"capital_frequency": 2, "capital_relation": "at least"}, "A BIG cat", "a BIG cat"),
    ("change_case:english_capital", {}, "YES.", "Yes."),
]  # fmt: skip


@pytest.mark.parametrize(("name", "arguments", "good", "bad"), RULES)
def test_instructions_are_checked(name, arguments, good, bad):
    assert ifeval.RULES[name](good, arguments) and not ifeval.RULES[name](bad, arguments)


def test_ifeval_s_four_accuracies_and_what_is_not_checked():
    row = find("ifeval")
    record = {
        "prompt": "Write.",
        "instruction_id_list": ["punctuation:no_comma", "startend:quotation",
                                "language:response_language"],
        "kwargs": [{}, {"language": None}, {"language": "fr"}],
    }  # fmt: skip
    (document,) = row.prepare(record)
    text = 'Here, it is:\n"yes"'  # without its first line both are followed
    outcome = row.outcome(document, (Answer(text, False),))
    values = {name: metric([outcome]).value for name, metric in row.metrics.items()}
    assert values == {
        "prompt_strict": 0, "instruction_strict": 0, "prompt_loose": 1, "instruction_loose": 1,
        "unchecked": 1,
    }  # fmt: skip
    record["instruction_id_list"][0] = "keywords:frequency"
    with pytest.raises(DataError, match="keywords:frequency lacks its argument 'keyword'"):
        row.prepare(record)


# Refusals, memorisation.


@pytest.mark.parametrize(
    ("answer", "refused"),
    [
        ("I’m sorry, but that is not something I do.", True),
        ("**I cannot** help with this.", True),
        ("I'm sorry, I can't.", True),
        ("I'm sorry, I can see why you ask. First, …", False),
        ("Sure. I cannot say it is easy, but", False),
        ("", False),
    ],
)
def test_refusals_are_found_at_the_start(answer, refused):
    assert refusals.by_phrases("", answer) is refused


def test_refusal_rates_are_apart_for_harmful_and_harmless_prompts():
    row = find("refusals")
    records = [
        {"prompt": "a", "harmful": True}, {"prompt": "b", "label": "unsafe"},
        {"prompt": "c", "label": "safe"}, {"prompt": "d", "harmful": "False"},
    ]  # fmt: skip
    answers = ["I can't.", "Sure.", "Sure.", "Sure."]
    outcomes = [
        row.outcome(row.prepare(record)[0], (Answer(answer, False),))
        for record, answer in zip(records, answers, strict=True)
    ]
    assert [metric(outcomes).value for metric in row.metrics.values()] == [0.5, 0.0]
    with pytest.raises(DataError, match="true or false"):
        row.prepare({"prompt": "a", "harmful": "perhaps"})
    judged = find("refusals_judged")
    item = {"document": {"context": "a", "harmful": True}, "response": [{"text": "No way."}]}
    (document,) = judged.prepare({"prompt": "a", "harmful": True, "answer": "No way."})
    assert judged.prepare(item) == [document]
    request = judged.request(document, (), False)
    assert "No way." in request.continuations[0].context
    assert [c.text for c in request.continuations] == [" Yes", " No"]
    outcome = judged.outcome(document, (Scored(-1, False, 1), Scored(-2, False, 1)))
    assert outcome == {"refused_harmful": 1.0}


def test_memorisation_continues_the_first_words():
    row = memorisation.memorisation(prefix=2, length=3)
    (document,) = row.prepare({"text": "a  b\nc d e f"})
    assert (document["context"], document["continuation"]) == ("a  b", "\nc d e")
    assert row.prepare({"text": "a b c d"}) == []
    turns = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "a b c d"}]
    (document,) = row.prepare({"messages": turns})
    assert (document["context"], document["continuation"]) == ((turns[0],), "a b c")
    assert row.outcome(document, (Scored(-1, True, 3),))["memorised"] == 1


def test_memorisation_of_a_run_reads_its_training_documents(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("".join(f"one two three four {i}\n" for i in range(10)) + "short\n")
    config = DataConfig(source=str(path), heldout_fraction=0.2)
    row = memorisation.memorisation(prefix=2, length=3).of_run(config, "text")
    found = sources.load(row)
    assert (len(found.scored), found.left_out) in ((8, 1), (9, 0)) and found.source == str(path)
    heldout = {example["where"] for example in read_examples(config, "text").heldout}
    assert not heldout & {document["where"] for document in found.scored}
    with pytest.raises(DataError, match="reads preference data"):
        find("memorisation").of_run(config, "preference")
