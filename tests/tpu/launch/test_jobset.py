"""The JobSet manifest against the schema, and the xpk command that does the same."""

import json
import re
import shlex

import pytest

from tpu.launch import jobset, verbs
from tpu.slices import parse

COMMAND = ["train", "--config=configs/pretrain.py", "--workdir=/data/runs/q"]
IN_BUCKET = ["--config=configs/pretrain.py", "--workdir=gs://b/runs/q"]
# The part of jobset.x-k8s.io/v1alpha2 (and of batch/v1 Job, core/v1 Pod) that is used: every key
# that may stand there, "!" where it must; a set is an enumeration, a list has elements alike.
POD = {
    "restartPolicy!": {"Never"},  # what a podFailurePolicy asks for
    "nodeSelector": {str: str},
    "tolerations": [{"key": str, "operator": {"Exists"}, "effect": {"NoSchedule"}}],
    "containers!": [
        {
            "name!": str,
            "image!": str,
            "command": [str],
            "ports": [{"containerPort!": int}],
            "resources": {"limits": {str: int}},
            "volumeMounts": [{"name!": str, "mountPath!": str}],
        }
    ],
    "volumes": [
        {
            "name!": str,
            "emptyDir": {"medium": {"Memory"}},
            "csi": {"driver!": str, "volumeAttributes": {str: str}},
        }
    ],
}
JOB = {
    "completionMode": {"Indexed", "NonIndexed"},
    "parallelism": int,
    "completions": int,
    "backoffLimit": int,
    "podFailurePolicy": {
        "rules!": [
            {
                "action!": {"FailJob", "Ignore", "Count"},
                "onExitCodes": {
                    "containerName": str,
                    "operator!": {"In", "NotIn"},
                    "values!": [int],
                },
            }
        ]
    },
    "template!": {"metadata": {"annotations": {str: str}}, "spec!": POD},
}
JOBSET = {
    "apiVersion!": {"jobset.x-k8s.io/v1alpha2"},
    "kind!": {"JobSet"},
    "metadata!": {"name!": str, "annotations": {str: str}, "labels": {str: str}},
    "spec!": {
        "failurePolicy": {
            "maxRestarts": int,
            "rules": [
                {
                    "name!": str,
                    "action!": {
                        "FailJobSet",
                        "RestartJobSet",
                        "RestartJobSetAndIgnoreMaxRestarts",
                        "RestartJob",
                        "RestartJobAndIgnoreMaxRestarts",
                    },
                    "onJobFailureReasons": [{"PodFailurePolicy", "BackoffLimitExceeded"}],
                }
            ],
        },
        "replicatedJobs!": [{"name!": str, "replicas": int, "template!": {"spec!": JOB}}],
    },
}


def check(value, schema, path=""):
    if isinstance(schema, type):
        assert type(value) is schema, path
    elif isinstance(schema, set):
        assert value in schema, path
    elif isinstance(schema, list):
        for i, element in enumerate(value):
            check(element, schema[0], f"{path}[{i}]")
    elif str in schema:
        assert all(type(k) is str and type(v) is schema[str] for k, v in value.items()), path
    else:
        known = {name.rstrip("!"): part for name, part in schema.items()}
        assert {n[:-1] for n in schema if n.endswith("!")} <= value.keys() <= known.keys(), path
        for name, part in value.items():
            check(part, known[name], f"{path}.{name}")


@pytest.mark.parametrize("spot", [True, False])
@pytest.mark.parametrize("name,slices", [("v5e-16", 1), ("v5p-128", 2), ("v6e-256", 1)])
def test_the_manifest_keeps_the_schema(name, slices, spot):
    what = "q", parse(name), slices, "image", COMMAND
    for settings in ({"queue": "team"}, {"bucket": "gs://b"}):
        check(jobset.manifest(*what, spot=spot, **settings), JOBSET)


def test_the_schema_test_sees_errors():
    made = jobset.manifest("q", parse("v5e-16"), 1, "image", COMMAND, spot=True)
    made["spec"]["restarts"] = 1
    with pytest.raises(AssertionError):
        check(made, JOBSET)


