"""`config.evals`: which settings an entry takes, which stages it fits, and what it reports."""

import dataclasses
from types import SimpleNamespace

import jax
import pytest
from stage_fixtures import recipe, write_files

from model import sharding
from ranges import ConfigError
from train.assembly import run as assembly
from train.config import overrides
from train.config.run import build, default
from train.evals import registry
from train.guards.settings import Kind
from train.objectives.registry import STAGES
from train.runtime.resume import check_resume, config_json


def entry(**settings):
    recipe = default()
    recipe.evals = {"wiki": settings}
    return build(recipe).evals["wiki"]


def test_an_entry_has_the_settings_of_its_type():
    wiki = entry(type="samples", source=["a.txt"], samples=2)
    assert (wiki.source, wiki.samples, wiki.sample_tokens, wiki.every) == (("a.txt",), 2, 64, 0)
    assert not hasattr(entry(type="perplexity"), "samples")


@pytest.mark.parametrize(
    "settings, message",
    [
        (dict(), r"evals\.wiki\.type=''; choose perplexity, samples, stage"),
        (dict(type="perplexty"), r"wiki\.type='perplexty'; .* did you mean perplexity\?"),
        (dict(type="perplexity", evry=3), r"key evals\.wiki\.evry; did you mean .*\.every"),
        (dict(type="perplexity", samples=3), r"unknown config key evals\.wiki\.samples"),
        (dict(type="samples", samples=0), r"evals\.wiki\.samples=0; it must be at least 1"),
        (dict(type="perplexity", every=-1), r"evals\.wiki\.every=-1; it must be at least 0"),
        (dict(type="perplexity", limit="3"), r"evals\.wiki\.limit='3' is a str; it must be an int"),
    ],
)  # fmt: skip
def test_a_setting_that_is_none_is_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        entry(**settings)


def test_an_entry_is_a_group_with_a_name_for_metrics():
    recipe = default()
    recipe.evals = {"wiki": "a.txt"}
    with pytest.raises(ConfigError, match=r"evals\.wiki='a.txt'; set --config\.evals\.wiki\.type"):
        build(recipe)
    recipe.evals = {"a/b": dict(type="perplexity")}
    with pytest.raises(ConfigError, match=r"evals\.'a/b': a name consists of letters, digits"):
        registry.validate(build(recipe), STAGES["pretrain"])


def test_entries_come_from_the_command_line():
    recipe = default()
    words = [
        "train", "--config.evals.wiki.type=samples", "--config.evals.wiki.source=a.txt",
        "--config.evals.wiki.samples", "3", "--config.steps=4",
    ]  # fmt: skip
    flags = overrides.gather(words, recipe.to_dict())
    tree = {"wiki": {"type": "samples", "source": "a.txt", "samples": 3}}
    assert flags == ["train", f"--config.evals={tree!r}", "--config.steps=4"]
    with pytest.raises(ConfigError, match=r"evals\.wiki\.every='x' is not a number"):
        overrides.gather(["", "--config.evals.wiki.every=x"], recipe.to_dict())


@pytest.mark.parametrize(
    "stage, settings, message",
    [
        ("reward", dict(type="perplexity", source="a.txt"),
         r"wiki\.type=perplexity reads a policy, and stage reward trains none; .*\.type=stage$"),
        ("dpo", dict(type="perplexity"), r"evals\.wiki has no source, and perplexity does not read "
         r"the run's own held-out data, of schema preference; set --config\.evals\.wiki\.source"),
        ("sft", dict(type="perplexity", source="a.txt", schema="prompt"),
         r"evals\.wiki\.schema='prompt'; perplexity reads text or chat"),
        ("ppo", dict(type="stage", source="a.txt", schema="text"),
         r"evals\.wiki\.schema='text'; stage reads prompt"),
    ],
)  # fmt: skip
def test_an_evaluation_that_does_not_fit_the_stage_is_refused(stage, settings, message):
    recipe = default()
    recipe.stage, recipe.evals = stage, {"wiki": settings}
    with pytest.raises(ConfigError, match=message):
        registry.validate(build(recipe), STAGES[stage])


