"""A real daemon in a process of its own, on a free loopback port, with services of the fake engine."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

START_S = 20.0


class Running:
    """`ironloom up`, and what a test asks of it."""

    def __init__(self, state: Path, *options: str, environ: dict[str, str] | None = None) -> None:
        """`environ` is what the daemon's environment has beside the tests' own."""
        self.state = state
        self.options = options
        self.environ = environ or {}
        self.max_files: int | None = None
        """The limit on open files that the daemon is started with; None is the tests' own."""
        self.process: subprocess.Popen[bytes] | None = None
        self.port = 0
        self.key: str | None = None

    def start(self) -> Running:
        if self.process is not None:
            self.process.wait(20)  # another than we may have ended it
        self.state.mkdir(parents=True, exist_ok=True)
        environ = {**os.environ, "IRONLOOM_HOME": str(self.state), "PYTHONDEVMODE": "", **self.environ}
        command = [sys.executable, "-m", "ironloom.cli", "up", "--port", "0", "--state", str(self.state)]
        with (self.state / "up.log").open("ab") as log:
            if self.max_files is not None:
                command = ["prlimit", f"--nofile={self.max_files}:{self.max_files}", *command]
            self.process = subprocess.Popen([*command, *self.options], stdout=log, stderr=log, env=environ)
        give_up = time.monotonic() + START_S
        while time.monotonic() < give_up:
            try:
                found = json.loads((self.state / "daemon.json").read_text())
                if found["pid"] == self.process.pid:
                    self.port, self.key = int(found["url"].rpartition(":")[2]), found.get("key")
                    if self.request("GET", "/readyz")[0] == 200:
                        return self
            except (OSError, ValueError):
                pass
            if self.process.poll() is not None:
                break
            time.sleep(0.02)
        raise AssertionError(f"the daemon did not come up:\n{self.log()}")

    def log(self) -> str:
        return (self.state / "up.log").read_text(errors="replace")

    def kill(self) -> None:
        """kill -9."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def stop(self, timeout_s: float = 30.0) -> int:
        """SIGTERM, and its exit status."""
        assert self.process is not None
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise AssertionError(f"the daemon did not end:\n{self.log()}") from None

    def connect(self, timeout_s: float = 30.0) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout_s)

    def request(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        headers: dict[str, str] | None = None,
        timeout_s: float = 30.0,
    ) -> tuple[int, Any]:
        """Status and body, decoded where it is JSON."""
        connection = self.connect(timeout_s)
        try:
            data = None if body is None else json.dumps(body).encode()
            sent = {"Content-Type": "application/json", **(headers or {})}
            if self.key and "Authorization" not in sent:
                sent["Authorization"] = f"Bearer {self.key}"
            connection.request(method, path, data, sent)
            answer = connection.getresponse()
            text = answer.read()
            is_json = answer.headers.get_content_type() == "application/json"
            return answer.status, json.loads(text) if is_json and text else text
        finally:
            connection.close()

    def upload(self, data: bytes, purpose: str = "batch", *, prefix: str = "") -> str:
        """A file; its id. `prefix` stands before the path."""
        edge = "edge-of-parts"
        part = f'--{edge}\r\nContent-Disposition: form-data; name="'
        body = f'{part}purpose"\r\n\r\n{purpose}\r\n{part}file"; filename="in.jsonl"\r\n\r\n'.encode()
        connection = self.connect()
        try:
            headers = {"Content-Type": f"multipart/form-data; boundary={edge}"}
            connection.request("POST", f"{prefix}/v1/files", body + data + f"\r\n--{edge}--\r\n".encode(), headers)
            answer = connection.getresponse()
            text = answer.read()
            assert answer.status == 200, text
            return str(json.loads(text)["id"])
        finally:
            connection.close()

    def get(self, path: str) -> Any:
        status, body = self.request("GET", path)
        assert status == 200, (path, status, body)
        return body

    def apply(self, name: str = "demo", *, args: tuple[str, ...] = (), **settings: Any) -> Any:
        status, body = self.request("POST", "/api/v1/apply", {"manifests": [fake_manifest(name, args, **settings)]})
        assert status == 200, body
        return body["services"][0]

    def scale(self, name: str, replicas: int | None, *, park: bool = False) -> Any:
        status, body = self.request("POST", f"/api/v1/services/{name}/scale", {"replicas": replicas, "park": park})
        assert status == 200, body
        return body

    def service(self, name: str = "demo") -> Any:
        return self.get(f"/api/v1/services/{name}")

    def wait_for(self, name: str, state: str, timeout_s: float = 20.0) -> Any:
        return self.until(lambda: (s := self.service(name))["state"] == state and s, f"{name} {state}", timeout_s)

    def until(self, found: Callable[[], Any], what: str, timeout_s: float = 20.0) -> Any:
        give_up = time.monotonic() + timeout_s
        while time.monotonic() < give_up:
            if result := found():
                return result
            time.sleep(0.02)
        services = json.dumps(self.get("/api/v1/services"), indent=1)
        raise AssertionError(f"waited {timeout_s} s for {what}\n{services}\n{self.log()[-3000:]}")

    def chat(self, name: str = "demo", *, max_tokens: int = 4, timeout_s: float = 30.0, **more: Any) -> tuple[int, Any]:
        body = {"model": name, "messages": [{"role": "user", "content": "hi"}], "max_tokens": max_tokens, **more}
        headers = {"X-Request-Id": more.pop("request_id")} if "request_id" in more else None
        body.pop("request_id", None)
        return self.request("POST", "/v1/chat/completions", body, headers=headers, timeout_s=timeout_s)

    def events(self, name: str = "") -> list[str]:
        return [event["kind"] for event in self.get(f"/api/v1/events?service={name}&limit=1000")]

    def requests(self, name: str = "") -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = self.get(f"/api/v1/requests?service={name}&limit=1000")
        return rows


def fake_manifest(
    name: str,
    args: tuple[str, ...] = (),
    *,
    min_replicas: int = 0,
    max_replicas: int = 1,
    annotations: dict[str, str] | None = None,
    **predictor: Any,
) -> dict[str, Any]:
    """An InferenceService on the fake engine; `args` are its knobs."""
    return {
        "apiVersion": "serving.kserve.io/v1beta1",
        "kind": "InferenceService",
        "metadata": {"name": name, "annotations": {"ironloom.dev/engine": "fake", **(annotations or {})}},
        "spec": {
            "predictor": {
                "minReplicas": min_replicas,
                "maxReplicas": max_replicas,
                "model": {
                    "modelFormat": {"name": "huggingface"},
                    "storageUri": "hf://fake/fake",
                    "args": list(args),
                },
                **predictor,
            }
        },
    }


def processes_of(state: Path, *, launchers: bool = True) -> list[int]:
    """Processes that carry this state folder's mark: engines, what they leaked, and launchers."""
    marker = (state / "id").read_text().strip().encode()
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                environ = (entry / "environ").read_bytes()
            except OSError:
                continue
            mark = re.search(rb"IRONLOOM_REPLICA=([^\0]*)", environ)
            if mark and marker in environ and (launchers or not mark[1].startswith(b"launcher")):
                found.append(int(entry.name))
    return found
