"""A hub of data sets on this machine, for the real `datasets` library: its files over HTTP."""

import hashlib
import http.server
import json
import threading
import urllib.parse
from collections.abc import Iterator
from typing import Any

import pytest

from data.read import hf_records

FIRST_COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub:
    """The data sets that are served.

    Attributes:
      files: {"OWNER/NAME": {path in the repository: content}}. gated: names that need a login.
      revisions: the revisions that each data set has. requests: the paths asked for.
    """

    def __init__(self) -> None:
        self.files: dict[str, dict[str, bytes]] = {}
        self.gated: set[str] = set()
        self.revisions = {"main", FIRST_COMMIT}
        self.requests: list[str] = []
        self.commit = FIRST_COMMIT

    def move(self, commit: str) -> None:
        """Makes another commit of the same files."""
        self.revisions.add(commit)
        self.commit = commit


class _Handler(http.server.BaseHTTPRequestHandler):
    hub: Hub

    def log_message(self, format: str, *arguments: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self.answer()

    def do_GET(self) -> None:
        self.answer()

    def do_POST(self) -> None:
        self.answer(self.rfile.read(int(self.headers.get("Content-Length", 0))))

    def answer(self, posted: bytes = b"") -> None:
        path = urllib.parse.unquote(urllib.parse.urlparse(self.path).path)
        self.hub.requests.append(f"{self.command} {path}")
        self.commit = self.hub.commit
        parts = path.removeprefix("/api").strip("/").split("/")
        name, rest = "/".join(parts[1:3]), parts[3:]
        if parts[0] != "datasets" or name not in self.hub.files:
            return self.refuse(404, "RepoNotFound")
        verb, revision = (*rest, "info", "main")[0], (*rest[1:], "main")[0]
        if rest[1:] and revision not in self.hub.revisions:
            return self.refuse(404, "RevisionNotFound")
        self.commit = self.hub.commit if revision == "main" else revision
        files = self.hub.files[name]
        if verb == "resolve":
            if name in self.hub.gated:
                return self.refuse(401, "GatedRepo")
            inside = "/".join(rest[2:])
            if inside not in files:
                return self.refuse(404, "EntryNotFound")
            return self.send(files[inside])
        entries = [
            {"type": "file", "path": path, "size": len(content), "oid": _oid(content)}
            for path, content in files.items()
        ]
        folder = "".join(f"{part}/" for part in rest[2:])
        if verb == "tree":
            inside = [entry for entry in entries if entry["path"].startswith(folder)]
            if not inside:
                return self.refuse(404, "EntryNotFound")
            return self.send(json.dumps(_listed(inside, folder)).encode())
        if verb == "paths-info":
            asked = urllib.parse.parse_qs(posted.decode()).get("paths", [])
            if self.headers.get("Content-Type", "").startswith("application/json"):
                asked = json.loads(posted)["paths"]
            return self.send(json.dumps([e for e in entries if e["path"] in asked]).encode())
        siblings = [{"rfilename": path} for path in files]
        info = {"id": name, "sha": self.commit, "siblings": siblings, "private": False, "tags": []}
        return self.send(json.dumps(info).encode())

    def send(self, content: bytes) -> None:
        start, status, size = 0, 200, len(content)
        if (asked := self.headers.get("Range")) and asked.startswith("bytes="):
            first, _, last = asked.removeprefix("bytes=").partition("-")
            start, end = int(first), int(last) + 1 if last else size
            status, content = 206, content[start:end]
        self.send_response(status)
        if status == 206:
            end = start + len(content) - 1
            self.send_header("Content-Range", f"bytes {start}-{end}/{size}")
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Content-Type", "application/json")
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("ETag", f'"{_oid(content)}"')
        self.send_header("X-Repo-Commit", self.commit)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def refuse(self, status: int, code: str) -> None:
        self.send_response(status)
        self.send_header("X-Error-Code", code)
        self.send_header("X-Error-Message", code)
        self.send_header("Content-Length", "0")
        self.end_headers()


def _listed(entries: list[dict], folder: str) -> list[dict]:
    """The files that lie in a folder, and its folders."""
    names = [entry["path"].removeprefix(folder) for entry in entries]
    files = [entry for entry, name in zip(entries, names) if "/" not in name]
    folders = {name.partition("/")[0] for name in names if "/" in name}
    return files + [
        {"type": "directory", "path": folder + name, "size": 0, "oid": _oid(name.encode())}
        for name in sorted(folders)
    ]


def _oid(content: bytes) -> str:
    return hashlib.sha1(content, usedforsecurity=False).hexdigest()


@pytest.fixture
def hub(monkeypatch, tmp_path) -> Iterator[Hub]:
    """A hub on a port of this machine, which `datasets` asks, with empty caches."""
    datasets = pytest.importorskip("datasets", reason="the extra `hf` is not installed")
    import huggingface_hub.constants

    hub = Hub()
    handler = type("Handler", (_Handler,), {"hub": hub, "protocol_version": "HTTP/1.1"})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}"
    for module, name, value in (
        (datasets.config, "HF_ENDPOINT", url),
        (datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets"),
        (huggingface_hub.constants, "ENDPOINT", url),
        (
            huggingface_hub.constants,
            "HUGGINGFACE_CO_URL_TEMPLATE",
            url + "/{repo_id}/resolve/{revision}/{filename}",
        ),
        (huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub")),
    ):
        monkeypatch.setattr(module, name, value)
    datasets.disable_progress_bars()
    hf_records._attempt.cache_clear()
    yield hub
    hf_records._attempt.cache_clear()
    server.shutdown()
    server.server_close()
