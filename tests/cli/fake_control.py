"""A stand-in for the daemon: the control API and the few OpenAI paths that the command line calls, on a real socket.

It keeps services in memory, as JSON, and records each call. It decides nothing: a test says what is there.
"""

from __future__ import annotations

import io
import json
import re
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

NOW_S = 1_795_500_000.0
"""The moment at which every test's ages are told."""


class _QuietServer(ThreadingHTTPServer):
    """A client that goes away is no news: its traceback would land in the output under test."""

    def handle_error(self, request: object, client_address: object) -> None:
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Result:
    """What a command line did."""

    status: int
    out: str
    err: str


Run = Callable[..., Result]


class Terminal(io.StringIO):
    """What a person types at a terminal."""

    def isatty(self) -> bool:
        return True


def replica(name: str = "chat-abcde", **changes: Any) -> dict[str, Any]:
    return {
        "id": name, "pid": 4711, "state": "ready", "phase": "", "reason": "", "port": 40001, "devices": ["cpu"],
        "engine": "openvino", "generation": 1, "since_s": NOW_S - 300, "in_flight": 0,
    } | changes  # fmt: skip


def service(name: str = "chat", **changes: Any) -> dict[str, Any]:
    return {
        "name": name,
        "namespace": "default",
        "kind": "InferenceService",
        "state": "ready",
        "reason": "",
        "url": "http://127.0.0.1:11500/v1",
        "engine": "openvino",
        "model": {"uri": "hf://HuggingFaceTB/SmolLM2-135M-Instruct", "note": None},
        "generation": 1,
        "created_s": NOW_S - 600,
        "replicas": [replica(f"{name}-abcde")],
        "scaling": {
            "min_replicas": 0, "max_replicas": 4, "metric": "concurrency", "target": 8.0, "stable_window_s": 60.0,
            "park_for_s": None, "pinned": None,
        },
        "in_flight": 2,
        "held": 1,
        "requests_per_s": 0.5,
        "tokens_per_s": 12.25,
        "notes": [],
        "manifest": {"kind": "InferenceService", "metadata": {"name": name}},
    } | changes  # fmt: skip


def run_of(name: str = "tuned", **changes: Any) -> dict[str, Any]:
    return {
        "name": name, "namespace": "default", "kind": "TrainJob", "state": "running", "reason": "step 20",
        "phase": "", "model": "hf://owner/name", "method": "full", "output": "/out", "generation": 1,
        "created_s": NOW_S - 600, "since_s": NOW_S - 500, "attempt": 1, "num_failures": 0, "retry_at_s": None,
        "num_ranks": 2, "ranks": [{"rank": 0, "pid": 4801, "device": "cpu"}, {"rank": 1, "pid": 4802, "device": "cpu"}],
        "devices": ["cpu", "cpu"], "device_s": 1000.0, "step": 20, "num_steps": 100, "checkpoint_step": 10,
        "last": {"loss": 2.5, "tokens_per_s": 1234.5, "remaining_s": 300.0, "remaining_device_s": 600.0,
                 "step_s": 2.0, "parts_s": {"forward": 1.0, "backward": 0.9}},
        "loss_curve": [[1, 3.0], [20, 2.5]], "eval_curve": [[0, 3.1], [10, 2.7]], "samples": [], "num_skipped": 0,
        "notes": ["rows.jsonl: 60 rows."], "report": None, "manifest": {"kind": "TrainJob"},
    } | changes  # fmt: skip


def event(seq: int, **changes: Any) -> dict[str, Any]:
    return {
        "seq": seq, "wall_time_s": NOW_S - 240, "kind": "replica.ready", "service": "chat", "replica": "chat-abcde",
        "reason": "Ready", "message": "the engine answers after 1.2s", "devices": ["cpu"], "data": {},
    } | changes  # fmt: skip


def request(seq: int, **changes: Any) -> dict[str, Any]:
    return {
        "seq": seq, "request_id": f"req-{seq}", "wall_time_s": NOW_S - 60, "service": "chat",
        "path": "/v1/chat/completions", "stream": True, "key_id": "", "outcome": "ok", "status": 200,
        "replica": "chat-abcde", "prompt_tokens": 12, "completion_tokens": 34, "ttft_s": 0.05, "held_s": 0.0,
        "duration_s": 1.5, "num_retries": 0,
    } | changes  # fmt: skip


