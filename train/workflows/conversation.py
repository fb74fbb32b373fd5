"""A conversation with a policy, its turns sampled one by one."""

from __future__ import annotations

import contextlib
import dataclasses
import sys
from typing import Any

import jax
import numpy as np
from etils import epath

from data.read import json_files
from data.text import tokenizer as tokenizers
from data.text.base import Tokenizer
from data.text.chat import render_prompt
from model.config import TransformerConfig
from model.generate import Sampling, generate, prepare
from train.objectives import registry
from train.runtime import checkpoint
from train.terminal.console import console

# Prompts are padded to a multiple of this, so that few turns of a conversation recompile.
WIDTH = 32

_generate = jax.jit(generate, static_argnames=("config", "sampling"))


class Chat:
    """A conversation with a model.

    Args:
      model, params: from `train.runtime.checkpoint.load`. seed: of sampling.
      sampling: its stop ids, banned ids and padding are replaced by those of the tokenizer.

    Raises:
      ValueError: the answer alone would fill the context.
    """

    def __init__(
        self,
        model: TransformerConfig,
        params: Any,
        tokenizer: Tokenizer,
        sampling: Sampling,
        seed: int = 0,
    ):
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
        self._sampling = dataclasses.replace(
            sampling,
            stop_ids=tokenizer.stop_ids,
            banned_ids=tokenizer.banned_ids,
            pad_id=tokenizer.pad_id,
        )
        self.messages: list[dict[str, str]] = []

    def reset(self) -> None:
        self.messages = []

    def _fit(self, question: str) -> tuple[list[dict[str, str]], np.ndarray]:
        """(messages, ids) of the conversation with a new question, without the oldest turns where
        it would not fit.

        Raises:
          ValueError: the question alone does not fit.
        """
        messages = [*self.messages, {"role": "user", "content": question}]
        while len(ids := render_prompt(self._tokenizer, messages)) > self._room:
            if len(messages) == 1:
                raise ValueError(
                    f"the question has {len(ids)} tokens, and the model's context has room for "
                    f"{self._room} besides an answer; ask something shorter"
                )
            messages = messages[2:]  # a question and its answer
        return messages, ids

    def ask(self, question: str) -> str:
        """The answer to a question, sampled with a key of its own; both join the conversation."""
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


def check_workdir(workdir: epath.PathLike) -> None:
    """Refuses a workdir without a policy, and names nearby ones that have one.

    Raises:
      ValueError: no policy was trained there.
    """

    def roles(path: epath.Path) -> list[str]:
        return list(checkpoint.read_models(path)) if (path / "models.json").exists() else []

    path = epath.Path(workdir)
    if "policy" in roles(path):
        return
    if roles(path):
        problem = f"holds a {' and a '.join(roles(path))} model, which does not write text"
        nearby = path.parent
    else:
        problem = "is not the workdir of a run" if path.exists() else "does not exist"
        nearby = path if path.exists() else path.parent
    siblings = sorted(nearby.iterdir()) if nearby.exists() else []
    policies = [str(p) for p in siblings if p.is_dir() and "policy" in roles(p)]
    hint = f"; try --workdir={' or '.join(policies)}" if policies else ""
    raise ValueError(f"--workdir={workdir} {problem}{hint}")


def open_chat(workdir: epath.PathLike, sampling: Sampling, seed: int = 0) -> Chat:
    """A conversation with the policy of a workdir."""
    check_workdir(workdir)
    model, params = checkpoint.load(workdir, "policy")
    return Chat(model, params, tokenizers.load(workdir), sampling, seed)


def answers(workdir: epath.PathLike) -> bool:
    """Whether a workdir's model was trained to answer; true if its config.json names no stage."""
    path = epath.Path(workdir) / "config.json"
    stage = json_files.read(path).get("stage", "") if path.exists() else ""
    return registry.STAGES[stage].answers if stage in registry.STAGES else True


def converse(chat: Chat, interactive: bool) -> None:
    """Answers lines of standard input until it ends."""
    while True:
        try:
            line = input("you › " if interactive else "").strip()
        except (EOFError, KeyboardInterrupt):
            break
        if line == "/quit":
            break
        if line == "/reset":
            chat.reset()
            console.print("[dim](a new conversation)[/]")
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


def run(
    workdir: epath.PathLike, sampling: Sampling, seed: int = 0, prompt: str | None = None
) -> None:
    """Answers one prompt, or holds a conversation on standard input and output.

    Raises:
      ValueError: the workdir has no policy, or `prompt` does not fit its context.
    """
    chat = open_chat(workdir, sampling, seed)
    if prompt is not None:
        console.print(chat.ask(prompt), markup=False)
        return
    interactive = sys.stdin.isatty()
    if interactive:
        with contextlib.suppress(ImportError):
            import readline  # noqa: F401, gives input() its line editing
        console.print(f"[bold]{workdir}[/]  /reset forgets, /quit or Ctrl-D ends")
        if not answers(workdir):
            console.print("This model was only pretrained, not trained to answer.")
    converse(chat, interactive)
