"""A local stand-in of the model hub's HTTP API, as huggingface_hub 2.4 calls it, with faults to order.

Two servers: the hub (listing, resolve with redirects) and its file store on another port, which gets no token.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

LFS_BYTES = 1024
"""Files of this size and more lie in the file store."""
_API = re.compile(r"/api/models/([^/]+/[^/]+?)(?:/revision/([^/]+))?")
_RESOLVE = re.compile(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)")


@dataclass
class FakeHub:
    """What is there, what goes wrong, and what was asked for."""

    repos: dict[str, dict[str, bytes]] = field(default_factory=dict)
    commits: dict[str, str] = field(default_factory=dict)
    revisions: dict[str, set[str]] = field(default_factory=dict)
    token: str | None = None
    """Wanted of everyone, once set."""
    gated: set[str] = field(default_factory=set)
    listing_statuses: list[int] = field(default_factory=list)
    """Answers of the next listings, in place of the true ones."""
    cuts: dict[str, list[int]] = field(default_factory=dict)
    """Per file: the next answers end after so many bytes."""
    wrong: dict[str, int] = field(default_factory=dict)
    """Per file: so many answers have a changed byte."""
    bytes_per_s: float | None = None
    requests: list[tuple[str, str, str | None]] = field(default_factory=list)
    """Method and path, and the Range."""
    tokens_at_store: list[str] = field(default_factory=list)
    endpoint: str = ""
    store: str = ""
    lock: threading.Lock = field(default_factory=threading.Lock)

    def put(self, repo: str, files: dict[str, bytes], *, revisions: tuple[str, ...] = ("main",)) -> str:
        """Publish a repository, or its new commit, whose id is returned."""
        digest = hashlib.sha1(repo.encode())
        for name in sorted(files):
            digest.update(name.encode() + files[name])
        self.repos[repo] = files
        self.commits[repo] = digest.hexdigest()
        self.revisions[repo] = {*revisions, digest.hexdigest()}
        return digest.hexdigest()

    def num(self, method: str, part: str) -> int:
        """How many requests of this method had this in their path."""
        return sum(1 for verb, path, _ in self.requests if verb == method and part in path)


@contextmanager
def fake_hub() -> Iterator[FakeHub]:
    """A running hub on loopback."""
    hub = FakeHub()
    servers = []
    for handler in (_HubHandler, _StoreHandler):
        server = ThreadingHTTPServer(("127.0.0.1", 0), type(handler.__name__, (handler,), {"hub": hub}))
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        servers.append(server)
    hub.endpoint, hub.store = (f"http://127.0.0.1:{server.server_address[1]}" for server in servers)
    try:
        yield hub
    finally:
        for server in servers:
            server.shutdown()
            server.server_close()


def blob_id(data: bytes) -> str:
    """Git's id of a small file."""
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


class _Handler(BaseHTTPRequestHandler):
    hub: FakeHub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        return

    def note(self) -> None:
        with self.hub.lock:
            self.hub.requests.append((self.command, unquote(self.path), self.headers.get("Range")))

    def answer(self, status: int, body: bytes = b"", headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def send_file(self, name: str, data: bytes, headers: dict[str, str]) -> None:
        """The file's bytes, from Range on; with the faults that are ordered for it."""
        whole, start, status = data, 0, 200
        if match := re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range") or ""):
            start, status = int(match[1]), 206
            headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
        part = whole[start:]
        if self.command == "HEAD":
            self.answer(status, b"", {**headers, "Content-Length": str(len(part))})
            return
        with self.hub.lock:
            if self.hub.wrong.get(name, 0) > 0:
                self.hub.wrong[name] -= 1
                part = bytes([part[0] ^ 0xFF]) + part[1:]
            cuts = self.hub.cuts.get(name) or []
            cut = cuts.pop(0) if cuts else None
        self.send_response(status)
        for key, value in {**headers, "Content-Length": str(len(part))}.items():
            self.send_header(key, value)
        self.end_headers()
        sent = part if cut is None else part[:cut]
        try:
            if self.hub.bytes_per_s is None:
                self.wfile.write(sent)
            else:
                for at in range(0, len(sent), 65536):
                    self.wfile.write(sent[at : at + 65536])
                    time.sleep(65536 / self.hub.bytes_per_s)
            self.wfile.flush()
        except OSError:
            return
        if cut is not None:
            self.close_connection = True
            self.connection.close()


class _HubHandler(_Handler):
    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        self.note()
        path = unquote(urlsplit(self.path).path)
        if api := _API.fullmatch(path):
            self.listing(api[1], api[2] or "main")
        elif resolve := _RESOLVE.fullmatch(path):
            self.resolve(resolve[1], resolve[2], resolve[3])
        else:
            self.answer(404)

    def refused(self, repo: str, revision: str) -> bool:
        hub = self.hub
        if hub.token is not None and self.headers.get("Authorization") != f"Bearer {hub.token}":
            self.answer(401, b"{}", {"X-Error-Code": "RepoNotFound", "X-Error-Message": "Repository not found"})
        elif repo in hub.gated:
            self.answer(403, b"{}", {"X-Error-Code": "GatedRepo", "X-Error-Message": "gated"})
        elif repo not in hub.repos:
            self.answer(404, b"{}", {"X-Error-Code": "RepoNotFound", "X-Error-Message": "Repository not found"})
        elif revision not in hub.revisions[repo]:
            self.answer(404, b"{}", {"X-Error-Code": "RevisionNotFound", "X-Error-Message": "no such revision"})
        else:
            return False
        return True

    def listing(self, repo: str, revision: str) -> None:
        with self.hub.lock:
            status = self.hub.listing_statuses.pop(0) if self.hub.listing_statuses else 200
        if status != 200:
            self.answer(status, b"{}", {"Retry-After": "3"} if status == 429 else {})
            return
        if self.refused(repo, revision):
            return
        siblings = []
        for name, data in self.hub.repos[repo].items():
            sibling: dict[str, object] = {"rfilename": name, "size": len(data), "blobId": blob_id(data)}
            if len(data) >= LFS_BYTES:
                sibling["lfs"] = {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 130}
            siblings.append(sibling)
        info = {"_id": "0", "id": repo, "modelId": repo, "sha": self.hub.commits[repo], "siblings": siblings}
        self.answer(200, json.dumps(info).encode(), {"Content-Type": "application/json"})

    def resolve(self, repo: str, revision: str, name: str) -> None:
        if self.refused(repo, revision):
            return
        data = self.hub.repos[repo].get(name)
        commit = {"X-Repo-Commit": self.hub.commits[repo]}
        if data is None:
            self.answer(404, b"", {**commit, "X-Error-Code": "EntryNotFound", "X-Error-Message": "no such file"})
        elif len(data) >= LFS_BYTES:
            linked = {"X-Linked-Etag": f'"{hashlib.sha256(data).hexdigest()}"', "X-Linked-Size": str(len(data))}
            self.answer(302, b"", {**commit, **linked, "Location": f"{self.hub.store}/{repo}/{name}"})
        else:
            self.send_file(name, data, {**commit, "ETag": f'"{blob_id(data)}"'})


class _StoreHandler(_Handler):
    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        self.note()
        if token := self.headers.get("Authorization"):
            self.hub.tokens_at_store.append(token)
        owner, name, file = unquote(self.path).lstrip("/").split("/", 2)
        data = self.hub.repos[f"{owner}/{name}"][file]
        self.send_file(file, data, {"ETag": f'"{hashlib.sha256(data).hexdigest()}"', "Accept-Ranges": "bytes"})
