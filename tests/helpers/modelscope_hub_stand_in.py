"""A stand-in for ModelScope's hub: a server on loopback that speaks the part of its API we use.

It answers as modelscope_hub 0.5.1 expects: revisions, listings (`repo/files` of models, the paged
`repo/tree` of data sets), files in parts, and uploads by blob and commit.
"""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

TOKEN = "ms-0123456789-the-token-of-a-test"


@dataclass
class Repo:
    """Files by revision, and who may see them."""

    revisions: dict[str, dict[str, bytes]]
    status: int = 200
    """What everyone is answered who comes without the hub's token: 404 private, 403 gated."""
    visibility: int | None = None
    """As the one who made it said: 1 private, 5 public."""


@dataclass
class Asked:
    """One request."""

    method: str
    path: str
    query: dict[str, str]
    range: str | None
    token: str | None


@dataclass
class Hub:
    """What the server holds, how it fails, and what it was asked."""

    url: str = ""
    repos: dict[str, Repo] = field(default_factory=dict)
    """By `models/owner/name` or `datasets/owner/name`."""
    broken: dict[str, int] = field(default_factory=dict)
    """Files whose next answer ends after so many bytes."""
    dead_after: int | None = None
    """Requests for files after which no connection is answered any more."""
    wrong: set[str] = field(default_factory=set)
    """Files that arrive with other bytes than the listing's checksum says."""
    whole_only: bool = False
    """Whether files are given only whole, whatever part is asked for."""
    status: int = 200
    """What every request is answered, where it is not 200."""
    asked: list[Asked] = field(default_factory=list)
    blobs: dict[str, bytes] = field(default_factory=dict)
    messages: list[str] = field(default_factory=list)
    """Of commits."""

    def add(
        self, id: str, files: dict[str, bytes], *, kind: str = "models", **options: Any
    ) -> Repo:
        """A repository with one branch and no tags."""
        self.repos[f"{kind}/{id}"] = Repo(revisions={"master": files}, **options)
        return self.repos[f"{kind}/{id}"]

    def files_asked(self) -> list[str]:
        """Paths of the files that were fetched, wholly or in part."""
        return [a.query["FilePath"] for a in self.asked if a.path.endswith("/repo")]


