"""Finished stages of a chain, whose settings must be those of the recipe; nothing is trained."""

import json
import re

import ml_collections
import pytest
from stage_fixtures import recipe

from ranges import ConfigError
from train.runtime import resume
from train.workflows import finished, multistage


@pytest.fixture
def chain(tmp_path):
    """A recipe of three stages, and its workdir with the first two finished."""
    stages = {
        "base": recipe("pretrain", tmp_path),
        "tuned": recipe("sft", tmp_path, policy="base"),
        "judge": recipe("reward", tmp_path, policy="tuned"),
    }
    config = ml_collections.ConfigDict({"order": tuple(stages), "stages": stages}, type_safe=False)
    workdir = tmp_path / "runs"
    for name, run in multistage.resolve(config, workdir).items():
        (workdir / name).mkdir(parents=True)
        (workdir / name / "config.json").write_text(resume.config_json(run))
        if name != "judge":
            (workdir / name / "DONE").touch()
            (workdir / name / "checkpoints" / "4").mkdir(parents=True)
    return config, workdir


def check(chain, **kwargs):
    config, workdir = chain
    return finished.check(multistage.resolve(config, workdir), workdir, **kwargs)


def test_an_unchanged_chain_goes_on_also_where_it_was_moved(chain):
    config, workdir = chain
    assert check(chain) == {"base", "tuned"}
    path = workdir / "base" / "config.json"
    settings = json.loads(path.read_text()) | {"lineage": [], "earlier": []}
    del settings["lora"]  # it is older than that setting
    path.write_text(json.dumps(settings))
    workdir.rename(workdir.parent / "moved")
    assert check((config, workdir.parent / "moved")) == {"base", "tuned"}


def test_settings_of_reports_are_free(chain):
    base = chain[0].stages.base
    base.log_every, base.checkpoint.every, base.evaluate.every, base.mesh.data = 7, 7, 7, 2
    assert check(chain) == {"base", "tuned"}


def test_a_changed_setting_is_refused_before_anything_is_read(chain):
    config, workdir = chain
    config.stages.base.optimizer.peak_lr = 0.5
    with pytest.raises(ConfigError) as refused:
        multistage.run(config, workdir)  # there are no files of data
    text = str(refused.value)
    assert re.match(rf"{workdir}/base is done, and .* \(optimizer\.peak_lr: \S+ -> 0\.5\)\.", text)
    again = f"`rm -r {workdir}/{{base,tuned,judge}}` and the same command"
    assert f"train base, tuned, judge again: {again}" in text
    assert "further" not in text and "--allow_change" not in text


@pytest.mark.parametrize("difference", [1, -1])
def test_more_steps_may_also_train_further(chain, difference):
    config, workdir = chain
    config.stages.tuned.steps += difference
    with pytest.raises(ConfigError, match=r"/tuned is done.*\(steps: \d+ -> \d+\)") as refused:
        check(chain)
    remove = f"`rm -r {workdir}/{{tuned/DONE,judge}}`"
    further = f"train tuned further: {remove} and the same command with --allow_change=steps"
    assert (further in str(refused.value)) == (difference > 0)


def test_other_data_is_refused_unless_it_is_said_to_be_the_same(chain):
    chain[0].stages.tuned.data.source = "/elsewhere/chats.jsonl"
    with pytest.raises(
        ConfigError, match=r"data\.source: .*the same in another place: --allow_change=data;"
    ):
        check(chain)
    assert check(chain, allow_change=("data",)) == {"base", "tuned"}


def test_other_origins_are_refused(chain):
    chain[0].stages.tuned.init_from.policy = "/elsewhere/tuned"
    with pytest.raises(ConfigError, match=r"init_from\.policy: 'base' -> 'tuned'"):
        check(chain)
    chain[0].stages.tuned.init_from.policy = "base@4"
    with pytest.raises(ConfigError, match=r"init_from\.policy: 'base' -> 'base@4'"):
        check(chain)


def test_a_stage_of_an_origin_that_is_trained_again_is_refused(chain):
    config, workdir = chain
    config.stages.judge.init_from.policy = "tuned@4"  # it is not done
    (workdir / "base" / "DONE").unlink()
    with pytest.raises(ConfigError) as refused:
        check(chain)
    assert str(refused.value) == (
        f"{workdir}/tuned has started from base, which is not done. "
        f"Type `rm -r {workdir}/{{tuned,judge}}` and the same command"
    )
