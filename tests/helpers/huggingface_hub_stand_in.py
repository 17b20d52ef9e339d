"""A stand-in for Hugging Face's hub: a server on loopback that speaks the part of its API we use.

It answers as huggingface_hub expects: who a repository is (`/api/models/...`), its files
(`tree`, `paths-info`), and the files themselves (`resolve`), whole or from a byte on. What is
gated, private, missing or too much is refused by status and `X-Error-Code`, as there.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

TOKEN = "hf_" + "0123456789" + "theTokenOfATest"

_REPO = r"(?P<id>[\w.-]+/[\w.-]+)"
_FILE = re.compile(rf"/(?P<kind>datasets/)?{_REPO}/resolve/(?P<revision>[^/]+)/(?P<path>.+)")
_API = re.compile(
    rf"/api/(?P<kind>models|datasets)/{_REPO}"
    r"(?:/(?P<what>revision|tree|paths-info|refs|discussions)(?:/(?P<revision>[^/]+))?"
    r"(?:/(?P<path>.*))?)?"
)


@dataclass
class Repo:
    """Files by commit, the names of commits, and who may see them."""

    commits: dict[str, dict[str, bytes]]
    names: dict[str, str]
    """Branches and tags; what each means now."""
    closed: str | None = None
    """What everyone is told who comes without the hub's token: GatedRepo or RepoNotFound."""


@dataclass
class Asked:
    """One request."""

    method: str
    path: str
    range: str | None
    token: str | None


@dataclass
class Hub:
    """What the server holds, how it fails, and what it was asked."""

    url: str = ""
    repos: dict[str, Repo] = field(default_factory=dict)
    """By `models/owner/name` or `datasets/owner/name`."""
    broken: dict[str, list[int]] = field(default_factory=dict)
    """Files whose next answers each end after so many bytes."""
    wrong: set[str] = field(default_factory=set)
    """Files that arrive with other bytes than those whose checksum is told."""
    longer: set[str] = field(default_factory=set)
    """Files of which more bytes arrive than were told."""
    strange: dict[str, str] = field(default_factory=dict)
    """Names that a listing gives instead of a file's own."""
    limits: list[int] = field(default_factory=list)
    """Seconds of `Retry-After` of the next answers, each with the status 429."""
    status: int = 200
    """What every request is answered, where it is not 200."""
    silent: threading.Event = field(default_factory=threading.Event)
    """While set, connections are taken and never answered."""
    asked: list[Asked] = field(default_factory=list)

    def add(
        self, id: str, files: dict[str, bytes], *, kind: str = "models", **options: Any
    ) -> Repo:
        """A repository with one commit on the branch main."""
        commit = commit_of(files)
        repo = Repo(commits={commit: files}, names={"main": commit}, **options)
        self.repos[f"{kind}/{id}"] = repo
        return repo

    def files_asked(self) -> list[str]:
        """Paths of the files whose bytes were asked for, wholly or in part."""
        found = (_FILE.fullmatch(asked.path) for asked in self.asked if asked.method == "GET")
        return [unquote(match["path"]) for match in found if match]


def commit_of(files: dict[str, bytes]) -> str:
    """A commit's name: forty hexadecimal digits that its files determine."""
    text = repr(sorted((name, hashlib.sha1(content).digest()) for name, content in files.items()))
    return hashlib.sha1(text.encode()).hexdigest()


def commit(repo: Repo, files: dict[str, bytes], *names: str) -> str:
    """Another commit in a repository, on the branches or tags given."""
    new = commit_of(files)
    repo.commits[new] = files
    repo.names |= dict.fromkeys(names, new)
    return new


