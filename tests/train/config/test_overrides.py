"""Settings on a command line: suggestions for unknown names, mappings with free keys, lists."""

from pathlib import Path

import pytest
from absl import flags
from flax.traverse_util import flatten_dict
from ml_collections import config_flags

from configs import base
from configs.chains import demo
from data.errors import DataError
from ranges import ConfigError
from train import cli
from train.cli.flags import ARGV
from train.config import names
from train.config.overrides import gather
from train.config.run import build, default, keys
from train.workflows import multistage


def parsed(tmp_path, *given, change=""):
    """The run of a recipe and flags, by way of absl."""
    recipe = tmp_path / "recipe.py"
    recipe.write_text(
        "from configs import base\n\n\ndef get_config():\n    config = base.get_config()\n"
        f"    {change or 'pass'}\n    return config\n"
    )
    namespace = {}
    exec(recipe.read_text(), namespace)
    argv = gather(["train", f"--config={recipe}", *given], namespace["get_config"]().to_dict())
    values = flags.FlagValues()
    config_flags.DEFINE_config_file("config", None, "", flag_values=values, sys_argv=argv)
    values(argv)
    return build(values.config)


def refusal(*given, recipe=None):
    with pytest.raises(ConfigError) as error:
        gather(["train", *given], (recipe or default()).to_dict())
    assert "\n" not in str(error.value)
    return str(error.value)


# Names.


def test_every_alias_names_a_setting_there_is_and_stands_once():
    known, seen = (
        {*flatten_dict(default().to_dict(), keep_empty_nodes=True, sep="."), *keys()},
        set(),
    )
    for aliases, targets, note in names.ALIASES:
        assert targets or note
        assert set(targets) <= known, targets
        for alias in aliases.split():
            assert alias not in known
            assert alias not in seen, alias
            seen.add(alias)


@pytest.mark.parametrize(
    "key,meant",
    [
        ("learning_rate", r"optimizer.peak_lr?"),
        ("learningRate", r"optimizer.peak_lr?"),
        ("lr", "optimizer.peak_lr?"),
        ("optimizer.lr", "optimizer.peak_lr?"),
        ("value_optimizer.lr", "value_optimizer.peak_lr?"),
        ("peak_lr", "optimizer.peak_lr?"),
        ("learning_rte", "optimizer.peak_lr?"),
        ("max_steps", "steps?"),
        ("optimizer.steps", "steps?"),
        ("num_epochs", "steps?"),
        ("epochs", "steps or rl.epochs?"),
        ("batch_size", "data.batch_size?"),
        ("per_device_batch_size", "data.batch_size or accumulate?"),
        ("micro_batch_size", "data.batch_size or accumulate?"),
        ("gradient_accumulation_steps", "accumulate?"),
        ("seq_len", "data.length or model.max_length?"),
        ("block_size", "data.length or model.max_length?"),
        ("data.max_length", "data.length?"),
        ("model.seq_len", "model.max_length?"),
        ("warmup_steps", "optimizer.warmup_steps?"),
        ("weight_decay", "optimizer.weight_decay?"),
        ("max_grad_norm", "optimizer.clip_norm?"),
        ("adam_beta2", "optimizer.b2?"),
        ("hidden_size", "model.embed_dim?"),
        ("n_layer", "model.num_layers?"),
        ("num_layers", "model.num_layers?"),
        ("num_attention_heads", "model.num_heads?"),
        ("vocab_size", "tokenizer.vocab_size?"),
        ("temperature", "rl.temperature?"),
        ("max_new_tokens", "rl.response_length or evaluate.sample_tokens?"),
        ("init_kl_coef", "rl.kl_coef or rl.kl_loss_coef?"),
        ("beta", "dpo.beta or rl.kl_coef"),
        ("num_generations", "grpo.group_size?"),
        ("lora_r", "lora.rank?"),
        ("r", "lora.rank?"),
        ("lora_alpha", "lora.alpha?"),
        ("save_steps", "checkpoint.every?"),
        ("eval_steps", "evaluate.every?"),
        ("logging_steps", "log_every?"),
        ("gradient_checkpointing", "model.remat?"),
        ("bf16", "model.dtype?"),
        ("random_seed", "seed?"),
        ("optimizer.seed", "seed?"),
        ("dropout", "; there is no dropout"),
        ("output_dir", "; a run lives in --workdir"),
        ("optimzer.peak_lr", "optimizer.peak_lr?"),
        ("data.filter.min_length", "data.filters?"),
        ("stepz", "steps?"),
        ("zzzz", "; --config=RECIPE --help lists all"),
        ("fire", "; --config=RECIPE --help lists all"),
        ("model.load_in_8bit", "did you mean freeze.dtype?"),
        ("pretrain_data.seq_len", "did you mean pretrain_data.length?"),
        ("base_output_directory", "; a run lives in --workdir"),
        ("optimizer.lrr", "did you mean optimizer.peak_lr?"),
        ("optimizer.zzzz", "; known: name, peak_lr, schedule"),
        ("ppo.kl_coef", "; it is called rl.kl_coef now"),
        ("ppo.response_length", "; it is called rl.response_length now"),
    ],
)  # fmt: skip
def test_a_name_of_elsewhere_is_understood(key, meant):
    text = refusal(f"--config.{key}=1")
    assert text.startswith(f"unknown config key {key}; ") and meant in text
    if "." not in key:  # in a recipe too
        recipe = default()
        recipe[key] = 1
        with pytest.raises(ConfigError) as error:
            build(recipe)
        assert str(error.value) == text


