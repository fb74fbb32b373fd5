"""Word problems: GSM8K and SVAMP."""

from __future__ import annotations

from data.errors import DataError
from train.tasks.base import Document
from train.tasks.rows import fields, scores
from train.tasks.rows.forms import generation

# Of lm-evaluation-harness's gsm8k.
_STOP = ("Question:", "</s>", "<|im_end|>")
_IGNORED = (",", r"\$", r"(?s).*#### ", r"\.$")
_NUMBER = r"(-?[$0-9.,]{2,})|(-?[0-9]+)"


def gsm8k(record: Document) -> list[Document]:
    """Cobbe et al. 2021."""
    answer = fields.text(record, "answer")
    if "#### " not in answer:
        raise DataError("'answer' has no final number, #### N", "wrong_type")
    return [{"context": f"Question: {fields.text(record, 'question')}\nAnswer:", "answer": answer}]


def svamp(record: Document) -> list[Document]:
    """Patel et al. 2021. An example's answer is its equation and the number."""
    if fields.has(record, "context", "chain_of_thought", "answer"):
        question, equation = fields.text(record, "context"), fields.text(record, "chain_of_thought")
    else:
        body, asked = fields.text(record, "Body").strip(), fields.text(record, "Question").strip()
        question = f"{body}{'' if body.endswith(('.', '?', ',')) else '.'} {asked}"
        equation = fields.text(record, "Equation")
    value = record["answer"] if "answer" in record else fields.value(record, "Answer")
    number = str(value).removesuffix(".0")
    target = f"{equation.strip()}\n#### {number}"
    return [{"context": f"Question: {question}\nAnswer:", "answer": number, "target": target}]


_SCORES = {
    "strict": scores.exact_match(
        ignore_case=True, ignored=_IGNORED, extract=r"#### (\-?[0-9\.\,]+)"
    ),
    "flexible": scores.exact_match(ignore_case=True, ignored=_IGNORED, extract=_NUMBER, group=-1),
    "verified": scores.verified("gsm8k"),
}

TASKS = (
    generation(
        "gsm8k", "School mathematics in steps (Cobbe et al. 2021, arXiv:2110.14168)",
        "hf:openai/gsm8k/main:test", gsm8k, _SCORES, stop=_STOP,
        pool="hf:openai/gsm8k/main:train", shots=5,
    ),
    generation(
        "svamp", "One-step word problems (Patel et al. 2021, arXiv:2103.07191)",
        "hf:ChilleD/SVAMP:test", svamp, _SCORES, stop=_STOP, max_new_tokens=64,
        pool="hf:ChilleD/SVAMP:train", shots=5,
    ),
)  # fmt: skip
