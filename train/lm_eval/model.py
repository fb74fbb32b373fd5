"""The model `seedpod` of lm-evaluation-harness, which runs any of its tasks.

    python -m train.lm_eval --model seedpod --model_args workdir=runs/base --tasks piqa,gsm8k

The harness looks for models in its own registry alone, so this command registers ours and then
runs the harness's. Arguments of the model: `workdir`, a run, RUN@STEP, a Hugging Face directory or
a GGUF file; `dtype` of the computation (train/interop/opening.py); `seed` of sampled answers.

Prompts come from the harness as text, in which the names of special tokens stand for them, as its
Hugging Face model has it.
"""

from __future__ import annotations

import functools
import itertools
import logging
import math
import os
from collections.abc import Mapping, Sequence
from typing import Any

import jax

from model.cpu import keep_memory
from model.sharding import MeshConfig, make_mesh
from ranges import ConfigError
from suggestions import did_you_mean, nearest
from train.interop.opening import open_model
from train.runtime.metrics import quiet_to_file
from train.tasks.base import Rolling
from train.tasks.rows.forms import scored_parts
from train.tasks.scoring.generation import PromptIds
from train.tasks.scoring.scorer import Scorer
from train.tasks.scoring.tokens import passage, prefix_id

log = logging.getLogger(__name__)
MAX_GEN_TOKS = 256  # of an answer, where a task does not say, as for its Hugging Face models
# Settings of generation that leave it as it is.
NEUTRAL = {"num_beams": 1, "repetition_penalty": 1.0}
ARGUMENTS = ("workdir", "dtype", "seed")