def test_a_chain_has_settings_by_stage():
    recipe = demo.get_config()
    for key, message in (
        ("stages.sft.lr", "did you mean stages.sft.optimizer.peak_lr?"),
        ("steps", "did you mean stages.NAME.steps?; NAME is judge, ppo, "),
        ("lr", "did you mean stages.NAME.optimizer.peak_lr?; NAME is judge, ppo, "),
        ("stages.sfft.steps", "its stages are judge, ppo, "),
    ):
        assert message in refusal(f"--config.{key}=1", recipe=recipe)
    argv = gather(["x", "--config.stages.reward.data.keep.near=0.5"], recipe.to_dict())
    recipe.stages.sft.lr = 3
    with pytest.raises(ConfigError, match=r"stages\.sft: unknown config key lr; did you mean opt"):
        multistage.resolve(recipe, "runs")
    with pytest.raises(
        ConfigError, match=r"no chain, which has order and stages: run it with .*python.* -m train"
    ):
        multistage.resolve(default(), "runs")
    with pytest.raises(
        ConfigError,
        match=r"this recipe is a chain of stages: run it with .*python.* -m train\.chain",
    ):
        build(recipe)
    assert "the recipe is no chain; did you mean optimizer.peak_lr?" in refusal(
        "--config.stages.sft.lr=1"
    )
    recipe.steps = 3
    with pytest.raises(ConfigError, match=r"key steps of a chain.*stages\.NAME\.steps\?"):
        multistage.resolve(recipe, "runs")
    wanted = "{'repeated': 0.8, 'scolding': 0.15, 'near': 0.5}"
    assert argv[1] == f"--config.stages.reward.data.keep={wanted}"


def test_a_group_is_not_a_setting():
    assert "optimizer is a group of settings; set its fields" in refusal("--config.optimizer=adamw")


# Mappings.


def test_free_keys_are_set_as_in_a_recipe(tmp_path):
    run = parsed(
        tmp_path,
        "--config.data.filters.min_length=20",
        "--config.steps=7",
        "--config.data.filters.max_symbols", "0.25",
        "--config.data.keep.rude=1",
        "--config.data.decontaminate.gsm8k.source=tests.jsonl",
        "--config.data.decontaminate.gsm8k.fields.text={1}",
        "--config.data.fields.prompt={a}",
        "--config.init_from.policy=runs/2024",
        "--config.data.pack=False",
    )  # fmt: skip
    assert run.data.filters == {"min_length": 20, "max_symbols": 0.25}
    assert run.data.keep == {"rude": 1}
    given = {"gsm8k": {"source": "tests.jsonl", "fields": {"text": "{1}"}}}
    assert run.data.decontaminate == given
    assert (run.data.fields, run.init_from) == ({"prompt": "{a}"}, {"policy": "runs/2024"})
    assert (run.steps, run.data.pack) == (7, False)


def test_a_mixture_is_made_or_changed(tmp_path):
    run = parsed(
        tmp_path,
        "--config.data.source=",
        "--config.data.mixture.my-web.source=('a', 'b')",
        "--config.data.mixture.my-web.weight=2",
        "--config.data.mixture.code.source=2024",
        "--config.data.mixture.code.changes.1000=0.5",
    )
    assert run.data.mixture == {
        "my-web": {"source": ("a", "b"), "weight": 2},
        "code": {"source": "2024", "changes": {"1000": 0.5}},
    }
    mixture = {"web": {"source": "w", "changes": {9: 1.0}}}
    run = parsed(
        tmp_path,
        "--config.data.mixture.web.changes.9=3",
        "--config.data.mixture.web.limit=5",
        change=f"config.data.source, config.data.mixture = '', {mixture}",
    )
    assert run.data.mixture == {"web": {"source": "w", "changes": {9: 3}, "limit": 5}}


