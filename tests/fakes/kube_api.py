"""An API server on loopback: discovery, paged lists, and every way of refusing that a client must understand.

It answers from a dict of objects by path; `faults` are answered in place of them, by path and first come.
"""

from __future__ import annotations

import json
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar
from urllib.parse import parse_qs, urlsplit

Objects = dict[str, list[dict[str, Any]]]

KINDS = {
    "/api/v1/nodes": ("Node", False),
    "/api/v1/pods": ("Pod", True),
    "/api/v1/namespaces": ("Namespace", False),
    "/api/v1/secrets": ("Secret", True),
    "/api/v1/configmaps": ("ConfigMap", True),
    "/apis/compute.coreweave.com/v1alpha1/nodepools": ("NodePool", False),
    "/apis/karpenter.sh/v1/nodepools": ("NodePool", False),
    "/apis/scheduling.k8s.io/v1/priorityclasses": ("PriorityClass", False),
    "/apis/kueue.x-k8s.io/v1beta2/clusterqueues": ("ClusterQueue", False),
    "/apis/kueue.x-k8s.io/v1beta1/clusterqueues": ("ClusterQueue", False),
    "/apis/kueue.x-k8s.io/v1beta2/localqueues": ("LocalQueue", True),
}
"""What is served: list path to kind and whether it has namespaces; a group's first version is the preferred one."""


@dataclass(slots=True)
class Answer:
    """One fault: this, in place of what would be answered."""

    status: int
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    hangs_up: bool = False
    """Close the connection without an answer."""


@dataclass(slots=True)
class Asked:
    """One request that came."""

    path: str
    params: dict[str, str]
    headers: dict[str, str]


def status(code: int, reason: str, message: str, **headers: str) -> Answer:
    """An error as the API server writes it."""
    body = {
        "kind": "Status",
        "apiVersion": "v1",
        "status": "Failure",
        "reason": reason,
        "message": message,
        "code": code,
    }
    return Answer(code, json.dumps(body).encode(), headers)


class KubeApi:
    """The stand-in. `objects` are items by list path, without apiVersion and kind, as the API server sends them."""

    def __init__(
        self,
        objects: Objects | None = None,
        *,
        aggregated: bool = True,
        tokens: Iterable[str] = (),
        tls: ssl.SSLContext | None = None,
        max_page: int = 1_000_000,
        kinds: Mapping[str, tuple[str, bool]] = KINDS,
    ) -> None:
        self.kinds = kinds
        self.objects: Objects = {path: [] for path in kinds} | (objects or {})
        self.aggregated = aggregated
        self.tokens = set(tokens)
        """Empty: nobody is asked for one."""
        self.max_page = max_page
        self.faults: dict[str, list[Answer]] = {}
        """By path, each given once; a fault for PATH with the key `PATH?continue` is for later pages alone."""
        self.always: dict[str, Answer] = {}
        self.delays_s: dict[str, float] = {}
        """Before any answer, by path."""
        self.asked: list[Asked] = []
        self.most_at_once = 0
        self._at_once = 0
        self._lock = threading.Lock()
        self._server = _Server(("127.0.0.1", 0), type("Bound", (_Handler,), {"api": self}))
        if tls is not None:
            self._server.socket = tls.wrap_socket(self._server.socket, server_side=True, do_handshake_on_connect=False)
        self.scheme = "https" if tls is not None else "http"

    @property
    def port(self) -> int:
        return int(self._server.server_address[1])

    @property
    def url(self) -> str:
        return f"{self.scheme}://127.0.0.1:{self.port}"

    @contextmanager
    def running(self) -> Iterator[KubeApi]:
        thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        try:
            yield self
        finally:
            self._server.shutdown()
            self._server.server_close()
            thread.join(5)

    def paths(self) -> list[str]:
        """What was asked for, in order."""
        return [one.path for one in self.asked]

    def answer(self, asked: Asked) -> Answer:
        with self._lock:
            self.asked.append(asked)
            self._at_once += 1
            self.most_at_once = max(self.most_at_once, self._at_once)
            later = f"{asked.path}?continue"
            key = later if "continue" in asked.params and self.faults.get(later) else asked.path
            fault = self.faults[key].pop(0) if self.faults.get(key) else self.always.get(asked.path)
        try:
            time.sleep(self.delays_s.get(asked.path, 0.0))
            if fault is not None:
                return fault
            if self.tokens and asked.headers.get("authorization", "").removeprefix("Bearer ") not in self.tokens:
                return status(401, "Unauthorized", "Unauthorized")
            return self._served(asked)
        finally:
            with self._lock:
                self._at_once -= 1

    def _served(self, asked: Asked) -> Answer:
        if asked.path == "/version":
            return _json({"gitVersion": "v1.37.2"})
        if asked.path in {"/api", "/apis"}:
            return self._aggregated(asked.path) if self.aggregated else self._plain(asked.path)
        if asked.path in self.objects and asked.path in self.kinds:
            return self._list(asked)
        if not self.aggregated and (found := list(_resources(asked.path, self.kinds))):
            return _json({"kind": "APIResourceList", "resources": found})
        return status(404, "NotFound", "the server could not find the requested resource")

    def _list(self, asked: Asked) -> Answer:
        kind, _ = self.kinds[asked.path]
        items = self.objects[asked.path]
        start = int(asked.params.get("continue", "0"))
        end = start + min(int(asked.params.get("limit", "0")) or len(items), self.max_page)
        if "PartialObjectMetadataList" in asked.headers.get("accept", ""):
            page = [{"apiVersion": "meta.k8s.io/v1", "kind": "PartialObjectMetadata", "metadata": item["metadata"]}
                    for item in items[start:end]]  # fmt: skip
            api_version, kind = "meta.k8s.io/v1", "PartialObjectMetadata"
        else:
            page, api_version = (
                items[start:end],
                asked.path.rpartition("/")[0].removeprefix("/apis/").removeprefix("/api/"),
            )
        metadata: dict[str, Any] = {"resourceVersion": "7"}
        if end < len(items):
            metadata |= {"continue": str(end), "remainingItemCount": len(items) - end}
        return _json({"kind": f"{kind}List", "apiVersion": api_version, "metadata": metadata, "items": page})

    def _aggregated(self, path: str) -> Answer:
        groups: dict[str, dict[str, list[dict[str, Any]]]] = {}
        for listed, (kind, namespaced) in self.kinds.items():
            group, version, plural = _parts(listed)
            if (path == "/api") == (group == "") and listed in self.objects:
                groups.setdefault(group, {}).setdefault(version, []).append({
                    "resource": plural,
                    "responseKind": {"group": group, "version": version, "kind": kind},
                    "scope": "Namespaced" if namespaced else "Cluster",
                    "verbs": ["get", "list", "watch"],
                })  # fmt: skip
        return _json({
            "kind": "APIGroupDiscoveryList", "apiVersion": "apidiscovery.k8s.io/v2", "metadata": {},
            "items": [
                {"metadata": {"name": group}, "versions": [
                    {"version": version, "resources": found, "freshness": "Current"}
                    for version, found in versions.items()
                ]}
                for group, versions in groups.items()
            ],
        })  # fmt: skip

    def _plain(self, path: str) -> Answer:
        if path == "/api":
            return _json({"kind": "APIVersions", "versions": ["v1"]})
        groups: dict[str, list[str]] = {}
        for listed in self.kinds:
            group, version, _ = _parts(listed)
            if group and listed in self.objects and version not in groups.setdefault(group, []):
                groups[group].append(version)
        return _json({"kind": "APIGroupList", "groups": [
            {"name": group, "versions": [_version(group, one) for one in sorted(versions)],
             "preferredVersion": _version(group, versions[0])}
            for group, versions in groups.items()
        ]})  # fmt: skip


