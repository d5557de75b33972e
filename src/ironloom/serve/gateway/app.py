"""The gateway: OpenAI's API for all services on one port. It reads a request, finds its service, and forwards it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from typing import Any

import msgspec

from ironloom.account.events import Outcome
from ironloom.errors import RequestError
from ironloom.serve.gateway import errors, metrics
from ironloom.serve.gateway.call import CallResult, MemoryExchange
from ironloom.serve.gateway.config import GatewayConfig
from ironloom.serve.gateway.cors import answer_preflight, cors_lines
from ironloom.serve.gateway.keys import Key, KeyRing, is_ours, token_of
from ironloom.serve.gateway.proxy import Forward, RequestLog, ServiceEntry
from ironloom.serve.gateway.requests import INFERENCE_PATHS, STREAMING_PATHS, RequestIds, read_head, with_usage
from ironloom.serve.http.deadlines import Deadlines
from ironloom.serve.http.exchange import Exchange, Handler, Request
from ironloom.serve.http.server import HttpServer
from ironloom.serve.pool import ServicePool
from ironloom.workload.serving import Serving

_MODELS_PATHS = frozenset({"/v1/models", "/openai/v1/models"})
_MODEL_PREFIXES = ("/v1/models/", "/openai/v1/models/")
_READING = frozenset({"GET", "HEAD"})


class Caller:
    """What a request's head says by itself, whatever its body: kept with a head that comes again."""

    __slots__ = ("cors_lines", "is_inference", "key", "keys_version", "path", "request_id")

    def __init__(self, request: Request, allow_origins: frozenset[str]) -> None:
        self.path = INFERENCE_PATHS.get(request.path, "")
        """The engine's; empty for a path that is no inference."""
        is_plain = request.method == "POST" and b"content-encoding" not in request.headers
        self.is_inference = bool(self.path) and is_plain
        self.request_id = RequestIds.given(request.headers)
        self.cors_lines = cors_lines(request.headers, allow_origins)
        self.key: Key | None = None
        """As of `keys_version`."""
        self.keys_version = -1


