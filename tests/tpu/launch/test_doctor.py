"""Preflight checks of a job."""

import json
import shlex

import fake_gcloud
import pytest

from tpu.launch import commands, doctor, verbs
from tpu.launch.gcloud import Gcloud

FLAGS = ["--name=q", "--accelerator=v5e-16", "--zone=us-west4-a", "--bucket=gs://b"]
JOB = commands.QueuedJob("q", "us-west4-a", "v5e-16", "gs://b")


def quota(name, value, zone="us-west4-a"):
    """A quota in the output of `gcloud beta quotas info list --format=json`."""
    place = {"applicableLocations": [zone], "details": {"value": str(value)}}
    return {"quotaId": f"{name}PerProjectPerZoneForTPUAPI", "dimensionsInfos": [place]}


SPOT = "TPUV5sPreemptibleLitepodPerProjectPerZoneForTPUAPI"
BUCKET = {"location": "US-WEST4", "hierarchicalNamespace": {"enabled": True}}
WELL = {
    "auth list": "me@example.com\n",
    "config get": "proj\n",
    "services list": "tpu.googleapis.com\n",
    "compute tpus accelerator-types list": "v2-8\nv5litepod-16\n",
    "compute tpus versions list": "tpu-vm-base\nv2-alpha-tpuv5-lite\n",
    "beta quotas info list": json.dumps(
        [quota("TPUV5sLitepod", 0), quota("TPUV5sPreemptibleLitepod", 16)]
    ),
    "storage buckets describe": json.dumps(BUCKET),
}


@pytest.fixture
def examine(play, tmp_path):
    """examine(changes, **job): (exit code, lines) where only these answers show a problem."""
    (tmp_path / ".ssh").mkdir()
    (tmp_path / ".ssh" / "google_compute_engine").touch()

    def examine(changes=(), **job):
        play(answers=WELL | dict(changes))
        said = []
        code = doctor.examine(JOB._replace(**job), Gcloud(), said.append, tmp_path)
        return code, said

    return examine


def test_all_is_well(examine, play):
    code, said = examine()
    assert code == 0 and all(line.startswith("ok     ") for line in said), said
    assert said[:2] == ["ok     account: me@example.com", "ok     project: proj"]
    assert (
        "ok     quota: TPUV5sPreemptibleLitepodPerProjectPerZoneForTPUAPI is 16, needed 16" in said
    )
    assert "ok     bucket: gs://b in us-west4" in said
    assert ["storage", "rm", "gs://b/code/doctor.txt"] in play.calls(), "it leaves nothing behind"


@pytest.mark.parametrize(
    "command,answer,line",
    [
        ("config get", "(unset)\n", "project: none is set; type gcloud config set project PROJECT"),
        ("services list", "", "TPU API: is not enabled; type gcloud services enable tpu.google"),
        ("compute tpus accelerator-types list", "v2-8\n", "zone: us-west4-a has no v5litepod-16;"),
        ("compute tpus versions list", "", "TPU software: us-west4-a has no v2-alpha-tpuv5-lite;"),
        ("beta quotas info list", json.dumps([quota("TPUV5sPreemptibleLitepod", 4)]),
         f"quota: {SPOT} is 4 in us-west4-a, and 16 are needed; type"),
        ("storage buckets describe", [1, "ERROR: (gcloud.describe) gs://b not found: 404."],
         "bucket: ERROR: (gcloud.describe) gs://b not found: 404.; type gcloud storage buckets "
         "create gs://b --location=us-west4 --uniform-bucket-level-access --enable-hierarchical"),
        ("storage buckets describe", json.dumps({"location": "US-WEST4"}), "bucket: has no hierar"),
        ("storage buckets describe", json.dumps(BUCKET | {"location": "EU"}), "bucket: is in eu"),
        ("storage buckets describe", "[]", "bucket: the answer of gcloud storage buckets describe "
         "is not of the form that it should have: Expected `object`, got `array`. Update it: gcloud"
         " components update; type"),
        ("beta quotas info list", '[{"quotaId": 5}]', "quota: the answer of gcloud beta quotas"),
        ("storage cp", [1, "ERROR: HTTPError 403: me does not have storage.objects.create access"],
         "writing there: ERROR: HTTPError 403: me does not have storage.objects.create access; type"
         " gcloud storage buckets add-iam-policy-binding gs://b --member=user:YOU"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_a_line_with_what_to_type(examine, command, answer, line):
    code, said = examine({command: answer})
    wrong = [s for s in said if s.startswith("wrong")]
    assert code == 1 and len(wrong) == 1 and wrong[0].startswith(f"wrong  {line}"), said


def test_nobody_logged_in_ends_it(examine, play):
    code, said = examine({"auth list": ""})
    assert code == 1 and said[0] == "wrong  account: none is logged in; type gcloud auth login"
    assert len(play.calls()) == 1


def test_no_gcloud_ends_it(examine, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert examine() == (
        1, ["wrong  gcloud: is not installed; see cloud.google.com/sdk/docs/install"]
    )  # fmt: skip


def test_a_missing_ssh_key_is_asked_for(examine, tmp_path):
    """gcloud would ask for a passphrase, of someone who is not there."""
    (tmp_path / ".ssh" / "google_compute_engine").unlink()
    assert "type ssh-keygen -t rsa -N '' -f" in examine()[1][-1]


def test_quota_that_gcloud_does_not_tell_is_neither(examine):
    code, said = examine({"beta quotas info list": "[]"})
    assert code == 0 and "?      quota: gcloud lists none for this accelerator in this zone" in said


@pytest.mark.parametrize(
    "job,name",
    [
        (JOB, "TPUV5sPreemptibleLitepod"),
        (JOB._replace(accelerator="v5e-8"), "TPUV5sPreemptibleLitepodServing"),
        (JOB._replace(accelerator="v5p-128", capacity="on_demand"), "TPUV5P"),
        (JOB._replace(accelerator="v6e-256", capacity="reserved"), "TPUV6EReserved"),
    ],
)
def test_the_quota_of_the_accelerator_and_capacity_counts(job, name):
    others = ("TPUV5sLitepod", "TPUV5PPreemptible", "TPUV6E", "TPUV4", "TPUV5sLitepodServing")
    listed = json.dumps([quota(n, 1) for n in others if n != name] + [quota(name, 256)])
    assert doctor.read_quota(job)(listed).startswith(f"{name}PerProject")


def test_a_bucket_of_a_whole_continent_will_do(examine):
    assert examine({"storage buckets describe": json.dumps(BUCKET | {"location": "US"})})[0] == 0


def test_the_verb_and_its_dry_run(play, capsys):
    play(answers=WELL | {"services list": ""})
    assert verbs.main(["doctor", *FLAGS]) == 1
    assert "wrong  TPU API" in capsys.readouterr().out
    play()
    assert verbs.main(["doctor", *FLAGS, "--dry_run"]) == 0
    shown = capsys.readouterr().out.splitlines()
    assert not play.calls() and len(shown) == 9
    for words in map(shlex.split, shown):
        command = next(c for c in fake_gcloud.FLAGS if " ".join(words[1:]).startswith(c))
        fake_gcloud.check(command, words)
