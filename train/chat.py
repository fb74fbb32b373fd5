"""Talk to a checkpoint: a conversation on the terminal, or one answer for a script.

    python -m train.chat --workdir=runs/demo/ppo
    python -m train.chat --workdir=runs/demo/ppo --prompt="What does `shutil.copytree` do?"

`/reset` forgets the conversation; `/quit` or Ctrl-D ends it. Without a terminal, every line of
standard input is a turn.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import sys

import jax
import numpy as np
from absl import app, flags
from etils import epath

from data.read import json_files
from data.text import tokenizer as tokenizers
from data.text.chat import render_prompt
from model.generate import Sampling, generate, prepare
from train import cli
from train.objectives import registry
from train.runtime import checkpoint
from train.runtime.metrics import console, quiet_to_file

# Prompts are padded to a multiple of this: a longer conversation seldom needs a new compilation.
WIDTH = 32

_generate = jax.jit(generate, static_argnames=("config", "sampling"))


def define_flags() -> None:
    flags.DEFINE_string("workdir", None, "The run to talk to: one that trained a policy.")
    flags.DEFINE_string("prompt", None, "Answer this and exit.")
    flags.DEFINE_float("temperature", 0.7, "0 takes the likeliest token.", lower_bound=0)
    flags.DEFINE_float(
        "top_p", 1.0, "Sample from the likeliest tokens with this much probability.", 0.01, 1.0
    )
    flags.DEFINE_integer("max_new_tokens", 128, "Longest answer.", lower_bound=1)
    flags.DEFINE_integer("seed", 0, "Of sampling.", 0, 2**32 - 1)
    flags.mark_flag_as_required("workdir")


class Chat:
    """A conversation with a model.

    Args:
      model, params: of `train.runtime.checkpoint.load`. seed: of sampling.
      sampling: the tokenizer fills in what stops an answer and what is never sampled.

    Raises:
      ValueError: the answer alone would fill the context.
    """

    def __init__(self, model, params, tokenizer, sampling: Sampling, seed: int = 0):
        self._room = model.max_length - sampling.max_new_tokens
        if self._room < 8:
            raise ValueError(
                f"--max_new_tokens={sampling.max_new_tokens} leaves no room for a question in this "
                f"model's context of {model.max_length} tokens; give fewer"
            )
        self._params = jax.jit(prepare, static_argnums=0)(model, params)
        self._tokenizer = tokenizer
        self._key, self._turns = jax.random.key(seed), 0
        self._model = model
        ids = dict(stop_ids=tokenizer.stop_ids, banned_ids=tokenizer.banned_ids)
        self._sampling = dataclasses.replace(sampling, pad_id=tokenizer.pad_id, **ids)
        self.messages: list[dict[str, str]] = []

    def reset(self) -> None:
        self.messages = []

    def _fit(self, question: str):
        """The conversation that still fits with a new question, oldest turns left out, and its ids.

        Raises:
          ValueError: the question alone does not fit.
        """
        messages = [*self.messages, {"role": "user", "content": question}]
        while len(ids := render_prompt(self._tokenizer, messages)) > self._room:
            if len(messages) == 1:
                raise ValueError(
                    f"that is {len(ids)} tokens, and the model's context has room for "
                    f"{self._room} beside an answer; ask something shorter"
                )
            messages = messages[2:]  # a question and its answer
        return messages, ids

    def ask(self, question: str) -> str:
        """The answer to the next turn. Every turn is sampled with a key of its own."""
        messages, ids = self._fit(question)
        width = -(-len(ids) // WIDTH) * WIDTH
        tokens, mask = np.zeros((1, width), np.int32), np.zeros((1, width), bool)
        tokens[0, width - len(ids) :], mask[0, width - len(ids) :] = ids, True
        key = jax.random.fold_in(self._key, self._turns)
        sample = _generate(self._model, self._params, tokens, mask, key[None], self._sampling)
        sample = jax.device_get(sample)
        answer = self._tokenizer.decode(sample.tokens[0, width:][sample.response_mask[0]])
        self._turns += 1
        self.messages = [*messages, {"role": "assistant", "content": answer}]
        return answer.strip()


def check_workdir(workdir) -> None:
    """Says what is wrong with a workdir that cannot be talked to, and names those near it that can.

    Raises:
      ValueError: no policy was trained there.
    """

    def roles(path):
        return list(checkpoint.read_models(path)) if (path / "models.json").exists() else []

    path = epath.Path(workdir)
    if "policy" in roles(path):
        return
    if roles(path):
        what = f"holds a {' and a '.join(roles(path))} model, which does not write text"
        nearby = path.parent
    else:
        what = "is not the workdir of a run" if path.exists() else "does not exist"
        nearby = path if path.exists() else path.parent
    siblings = sorted(nearby.iterdir()) if nearby.exists() else []
    found = [str(p) for p in siblings if p.is_dir() and "policy" in roles(p)]
    hint = f"; try --workdir={' or '.join(found)}" if found else ""
    raise ValueError(f"--workdir={workdir} {what}{hint}")


def open_chat(workdir, sampling, seed: int = 0) -> Chat:
    """A conversation with the policy of a workdir."""
    check_workdir(workdir)
    model, params = checkpoint.load(workdir, "policy")
    return Chat(model, params, tokenizers.load(workdir), sampling, seed)


def answers(workdir) -> bool:
    """Whether a workdir's model has learned to answer; true if it does not say."""
    path = epath.Path(workdir) / "config.json"
    stage = json_files.read(path).get("stage", "") if path.exists() else ""
    return registry.STAGES[stage].answers if stage in registry.STAGES else True


def converse(chat: Chat, interactive: bool) -> None:
    """Turns from standard input until it ends."""
    while True:
        try:
            line = input("you › " if interactive else "").strip()
        except (EOFError, KeyboardInterrupt):
            break
        if line == "/quit":
            break
        if line == "/reset":
            chat.reset()
            console.print("[dim](the conversation begins anew)[/]")
        elif line:
            try:
                answer = chat.ask(line)
            except ValueError as e:
                print(f"error: {e}", file=sys.stderr)
                if not interactive:
                    raise SystemExit(1) from None
                continue
            console.print("[green]model ›[/] " if interactive else "", end="")
            console.print(answer, markup=False)
    if interactive:
        console.print()


def main(argv) -> None:
    del argv
    quiet_to_file(os.devnull)
    given = flags.FLAGS
    try:
        sampling = Sampling(given.max_new_tokens, given.temperature, top_p=given.top_p)
        chat = open_chat(given.workdir, sampling, given.seed)
        if given.prompt is not None:
            console.print(chat.ask(given.prompt), markup=False)
            return
    except cli.EXPECTED as e:
        cli.fail(str(e))
    interactive = sys.stdin.isatty()
    if interactive:
        with contextlib.suppress(ImportError):
            import readline  # noqa: F401, gives input() its line editing
        console.print(f"[bold]{given.workdir}[/]  /reset forgets, /quit or Ctrl-D ends")
        if not answers(given.workdir):
            console.print("This model was only pretrained: it has not learned to answer.")
    converse(chat, interactive)


if __name__ == "__main__":
    define_flags()
    app.run(main, flags_parser=cli.parse_flags)
