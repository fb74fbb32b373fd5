"""A side of benchmarks/evaluation: lm-evaluation-harness, in a process that waits for turns.

Its arguments are `hf DIR FOLDER THREADS BATCH`, for its Hugging Face model with float32 on the CPU,
or `seedpod DIR FOLDER`, for ours; FOLDER holds the tasks. Answers every line of
standard input, a JSON object {task, limit}, with one of {seconds, processor_seconds, responses: for
each document [[log-likelihood, is greedy] for each choice]}; the seconds are those of the model's
`loglikelihood`, its tokenization included.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any

from lm_eval.tasks import TaskManager

from benchmarks import turns


def make_model(kind: str, directory: str, settings: list[str]) -> Any:
    if kind == "seedpod":
        from model.cpu import keep_memory
        from train.lm_eval.model import register

        keep_memory()
        return register()(directory, dtype="float32")
    import torch
    from lm_eval.models.huggingface import HFLM

    threads, batch = map(int, settings)
    torch.set_num_threads(threads)
    return HFLM(directory, device="cpu", dtype="float32", batch_size=batch)


def answer(lm: Any, manager: TaskManager, task: str, limit: int) -> dict[str, Any]:
    loaded = manager.load([f"ours_{task}"])["tasks"][f"ours_{task}"]
    loaded.build_all_requests(limit=limit or None)
    with turns.clock() as took:
        scored = lm.loglikelihood(loaded.instances, disable_tqdm=True)
    responses: dict[int, list] = {}
    for instance, response in zip(loaded.instances, scored, strict=True):
        responses.setdefault(instance.doc_id, []).append((instance.idx, *response))
    ordered = [[r[1:] for r in sorted(responses[i])] for i in sorted(responses)]
    return {"seconds": took.seconds, "processor_seconds": took.processor, "responses": ordered}


def main(kind: str, directory: str, folder: str, *settings: str) -> None:
    os.environ |= {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    out, sys.stdout = sys.stdout, sys.stderr
    lm = make_model(kind, directory, list(settings))
    manager = TaskManager(include_path=folder, include_defaults=False)
    for line in sys.stdin:
        print(json.dumps(answer(lm, manager, **json.loads(line))), file=out, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
