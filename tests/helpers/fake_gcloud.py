"""A gcloud and a kubectl that know the flags of the real ones and play what goes wrong.

`python fake_gcloud.py PLAN gcloud|kubectl WORDS…`: PLAN is a JSON file of what is to happen, in
which every call is noted. Imports nothing but the standard library: it starts for each call.
"""

import json
import os
import sys
from pathlib import Path

# Google Cloud SDK 528.0.0, from `gcloud COMMAND --help`: of each command the flags that are used or
# might be. gcloud refuses another flag before it looks at anything else.
WIDE = {"--project", "--format", "--quiet"}
ZONE = WIDE | {"--zone"}
LIST = {"--filter", "--limit", "--page-size", "--sort-by"}
QR = "compute tpus queued-resources"
FLAGS = {
    f"{QR} create": ZONE | {
        "--accelerator-type", "--runtime-version", "--node-id", "--node-count", "--node-prefix",
        "--spot", "--reserved", "--guaranteed", "--valid-until-duration", "--scopes", "--async",
        "--service-account", "--internal-ips", "--metadata-from-file", "--labels", "--network"},
    f"{QR} describe": ZONE,
    f"{QR} delete": ZONE | {"--force", "--async"},
    f"{QR} ssh": ZONE | {"--node", "--worker", "--batch-size", "--command", "--output-directory",
                         "--ssh-flag", "--tunnel-through-iap", "--internal-ip", "--dry-run"},
    "compute tpus accelerator-types list": ZONE | LIST,
    "compute tpus versions list": ZONE | LIST,
    "auth list": WIDE | LIST | {"--filter-account"},
    "config get": WIDE,
    "services list": WIDE | LIST | {"--enabled", "--available"},
    "beta quotas info list": WIDE | LIST | {"--service", "--folder", "--organization", "--uri"},
    "storage buckets describe": WIDE | {"--raw", "--additional-headers"},
    "storage cp": WIDE | {"--recursive", "--no-clobber"},
    "storage ls": WIDE | {"--recursive", "--long", "--json", "--full"},
    "storage cat": WIDE | {"--range", "--display-url"},
    "storage rm": WIDE | {"--recursive", "--all-versions"},
}  # fmt: skip
EMPTY = {
    "calls": [],  # the commands called
    "create_errors": [],  # of one `create` after the other; empty for none
    "lives": [["ACTIVE"]],  # the states of the resource of each `create`, in turn
    "states": [],  # of the current resource
    "zone": "",  # where it is; empty: in any
    "describe_errors": [],  # as `create_errors`
    "cause": "",  # why it FAILED
    "ssh": [],  # what one ssh after the other prints; None: it is lost, SIGTERM: to the caller
    "ls": [],
    "cat": {},  # path: content
    "answers": {},  # command: its output, or [exit code, error]
    "stdin": {},  # of the last `storage cp -` to a path, and of kubectl
}


class Ended(Exception):
    """Exit code, standard output, standard error."""


def check(command: str, words: list[str]) -> None:
    unknown = [w for w in words if w.startswith("--") and w.split("=")[0] not in FLAGS[command]]
    if unknown:
        raise Ended(2, "", f"ERROR: (gcloud.{command}) unrecognized arguments: {unknown[0]}")
    names = {w.split("=")[0]: w for w in words}
    if command.endswith("create"):
        several = {"--node-count", "--node-prefix"} <= names.keys()
        if several == ("--node-id" in names) or {"--spot", "--reserved"} <= names.keys():
            raise Ended(2, "", "ERROR: (gcloud.create) argument --node-id: Exactly one of …")
    targets = names.get("--worker", "") + names.get("--node", "")
    if command.endswith("ssh") and "--command" not in names and "all" in targets:
        raise Ended(1, "", "ERROR: (gcloud.ssh) Cannot target multiple workers: no --command")


def queued_resources(plan: dict, verb: str, zone: str) -> None:
    there = plan["states"] and plan["zone"] in ("", zone)
    if verb == "create":
        if plan["create_errors"] and (error := plan["create_errors"].pop(0)):
            raise Ended(1, "", "Create request issued\n" + error)
        plan["states"], plan["zone"] = plan["lives"].pop(0), zone
    elif verb == "describe":
        if plan["describe_errors"] and (error := plan["describe_errors"].pop(0)):
            raise Ended(1, "", error)
        if not there:
            raise Ended(1, "", "ERROR: (gcloud.describe) NOT_FOUND: Resource 'q' was not found")
        now = plan["states"].pop(0) if len(plan["states"]) > 1 else plan["states"][0]
        failed = {"failedData": {"error": {"message": plan["cause"]}}} if now == "FAILED" else {}
        raise Ended(0, json.dumps({"state": {"state": now, **failed}}), "")
    elif verb == "delete" and there:
        plan["states"] = []
    elif verb == "ssh" and plan["ssh"]:
        output = plan["ssh"].pop(0)
        if output == "SIGTERM":
            os.kill(os.getppid(), 15)
            output = "running\n"
        if output is None:
            raise Ended(
                255, "", "ERROR: (gcloud.ssh) [/usr/bin/ssh] exited with return code [255]."
            )
        raise Ended(0, output, "")


def gcloud(plan: dict, words: list[str]) -> None:
    command = next((c for c in FLAGS if words[: len(c.split())] == c.split()), None)
    if command is None:
        raise Ended(2, "", f"ERROR: (gcloud) Invalid choice: {words}")
    check(command, words)
    if command in plan["answers"]:
        answer = plan["answers"][command]
        raise Ended(0, answer, "") if isinstance(answer, str) else Ended(answer[0], "", answer[1])
    if command.startswith(QR):
        zone = next((w.removeprefix("--zone=") for w in words if w.startswith("--zone=")), "")
        queued_resources(plan, command.split()[-1], zone)
    elif command == "storage cp" and words[2] == "-":
        plan["stdin"][words[3]] = sys.stdin.buffer.read().decode(errors="replace")
    elif command == "storage ls":
        if not plan["ls"]:
            raise Ended(1, "", "ERROR: (gcloud.storage.ls) One or more URLs matched no objects.")
        raise Ended(0, plan["ls"].pop(0), "")
    elif command == "storage cat":
        files = plan["cat"] | plan["stdin"]
        if words[2] not in files:
            raise Ended(1, "", "ERROR: (gcloud.storage.cat) The following URLs matched no objects")
        raise Ended(0, files[words[2]], "")


def kubectl(plan: dict, words: list[str]) -> None:
    if words != ["apply", "-f", "-"]:
        raise Ended(1, "", f"error: unknown command {words}")
    plan["stdin"]["kubectl"] = sys.stdin.read()
    name = json.loads(plan["stdin"]["kubectl"])["metadata"]["name"]
    if answer := plan["answers"].get("kubectl"):
        raise Ended(answer[0], "", answer[1])
    raise Ended(0, f"jobset.jobset.x-k8s.io/{name} created\n", "")


def main(path: str, program: str, *words: str) -> None:
    plan = json.loads(Path(path).read_text())
    plan["calls"].append(list(words))
    try:
        {"gcloud": gcloud, "kubectl": kubectl}[program](plan, list(words))
        ended = 0, "", ""
    except Ended as e:
        ended = e.args
    Path(f"{path}.new").write_text(json.dumps(plan))
    os.replace(f"{path}.new", path)  # a test may read it at any moment
    print(ended[1], end="")
    print(ended[2], end="", file=sys.stderr)
    sys.exit(ended[0])


if __name__ == "__main__":
    main(*sys.argv[1:])