def test_schemas_follow_from_types():
    sft = STAGES["sft"]
    assert registry.schema_of("a", entry(type="perplexity"), sft) == "chat"
    assert registry.schema_of("a", entry(type="perplexity", source="a"), sft) == "text"
    assert registry.schema_of("a", entry(type="stage", source="a"), sft) == "chat"


def evaluate(config, workdir):
    """{name: (metrics, samples)} of a run's evaluations before the first step."""
    config, out = build(config), {}
    mesh = sharding.make_mesh(config.mesh, jax.devices()[:1])
    with jax.set_mesh(mesh):
        run = assembly.setup(config, workdir, mesh)
        trainable = assembly.init_state(run).trainable
        for evaluation in run.evaluations:
            out[evaluation.name] = evaluation(trainable, run.frozen)
    return run, out


def test_evaluations_of_the_same_rows_agree(tmp_path):
    write_files(tmp_path)
    config = recipe("pretrain", tmp_path)
    config.model.num_layers = 1
    config.data.heldout_source = str(tmp_path / "text.txt")
    config.data.heldout_limit = 8
    config.evals = {
        "own": dict(type="perplexity"),
        "copy": dict(type="stage", source=config.data.heldout_source, limit=8, every=2),
        "chats": dict(type="perplexity", source=str(tmp_path / "chats.jsonl"), schema="chat"),
        "texts": dict(type="samples", samples=1, sample_tokens=2),
    }
    run, got = evaluate(config, tmp_path / "run")
    metrics, samples = got[""]
    assert got["own"] == ({f"own/{k}": v for k, v in metrics.items()}, [])
    copy = {f"copy/{k}": v for k, v in metrics.items()}
    assert got["copy"] == (copy, [{"eval": "copy", **sample} for sample in samples])
    assert got["chats"][0]["chats/loss"] != metrics["loss"]
    assert [s["eval"] for s in got["texts"][1]] == ["texts"] and not got["texts"][0]
    assert [e.every for e in run.evaluations] == [0, 0, 2, 0, 0]
    assert {"evals.copy", "evals.chats"} <= run.content.keys() and "evals.own" not in run.content


@pytest.mark.parametrize(
    "stage, roles",
    [
        ("reward", ()),
        *(pytest.param(s, ("policy",), marks=pytest.mark.slow) for s in ("kto", "dpo")),
    ],
)
def test_a_stage_s_own_evaluation_of_other_data(stage, roles, stages_dir, tmp_path):
    """On the same rows it reports the same metrics, whatever the objective adds to them."""
    roles = STAGES[stage].required
    config = recipe(stage, stages_dir, **{role: stages_dir / "sft" for role in roles})
    config.data.source = config.data.heldout_source = str(stages_dir / "preferences.jsonl")
    config.data.heldout_limit, config.evaluate.samples = 4, 0
    config.evals = {"copy": dict(type="stage", source=config.data.source, limit=4)}
    _, got = evaluate(config, tmp_path / "run")
    assert len(got[""][0]) > 5
    assert got["copy"][0] == {f"copy/{name}": value for name, value in got[""][0].items()}


def test_what_is_due():
    own = registry.Scheduled("", None, 0)
    assert [own.due(step, 6) for step in (0, 3, 6)] == [True, False, True]
    assert [own._replace(every=2).due(step, 5) for step in range(6)] == [1, 0, 1, 0, 1, 1]
    assert dataclasses.asdict(entry(type="stage"))["source"] == ""


def test_other_data_of_an_evaluation_is_allowed_on_resume_and_named():
    recipe = default()
    text = config_json(build(recipe))
    recipe.evals = {"wiki": dict(type="perplexity", source="a.txt")}
    content = {"tokenizer": "t", "data": "d", "evals.wiki": "new"}
    trained = SimpleNamespace(trainable=("policy",))
    run = SimpleNamespace(origins={}, content=content, objective=trained)
    meta = {"frozen": {}, "config": text, "content": content | {"evals.wiki": "old"}}
    now = config_json(build(recipe))
    differences = check_resume("run", meta, run, now, 1)
    assert [d.setting for d in differences if d.rows] == ["evals.wiki"]
    assert {d.kind for d in differences} == {Kind.FREE}