class Gateway:
    """A Handler. `declare` and `forget` say which services there are: the desired state, ready or not.

    `fallback` gets what is none of the gateway's paths. `on_end` is called with (service, completion tokens) at each
    request's end. Lives on one event loop: `start` before the first request, `stop` at the end.
    """

    def __init__(
        self,
        *,
        log: RequestLog,
        keys: KeyRing | None = None,
        config: GatewayConfig | None = None,
        fallback: Handler | None = None,
        on_end: Callable[[str, int], None] | None = None,
    ) -> None:
        self.log = log
        self.config = config or GatewayConfig()
        self.on_end = on_end
        self.deadlines = Deadlines()
        self.ready = False
        """What /readyz says: set by the daemon once it has taken up its services."""
        self.server: HttpServer | None = None
        """The server it listens with, for its metrics."""
        self._keys = keys
        self._fallback = fallback
        self._services: dict[str, ServiceEntry] = {}
        self.more_metrics: Callable[[], bytes] = bytes
        """What /metrics tells beside the gateway's own, in the same format: set by the daemon."""
        self._nobody = metrics.ServiceMetrics()
        """Of requests that name no service."""
        self._ids = RequestIds()
        self._tasks: set[asyncio.Task[None]] = set()
        self._stopping = False

    def start(self) -> None:
        """Begin to watch deadlines; call from the event loop."""
        self.deadlines.start(asyncio.get_running_loop())

    def stop(self) -> None:
        """Refuse new requests; those under way go on. Idempotent."""
        self._stopping = True
        self.ready = False

    def close(self) -> None:
        """Stop, and tell every request that is still held."""
        self.stop()
        for service in self._services.values():
            service.pool.close(errors.shutting_down())
        self.deadlines.stop()

    # --- services ---

    def declare(self, serving: Serving, pool: ServicePool, *, created_s: float) -> None:
        """A service, or its new manifest. `created_s` is wall time; `/v1/models` shows it."""
        entry = self._services.get(serving.name)
        if entry is not None and entry.pool is pool:
            entry.timeout_s = serving.timeout_s
        else:
            self._services[serving.name] = ServiceEntry(serving.name, pool, serving.timeout_s, created_s)

    def forget(self, name: str) -> None:
        """The service is deleted: what is held for it is told so, what is in flight goes on. None such is fine."""
        entry = self._services.pop(name, None)
        if entry is not None:
            entry.pool.close(errors.deleted(name))

    def metrics_of(self, name: str) -> metrics.ServiceMetrics | None:
        """The counters of a service."""
        entry = self._services.get(name)
        return entry.metrics if entry is not None else None

    # --- requests ---

    def __call__(self, exchange: Exchange) -> None:
        request = exchange.request
        known = request.known
        caller: Caller | None = known.facts if known is not None else None
        if caller is None:
            caller = Caller(request, self.config.allow_origins)
            if known is not None:
                known.facts = caller
        request_id = caller.request_id or self._ids.next()
        id_line = b"X-Request-Id: %b\r\n" % request_id.encode()
        exchange.extra_lines = id_line + caller.cors_lines
        if not caller.path:
            try:
                self._other(exchange)
            except RequestError as error:
                exchange.refuse(error)
            return
        if request.method == "OPTIONS":
            answer_preflight(exchange, self.config.allow_origins)
            return
        body = request.body
        key: Key | None = None
        try:
            keys = self._keys
            if keys is None or caller.keys_version != keys.version:
                key = self._key_of(caller, request.headers)
            elif (key := caller.key) is not None:
                keys.used(key)
            if not caller.is_inference:
                raise _not_inference(request)
            head = read_head(body)
            service = self._services.get(head.model)
            if service is None or self._stopping or (key is not None and key.services):
                service = self._find(head.model, key)
            stream = hide_usage = False
            if head.stream and caller.path in STREAMING_PATHS:
                stream = True
                body, hide_usage = with_usage(body, head.stream_options)
        except RequestError as error:
            self._reject(exchange, error, request_id, key, caller.path)
            return
        key_id = key.id if key is not None else ""
        Forward(self, service, exchange, caller.path, body, stream, hide_usage, request_id, id_line, key_id).start()

    async def call(
        self,
        service: str,
        path: str,
        body: bytes,
        headers: Mapping[bytes, bytes],
        *,
        key_id: str,
        request_id: str,
    ) -> CallResult:
        """A request from inside: the same holding, retries and accounting as a client's.

        Returns once the answer's head is there; RequestError when the gateway refuses or fails. `key_id` is who it is
        for: checked by the caller. `path` is one of the engine's.
        """
        entry = self._services.get(service)
        if entry is None or self._stopping:
            error = errors.shutting_down() if self._stopping else errors.unknown_service(service)
            self.refused(request_id, key_id, path, error.status)
            raise error
        stream = path in STREAMING_PATHS and bool(read_head(body).stream)
        exchange = MemoryExchange(path, body, headers)
        Forward(
            self,
            entry,
            exchange,
            path,
            body,
            stream,
            False,
            request_id,
            b"X-Request-Id: %b\r\n" % request_id.encode(),
            key_id,
        ).start()
        return await exchange.result()

    def _key_of(self, caller: Caller, headers: dict[bytes, bytes]) -> Key | None:
        """As `_authorize`, which a head that comes again needs only after the keys have changed."""
        caller.key = self._authorize(headers)
        caller.keys_version = self._keys.version if self._keys is not None else -1
        return caller.key

    def _authorize(self, headers: dict[bytes, bytes]) -> Key | None:
        """The key of a request, or None where none is needed. Raises RequestError 401."""
        token = token_of(headers)
        key = self._keys.check(token) if self._keys is not None and token is not None else None
        if key is None and (self.config.keys_required or (self._keys is not None and is_ours(token))):
            raise errors.no_key(sent=token is not None)
        return key

    def _find(self, name: str, key: Key | None) -> ServiceEntry:
        """The service of a request's `model`. One that the key is not for is as unknown as one that is not there."""
        if self._stopping:
            raise errors.shutting_down()
        service = self._services.get(name)
        if service is None or (key is not None and not key.allows(name)):
            raise errors.unknown_service(name)
        return service

    def _reject(self, exchange: Exchange, error: RequestError, request_id: str, key: Key | None, path: str) -> None:
        """Refused before it had a service: answered, counted and logged all the same."""
        exchange.refuse(error)
        self.refused(request_id, key.id if key is not None else "", path, error.status)

    def refused(self, request_id: str, key_id: str, path: str, status: int) -> None:
        """Account for a request that was refused before it had a service, here or by a translator of another API."""
        seq = self.log.begin(request_id, "", key_id, path, False)
        self._nobody.by_code[status] += 1
        self.log.end(seq, Outcome.REJECTED, status)

    # --- other paths ---

    def _other(self, exchange: Exchange) -> None:
        request = exchange.request
        path = request.path
        if path in _MODELS_PATHS or path.startswith(_MODEL_PREFIXES) or path in {"/healthz", "/readyz", "/metrics"}:
            if request.method == "OPTIONS":
                answer_preflight(exchange, self.config.allow_origins)
                return
            if request.method not in _READING:
                raise errors.wrong_method(path, "GET")
        if path in _MODELS_PATHS:
            self._list_models(exchange)
        elif path.startswith(_MODEL_PREFIXES):
            name = path.partition("/models/")[2]
            service = self._find(name, self._authorize(request.headers))
            exchange.respond(200, msgspec.json.encode(_model(service)))
        elif path == "/healthz":
            exchange.respond(200, b"ok\n", content_type="text/plain")
        elif path == "/readyz":
            exchange.respond(
                200 if self.ready else 503, b"ok\n" if self.ready else b"not ready\n", content_type="text/plain"
            )
        elif path == "/metrics":
            self._authorize(request.headers)
            exchange.respond(200, self._metrics(), content_type=metrics.CONTENT_TYPE)
        elif self._fallback is not None:
            self._fallback(exchange)
        else:
            raise errors.unknown_path(request.method, path)

    def _list_models(self, exchange: Exchange) -> None:
        key = self._authorize(exchange.request.headers)
        services = [entry for name, entry in sorted(self._services.items()) if key is None or key.allows(name)]
        exchange.respond(200, msgspec.json.encode({"object": "list", "data": [_model(entry) for entry in services]}))

    def _metrics(self) -> bytes:
        services = {"": self._nobody} | {name: entry.metrics for name, entry in sorted(self._services.items())}
        return (
            metrics.render(
                services,
                {name: entry.pool for name, entry in sorted(self._services.items())},
                num_connections=len(self.server.connections) if self.server is not None else 0,
                num_refused=self.server.num_refused if self.server is not None else 0,
            )
            + self.more_metrics()
        )

    def spawn(self, coroutine: Coroutine[Any, Any, None]) -> None:
        """Run a coroutine that belongs to no one else."""
        task = asyncio.get_running_loop().create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _not_inference(request: Request) -> RequestError:
    """Why a request to a path of inference is none."""
    if request.method != "POST":
        return errors.wrong_method(request.path, "POST")
    return errors.encoded_body(request.headers[b"content-encoding"])


def _model(service: ServiceEntry) -> dict[str, object]:
    """A service as OpenAI's model object."""
    return {"id": service.name, "object": "model", "created": int(service.created_s), "owned_by": "ironloom"}