def _parts(path: str) -> tuple[str, str, str]:
    parts = path.strip("/").split("/")
    return ("", parts[1], parts[2]) if parts[0] == "api" else (parts[1], parts[2], parts[3])


def _version(group: str, version: str) -> dict[str, str]:
    return {"groupVersion": f"{group}/{version}", "version": version}


def _resources(path: str, kinds: Mapping[str, tuple[str, bool]]) -> Iterator[dict[str, Any]]:
    for listed, (kind, namespaced) in kinds.items():
        if listed.rpartition("/")[0] == path:
            plural = listed.rpartition("/")[2]
            yield {"name": plural, "kind": kind, "namespaced": namespaced, "verbs": ["get", "list"]}
            yield {"name": f"{plural}/status", "kind": kind, "namespaced": namespaced, "verbs": ["get"]}


def _json(body: object) -> Answer:
    return Answer(200, json.dumps(body).encode(), {"Content-Type": "application/json"})


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that goes away, or a handshake that fails, is what a test is about."""


class _Handler(BaseHTTPRequestHandler):
    api: ClassVar[KubeApi]
    protocol_version = "HTTP/1.1"
    timeout = 10
    log_message: Callable[..., None] = lambda *_args: None

    def setup(self) -> None:
        if isinstance(self.request, ssl.SSLSocket):
            try:
                self.request.do_handshake()
            except OSError:
                # Closed with something unread, the alert would be lost on its way to the client.
                self.request.settimeout(1)
                with suppress(OSError):
                    socket.socket.shutdown(self.request, socket.SHUT_WR)
                    while socket.socket.recv(self.request, 4096):
                        pass
                raise
        super().setup()

    def do_PATCH(self) -> None:
        """Of what `always` or `faults` say: nothing is kept."""
        self.rfile.read(int(self.headers.get("Content-Length", "0")))
        self.do_GET()

    do_DELETE = do_POST = do_PUT = do_PATCH

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        params = {key: values[0] for key, values in parse_qs(parts.query).items()}
        headers = {key.lower(): value for key, value in self.headers.items()}
        answer = self.api.answer(Asked(parts.path, params, headers))
        if answer.hangs_up:
            self.close_connection = True
            return
        self.send_response(answer.status)
        for name, value in answer.headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(answer.body)))
        self.end_headers()
        self.wfile.write(answer.body)