def test_a_whole_mapping(tmp_path):
    run = parsed(
        tmp_path, "--config.data.filters={'min_length': 20}", "--config.data.filters.max_length=40"
    )
    assert run.data.filters == {"min_length": 20, "max_length": 40}


@pytest.mark.parametrize(
    "override,message",
    [
        ("filters.min_length=many", "data.filters.min_length='many' is not a number"),
        ("filters.min_length=nan", "data.filters.min_length=nan; it must be at least 0"),
        ("filters.min_length=", "data.filters.min_length='' is not a number"),
        ("keep.rude=2", "data.keep.rude=2; it must be at least 0 and at most 1"),
        ("mixture.web.weight=-1", "data.mixture.web.weight=-1; it must be"),
        ("mixture.web.limit=1.5", "data.mixture.web.limit=1.5 is a float; it must be an int"),
        ("mixture.web=a.txt", "data.mixture.web='a.txt'; set --config.data.mixture.web.NAME="),
        ("filters=20", "data.filters='20'; set --config.data.filters.NAME=VALUE"),
        ("mixture.web.source=[1]", "data.mixture.web.source='[1]' is not a list of strings"),
    ],
)
def test_a_bad_value_is_said_with_its_key(override, message):
    assert message in refusal(f"--config.data.{override}")


@pytest.mark.parametrize(
    "override,message",
    [
        ("filters.min_lenght=3", "did you mean 'min_length'"),
        ("mixture.web.wieght=3", "unknown config key data.mixture.web.wieght; did you mean weight"),
        ("decontaminate.a.weight=3", "setting of data.decontaminate.a"),
        ("decontaminate.a.fields.text={x}", "data.decontaminate.a.source is missing"),
    ],
)
def test_unknown_keys_are_refused_as_in_a_recipe(tmp_path, override, message):
    source = ["--config.data.source="] if "mixture" in override else []
    with pytest.raises(DataError, match=message.replace(".", r"\.")):
        parsed(tmp_path, f"--config.data.{override}", *source)


@pytest.mark.parametrize(
    "leaf,value,message",
    [
        ("mixture", {"web": 5}, "data.mixture.web=5; set --config.data.mixture.web.source=PATH"),
        ("mixture", {"web": {"source": 5}}, "data.mixture.web.source=5; it must be a str or a"),
        ("mixture", {"web": {"source": "a", "fields": 5}}, "data.mixture.web.fields=5; set --conf"),
        ("mixture", {"web": {"source": "a", "changes": 5}}, "data.mixture.web.changes=5 is not a "),
        ("mixture", {"web": {"source": "a", "weight": True}}, "data.mixture.web.weight=True is a"),
        ("decontaminate", {"a": 5}, "data.decontaminate.a=5; set"),
        ("keep", {"rude": "x"}, "data.keep.rude='x' is a str; it must be a float"),
        ("source", ("a", 5), "data.source=('a', 5); it must be a str or a tuple of them"),
    ],
)
def test_a_recipe_s_mapping_is_checked_too(leaf, value, message):
    recipe = default()
    recipe.data.source = ""
    recipe.data[leaf] = value
    with pytest.raises(ConfigError) as error:
        build(recipe)
    assert str(error.value).startswith(message)


@pytest.mark.parametrize("key", ["", ".", "data.", "data..length", ".steps", "data.filters."])
def test_a_flag_that_names_nothing(key):
    assert refusal(f"--config.{key}=1").startswith(f"--config.{key}=1 names no setting")


def test_the_rest_of_a_command_line_is_as_it_was():
    argv = ["x", "--config=a.py", "--workdir", "w", "--noconfig.data.pack", "--config.steps", "3"]
    assert gather([*argv, "--", "--config.foo=1"], base.get_config().to_dict())[:-2] == argv