def environment(hub_url: str, home: Path, **more: str) -> dict[str, str]:
    """Variables of a process that knows this hub alone, and keeps its cache in a folder."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "HUGGING"))}
    return kept | {
        "HF_ENDPOINT": hub_url,
        "HF_HOME": str(home / "hf"),
        "AGENT_FINETUNE_CACHE": str(home / "own"),
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "OMP_NUM_THREADS": "1",
        **more,
    }


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
        hub.silent.clear()
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        """Say nothing on stderr."""

    def do_GET(self) -> None:
        path, query = self.note()
        if self.failing():
            return
        if found := _FILE.fullmatch(path):
            kind = "datasets" if found["kind"] else "models"
            if opened := self.open(f"{kind}/{found['id']}", found["revision"]):
                self.give(*opened, unquote(found["path"]))
        elif found := _API.fullmatch(path):
            self.tell(found, query)
        else:
            self.refuse(404, None, "no such page")

    do_HEAD = do_GET

    def do_POST(self) -> None:
        body = parse_qs(self.rfile.read(int(self.headers.get("Content-Length") or 0)).decode())
        path, _ = self.note()
        found = _API.fullmatch(path)
        if self.failing():
            return
        if not found or found["what"] != "paths-info":
            return self.refuse(404, None, "no such page")
        opened = self.open(f"{found['kind']}/{found['id']}", found["revision"])
        if opened:
            commit, files = opened
            entries = self.listing(files, "", recursive=True)
            wanted = [entry for entry in entries if entry["path"] in body.get("paths", [])]
            self.answer(wanted, commit)

    def note(self) -> tuple[str, dict[str, list[str]]]:
        parts = urlsplit(self.path)
        said = self.headers.get("Authorization")
        asked = Asked(
            method=self.command,
            path=parts.path,
            range=self.headers.get("Range"),
            token=said.removeprefix("Bearer ") if said else None,
        )
        self.hub.asked.append(asked)
        return asked.path, parse_qs(parts.query)

    def failing(self) -> bool:
        """Whether the hub as a whole has no answer now."""
        if self.hub.silent.is_set():
            while self.hub.silent.wait(0.05) and self.hub.silent.is_set():
                threading.Event().wait(0.05)
            self.close_connection = True
        elif self.hub.limits:
            self.refuse(429, None, "slow down", {"Retry-After": str(self.hub.limits.pop(0))})
        elif self.hub.status != 200:
            self.refuse(self.hub.status, None, "the hub is being repaired")
        else:
            return False
        return True

    def open(self, key: str, revision: str | None) -> tuple[str, dict[str, bytes]] | None:
        """Commit and files, for one who may see them; the others are told why not."""
        repo, token = self.hub.repos.get(key), self.hub.asked[-1].token
        if token not in (None, TOKEN):
            # A hub may echo what it was sent.
            self.refuse(401, None, f"the token {token} is invalid or expired")
        elif repo is None or (repo.closed == "RepoNotFound" and token is None):
            self.refuse(401, "RepoNotFound", "Invalid username or password.")
        elif repo.closed == "GatedRepo" and token is None:
            self.refuse(401, "GatedRepo", "Access to it is restricted; you must be logged in.")
        else:
            wanted = unquote(revision or "main")
            commit = repo.names.get(wanted, wanted)
            if commit in repo.commits:
                return commit, repo.commits[commit]
            self.refuse(404, "RevisionNotFound", f"Invalid rev id: {wanted}")
        return None

    def tell(self, found: re.Match[str], query: dict[str, list[str]]) -> None:
        opened = self.open(f"{found['kind']}/{found['id']}", found["revision"])
        if not opened:
            return
        commit, files = opened
        if found["what"] == "tree":
            recursive = query.get("recursive", [""])[0].lower() in ("true", "1")
            entries = self.listing(files, unquote(found["path"] or ""), recursive=recursive)
            if not entries:
                return self.refuse(404, "EntryNotFound", "no such folder")
            return self.answer(entries, commit)
        if found["what"] == "discussions":
            return self.answer({"discussions": [], "count": 0, "start": 0}, commit)
        siblings = [{"rfilename": self.hub.strange.get(name, name)} for name in files]
        about = {"id": found["id"], "sha": commit, "private": False, "tags": [], "downloads": 0}
        self.answer(about | {"siblings": siblings}, commit)

    def listing(
        self, files: dict[str, bytes], folder: str, *, recursive: bool
    ) -> list[dict[str, Any]]:
        start = f"{folder}/" if folder else ""
        below = {name: content for name, content in files.items() if name.startswith(start)}
        folders = {
            name[: name.index("/", len(start))] for name in below if "/" in name[len(start) :]
        }
        entries: list[dict[str, Any]] = [
            {"type": "directory", "path": path, "oid": "0" * 40, "size": 0}
            for path in sorted(folders)
        ]
        for name, content in below.items():
            if recursive or "/" not in name[len(start) :]:
                digest = hashlib.sha256(content).hexdigest()
                entries.append(
                    {
                        "type": "file",
                        "path": self.hub.strange.get(name, name),
                        "oid": hashlib.sha1(content).hexdigest(),
                        "size": len(content),
                        "lfs": {"oid": digest, "size": len(content), "pointerSize": 134},
                    }
                )
        return entries

    def give(self, commit: str, files: dict[str, bytes], path: str) -> None:
        names = {self.hub.strange.get(name, name): name for name in files}
        if path not in names:
            return self.refuse(404, "EntryNotFound", "Entry not found", {"X-Repo-Commit": commit})
        content = files[names[path]]
        digest = hashlib.sha256(content).hexdigest()
        if path in self.hub.wrong:
            content = bytes(byte ^ 1 for byte in content)
        asked = self.headers.get("Range")
        start = int(asked.removeprefix("bytes=").partition("-")[0]) if asked else 0
        part = content[start:]
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.send_header("ETag", f'"{digest}"')
        self.send_header("X-Linked-Etag", f'"{digest}"')
        self.send_header("X-Linked-Size", str(len(content)))
        self.send_header("X-Repo-Commit", commit)
        self.send_header("Accept-Ranges", "bytes")
        if path in self.hub.longer:
            part += b"and more"
        self.send_header("Content-Length", str(len(part)))
        self.end_headers()
        if self.command == "HEAD":
            return
        if self.hub.broken.get(path):
            part = part[: self.hub.broken[path].pop(0)]
            self.close_connection = True
        self.wfile.write(part)

    def refuse(
        self, status: int, code: str | None, message: str, headers: dict[str, str] | None = None
    ) -> None:
        more = {"X-Error-Code": code} if code else {}
        body = {"error": message}
        self.send(status, body, more | {"X-Error-Message": message} | (headers or {}))

    def answer(self, value: Any, commit: str) -> None:
        self.send(200, value, {"X-Repo-Commit": commit})

    def send(self, status: int, value: Any, headers: dict[str, str]) -> None:
        body = json.dumps(value).encode()
        self.send_response(status)
        for name, text in headers.items():
            self.send_header(name, text)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)