def test_the_manifest_says_what_runs_where():
    made = jobset.manifest("q", parse("v5p-128"), 2, "image", COMMAND, spot=True)
    replicated = made["spec"]["replicatedJobs"][0]
    job, pod = replicated["template"]["spec"], replicated["template"]["spec"]["template"]["spec"]
    assert replicated["replicas"] == 2 and job["parallelism"] == job["completions"] == 16
    assert job["backoffLimit"] == 0
    codes = job["podFailurePolicy"]["rules"][0]["onExitCodes"]
    values = codes["values"]
    assert codes["containerName"] == pod["containers"][0]["name"] and codes["operator"] == "NotIn"
    (rule,) = made["spec"]["failurePolicy"]["rules"]
    # What JobSet's own validation asks of a name.
    assert re.fullmatch("[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?", rule["name"])
    assert 42 in values and 74 in values and 134 in values and 255 in values and 1 not in values
    assert len(values) <= 255 and values == sorted(values)
    selector = pod["nodeSelector"]
    assert selector["cloud.google.com/gke-tpu-topology"] == "4x4x4"
    assert selector["cloud.google.com/gke-spot"] == "true"
    container = pod["containers"][0]
    assert container["resources"] == {"limits": {"google.com/tpu": 4}}
    assert container["command"] == ["python", "-m", *COMMAND, "--distributed"]


FLAGS = ["--name=q", "--zone=us-east5-a", "--accelerator=v5p-128", "--slices=2",
         "--image=registry/seedpod", "--cluster=c"]  # fmt: skip


def test_the_bucket_is_mounted_for_the_workdir(capsys):
    assert verbs.main(["manifest", *FLAGS, "--bucket=gs://b/", "--", *IN_BUCKET]) == 0
    out, err = capsys.readouterr()
    template = json.loads(out)["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]
    assert template["metadata"]["annotations"] == {"gke-gcsfuse/volumes": "true"}
    container, volumes = template["spec"]["containers"][0], template["spec"]["volumes"]
    assert "--workdir=/bucket/runs/q" in container["command"]
    mounted = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    assert mounted == {"shm": "/dev/shm", "bucket": "/bucket"}
    assert {volume["name"] for volume in volumes} == mounted.keys()
    assert volumes[1]["csi"]["volumeAttributes"]["bucketName"] == "b"
    assert "gs://b attached at /bucket" in err and "--workdir=/bucket/runs/q" in err


def test_a_workdir_in_a_bucket_that_is_not_mounted_is_refused(capsys):
    assert verbs.main(["manifest", *FLAGS, "--", *IN_BUCKET]) == 1
    assert "type --bucket=gs://NAME, which is then mounted" in capsys.readouterr().err


def test_apply_hands_the_manifest_to_the_cluster(play, capsys):
    assert verbs.main(["manifest", *FLAGS, "--apply", "--", *COMMAND[1:]]) == 0
    assert play.calls() == [["apply", "-f", "-"]]
    check(json.loads(play.stdin()["kubectl"]), JOBSET)
    out, err = capsys.readouterr()
    assert out == "launch: q was applied to the cluster\n" and "xpk workload create" in err


def test_what_the_cluster_refuses_is_one_line(play, capsys):
    play(answers={"kubectl": [1, 'error: no matches for kind "JobSet" in version "v1alpha2"\n']})
    assert verbs.main(["manifest", *FLAGS, "--apply", "--", *COMMAND[1:]]) == 1
    assert capsys.readouterr().err.splitlines()[-1].startswith("error: error: no matches for kind")


def test_the_verb_prints_the_manifest_and_the_xpk_command(capsys):
    assert verbs.main(["manifest", *FLAGS, "--apply", "--dry_run", "--", *COMMAND[1:]]) == 0
    out, err = capsys.readouterr()
    check(json.loads(out), JOBSET)
    xpk = shlex.split(next(line for line in err.splitlines() if "xpk workload" in line)[2:])
    assert "--tpu-type=v5p-128" in xpk and "--num-slices=2" in xpk and "--spot" in xpk
    assert any(w.startswith("--command=python -m train --config=") for w in xpk)