def test_a_command_line(tmp_path, monkeypatch, capsys):
    """absl reads the gathered flags, also those of files; a setting alone is no flag."""
    values = flags.FlagValues()
    monkeypatch.setattr(flags, "FLAGS", values)
    config_flags.DEFINE_config_file("config", None, "", flag_values=values, sys_argv=ARGV)
    recipe = f"--config={Path(__file__).resolve().parents[3]}/configs/sft.py"
    (tmp_path / "flags").write_text("--config.data.filters.min_length=20\n")
    cli.parse_flags(["train", recipe, f"--flagfile={tmp_path}/flags", "--config.steps=3"])
    assert (values.config.steps, values.config.data.filters.min_length) == (3, 20)
    values.unparse_flags()
    cli.parse_flags(["train", "--config.accumulate=4", *recipe.split("=")])  # in any order
    assert values.config.accumulate == 4
    for given, message in (
        ("--lr=1", "error: there is no flag --lr; did you mean --config.optimizer.peak_lr?\n"),
        ("--zzz=1", "error: there is no flag --zzz; --help lists all\n"),
        (
            "--workdir=1",
            "error: there is no flag --workdir; --help lists all\n",
        ),  # of another command
        ("--output_dir=1", "error: there is no flag --output_dir; a run lives in --workdir=PATH\n"),
        ("--config.lr=1", "error: unknown config key lr; did you mean optimizer.peak_lr?"),
        ("--model=1", "error: there is no flag --model; model is a group of settings, and --help="),
        ("--config.seed=x", "error: --config.seed=x: it must be an int\n"),
        (
            "--config.log_every=1e3",
            "error: --config.log_every=1e3: it must be an int; write --config.log_every=1000",
        ),
        ("--config.data.pack=maybe", "error: --config.data.pack=maybe: it must be True or False"),
    ):
        with pytest.raises(SystemExit):
            cli.parse_flags(["train", recipe, given])
        assert capsys.readouterr().err.startswith(message)


@pytest.mark.parametrize(
    "text, choice, message",
    [
        ("raise SystemExit(0)", "", "SystemExit"),
        ("def get_config(): raise SystemExit", "", "SystemExit"),
        ("def get_config(): raise ValueError('x' * 10**5)", "", "x" * 80),
        ("", "", "no function get_config"),
        ("def get_config(): pass", ":big", "recipe.py has no choices, and 'big' is given"),
    ],
)
def test_what_is_no_recipe_is_an_error(text, choice, message, tmp_path, monkeypatch, capsys):
    values = flags.FlagValues()
    monkeypatch.setattr(flags, "FLAGS", values)
    config_flags.DEFINE_config_file("config", None, "", flag_values=values, sys_argv=ARGV)
    (tmp_path / "recipe.py").write_text(text)
    with pytest.raises(SystemExit) as ended:
        cli.parse_flags(["train", f"--config={tmp_path}/recipe.py{choice}"])
    said = capsys.readouterr().err
    assert ended.value.code == 1 and message in said and len(said) < 2500


def test_every_old_name_has_a_new_one():
    assert names.RENAMED.keys().isdisjoint(keys()) and {*names.RENAMED.values()} <= {*keys()}
    recipe = default()
    recipe.ppo = {"kl_coef": 0.1}
    with pytest.raises(ConfigError, match=r"key ppo.kl_coef; it is called rl.kl_coef now"):
        build(recipe)


# Lists of texts: "a,b" or a tuple, on the command line and in a recipe.


@pytest.mark.parametrize(
    "text", ["email,phone", "email, phone", "('email', 'phone')", "['email', 'phone']"]
)
def test_kinds_to_redact_are_separated_by_commas_or_a_tuple(tmp_path, text):
    assert parsed(tmp_path, f"--config.data.redact={text}").data.redact == ("email", "phone")


@pytest.mark.parametrize("value", ["email,phone", ("email", "phone"), ["email,phone"]])
def test_a_recipe_lists_kinds_to_redact_in_each_form(tmp_path, value):
    config = parsed(tmp_path, change=f"config.data.redact = {value!r}")
    assert config.data.redact == ("email", "phone")
    changed = parsed(
        tmp_path, "--config.data.redact=card", change=f"config.data.redact = {value!r}"
    )
    assert changed.data.redact == ("card",)


@pytest.mark.parametrize("text", ["local,global", "('local', 'global')"])
def test_a_pattern_of_layers_is_separated_by_commas_or_a_tuple(tmp_path, text):
    assert parsed(tmp_path, f"--config.model.layer_pattern={text}").model.layer_pattern == (
        "local",
        "global",
    )


@pytest.mark.parametrize("key", ["data.source", "data.heldout_source", "data.mixture.a.source"])
def test_a_source_is_a_path_or_a_tuple_of_paths(tmp_path, key):
    change = "config.data.source = ''" if "mixture" in key else ""

    def source(text):
        value = parsed(tmp_path, f"--config.{key}={text}", change=change).data
        for name in key.split(".")[1:]:
            value = value[name] if isinstance(value, dict) else getattr(value, name)
        return value

    assert source("('a,b.txt', 'c.txt')") == ("a,b.txt", "c.txt")
    assert source("a,b.txt") == "a,b.txt"
    assert source("[ab].txt") == "[ab].txt"


def test_a_list_of_other_values_is_refused(tmp_path):
    for text in ("(1, 2)", "3", "('email', 2)"):
        with pytest.raises(ConfigError, match=r"data.redact=.*a str or a tuple of them"):
            parsed(tmp_path, f"--config.data.redact={text}")