def files_of(folder: Path) -> dict[str, bytes]:
    """What a folder holds, as a repository's files."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


@contextmanager
def serving() -> Iterator[Hub]:
    """A hub that runs, empty."""
    hub = Hub()
    handler = type("Handler", (_Handler,), {"hub": hub})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        """Say nothing on stderr."""

    def do_GET(self) -> None:
        asked = self.note()
        if self.hub.status != 200:
            return self.refuse(self.hub.status, "the hub is being repaired")
        kind, _, rest = asked.path.removeprefix("/api/v1/").partition("/")
        owner, _, rest = rest.partition("/")
        name, _, what = rest.partition("/")
        repo = self.repo(f"{kind}/{owner}/{name}", asked)
        if repo is None:
            return None
        if what == "revisions":
            branches = [{"Revision": revision, "CreatedAt": 1} for revision in repo.revisions]
            return self.answer({"RevisionMap": {"Branches": branches, "Tags": []}})
        files = repo.revisions.get(asked.query.get("Revision", ""))
        if files is None:
            return self.refuse(404, "no such revision")
        if what == ("repo/tree" if kind == "datasets" else "repo/files"):
            return self.answer({"Files": _listing(files, asked.query)})
        if what == "repo" and asked.query["FilePath"] in files:
            return self.give(asked, files[asked.query["FilePath"]])
        return self.refuse(404, "no such file")

    def do_POST(self) -> None:
        asked = self.note()
        body = json.loads(self.read_body() or b"{}")
        if asked.token != TOKEN:
            return self.refuse(401, "user not logged in")
        path = asked.path.removeprefix("/api/v1/")
        if path == "models":
            return self.create(body)
        key, _, _ = path.removeprefix("repos/").partition("/info/lfs/objects/batch")
        if key != path.removeprefix("repos/"):
            objects = [
                {"oid": blob["oid"], "actions": {"upload": {"href": self.blob_url(blob["oid"])}}}
                for blob in body["objects"]
            ]
            return self.answer({"objects": objects})
        key, _, revision = key.partition("/commit/")
        if self.repo(key, asked) is None:
            return None
        return self.commit(key, revision, body)

    def do_PUT(self) -> None:
        asked = self.note()
        if asked.token != TOKEN:
            return self.refuse(401, "user not logged in")
        self.hub.blobs[asked.path.rpartition("/")[2]] = self.read_body()
        return self.answer({})

    def create(self, body: dict[str, Any]) -> None:
        key = f"models/{body['Path']}/{body['Name']}"
        if key in self.hub.repos:
            return self.refuse(400, "already exists", code=10010101001)
        self.hub.repos[key] = Repo(revisions={"master": {}}, visibility=body["Visibility"])
        return self.answer({"Path": body["Path"], "Name": body["Name"]})

    def commit(self, key: str, revision: str, body: dict[str, Any]) -> None:
        files = self.hub.repos[key].revisions.setdefault(revision, {})
        for action in body["actions"]:
            large = action["type"] == "lfs"
            content = action.get("content", "")
            files[action["path"]] = (
                self.hub.blobs[action["sha256"]] if large else base64.b64decode(content)
            )
        self.hub.messages.append(body["commit_message"])
        return self.answer({"oid": "0" * 40})

    def blob_url(self, oid: str) -> str:
        return f"{self.hub.url}/blobs/{oid}"

    def note(self) -> Asked:
        parts = urlsplit(self.path)
        query = {k: v[0] for k, v in parse_qs(parts.query).items()}
        said = self.headers.get("Authorization")
        asked = Asked(
            method=self.command,
            path=parts.path,
            query=query,
            range=self.headers.get("Range"),
            token=said.removeprefix("Bearer ") if said else None,
        )
        self.hub.asked.append(asked)
        return asked

    def repo(self, key: str, asked: Asked) -> Repo | None:
        repo = self.hub.repos.get(key)
        if asked.token not in (None, TOKEN):
            self.refuse(401, f"AccessToken {asked.token} is invalid or expired")
        elif repo is None:
            self.refuse(404, "获取模型信息失败,信息不存在", code=10010205001)
        elif repo.status != 200 and asked.token != TOKEN:
            self.refuse(repo.status, "you have no access to it")
        else:
            return repo
        return None

    def give(self, asked: Asked, content: bytes) -> None:
        path = asked.query["FilePath"]
        if self.hub.dead_after is not None:
            self.hub.dead_after -= 1
            if self.hub.dead_after < 0:
                self.close_connection = True
                return
        if path in self.hub.wrong:
            content = bytes(byte ^ 1 for byte in content)
        start = 0
        if asked.range and not self.hub.whole_only:
            start = int(asked.range.removeprefix("bytes=").partition("-")[0])
        part = content[start:]
        self.send_response(206 if start else 200)
        if start:
            last = len(content) - 1
            self.send_header("Content-Range", f"bytes {start}-{last}/{len(content)}")
        self.send_header("Content-Type", "application/octet-stream")
        self.send_header("Content-Length", str(len(part)))
        self.end_headers()
        if path in self.hub.broken:
            part = part[: self.hub.broken.pop(path)]
            self.close_connection = True
        self.wfile.write(part)

    def answer(self, data: Any) -> None:
        self.send(200, {"Code": 200, "Data": data, "Message": "success", "Success": True})

    def refuse(self, status: int, message: str, *, code: int = 1) -> None:
        self.send(status, {"Code": code, "Message": message, "Success": False})

    def send(self, status: int, value: Any) -> None:
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def read_body(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))


def _listing(files: dict[str, bytes], query: dict[str, str]) -> list[dict[str, Any]]:
    folders = sorted({path.rpartition("/")[0] for path in files} - {""})
    entries: list[dict[str, Any]] = [{"Path": path, "Type": "tree"} for path in folders]
    entries += [
        {
            "Name": path.rpartition("/")[2],
            "Path": path,
            "Type": "blob",
            "Size": len(content),
            "Sha256": hashlib.sha256(content).hexdigest(),
        }
        for path, content in files.items()
    ]
    if "PageNumber" in query:
        size = int(query["PageSize"])
        start = (int(query["PageNumber"]) - 1) * size
        return entries[start : start + size]
    return entries
