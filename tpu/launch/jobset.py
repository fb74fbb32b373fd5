"""The JobSet that runs a command on GKE's TPU slices, and the equivalent xpk command."""

from __future__ import annotations

import json
import shlex

from tpu.slices import TpuSlice

_TPU = "google.com/tpu"
MOUNT = "/bucket"


def manifest(
    name: str, slice_: TpuSlice, slices: int, image: str, command: list[str], *,
    spot: bool, bucket: str = "", queue: str = "", max_restarts: int = 10,
) -> dict:  # fmt: skip
    """The JobSet object.

    A pod that exits with 42, 74 or 127 to 255 is restarted, any other error fails the JobSet. The
    program is the container's first process, so that SIGTERM reaches it directly.

    Args:
      image: a container with Seedpod and its packages. command: [module, flags…].
      bucket: `gs://NAME`, mounted at `MOUNT` by the cluster's Cloud Storage FUSE driver; paths in
        the command are under that.
    """
    mounts = [{"name": "shm", "mountPath": "/dev/shm"}]
    container = {
        "name": "seedpod",
        "image": image,
        "command": ["python", "-m", *command, "--distributed"],
        "ports": [{"containerPort": 8471}, {"containerPort": 8080}],
        "resources": {"limits": {_TPU: slice_.chips // slice_.hosts}},
        "volumeMounts": mounts,
    }
    selector = {
        "cloud.google.com/gke-tpu-accelerator": slice_.gke,
        "cloud.google.com/gke-tpu-topology": slice_.topology,
    } | ({"cloud.google.com/gke-spot": "true"} if spot else {})
    keys = [_TPU] + (["cloud.google.com/gke-spot"] if spot else [])
    volumes: list[dict] = [{"name": "shm", "emptyDir": {"medium": "Memory"}}]
    annotations = {}
    if bucket:
        annotations["gke-gcsfuse/volumes"] = "true"
        name_only = bucket.removeprefix("gs://")
        attributes = {"bucketName": name_only, "mountOptions": "implicit-dirs"}
        driver = "gcsfuse.csi.storage.gke.io"
        volumes.append(
            {"name": "bucket", "csi": {"driver": driver, "volumeAttributes": attributes}}
        )
        mounts.append({"name": "bucket", "mountPath": MOUNT})
    pod = {
        "restartPolicy": "Never",
        "nodeSelector": selector,
        "tolerations": [{"key": k, "operator": "Exists", "effect": "NoSchedule"} for k in keys],
        "containers": [container],
        "volumes": volumes,
    }
    restarted = [42, 74, *range(127, 256)]
    job = {
        "completionMode": "Indexed",
        "parallelism": slice_.hosts,
        "completions": slice_.hosts,
        "backoffLimit": 0,
        "podFailurePolicy": {
            "rules": [
                {
                    "action": "FailJob",
                    # The sidecar that mounts the bucket does not count.
                    "onExitCodes": {
                        "containerName": "seedpod",
                        "operator": "NotIn",
                        "values": restarted,
                    },
                }
            ]
        },
        "template": ({"metadata": {"annotations": annotations}} if annotations else {})
        | {"spec": pod},
    }
    exclusive = "alpha.jobset.sigs.k8s.io/exclusive-topology"
    return {
        "apiVersion": "jobset.x-k8s.io/v1alpha2",
        "kind": "JobSet",
        "metadata": {
            "name": name,
            "annotations": {exclusive: "cloud.google.com/gke-nodepool"},
        }
        | ({"labels": {"kueue.x-k8s.io/queue-name": queue}} if queue else {}),
        "spec": {
            "failurePolicy": {
                "maxRestarts": max_restarts,
                "rules": [
                    {
                        "name": "anErrorThatWouldComeAgain",
                        "action": "FailJobSet",
                        "onJobFailureReasons": ["PodFailurePolicy"],
                    }
                ],
            },
            "replicatedJobs": [{"name": "slice", "replicas": slices, "template": {"spec": job}}],
        },
    }


def text(jobset: dict) -> str:
    """The JobSet for kubectl, as JSON, which is YAML."""
    return json.dumps(jobset, indent=2) + "\n"


def xpk(name: str, slice_: TpuSlice, slices: int, image: str, command: list[str], *,
        cluster: str, zone: str, spot: bool, max_restarts: int = 10) -> list[str]:  # fmt: skip
    """The xpk command that creates the same job."""
    return [
        "xpk", "workload", "create", f"--workload={name}", f"--cluster={cluster}", f"--zone={zone}",
        f"--tpu-type={slice_.accelerator}", f"--num-slices={slices}", f"--docker-image={image}",
        f"--max-restarts={max_restarts}", *(["--spot"] if spot else ["--on-demand"]),
        f"--command={shlex.join(['python', '-m', *command, '--distributed'])}",
    ]  # fmt: skip