class FakeControl:
    """Start with `with FakeControl() as fake`; `fake.url` is where it listens."""

    def __init__(self) -> None:
        self.services: dict[str, dict[str, Any]] = {}
        self.runs: dict[str, dict[str, Any]] = {}
        self.events: list[dict[str, Any]] = []
        self.requests: list[dict[str, Any]] = []
        self.keys: list[dict[str, Any]] = []
        self.log_lines: list[tuple[str, str]] = []
        self.log_errors: list[tuple[str, str]] = []
        self.calls: list[tuple[str, str, Any]] = []
        self.answers: dict[tuple[str, str], tuple[int, Any]] = {}
        """(method, path) → a fixed answer in place of what would be given."""
        self.on_call: Callable[[str, str], None] = lambda _method, _path: None
        self.chat: list[bytes] = []
        """Lines of the next streamed chat completion."""
        self.batches: list[dict[str, Any]] = []
        """What GET /v1/batches/ID answers, one after the other; the last again and again."""
        self.files: dict[str, bytes] = {}
        self.api_key: str | None = None
        self.authorizations: list[str | None] = []
        self.is_ready = True

    def __enter__(self) -> FakeControl:
        fake = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                fake._handle(self)

            do_POST = do_DELETE = do_GET

            def log_message(self, *args: object) -> None:
                pass

        self._server = _QuietServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.port = self._server.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def _handle(self, handler: BaseHTTPRequestHandler) -> None:
        body = handler.rfile.read(int(handler.headers.get("Content-Length") or 0))
        parts = urlsplit(handler.path)
        query = {name: values[0] for name, values in parse_qs(parts.query).items()}
        method, path = handler.command, parts.path
        self.authorizations.append(handler.headers.get("Authorization"))
        is_json = handler.headers.get("Content-Type") == "application/json"
        said: Any = json.loads(body) if body and is_json else body
        self.calls.append((method, handler.path, said))
        self.on_call(method, path)
        if self.api_key and handler.headers.get("Authorization") != f"Bearer {self.api_key}":
            answer: tuple[int, Any] = _error(401, "a key is needed", "invalid_api_key")
        else:
            answer = self.answers.get((method, path)) or self._answer(method, path, query, said)
        status, content = answer
        if isinstance(content, list) and content and isinstance(content[0], bytes):  # a stream: no length
            handler.send_response(status)
            handler.send_header("Connection", "close")
            handler.end_headers()
            for line in content:
                handler.wfile.write(line)
                handler.wfile.flush()
            handler.close_connection = True
            return
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        handler.send_response(status)
        handler.send_header("Content-Length", str(len(data)))
        handler.end_headers()
        handler.wfile.write(data)

    def _answer(self, method: str, path: str, query: dict[str, str], body: Any) -> tuple[int, Any]:
        if path == "/readyz":
            return (200, {}) if self.is_ready else (503, {})
        if path == "/api/v1/status":
            return 200, self.status()
        if path == "/api/v1/shutdown":
            return 200, {"stopping": True, "stop_replicas": body["stop_replicas"]}
        if path == "/api/v1/apply":
            return 200, {"services": [self._apply(manifest) for manifest in body["manifests"]]}
        if path == "/api/v1/services":
            return 200, [self.services[name] for name in sorted(self.services)]
        if path == "/api/v1/runs":
            return 200, [self.runs[name] for name in sorted(self.runs)]
        if match := re.fullmatch(r"/api/v1/runs/([^/]+)(/logs|/profile)?", path):
            return self._run(method, match[1], match[2] or "")
        if path == "/api/v1/events":
            mine = [e for e in self.events if e["service"] == query.get("service", e["service"])]
            return 200, [e for e in mine if e["seq"] > int(query.get("after", 0))][-int(query["limit"]) :]
        if path == "/api/v1/requests":
            return 200, [r for r in self.requests if r["service"] == query.get("service", r["service"])][::-1]
        if match := re.fullmatch(r"/api/v1/services/([^/]+)(/\w+)?", path):
            return self._service(method, match[1], match[2] or "", query, body)
        if path.startswith("/api/v1/keys"):
            return self._keys(method, path, body)
        if path == "/v1/chat/completions":
            return 200, self.chat
        if path == "/v1/files":
            self.files["file-in"] = body
            return 200, {"id": "file-in"}
        if match := re.fullmatch(r"/v1/files/([^/]+)/content", path):
            return 200, self.files[match[1]]
        if path == "/v1/batches" or path.startswith("/v1/batches/"):
            return 200, self.batches.pop(0) if len(self.batches) > 1 else self.batches[0]
        return _error(404, f"there is nothing at {path}", None)

    def _run(self, method: str, name: str, rest: str) -> tuple[int, Any]:
        if name not in self.runs:
            return _error(404, f"there is no run {name!r}", "run_not_found")
        if method == "DELETE":
            del self.runs[name]
            return 200, {"name": name}
        if rest == "/profile":
            self.runs[name]["profile"] = {
                "first_step": 21, "last_step": 23, "paths": ["/out/logs/a.json", "/out/logs/b.json"], "request": "r1",
            }  # fmt: skip
            return 200, {"name": name, "steps": 3, "request": "r1"}
        if rest:
            lines = [json.dumps({"replica": who, "line": line}).encode() + b"\n" for who, line in self.log_lines]
            return 200, lines
        return 200, self.runs[name]

    def _service(self, method: str, name: str, what: str, query: dict[str, str], body: Any) -> tuple[int, Any]:
        if name not in self.services:
            known = ", ".join(sorted(self.services))
            return _error(404, f"there is no service {name!r}", "service_not_found", hint=f"services are: {known}")
        if method == "DELETE":
            del self.services[name]
            return 200, {"name": name}
        if what == "/scale":
            self.services[name]["scaling"]["pinned"] = body["replicas"] or None
        if what == "/logs":
            wanted = query.get("replica")
            lines = [{"replica": r, "line": line} for r, line in self.log_lines if wanted in (None, r)]
            lines += [{"replica": r, "line": "", "error": why} for r, why in self.log_errors if wanted in (None, r)]
            return 200, b"".join(json.dumps(line).encode() + b"\n" for line in lines)
        return 200, self.services[name]

    def _apply(self, manifest: dict[str, Any]) -> dict[str, Any]:
        name = manifest["metadata"]["name"]
        had = self.services.get(name)
        action = "created" if had is None else "unchanged" if had["manifest"] == manifest else "configured"
        generation = 1 if had is None else had["generation"] + (action == "configured")
        started = replica(f"{name}-abcde", generation=generation)
        self.services[name] = service(name, manifest=manifest, generation=generation, replicas=[started])
        return {"name": name, "action": action, "generation": generation, "url": f"{self.url}/v1", "notes": []}

    def _keys(self, method: str, path: str, body: Any) -> tuple[int, Any]:
        if method == "POST":
            made = {"id": f"key-{len(self.keys) + 1}", "created_s": NOW_S, **body}
            self.keys.append(made)
            return 200, {**made, "key": "il-secret"}
        if method == "DELETE":
            self.keys = [key for key in self.keys if key["id"] != path.rpartition("/")[2]]
            return 200, {}
        return 200, [{"last_used_s": None, **key} for key in self.keys]

    def status(self) -> dict[str, Any]:
        return {
            "version": "0.1.0", "pid": 2**22 + 1, "started_s": NOW_S - 300, "url": self.url, "host": "127.0.0.1",
            "port": self.port, "state_dir": "/home/me/.local/state/ironloom", "num_services": len(self.services),
            "machine": {"name": "laptop", "num_cpus": 8, "memory_bytes": 16 * 1024**3,
                        "available_memory_bytes": 5 * 1024**3, "gpus": []},
        }  # fmt: skip


def _error(status: int, message: str, code: str | None, hint: str | None = None) -> tuple[int, Any]:
    return status, {
        "error": {"message": message, "type": "invalid_request_error", "param": None, "code": code, "hint": hint}
    }
