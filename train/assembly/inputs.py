"""The inputs of a run: data, tokenizer, architectures."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
from etils import epath

from data import pipeline, splits
from data.config import DataConfig
from data.pipeline import Data
from data.prepare import row_cache
from data.schemas.examples import example_text
from data.splits import Examples
from data.text import tokenizer as tokenizers
from data.text.base import Tokenizer
from model.config import TransformerConfig
from ranges import ConfigError
from train.checkpoints import saved_models
from train.config.run import RunConfig
from train.config.run_names import split_step
from train.evals import registry as evals
from train.objectives.base import Context, Objective
from train.terminal.console import console
from train.terminal.progress import phase


def open_context(
    config: RunConfig,
    objective: Objective,
    workdir: epath.PathLike,
    mesh: jax.sharding.Mesh,
    examples: Examples | None,
    open_data: Callable[[Tokenizer], Data] | None,
) -> Context:
    """Opens data, tokenizer and architectures, with every check of the input."""

    @functools.cache
    def read():
        return examples or read_source(config.data, objective.schema)

    save_rows: list[Callable[[], None]] = []

    def open_rows(name, settings, schema, read_examples) -> Data:
        prompt_length = config.rl.prompt_length if schema == "prompt" else 0
        with contextlib.ExitStack() as packing:

            def read_examples_first():
                examples = read_examples()
                packing.enter_context(phase(f"packing {name}"))
                return examples

            data, save = row_cache.open_data(
                epath.Path(workdir) / "rows" / f"{name}.zip", settings, schema, tokenizer,
                read_examples_first, prompt_length,
                console.print if jax.process_index() == 0 else lambda text: None,
            )  # fmt: skip
        save_rows.append(save)
        return data

    tokenizer = make_tokenizer(config, workdir, lambda: () if open_data else read().train)
    models = resolve_models(config, objective, tokenizer.vocab_size)
    lengths = [entry.length for entry in config.evals.values()]
    longest = max(config.data.length, config.data.heldout_length, *lengths)
    lower = "data.length"
    if objective.rollouts:
        lower = "rl.prompt_length or rl.response_length"
        longest = config.rl.prompt_length + config.rl.response_length
    for role, model in models.items():
        if longest > model.max_length:
            raise ConfigError(
                f"rows of {longest} tokens are longer than the {role}'s context, "
                f"model.max_length={model.max_length}; lower {lower}"
            )
    if open_data:
        data = open_data(tokenizer)
    elif examples:
        with phase(f"packing {objective.schema}"):
            data = pipeline.open_data(
                config.data, objective.schema, tokenizer, examples, config.rl.prompt_length
            )
    else:
        data = open_rows(objective.schema, config.data, objective.schema, read)
    pretrain_data = None
    if objective.rollouts and config.rl.pretrain_coef:
        text = config.pretrain_data
        read_text = functools.partial(read_source, text, "text")
        pretrain_data = open_rows("text", text, "text", read_text)
    sets = evals.read_own(config, objective, tokenizer)
    for name, entry in config.evals.items():
        if entry.source and name not in sets:
            schema = evals.schema_of(name, entry, objective)
            settings = evals.data_config(config, entry, schema, objective)
            read_set = functools.partial(read_source, settings, schema, True)
            sets[name] = open_rows(f"evals-{name}", settings, schema, read_set)
    return Context(
        config, models, tokenizer, data, mesh, pretrain_data, sets, save_rows=tuple(save_rows)
    )


def read_source(
    config: DataConfig, schema: str, heldout_only: bool = False,
    reads: dict[str, splits.Read] | None = None,
) -> Examples:  # fmt: skip
    """`splits.read_examples`, as a phase that the terminal shows."""
    names = [str(source.source) for source in config.sources().values()]
    with phase(f"reading {', '.join(names):.60}"):
        return splits.read_examples(config, schema, heldout_only, reads)


def make_tokenizer(
    config: RunConfig, workdir: epath.PathLike, examples: Callable[[], Iterable[Mapping]]
) -> Tokenizer:
    """The run's tokenizer: the one saved in its workdir, else that of the runs it starts from, else
    a new one, trained on `examples()`.

    Raises:
      ConfigError: the runs it starts from, its workdir and `tokenizer.path` differ in tokenizers.
    """
    saved = (epath.Path(workdir) / "tokenizer" / "tokenizer.json").exists()
    tokenizer = tokenizers.load(workdir) if saved else None
    origins = {f"init_from.{role}": path for role, path in config.init_from.items()}
    prepared = [folder for folder in config.data.prepared_folders() if folder]
    origins |= {f"the prepared source {folder}": folder for folder in prepared}
    if config.tokenizer.path:
        origins["tokenizer.path"] = config.tokenizer.path
    for name, path in origins.items():
        other = tokenizers.load(split_step(path)[0] if name.startswith("init_from.") else path)
        if tokenizer is not None and other.fingerprint != tokenizer.fingerprint:
            raise ConfigError(
                f"{name}={path} has another tokenizer ({other.fingerprint}) than this run "
                f"({tokenizer.fingerprint}), so ids would mean other text. Start from runs that "
                "share one, or leave tokenizer.path empty"
            )
        tokenizer = tokenizer or other
    if tokenizer is None:
        settings = config.tokenizer
        texts = [example_text(example) for example in examples()]
        with phase("training the tokenizer"):
            tokenizer = tokenizers.train(settings.kind, texts, settings.vocab_size, settings.fim)
    return tokenizer


def resolve_models(
    config: RunConfig, objective: Objective, vocab_size: int
) -> dict[str, TransformerConfig]:
    """{role: architecture}, of the runs that a stage starts from, else of `config.model`."""
    model: Any = config.model  # its class is created at run time (train/config/model.py)
    models = {}
    execution = model.execution()
    for role in objective.trainable:
        pool = dict(pool=config.loss.pool) if role == "reward" else {}
        origin = origin_of(config, objective, role)
        if origin is None:
            models[role] = dataclasses.replace(model.build(vocab_size), **pool)
            continue
        inherited = saved_models.model_config(config.init_from[origin], origin, **execution | pool)
        if model.size and dataclasses.replace(model.build(vocab_size), **pool) != inherited:
            raise ConfigError(
                f"model.size={model.size!r} is not the architecture of "
                f"init_from.{origin}={config.init_from[origin]}; leave model.size empty to take it"
            )
        for key, value in model.changes().items():
            if value != (theirs := getattr(inherited, key)):
                raise ConfigError(
                    f"model.{key}={value} and init_from.{origin}={config.init_from[origin]}, which "
                    f"has {theirs} and keeps it; leave model.{key} out"
                )
        models[role] = inherited
    for role in (*objective.frozen, *objective.optional):
        path, own = config.init_from.get(role), dict(matmul="dtype")
        if role == "reference":  # compared with the policy, so multiplied alike
            path, own = path or config.init_from["policy"], {}
        if path:
            models[role] = saved_models.model_config(path, role, **execution | own)
    return models


def origin_of(config: RunConfig, objective: Objective, role: str) -> str | None:
    """The role of `init_from` that a trained role starts from, or None."""
    return next((o for o in objective.origins[role] if o in config.init_from), None)
