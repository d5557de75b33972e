"""A small client of the daemon: JSON over http.client, one connection a call.

Every way in which the daemon can fail to answer becomes one of three errors: DaemonNotRunning (nobody listens),
UsageError (it says that what we asked means nothing), DaemonError (the rest).
"""

from __future__ import annotations

import http.client
import json
import ssl
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

import msgspec

from ironloom.cli.settings import Target, target
from ironloom.errors import DaemonError, UsageError
from ironloom.server.control import (
    AppliedView,
    AskedProfileView,
    CreatedKeyView,
    EventView,
    KeyView,
    LogLine,
    RequestView,
    RunView,
    ServiceView,
    StatusView,
)

API = "/api/v1"
CONNECT_TIMEOUT_S = 5.0
ANSWER_TIMEOUT_S = 600.0
"""An apply or a delete waits for what it does; a stream is silent while an engine starts."""
_BAD_USE = frozenset({"usage", "manifest_invalid"})
_decode_log_line = msgspec.json.Decoder(LogLine).decode


class DaemonNotRunning(DaemonError):
    """Nobody listens where the daemon should be."""

    code = "daemon_not_running"


class ApiError(DaemonError):
    """The daemon answered with an error."""

    def __init__(self, message: str, *, status: int, error_code: str | None = None, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.status = status
        self.error_code = error_code


class Client:
    """Calls to one daemon. Every method raises DaemonNotRunning, ApiError, UsageError or DaemonError."""

    def __init__(self, to: Target | None = None) -> None:
        self.to = to or target()

    @property
    def url(self) -> str:
        """Where OpenAI's clients point their base_url."""
        return f"{self.to.url}/v1"

    # The control API

    def status(self) -> StatusView:
        return msgspec.convert(self.call("GET", f"{API}/status"), StatusView)

    def ready(self) -> bool:
        """True when the daemon takes requests. Raises DaemonNotRunning while nobody listens."""
        with self._answer("GET", "/readyz", timeout_s=CONNECT_TIMEOUT_S) as answer:
            return answer.status == 200

    def apply(
        self, manifests: list[dict[str, Any]], *, pvc: Mapping[str, str] | None = None, is_trial: bool = False
    ) -> AppliedView:
        body = {"manifests": manifests, "pvc": dict(pvc or {}), **({"dry_run": True} if is_trial else {})}
        return msgspec.convert(self.call("POST", f"{API}/apply", body), AppliedView)

    def services(self, *, timeout_s: float = ANSWER_TIMEOUT_S) -> list[ServiceView]:
        return msgspec.convert(self.call("GET", f"{API}/services", timeout_s=timeout_s), list[ServiceView])

    def raw_service(self, name: str) -> dict[str, Any]:
        """One service as the daemon sends it, with what a newer daemon may add."""
        found: dict[str, Any] = self.call("GET", f"{API}/services/{quote(name, safe='')}")
        return found

    def service(self, name: str) -> ServiceView:
        return msgspec.convert(self.raw_service(name), ServiceView)

    def delete(self, name: str) -> None:
        self.call("DELETE", f"{API}/services/{quote(name, safe='')}")

    def scale(self, name: str, replicas: int | None, *, park: bool = False) -> ServiceView:
        body = {"replicas": replicas, "park": park}
        return msgspec.convert(self.call("POST", f"{API}/services/{quote(name, safe='')}/scale", body), ServiceView)

    def runs(self, *, timeout_s: float = ANSWER_TIMEOUT_S) -> list[RunView]:
        return msgspec.convert(self.call("GET", f"{API}/runs", timeout_s=timeout_s), list[RunView])

    def raw_run(self, name: str) -> dict[str, Any]:
        """One training run as the daemon sends it."""
        found: dict[str, Any] = self.call("GET", f"{API}/runs/{quote(name, safe='')}")
        return found

    def run(self, name: str) -> RunView:
        return msgspec.convert(self.raw_run(name), RunView)

    def delete_run(self, name: str) -> None:
        self.call("DELETE", f"{API}/runs/{quote(name, safe='')}")

    def profile_run(self, name: str, num_steps: int) -> AskedProfileView:
        asked = self.call("POST", f"{API}/runs/{quote(name, safe='')}/profile", {"steps": num_steps})
        return msgspec.convert(asked, AskedProfileView)

    def run_logs(self, name: str, *, rank: str | None, follow: bool, tail: int) -> Iterator[LogLine]:
        query = _query(replica=rank, follow=int(follow), tail=tail)
        path = f"{API}/runs/{quote(name, safe='')}/logs{query}"
        with self._answer("GET", path, timeout_s=None if follow else ANSWER_TIMEOUT_S) as answer:
            for line in _lines(answer):
                yield _decode_log_line(line)

    def events(self, *, service: str | None = None, after: int = 0, limit: int = 1000) -> list[EventView]:
        query = _query(service=service, after=after, limit=limit)
        return msgspec.convert(self.call("GET", f"{API}/events{query}"), list[EventView])

    def requests(self, *, service: str | None = None, limit: int = 50) -> list[RequestView]:
        query = _query(service=service, limit=limit)
        return msgspec.convert(self.call("GET", f"{API}/requests{query}"), list[RequestView])

    def logs(self, name: str, *, replica: str | None, follow: bool, tail: int) -> Iterator[LogLine]:
        query = _query(replica=replica, follow=int(follow), tail=tail)
        path = f"{API}/services/{quote(name, safe='')}/logs{query}"
        with self._answer("GET", path, timeout_s=None if follow else ANSWER_TIMEOUT_S) as answer:
            for line in _lines(answer):
                yield _decode_log_line(line)

    def create_key(self, name: str, scope: str, services: Iterable[str]) -> CreatedKeyView:
        body = {"name": name, "scope": scope, "services": list(services)}
        return msgspec.convert(self.call("POST", f"{API}/keys", body), CreatedKeyView)

    def keys(self) -> list[KeyView]:
        return msgspec.convert(self.call("GET", f"{API}/keys"), list[KeyView])

    def revoke_key(self, key_id: str) -> None:
        self.call("DELETE", f"{API}/keys/{quote(key_id, safe='')}")

    def shutdown(self, *, stop_replicas: bool, timeout_s: float = ANSWER_TIMEOUT_S) -> None:
        self.call("POST", f"{API}/shutdown", {"stop_replicas": stop_replicas}, timeout_s=timeout_s)

    # Anything

    def call(self, method: str, path: str, body: object = None, *, timeout_s: float = ANSWER_TIMEOUT_S) -> Any:
        """One JSON call; the decoded answer."""
        data = None if body is None else json.dumps(body).encode()
        headers = {"Content-Type": "application/json"} if data is not None else {}
        with self._answer(method, path, data, headers, timeout_s=timeout_s) as answer:
            return _decoded(answer.read())

    def upload(self, path: str, chunks: Iterable[bytes], headers: Mapping[str, str]) -> Any:
        """POST a body that is read piece by piece; the decoded answer."""
        with self._answer("POST", path, chunks, headers, timeout_s=ANSWER_TIMEOUT_S) as answer:
            return _decoded(answer.read())

    def chunks(self, path: str) -> Iterator[bytes]:
        """GET a file's bytes, piece by piece."""
        with self._answer("GET", path, timeout_s=ANSWER_TIMEOUT_S) as answer:
            while chunk := answer.read(1 << 16):
                yield chunk

    def sse(self, path: str, body: object) -> Iterator[dict[str, Any] | None]:
        """POST, and the objects of the server-sent events that come back, until `[DONE]`.

        None is a comment: the gateway's heartbeat while the request is held. An error event raises ApiError.
        """
        headers = {"Content-Type": "application/json", "Accept": "text/event-stream"}
        with self._answer("POST", path, json.dumps(body).encode(), headers, timeout_s=ANSWER_TIMEOUT_S) as answer:
            for line in _lines(answer):
                if line.startswith(b":"):
                    yield None
                elif line.startswith(b"data:"):
                    data = line[5:].strip()
                    if data == b"[DONE]":
                        return
                    event = _decoded(data)
                    if "error" in event:
                        raise _error(answer.status, event, self.to)
                    yield event

    @contextmanager
    def _answer(
        self,
        method: str,
        path: str,
        body: bytes | Iterable[bytes] | None = None,
        headers: Mapping[str, str] | None = None,
        *,
        timeout_s: float | None,
    ) -> Iterator[http.client.HTTPResponse]:
        connection = _connection(self.to)
        sent = {**dict(self.to.headers), **(headers or {})}
        if self.to.key:
            sent["Authorization"] = f"Bearer {self.to.key}"
        try:
            try:
                connection.connect()
            except ssl.SSLError as error:
                raise DaemonError(
                    f"The daemon at {self.to.place or self.to.url} shows no certificate that can be trusted: {error}.",
                    hint="SSL_CERT_FILE names a file of authorities to trust.",
                ) from error
            except OSError as error:
                raise _not_running(self.to, error) from error
            connection.sock.settimeout(timeout_s)
            try:
                connection.request(method, self.to.prefix + path, body, sent)
                answer = connection.getresponse()
                if answer.status >= 400 and path != "/readyz":
                    raise _error(answer.status, _decoded(answer.read()), self.to)
                yield answer
            except TimeoutError as error:
                raise DaemonError(
                    f"The daemon at {self.to.place or self.to.url} took longer than {timeout_s:.0f} s to answer.",
                    hint=_who_knows(self.to),
                ) from error
            except (OSError, http.client.HTTPException) as error:
                said = str(error) or type(error).__name__
                raise DaemonError(
                    f"The daemon at {self.to.place or self.to.url} broke off in the middle of an answer ({said}).",
                    hint=_who_knows(self.to),
                ) from error
        finally:
            connection.close()


def _connection(to: Target) -> http.client.HTTPConnection:
    parts = urlsplit(to.url)
    host = parts.hostname or ""
    if to.tls is not None:
        return _NamedConnection(host, parts.port or 443, context=to.tls, name=to.tls_name or host)
    if parts.scheme == "http":
        return http.client.HTTPConnection(host, parts.port or 80, timeout=CONNECT_TIMEOUT_S)
    context = ssl.create_default_context()
    if to.cert is not None:  # our own daemon: this very certificate, whatever name it has
        context.check_hostname = False
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
        context.load_verify_locations(to.cert)
    return http.client.HTTPSConnection(host, parts.port or 443, timeout=CONNECT_TIMEOUT_S, context=context)


class _NamedConnection(http.client.HTTPConnection):
    """TLS to a server whose certificate may be for another name than its address has."""

    def __init__(self, host: str, port: int, *, context: ssl.SSLContext, name: str) -> None:
        super().__init__(host, port, timeout=CONNECT_TIMEOUT_S)
        self._tls, self._name = context, name

    def connect(self) -> None:
        super().connect()
        self.sock = self._tls.wrap_socket(self.sock, server_hostname=self._name)


def _not_running(to: Target, error: OSError) -> DaemonNotRunning:
    if to.place:
        return DaemonNotRunning(
            f"The API server of {to.place} cannot be reached at {to.url} ({error.strerror or error}).",
            hint="is the VPN up, and the cluster's address in the kubeconfig right?",
        )
    if to.remote:
        return DaemonNotRunning(
            f"No daemon answers at {to.url} ({error.strerror or error}).",
            hint="IRONLOOM_URL names that place; without it, commands act on this machine.",
        )
    return DaemonNotRunning(f"No daemon answers at {to.url}.", hint="`ironloom up` starts it.")


def _who_knows(to: Target) -> str:
    """Where to look for a daemon that broke off."""
    if to.place:
        return f"`kubectl get pods -l app.kubernetes.io/name=ironloom{to.options}` shows whether it still runs."
    return "`ironloom status` says whether it still runs."


def _error(status: int, answer: Any, to: Target) -> DaemonError | UsageError:
    said = answer.get("error") if isinstance(answer, dict) else None
    if isinstance(answer, dict) and answer.get("kind") == "Status":
        return _refused_on_the_way(status, str(answer.get("message") or answer.get("reason") or "no reason given"))
    if not isinstance(said, dict):
        return ApiError(f"The daemon answered with status {status}.", status=status)
    message, code, hint = str(said.get("message")), said.get("code"), said.get("hint")
    if status == 401 and not hint:
        hint = "IRONLOOM_API_KEY holds the key; `ironloom key create NAME` makes one."
    if code == "model_not_found":  # the gateway's own hint is for programs
        hint = f"`ironloom get{to.options}` lists the services."
    if code in _BAD_USE:
        return UsageError(message, hint=hint)
    return ApiError(message, status=status, error_code=code, hint=hint)


def _refused_on_the_way(status: int, message: str) -> DaemonError:
    """The API server's own words, where it did not hand a request on to the gateway."""
    if status == 403:
        hint = "the way to the gateway needs the verbs get, create and delete on pods/proxy in its namespace."
    else:
        hint = "the gateway that decides may be changing; the same again soon may work."
    return DaemonError(f"The API server did not hand this on to the gateway: {message}.", hint=hint)


def _decoded(data: bytes) -> Any:
    if not data.strip():
        return {}
    try:
        return json.loads(data)
    except ValueError as error:
        raise DaemonError(
            "What answers there is no Ironloom daemon: its answer is not JSON.",
            hint="`ironloom status` says where it is looked for.",
        ) from error


def _lines(answer: http.client.HTTPResponse) -> Iterator[bytes]:
    while line := answer.readline():
        if stripped := line.rstrip(b"\r\n"):
            yield stripped


def _query(**values: object) -> str:
    given = {name: value for name, value in values.items() if value is not None}
    return f"?{urlencode(given)}" if given else ""
