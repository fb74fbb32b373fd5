"""The code of a job: the tracked files, none of which may look like a key."""

from __future__ import annotations

import fnmatch
import io
import re
import shlex
import subprocess
import tarfile
from collections.abc import Sequence
from typing import NamedTuple

from tpu.launch.gcloud import LaunchError

# Names of files that hold keys, as a rule; the case does not matter.
KEY_NAMES = (
    *(
        "id_rsa*",
        "id_dsa*",
        "id_ecdsa*",
        "id_ed25519*",
        "*.pem",
        "*.key",
        "*.ppk",
        "*.p12",
        "*.pfx",
    ),
    *("*.jks", "*.keystore", "*.kdbx", ".env", ".env.*", "*.env", ".netrc", "_netrc", ".pypirc"),
    *(".npmrc", ".pgpass", ".git-credentials", ".htpasswd", "kubeconfig", "credentials"),
    *("credentials*.json", "*credentials.json", "client_secret*.json", "service?account*.json"),
    *("token", "*.token", "*_token", "token.txt", "secrets.*"),
)
PUBLIC_NAMES = ("*.pub",)
# Content of keys; what is searched is the first CONTENT_BYTES of a file.
CONTENT_BYTES = 1 << 20
KEY_CONTENT = {
    "a private key": rb"-----BEGIN [A-Z ]{0,40}PRIVATE KEY-----\s+[A-Za-z0-9+/=]{16}",
    "a key of a service account": rb'"type"\s*:\s*"service_account"',
    "a token of the Hugging Face hub": rb"\bhf_[A-Za-z0-9]{30,}\b",
    "a token of GitHub": rb"\b(gh[pousr]_[A-Za-z0-9]{36,}|github_pat_\w{60,})\b",
    "a key of Google's API": rb"\bAIza[\w-]{35}\b",
    "a key of AWS": rb"\b(AKIA|ASIA)[0-9A-Z]{16}\b",
    "a token of Slack": rb"\bxox[abprs]-[\w-]{20,}",
    "a key of an API": rb"\bsk-[A-Za-z0-9_-]{40,}\b",
}
MOST_NAMED = 5  # files in a message


class Package(NamedTuple):
    """The archive of a job's code.

    Attributes:
      code: the commit that names it. archive: a gzipped tar. files, size: their number, and their
        bytes unpacked.
    """

    code: str
    archive: bytes
    files: int
    size: int

    def __str__(self) -> str:
        return f"{self.files:,} tracked files, {self.size:,} bytes ({len(self.archive):,} packed)"


def build(take: Sequence[str] = (), leave_out: Sequence[str] = ()) -> Package:
    """The tracked files in their current state.

    Args:
      take: files to take although they look like keys. leave_out: files to leave out.

    Raises:
      LaunchError: this is not a git checkout, or a file looks like a key.
    """
    stash, head = (
        subprocess.run(["git", *words], capture_output=True, text=True).stdout.strip()
        for words in (["stash", "create"], ["rev-parse", "HEAD"])
    )
    if not head:
        raise LaunchError("run this from a git checkout of Seedpod: its tracked files are copied")
    archived = subprocess.run(
        ["git", "archive", "--format=tar.gz", stash or head, *_paths(leave_out)],
        capture_output=True,
    )
    if archived.returncode:
        raise LaunchError(f"git archive: {archived.stderr.decode(errors='replace').strip()}")
    files, size, keys = _examine(archived.stdout, take)
    if keys:
        raise LaunchError(_refusal(keys))
    return Package((stash or head)[:12], archived.stdout, files, size)


def changes(leave_out: Sequence[str] = ()) -> bytes:
    """The commit and the difference to it of the tracked files, as text."""
    git = [["git", "log", "-1", "--format=commit %H"], ["git", "diff", "HEAD", *_paths(leave_out)]]
    return b"\n".join(subprocess.run(words, capture_output=True).stdout for words in git)


def _paths(leave_out: Sequence[str]) -> list[str]:
    """The arguments of git for all files but some."""
    return ["--", ".", *(f":(exclude,literal){path}" for path in leave_out)] if leave_out else []


def _examine(archive: bytes, take: Sequence[str]) -> tuple[int, int, dict[str, str]]:
    """(number of files, their bytes, {file that looks like a key: why})."""
    files, size, keys = 0, 0, {}
    with tarfile.open(fileobj=io.BytesIO(archive), mode="r:gz") as tar:
        for member in tar:
            if not (member.isfile() or member.issym()):
                continue
            files, size = files + 1, size + member.size
            file = tar.extractfile(member) if member.isfile() else None
            content = file.read(CONTENT_BYTES) if file else b""
            if member.name not in take and (why := looks_like_key(member.name, content)):
                keys[member.name] = why
    return files, size, keys


def looks_like_key(path: str, content: bytes) -> str:
    """Why a file looks like one that holds a key; "" if it does not.

    Args:
      content: its first bytes.
    """
    name = path.rpartition("/")[2].lower()
    if any(fnmatch.fnmatchcase(name, pattern) for pattern in PUBLIC_NAMES):
        return ""
    if any(fnmatch.fnmatchcase(name, pattern) for pattern in KEY_NAMES):
        return "by its name"
    kinds = (kind for kind, pattern in KEY_CONTENT.items() if re.search(pattern, content))
    return next((f"it holds {kind}" for kind in kinds), "")


def _refusal(keys: dict[str, str]) -> str:
    """The error about files that look like keys."""
    named = [f"{path} ({why})" for path, why in keys.items()][:MOST_NAMED]
    more = f" and {len(keys) - MOST_NAMED} more" if len(keys) > MOST_NAMED else ""
    first = shlex.quote(next(iter(keys)))
    return (
        f"nothing was copied: {len(keys)} of the tracked files look like keys: "
        f"{', '.join(named)}{more}. For each, type --leave_out={first} to leave it out, or "
        f"--take={first} if it is no secret"
    )
