"""The side of `transformers.generate` in benchmarks/sample, in its own environment.

    python benchmarks/sample/transformers_side.py DIR THREADS ATTENTION

Imports only torch and transformers. Loads the model of DIR and prints its versions; then answers
every line of standard input, a JSON object {prompts: [B][P] ids, new: tokens an answer,
temperature}, with one of {seconds, tokens: [B][new] ids}.
"""

import json
import sys
import time
from typing import Any

import torch
import transformers


def answer(
    model: Any, prompts: list[list[int]], new: int, temperature: float
) -> tuple[float, list[list[int]]]:
    """(seconds, ids [B][new]) of `generate`; nothing ends a row early."""
    ids = torch.tensor(prompts)
    drawn = dict(do_sample=True, temperature=temperature, top_k=0, top_p=1.0)
    settings = drawn if temperature else dict(do_sample=False)
    start = time.perf_counter()
    with torch.no_grad():
        tokens = model.generate(
            ids, attention_mask=torch.ones_like(ids), use_cache=True,
            min_new_tokens=new, max_new_tokens=new, **settings,
        )  # fmt: skip
    seconds = time.perf_counter() - start
    return seconds, tokens[:, ids.shape[1] :].tolist()


def main(directory: str, threads: str, attention: str) -> None:
    transformers.logging.set_verbosity_error()
    torch.set_num_threads(int(threads))
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_pretrained(
        directory, dtype="auto", attn_implementation=attention
    ).eval()
    model.generation_config.eos_token_id = None
    model.generation_config.pad_token_id = 0
    versions = {"transformers": transformers.__version__, "torch": torch.__version__}
    print(json.dumps(versions), flush=True)
    for line in sys.stdin:
        seconds, tokens = answer(model, **json.loads(line))
        print(json.dumps({"seconds": seconds, "tokens": tokens}), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
