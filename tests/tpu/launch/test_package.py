"""The files that `sync` copies: it prints how many, and refuses those that look like keys."""

import subprocess
import tarfile
from io import BytesIO
from pathlib import Path

import pytest

from tpu.launch import arguments, commands, package, queued, verbs
from tpu.launch.gcloud import LaunchError

ROOT = Path(__file__).parents[3]
JOB = commands.QueuedJob("q", "us-west4-a", "v5e-16", "gs://b")
# Written in two parts, or this file could not be copied itself.
PRIVATE = b"-----BEGIN RSA " + b"PRIVATE KEY-----\nMIIEpAIBAAKCAQEA7bq\n"
ACCOUNT = b'{"type": "service_' + b'account", "private_key_id": "1"}'


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for role in ("AUTHOR", "COMMITTER"):
        monkeypatch.setenv(f"GIT_{role}_NAME", "a")
        monkeypatch.setenv(f"GIT_{role}_EMAIL", "a@b")
    subprocess.run(["git", "init", "-q"], check=True)

    def track(name: str, content: bytes = b"x"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        subprocess.run(["git", "add", "-f", "."], check=True)
        subprocess.run(["git", "commit", "-qm", "a"], check=True)
        return path

    return track


class Recorder:
    dry_run = False

    def __init__(self):
        self.sent = {}

    def __call__(self, command, data=None):
        self.sent[command[-1]] = data


def names(archive: bytes) -> list[str]:
    with tarfile.open(fileobj=BytesIO(archive)) as tar:
        return [m.name for m in tar if m.isfile()]


def test_the_number_of_files_and_their_size_is_said(checkout):
    checkout("a.txt", b"abc").write_bytes(b"changed")
    checkout("folder/b with 'quotes'.txt", b"12345")
    gcloud, said = Recorder(), []
    code = queued.sync(JOB, gcloud, said.append)
    (line,) = said
    assert line.startswith("copying 2 tracked files, 12 bytes (") and line.endswith("gs://b/code")
    archive = gcloud.sent[f"gs://b/code/{code}.tar.gz"]
    assert names(archive) == ["a.txt", "folder/b with 'quotes'.txt"]


@pytest.mark.parametrize(
    "name",
    ["id_rsa", "keys/id_ed25519", "server.PEM", "a/b.key", ".env", ".env.local", "prod.env",
     ".netrc", "credentials.json", "credentials-2.json", "my-credentials.json", "hf_token",
     "client_secret_1.json", "service-account.json", ".git-credentials", "api.token"],
)  # fmt: skip
def test_a_file_with_the_name_of_a_key_is_refused(name, checkout):
    checkout(name)
    gcloud = Recorder()
    with pytest.raises(LaunchError, match="nothing was copied: 1 of the tracked files") as error:
        queued.sync(JOB, gcloud, print)
    assert f"--leave_out={name}" in str(error.value) and f"--take={name}" in str(error.value)
    assert not gcloud.sent


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (PRIVATE, "a private key"),
        (b"# notes\n" + PRIVATE.replace(b"RSA ", b"OPENSSH "), "a private key"),
        (ACCOUNT, "a key of a service account"),
        (b"TOKEN = 'hf_" + b"a1" * 17 + b"'", "a token of the Hugging Face hub"),
        (b"ghp_" + b"Z" * 36, "a token of GitHub"),
        (b"AKIA" + b"Q2" * 8, "a key of AWS"),
        (b"key=AIza" + b"s" * 35, "a key of Google's API"),
    ],
)
def test_a_file_with_the_content_of_a_key_is_refused(content, kind, checkout):
    checkout("notes.txt", content)
    with pytest.raises(LaunchError, match=rf"notes.txt \(it holds {kind}\)"):
        package.build()


def test_what_is_no_key_is_taken_and_a_key_left_out_goes_nowhere(checkout):
    checkout("keyboard.py", b"import secrets  # PRIVATE KEY, hf_x, sk-learn")
    checkout("id_rsa.pub", b"ssh-rsa AAAA")
    assert package.build().files == 2
    secret = checkout("it's $(here).key", b"old secret")
    secret.write_bytes(b"new secret")
    with pytest.raises(LaunchError, match="--take='it'"):
        package.build()
    assert package.build(take=[secret.name]).files == 3
    left = package.build(leave_out=[secret.name])
    assert names(left.archive) == ["id_rsa.pub", "keyboard.py"]
    assert b"new secret" in package.changes()
    assert b"secret" not in package.changes(leave_out=[secret.name])


def test_a_key_in_a_change_that_is_not_committed_is_seen(checkout):
    checkout("a.txt").write_bytes(PRIVATE)
    with pytest.raises(LaunchError, match=r"a.txt \(it holds a private key\)"):
        package.build()


def test_this_checkout_can_be_copied(monkeypatch):
    monkeypatch.chdir(ROOT)
    done = subprocess.run(["git", "ls-files", "-z"], capture_output=True)
    if done.returncode:
        pytest.skip("no git checkout")
    found = {}
    for name in filter(None, done.stdout.decode().split("\0")):
        path = ROOT / name
        if path.is_file() and (why := package.looks_like_key(name, path.read_bytes())):
            found[name] = why
    assert not found


# Names that a shell, gcloud or YAML would read as something else.
HOSTILE = ["a b", "a;id", "$(id)", "`id`", "a'b", 'a"b', "a\nb", "-a", "--flag", "a|b", "a&b", "*"]


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize("flag", ["name", "zone", "bucket", "project", "image", "cluster", "queue"])
def test_names_that_are_none_are_refused(flag, name, capsys):
    value = f"gs://{name}" if flag == "bucket" else name
    values = dict(name="q", zone="us-west4-a", accelerator="v5e-16", bucket="gs://b", image="i:1")
    values |= {"cluster": "c"} | {flag: value}
    verb = "manifest" if flag in ("image", "cluster", "queue") else "up"
    kept = ("name", "zone", "accelerator", "bucket") + ("image", "cluster") * (verb == "manifest")
    words = [f"--{n}={v}" for n, v in values.items() if n in (*kept, flag)]
    assert verbs.main([verb, *words, "--dry_run", "--", "--workdir=gs://b/runs/q"]) == 1
    said = capsys.readouterr()
    assert not said.out and said.err.startswith(f"error: --{flag}=")


@pytest.mark.parametrize(
    "workdir",
    ["--flag", "gs://b/*", "gs://b/../c", "gs://b/a\nb", "gs://b/$(id)", "runs/q", "gs://b/?"],
)
def test_workdirs_that_gcloud_would_read_otherwise_are_refused(workdir):
    with pytest.raises(ValueError, match=r"write gs://BUCKET/FOLDER"):
        arguments.check_remote(workdir)


@pytest.mark.parametrize("name", HOSTILE)
def test_the_shell_of_a_worker_gets_every_name_as_one_word(name):
    """Also if nobody had checked them; `set -n` reads a command and runs nothing."""
    job = JOB._replace(bucket=f"gs://{name}")
    words = ["train", f"--workdir=gs://{name}/runs/a", f"--config.a={name}"]
    command = commands.remote_start(job, name, name, words)
    shown = command[command.index("sh tpu/launch/worker.sh ") :].partition(" >~/")[0]
    script = shown.replace("sh tpu/launch/worker.sh", "printf '%s\\0'", 1)
    out = subprocess.run(["sh", "-c", script], capture_output=True, env={"HOME": "/h"}).stdout
    assert out.decode().split("\0")[:-1] == [
        name, name, "train", "--workdir=/h/bucket/runs/a", f"--config.a={name}", "--distributed"
    ]  # fmt: skip
