"""A stand-in for a model hub on the loopback: what huggingface_hub asks of one to fetch a model and
to send one. Every push is a commit; `main` is the newest."""

import base64
import hashlib
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from tests.helpers.loopback import serving


class Hub:
    """What lies on the server."""

    def __init__(self) -> None:
        self.url = ""
        self.commits: dict[str, dict[str, dict[str, bytes]]] = {}
        """Repository → commit → files, in the order of their arrival."""
        self.private: dict[str, bool] = {}
        self.fetched: list[str] = []
        """Names of files that were sent out."""

    def add(self, repository: str, files: dict[str, bytes]) -> str:
        """A commit; returns its name."""
        number = len(self.commits.setdefault(repository, {}))
        commit = hashlib.sha1(f"{repository} {number}".encode()).hexdigest()
        self.commits[repository][commit] = files
        return commit

    def add_folder(self, repository: str, folder: Path) -> str:
        return self.add(repository, {p.name: p.read_bytes() for p in folder.iterdir()})

    def find(self, repository: str, revision: str) -> str | None:
        """The commit that is meant."""
        commits = self.commits.get(repository, {})
        if revision == "main":
            return list(commits)[-1] if commits else None
        return revision if revision in commits else None


ROUTES = {
    "info": r"/api/models/(?P<repository>[^/]+/[^/]+)/revision/(?P<revision>[^/?]+)",
    "tree": r"/api/models/(?P<repository>[^/]+/[^/]+)/tree/(?P<revision>[^/?]+)",
    "file": r"/(?P<repository>[^/]+/[^/]+)/resolve/(?P<revision>[^/]+)/(?P<name>[^?]+)",
    "create": r"/api/repos/create",
    "card": r"/api/validate-yaml",
    "preupload": r"/api/models/(?P<repository>[^/]+/[^/]+)/preupload/(?P<revision>[^/?]+)",
    "commit": r"/api/models/(?P<repository>[^/]+/[^/]+)/commit/(?P<revision>[^/?]+)",
}


class Handler(BaseHTTPRequestHandler):
    """One request. The server's class attribute `hub` holds the files."""

    hub: Hub

    def do_HEAD(self) -> None:
        self._answer(b"")

    def do_GET(self) -> None:
        self._answer(b"")

    def do_POST(self) -> None:
        self._answer(self.rfile.read(int(self.headers.get("Content-Length", 0))))

    def _answer(self, body: bytes) -> None:
        path = unquote(self.path)
        for name, route in ROUTES.items():
            match = re.match(route + r"(\?.*)?$", path)
            if match:
                return getattr(self, f"_{name}")(body, **match.groupdict())
        return self._send(404, {"error": path})

    def _commit_of(self, repository: str, revision: str) -> str | None:
        found = self.hub.find(repository, revision)
        if found is None:
            has = repository in self.hub.commits
            code = "RevisionNotFound" if has else "RepoNotFound"
            self._send(404, {"error": "not found"}, {"X-Error-Code": code})
        return found

    def _info(self, body: bytes, repository: str, revision: str) -> None:
        if commit := self._commit_of(repository, revision):
            names = [{"rfilename": name} for name in self.hub.commits[repository][commit]]
            self._send(200, {"id": repository, "sha": commit, "siblings": names})

    def _tree(self, body: bytes, repository: str, revision: str) -> None:
        if commit := self._commit_of(repository, revision):
            files = self.hub.commits[repository][commit].items()
            entries = [
                {"type": "file", "path": name, "size": len(data), "oid": _oid(data)}
                for name, data in files
            ]
            self._send(200, entries)

    def _file(self, body: bytes, repository: str, revision: str, name: str) -> None:
        if commit := self._commit_of(repository, revision):
            data = self.hub.commits[repository][commit].get(name)
            if data is None:
                return self._send(404, {}, {"X-Error-Code": "EntryNotFound"})
            if self.command == "GET":
                self.hub.fetched.append(name)
            self._send(200, data, {"ETag": f'"{_oid(data)}"', "X-Repo-Commit": commit})
        return None

    def _create(self, body: bytes) -> None:
        asked = json.loads(body)
        repository = f"{asked['organization']}/{asked['name']}"
        if repository.startswith("closed/"):
            return self._send(403, {"error": "you may not write here"})
        self.hub.private[repository] = asked["visibility"] == "private"
        self.hub.commits.setdefault(repository, {})
        return self._send(200, {"url": f"{self.hub.url}/{repository}"})

    def _card(self, body: bytes) -> None:
        self._send(200, {"errors": [], "warnings": []})

    def _preupload(self, body: bytes, repository: str, revision: str) -> None:
        files = json.loads(body)["files"]
        modes = [{"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in files]
        self._send(200, {"files": modes})

    def _commit(self, body: bytes, repository: str, revision: str) -> None:
        lines = [json.loads(line) for line in body.splitlines()]
        values = [line["value"] for line in lines if line["key"] == "file"]
        commit = self.hub.add(
            repository, {value["path"]: base64.b64decode(value["content"]) for value in values}
        )
        url = f"{self.hub.url}/{repository}/commit/{commit}"
        self._send(200, {"success": True, "commitOid": commit, "commitUrl": url})

    def _send(self, status: int, content: Any, headers: dict[str, str] | None = None) -> None:
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def log_message(self, *args: Any) -> None:
        """Silent."""


def _oid(data: bytes) -> str:
    """The name that git gives a blob."""
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


@contextmanager
def hub_server() -> Iterator[Hub]:
    """On a free port of the loopback."""
    hub = Hub()
    handler = type("HubHandler", (Handler,), {"hub": hub})
    with serving(handler) as hub.url:
        yield hub
