"""A model opened to look inside: `Model`, the face of this package."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath

from data.text.base import Tokenizer
from model.config import TransformerConfig
from model.generate import Sampling
from model.heads import ValueHead
from model.transformer import Transformer
from ranges import ConfigError
from train import losses
from train.chat.model import padded_width
from train.checkpoints import networks, saved_models
from train.config.run_names import split_step
from train.inspect import answers, tracing
from train.inspect.difference import Difference
from train.inspect.lens import LogitLens
from train.inspect.spectra import Spectra
from train.inspect.summary import Summary
from train.inspect.tokens import Messages, Tokens, TokenValues, read
from train.inspect.tree import Parameters
from train.interop import opening
from train.rl.forward import CRITICS
from train.rl.rewards import read_scores

SCORERS = ("reward", "judge")
POLICIES = ("policy", "reference")


class Model:
    """A model to look inside; `inspect.open` opens one.

    Its arrays are read when they are touched, and not verified. What computes (a trace, a loss, an
    answer) loads the whole model first, once, and verifies it.

    Attributes:
      name: RUN@STEP or RUN@STEP@ema, or that of an open model. role: as `policy`, `reward`.
      config: its architecture. tokenizer. params: the tree of its weights.
    """

    def __init__(
        self, name: str, role: str, config: TransformerConfig, tokenizer: Tokenizer,
        params: Parameters, mesh: jax.sharding.Mesh, open: Callable[..., Model],
    ):  # fmt: skip
        self.name, self.role, self.config, self.tokenizer = name, role, config, tokenizer
        self.params, self._mesh, self._open = params, mesh, open
        self._verified: dict[str, Any] = {}

    def _load(self, role: str = "") -> Any:
        """The whole parameters of a role of this checkpoint, by default its own, verified."""
        role = role or self.role
        if role not in self._verified:
            self._verified[role] = opening.open_model(self.name, role, self._mesh).params
        return self._verified[role]

    @property
    def _title(self) -> str:
        return self.name if self.role == "policy" else f"{self.role} of {self.name}"

    def verify(self) -> None:
        """Loads the whole model and compares every array with its fingerprint.

        Raises:
          ConfigError: one is not what was saved.
        """
        self._verified.clear()
        self._load()

    def tokens(self, text: str | Messages) -> Tokens:
        """The tokens of a text, or of a conversation [{"role": …, "content": …}, …] in the model's
        chat format."""
        return read(self.tokenizer, text, self.config.max_length)

    def summary(self, rms: bool = True) -> Summary:
        """Shapes, logical axes, bytes and root mean squares of the weights, by layer.

        Args:
          rms: False reads no array.
        """
        return Summary(self._title, self.params, rms)

    def spectra(
        self, names: str | Iterable[str] = "*", layers: Iterable[int] | None = None
    ) -> Spectra:
        """Singular values of the matrices of the layers.

        Args:
          names: patterns, as `query` or `layers/expert_*`. layers: numbers; by default all.
        """
        return Spectra(self._title, self.params, _listed(names), layers)

    def diff(self, other: Model | epath.PathLike, role: str = "") -> Difference:
        """The difference from another model, weight by weight.

        Args:
          other: a Model, or what `inspect.open` takes. role: of the other; by default this one's.
        """
        if not isinstance(other, Model):
            other = self._open(other, role or self.role)
        return Difference(f"{self._title} against {other._title}", self.params, other.params)

    def names(self, text: str | Messages = "") -> dict[str, tracing.Tap]:
        """{name: shape and dtype} of the values that `trace` can keep."""
        length = len(self.tokens(text).ids) if text else 1
        return tracing.names(self.role, self.config, length)

    def trace(self, text: str | Messages, names: str | Iterable[str] = "*") -> tracing.Trace:
        """The values inside a forward pass over a text.

        Args:
          names: patterns of the names to keep, as `layers.*.residual`; docs/inspect.md lists them.

        Raises:
          ValueError: a pattern matches nothing, or the values would take too much memory.
        """
        return self.patch(text, {}, names)

    def patch(
        self, text: str | Messages, changes: Mapping[str, tracing.Change],
        names: str | Iterable[str] = "*",
    ) -> tracing.Trace:  # fmt: skip
        """`trace` with values changed on the way.

        Args:
          changes: {pattern of names: function from an array to one of the same shape}.

        Raises:
          ValueError: as `trace`; or a function returns another shape, or NaN; or two patterns
            change one value.
        """
        tokens = self.tokens(text)
        # The inputs are checked before the weights are loaded.
        known = tracing.names(self.role, self.config, 1)
        tracing.select(names, known)
        tracing.patches(changes, known)
        values = tracing.run(self.role, self.config, self._load(), tokens, names, changes)
        return tracing.Trace(self._title, tokens, values)

    def logit_lens(self, text: str | Messages) -> LogitLens:
        """The prediction of each layer, as if it were the last."""
        self._need(POLICIES, "a logit lens")
        trace = self.trace(text, ["embedding", "layers.*.residual"])
        residuals = list(trace.values())
        return LogitLens(self._title, trace.tokens, residuals, self.config, self._load(),
                         self.tokenizer)  # fmt: skip

    def token_losses(self, text: str | Messages) -> TokenValues:
        """-log p of each token after those before it, in nats; of the first there is none. In a
        conversation `mean` is over what the assistant wrote, as in fine-tuning."""
        self._need(POLICIES, "the losses of tokens")
        tokens = self.tokens(text)
        nats = np.full(len(tokens.ids), np.nan, np.float32)
        nats[1:] = self._compute(_nats, tokens, self.role)[:-1]
        mask = tokens.weights > 0
        mask[0] = False
        return TokenValues(f"losses of {self._title}", "nats", tokens, nats, mask)

    def rewards(self, messages: Messages) -> TokenValues:
        """The numbers of a reward model after each token of a conversation; its `score` of the last
        answer is the attribute `score`.

        Raises:
          ValueError: the last message is not an answer.
        """
        self._need(SCORERS, "rewards")
        tokens = self.tokens(messages)
        if isinstance(messages, str) or messages[-1]["role"] != "assistant":
            raise ValueError("a reward is of an answer; end with {'role': 'assistant', …}")
        _, authors = self.tokenizer.render(messages)
        columns = np.flatnonzero(authors == len(messages) - 1)
        values = self._compute(_scalars, tokens, self.role)
        start, end = (jnp.asarray(columns[[i]])[None] for i in (0, -1))
        scores = read_scores(jnp.asarray(values)[None], start, end, self.config.pool)
        inside = np.isin(np.arange(len(values)), columns)
        title = f"rewards of {self.name}"
        return TokenValues(title, "reward", tokens, values, inside, float(scores[0, 0]))

    def values(self, messages: str | Messages) -> TokenValues:
        """The value that PPO's critic gives to the text up to and with each token; `mean` is over
        the places before the assistant's tokens, which training reads."""
        self._need(("policy", "value"), "values")
        critic = next((role for role in CRITICS if role == self.role or self._has(role)), "")
        if not critic:
            raise ConfigError(
                f"{self.name} has no critic; open the workdir of a PPO run, by its policy or with "
                'role="value"'
            )
        tokens = self.tokens(messages)
        if critic == "value":
            values = self._compute(_scalars, tokens, critic)
        else:
            values = self._compute(_head_values, tokens, "policy", critic)
        before = np.append(tokens.weights[1:] > 0, False)
        return TokenValues(f"values of {self.name}", "value", tokens, values, before)

    def generate(
        self, messages: str | Messages, n: int = 1, temperature: float = 1.0,
        max_new_tokens: int = 64, top_k: int = 0, top_p: float = 1.0, seed: int = 0,
    ) -> answers.Answers:  # fmt: skip
        """Samples `n` answers to a conversation, or continuations of a text.

        Args:
          temperature: 0 takes the likeliest token. top_k, top_p: as in model/generate.py.

        Raises:
          ValueError: a setting is out of its range, or the prompt leaves no room for an answer.
        """
        self._need(POLICIES, "answers")
        tokenizer = self.tokenizer
        sampling = Sampling(
            max_new_tokens, temperature, top_k, top_p, stop_ids=tokenizer.stop_ids,
            pad_id=tokenizer.pad_id, banned_ids=tokenizer.banned_ids, samples=n,
        )  # fmt: skip
        tokens = self.tokens(messages)
        if not isinstance(messages, str) and messages[-1]["role"] == "assistant":
            raise ValueError("the conversation ends with an answer; end it with a question")
        title = f"{self._title}, temperature {temperature:g}, seed {seed}"
        return answers.sample(title, self.config, self._load(), tokenizer, tokens, sampling, seed)

    def _need(self, roles: tuple[str, ...], what: str) -> None:
        """Refuses what a model of another role has."""
        if self.role not in roles:
            raise ConfigError(
                f"{what}: {self.name} was opened as its {self.role} model; open one with "
                f"role={roles[0]!r}"
            )

    def _has(self, role: str) -> bool:
        """Whether the run of this model trained a role too."""
        path, _ = split_step(self.name)
        return opening.is_run(path) and role in saved_models.read_models(path)

    def _compute(self, function: Any, tokens: Tokens, *roles: str) -> np.ndarray:
        """[T] float32, of a function of (config, {role: params}, tokens, positions, segments)."""
        params = {role: self._load(role) for role in roles}
        length = len(tokens.ids)
        width = padded_width(length, self.config.max_length)
        ids, segments = np.zeros((1, width), np.int32), np.zeros((1, width), np.int32)
        ids[0, :length], segments[0, :length] = tokens.ids, 1
        positions = np.arange(width, dtype=np.int32)[None]
        # A scan compiles in a fraction of the time.
        config = dataclasses.replace(self.config, scan_unroll=1, remat="none")
        out = function(config, params, ids, positions, segments)
        return np.asarray(out)[0, :length]

    def __repr__(self) -> str:
        c = self.config
        weights = self.params.flat().values()
        count = sum(w.size for w in weights)
        experts = f", {c.num_experts} experts" if c.num_experts else ""
        return (
            f"{self._title}: {count:,} parameters, {c.num_layers} layers, {c.num_heads} heads, "
            f"width {c.embed_dim}{experts}, {c.vocab_size:,} ids"
        )


def _listed(names: str | Iterable[str]) -> list[str]:
    return [names] if isinstance(names, str) else list(names)


@functools.partial(jax.jit, static_argnums=0)
def _nats(config, roles, tokens, positions, segments):
    """-log p of the token after each position [1, T]; of the last it means nothing."""
    (params,) = roles.values()
    logits: Any = Transformer(config).apply({"params": params}, tokens, positions, segments)
    return losses.token_nats(logits, jnp.roll(tokens, -1, axis=1), segments)[0]


@functools.partial(jax.jit, static_argnums=0)
def _scalars(config, roles, tokens, positions, segments):
    """The numbers [1, T] of a reward or value model."""
    ((role, params),) = roles.items()
    return networks.NETWORKS[role](config).apply({"params": params}, tokens, positions, segments)


@functools.partial(jax.jit, static_argnums=0)
def _head_values(config, roles, tokens, positions, segments):
    """The values [1, T] of a head on the policy."""
    hidden, _ = Transformer(config).apply(
        {"params": roles["policy"]}, tokens, positions, segments, method=Transformer.hidden
    )
    return ValueHead(config).apply({"params": roles["value_head"]}, hidden)