class Model:
    """A policy on all devices: the methods that the harness calls.

    Args:
      workdir, dtype: of `open_model`. seed: of sampled answers.
      batch_size, max_batch_size, device: not used; the harness gives them whether or not they were
        on its command line. Rows are packed, and all devices of JAX are used, of the platform that
        the variable JAX_PLATFORMS names.

    Raises:
      ConfigError: no workdir, one without a model, or an argument that there is none of.
    """

    cache_hook: Any  # of the harness's class

    def __init__(
        self, workdir: str = "", dtype: str = "", seed: int = 0,
        batch_size: Any = None, max_batch_size: Any = None, device: Any = None, **unknown: Any,
    ):  # fmt: skip
        super().__init__()  # of the harness's class
        self._cut = 0  # prompts that did not fit
        for name in unknown:
            raise ConfigError(
                f"--model_args: seedpod takes no {name}{did_you_mean(nearest(name, ARGUMENTS))} "
                f"(it takes {', '.join(ARGUMENTS)})"
            )
        if not workdir:
            raise ConfigError("--model_args names no model; add workdir=RUN, or RUN@STEP")
        mesh = make_mesh(MeshConfig(), jax.devices())
        self.opened = open_model(str(workdir), "policy", mesh, dtype)
        self._tokenizer, self._seed = self.opened.tokenizer, seed
        self._scorer = Scorer(self.opened.config, self._tokenizer, mesh)
        self._bos = self._tokenizer.special_name(prefix_id(self._tokenizer))

    @property
    def eot_token_id(self) -> int:
        return self._tokenizer.eos_id

    @property
    def prefix_token_id(self) -> int:
        return prefix_id(self._tokenizer)

    @property
    def max_length(self) -> int:
        return self.opened.config.max_length

    @property
    def tokenizer_name(self) -> str:
        return f"{self._tokenizer.kind}-{self._tokenizer.fingerprint}"

    def chat_template(self, chat_template: bool | str = False) -> str | None:
        """The source of the chat template; "" of the built-in format."""
        if isinstance(chat_template, str):
            raise ConfigError(
                f"--apply_chat_template {chat_template}: seedpod knows no templates by name; give "
                "none, and the model's is used"
            )
        return self._tokenizer.template.source if self._tokenizer.template else ""

    def apply_chat_template(
        self, chat_history: Sequence[Mapping[str, str]], add_generation_prompt: bool = True
    ) -> str:
        """A conversation as text; without `add_generation_prompt` it ends in its last message,
        which an answer continues."""
        template = self._tokenizer.template
        if template and add_generation_prompt:
            return template.plain(chat_history, prompt=True).text
        if template:
            rendered = template.plain(chat_history)
            return rendered.text[: rendered.content[-1][1]]
        if add_generation_prompt:
            return self._marked(self._tokenizer.render_prompt(chat_history).tolist())
        return self._marked(self._tokenizer.render(chat_history)[0].tolist()[:-1])

    def _marked(self, ids: Sequence[int]) -> str:
        """The text of ids, with the names of special ones: what `encode_marked` reads."""
        name = self._tokenizer.special_name
        runs = itertools.groupby(ids, lambda i: bool(name(i)))
        return "".join(
            "".join(map(name, run)) if special else self._tokenizer.decode(run)
            for special, run in runs
        )

    def tok_encode(
        self, string: str, add_special_tokens: bool | None = None, **kwargs: Any
    ) -> list[int]:
        """Ids of text, after those that the tokenizer puts before every text, unless the text
        begins with the first of them itself."""
        if add_special_tokens is None:
            add_special_tokens = not (self._bos and string.startswith(self._bos))
        ids = self._tokenizer.encode_marked(string)
        return [*self._tokenizer.prefix, *ids] if add_special_tokens else ids

    def _loglikelihood_tokens(
        self, requests: Sequence[tuple[tuple[str, str], list[int], list[int]]],
        disable_tqdm: bool = False, **kwargs: Any,
    ) -> list[tuple[float, bool]]:  # fmt: skip
        groups: dict[str, list[int]] = {}
        for i, ((context, _), _, _) in enumerate(requests):
            groups.setdefault(context, []).append(i)
        indices = list(groups.values())
        passages = [
            [passage(*requests[i][1:], self.max_length) for i in group] for group in indices
        ]
        results: dict[int, tuple[float, bool]] = {}
        with _bar(len(requests), "log-likelihoods", disable_tqdm) as bar:
            for index, scored in self._scorer.score(self.opened.params, passages):
                self._warn_of_cuts(sum(one.cut > 0 for one in scored))
                for i, one in zip(indices[index], scored, strict=True):
                    if not math.isfinite(one.logprob):
                        raise FloatingPointError(
                            f"the log-probability of {requests[i][0][1]!r:.60} is {one.logprob}"
                        )
                    results[i] = one.logprob, one.greedy
                    self.cache_hook.add_partial("loglikelihood", requests[i][0], results[i])
                bar.update(len(scored))
        return [results[i] for i in range(len(requests))]

    def loglikelihood_rolling(
        self, requests: Sequence[Any], disable_tqdm: bool = False
    ) -> list[float]:
        texts = [Rolling(request.args[0]) for request in requests]
        results: dict[int, float] = {}
        with _bar(len(texts), "texts", disable_tqdm) as bar:
            for i, response in self._scorer.answer(self.opened.params, texts):
                (scored,) = scored_parts(response)
                results[i] = scored.logprob
                self.cache_hook.add_partial("loglikelihood_rolling", requests[i].args, results[i])
                bar.update()
        return [results[i] for i in range(len(texts))]

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        prompts = [self._prompt(i, *request.args) for i, request in enumerate(requests)]
        results: dict[int, str] = {}
        with _bar(len(prompts), "answers", disable_tqdm) as bar:
            for i, (answer,) in self._scorer.sampler(self.opened.params, prompts, self._seed):
                results[i] = answer.text
                self.cache_hook.add_partial("generate_until", requests[i].args, results[i])
                self._warn_of_cuts(answer.prompt_cut > 0)
                bar.update()
        return [results[i] for i in range(len(prompts))]

    def _prompt(self, number: int, context: str, gen_kwargs: Mapping[str, Any]) -> PromptIds:
        """A prompt with the settings of its task.

        Raises:
          ConfigError: a setting of the task that our sampler does not have.
        """
        from lm_eval.models.utils import normalize_gen_kwargs

        settings: dict[str, Any] = dict(normalize_gen_kwargs(dict(gen_kwargs), MAX_GEN_TOKS))
        stop, most = tuple(settings.pop("until")), settings.pop("max_gen_toks")
        names = [n for n in ("temperature", "top_p", "top_k") if n in settings]
        drawn: dict[str, Any] = {name: settings.pop(name) for name in names}
        kept = drawn if settings.pop("do_sample") else {"temperature": 0.0}
        for name, value in settings.items():
            if NEUTRAL.get(name) != value:
                raise ConfigError(
                    f"the task's generation_kwargs have {name}={value!r:.40}, which seedpod does "
                    "not have; it samples with temperature, top_p and top_k"
                )
        ids = self.tok_encode(context) or [self.prefix_token_id]
        return PromptIds(number, ids, stop, self._scorer.sampler.sampling(most, **kept))

    def _warn_of_cuts(self, count: int) -> None:
        if count and not self._cut:
            log.warning(
                "a prompt is longer than the %d tokens that the model reads; its beginning was "
                "left out, as will be that of others", self.max_length
            )  # fmt: skip
        self._cut += count


def _bar(total: int, name: str, hidden: bool) -> Any:
    """A progress bar like the harness's."""
    from tqdm import tqdm

    return tqdm(total=total, desc=name, disable=hidden)


@functools.cache
def register() -> type[Any]:
    """The class of the harness with our methods, under the name `seedpod` in its registry."""
    from lm_eval.api.model import TemplateLM
    from lm_eval.api.registry import register_model

    class SeedpodLM(Model, TemplateLM):
        pass

    return register_model("seedpod")(SeedpodLM)


def run() -> None:
    """The harness's command line, with the model."""
    from lm_eval.__main__ import cli_evaluate

    quiet_to_file(os.devnull)
    keep_memory()
    register()
    cli_evaluate()
