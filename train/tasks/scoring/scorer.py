"""The scorer: answers the requests of tasks with a model."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any

import jax

from data.errors import DataError
from data.text.base import Tokenizer
from model.config import TransformerConfig
from model.sharding import platform
from train.tasks.base import Generation, Likelihoods, Request, Response, Rolling, Scored
from train.tasks.scoring.generation import AnswerSampler
from train.tasks.scoring.likelihood import LogLikelihood
from train.tasks.scoring.tokens import Passage, continuation_passages, window_passages

# Tokens whose log-likelihoods a device computes at once: on an accelerator enough to fill it; a CPU
# is full with fewer, and the last batch then has less padding.
TOKENS, CPU_TOKENS = 16_384, 1024
# Answers that a device samples at once: each token reads all weights, and each answer has a cache.
ANSWERS, CPU_ANSWERS = 64, 16


class Scorer:
    """Answers requests with one architecture; compiled programs are kept between calls.

    Rows are divided over the batch axes of the mesh. All processes of the mesh make the same calls
    and get the same responses.

    Args:
      config: of a policy. tokenizer: its own.
      mesh: of the parameters that will be given: a command's, or that of a run in training.
      tokens: tokens whose log-likelihoods each of the mesh's batch shards computes at once; 0 for
        the platform's.

    Attributes:
      score, sampler: what computes log-likelihoods of ids, and answers to ids.
    """

    def __init__(
        self, config: TransformerConfig, tokenizer: Tokenizer, mesh: jax.sharding.Mesh,
        tokens: int = 0,
    ):  # fmt: skip
        self.config, self.tokenizer, self.mesh = config, tokenizer, mesh
        with jax.set_mesh(mesh):
            on_cpu = platform() == "cpu"
        tokens = tokens or (CPU_TOKENS if on_cpu else TOKENS)
        self.score = LogLikelihood(config, mesh, tokens)
        self.sampler = AnswerSampler(config, tokenizer, mesh, CPU_ANSWERS if on_cpu else ANSWERS)

    def answer(
        self, params: Any, requests: Sequence[Request],
        report: Callable[[int], None] | None = None, seed: int = 0,
        done: Collection[int] = frozenset(),
    ) -> Iterator[tuple[int, Response]]:  # fmt: skip
        """Yields (number of a request, its response) as batches are finished, in any order.

        Args:
          params: of the policy, on the mesh.
          report: called with the number of requests that are finished, after each.
          seed: of sampled answers; what is drawn depends on it and on the request's number alone.
          done: numbers of requests that are answered. Batches are those of a call without it, so
            that the others get the same answers to the bit; one with nothing else is skipped.

        Raises:
          DataError, ConfigError: a request does not fit the model; the message has its number.
          FloatingPointError: a log-probability is not finite; the message names the request.
        """
        texts = [(n, r) for n, r in enumerate(requests) if not isinstance(r, Generation)]
        prompts = [
            self.sampler.prompt(n, r) for n, r in enumerate(requests) if isinstance(r, Generation)
        ]
        finished = 0
        for responses in (
            self._scored(params, texts, done), self.sampler(params, prompts, seed, done)
        ):  # fmt: skip
            for response in responses:
                finished += 1
                if report:
                    report(finished)
                yield response

    def _scored(
        self, params: Any, requests: Sequence[tuple[int, Likelihoods | Rolling]],
        done: Collection[int],
    ) -> Iterator[tuple[int, tuple[Scored, ...]]]:  # fmt: skip
        groups = []
        for number, request in requests:
            try:
                groups.append(self._passages(request))
            except DataError as e:
                raise DataError(f"request {number}: {e}", e.reason) from None
        finished = {index for index, (number, _) in enumerate(requests) if number in done}
        for index, scored in self.score(params, groups, finished):
            number, request = requests[index]
            for i, one in enumerate(scored):
                if not math.isfinite(one.logprob):
                    raise FloatingPointError(
                        f"request {number}: the log-probability of {_named(request, i)} is "
                        f"{one.logprob}"
                    )
            yield number, scored if isinstance(request, Likelihoods) else (_joined(scored),)

    def _passages(self, request: Likelihoods | Rolling) -> list[Passage]:
        most = self.config.max_length
        if isinstance(request, Rolling):
            return window_passages(self.tokenizer, request, most)
        return continuation_passages(self.tokenizer, request, most)


def _joined(windows: Sequence[Scored]) -> Scored:
    """The Scored of a text whose windows have these."""
    return Scored(
        sum(w.logprob for w in windows), all(w.greedy for w in windows),
        sum(w.tokens for w in windows),
    )  # fmt: skip


def _named(request: Likelihoods | Rolling, index: int) -> str:
    """The text of a request to show in an error."""
    if isinstance(request, Rolling):
        return f"{request.text!r:.60}"
    context, text = request.continuations[index]
    return f"{text!r:.60} after {context!r:.60}"
