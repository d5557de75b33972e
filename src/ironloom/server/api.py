"""The control API, /api/v1: a thin Starlette app over `Control` and the key ring.

It decodes, asks and encodes; it decides nothing. Off loopback every call needs a key of scope control.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from ironloom.serve.gateway.keys import Key, KeyRing
from ironloom.server.answers import bad_value, bool_query, int_query, json_answer, json_body
from ironloom.server.control import (
    MAX_REPLICAS,
    AppliedView,
    AskedProfileView,
    Control,
    CreatedKeyView,
    DeletedView,
    EventView,
    KeyView,
    LogLine,
    PeerAnswer,
    PeerReport,
    RequestView,
    RunView,
    ServiceView,
    ShutdownView,
    SnapshotView,
    StatusView,
)
from ironloom.server.operations import Door, Endpoint, Operation, Parameter, routes
from ironloom.server.security import Guard
from ironloom.train.loop.profile_ask import MAX_STEPS

PREFIX = "/api/v1"
MAX_MANIFESTS = 1000
MAX_LOG_TAIL = 100_000
_encode = msgspec.json.Encoder().encode


class ApplyBody(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Objects to apply, all or none."""

    manifests: list[dict[str, Any]]
    pvc: dict[str, str] | None = None
    """Folders that stand for the claims of pvc:// models."""
    dry_run: bool = False
    """Say what would be done, and do nothing."""


class ScaleBody(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A replica count to pin, or null to give it back to the autoscaler."""

    replicas: int | None
    park: bool = False
    """With replicas 0: park rather than stop."""


class ProfileBody(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The steps to profile, from the next one on."""

    steps: int = 3


class KeyBody(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A key to make."""

    name: str
    scope: str = "inference"
    services: list[str] = []


class ShutdownBody(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How to end the daemon."""

    stop_replicas: bool = False


def _operation(method: str, path: str, name: str, summary: str, **rest: Any) -> Operation:
    return Operation(
        method=method, path=PREFIX + path, id=name, summary=summary, tag="control", door=Door.CONTROL, **rest
    )


_SERVICE = Parameter(name="service", description="Of this service only.", schema={"type": "string"})
_LIMIT = Parameter(
    name="limit", description="At most so many.", schema={"type": "integer", "minimum": 1, "maximum": 10_000}
)
_AFTER = Parameter(
    name="after",
    description="Those with a seq above this.",
    schema={"type": "integer", "minimum": 0, "maximum": 2**62},
)
_LOG_QUERY = (
    Parameter(name="replica", description="Of this replica only.", schema={"type": "string"}),
    Parameter(
        name="follow", description="Go on with lines as they come.", schema={"type": "string", "enum": ["0", "1"]}
    ),
    Parameter(
        name="tail",
        description="The last so many lines of each replica.",
        schema={"type": "integer", "minimum": 0, "maximum": MAX_LOG_TAIL},
    ),
)

GET_STATUS = _operation("GET", "/status", "getStatus", "The daemon and its machine", answer=StatusView)
APPLY = _operation(
    "POST", "/apply", "apply", "Declare services by manifest", body=ApplyBody, answer=AppliedView, errors=(400, 409)
)
LIST_SERVICES = _operation("GET", "/services", "listServices", "Every service", answer=list[ServiceView])
GET_SERVICE = _operation("GET", "/services/{name}", "getService", "One service", answer=ServiceView, errors=(404,))
DELETE_SERVICE = _operation(
    "DELETE",
    "/services/{name}",
    "deleteService",
    "Drain, stop and forget a service",
    answer=DeletedView,
    errors=(404,),
)
SCALE = _operation(
    "POST",
    "/services/{name}/scale",
    "scaleService",
    "Pin the replica count, give it back, or go to zero now",
    body=ScaleBody,
    answer=ServiceView,
    errors=(400, 404, 409),
)
LOGS = _operation(
    "GET",
    "/services/{name}/logs",
    "getLogs",
    "Output of its replicas, one JSON object a line",
    query=_LOG_QUERY,
    answer=LogLine,
    answer_type="application/x-ndjson",
    errors=(400, 404),
)
LIST_RUNS = _operation("GET", "/runs", "listRuns", "Every training run", answer=list[RunView])
GET_RUN = _operation("GET", "/runs/{name}", "getRun", "One training run", answer=RunView, errors=(404,))
DELETE_RUN = _operation(
    "DELETE",
    "/runs/{name}",
    "deleteRun",
    "Have a run take a checkpoint, end it and forget it; its output stays",
    answer=DeletedView,
    errors=(404,),
)
RUN_LOGS = _operation(
    "GET",
    "/runs/{name}/logs",
    "getRunLogs",
    "Output of its ranks, one JSON object a line",
    query=_LOG_QUERY,
    answer=LogLine,
    answer_type="application/x-ndjson",
    errors=(400, 404),
)
PROFILE_RUN = _operation(
    "POST",
    "/runs/{name}/profile",
    "profileRun",
    "Have a run write a profile of its next steps, a trace of each rank",
    body=ProfileBody,
    answer=AskedProfileView,
    errors=(400, 404, 409),
)
EVENTS = _operation(
    "GET",
    "/events",
    "listEvents",
    "The newest events, oldest first",
    query=(_SERVICE, _AFTER, _LIMIT),
    answer=list[EventView],
    errors=(400,),
)
REQUESTS = _operation(
    "GET",
    "/requests",
    "listRequests",
    "The last requests, newest first",
    query=(_SERVICE, _LIMIT),
    answer=list[RequestView],
    errors=(400,),
)
CREATE_KEY = _operation(
    "POST",
    "/keys",
    "createKey",
    "Make an API key; its token is shown this once",
    body=KeyBody,
    answer=CreatedKeyView,
    errors=(400,),
)
LIST_KEYS = _operation("GET", "/keys", "listKeys", "The keys, without their tokens", answer=list[KeyView])
REVOKE_KEY = _operation(
    "DELETE", "/keys/{id}", "revokeKey", "Take a key out of use, from now on", answer=KeyView, errors=(404,)
)
SHUTDOWN = _operation(
    "POST", "/shutdown", "shutdown", "End the daemon", body=ShutdownBody, answer=ShutdownView, errors=(400,)
)
PEERS = _operation(
    "POST",
    "/peers",
    "tellLoad",
    "What a gateway tells the one of several that decides",
    body=PeerReport,
    answer=PeerAnswer,
    errors=(400, 503),
)
STREAM = _operation(
    "GET",
    "/stream",
    "stream",
    "Services and totals once a second, as server-sent events (without manifests)",
    answer=SnapshotView,
    answer_type="text/event-stream",
)


class ControlApi:
    """The endpoints, bound to what they ask."""

    def __init__(self, control: Control, ring: KeyRing, guard: Guard, *, stream_period_s: float = 1.0) -> None:
        self._control = control
        self._ring = ring
        self._guard = guard
        self._stream_period_s = stream_period_s

    def routes(self) -> list[Route]:
        """The Starlette routes of /api/v1, each behind the check of its key."""
        bound: tuple[tuple[Operation, Endpoint], ...] = (
            (GET_STATUS, self.get_status),
            (APPLY, self.apply),
            (LIST_SERVICES, self.list_services),
            (GET_SERVICE, self.get_service),
            (DELETE_SERVICE, self.delete_service),
            (SCALE, self.scale),
            (LOGS, self.logs),
            (LIST_RUNS, self.list_runs),
            (GET_RUN, self.get_run),
            (DELETE_RUN, self.delete_run),
            (RUN_LOGS, self.run_logs),
            (PROFILE_RUN, self.profile_run),
            (EVENTS, self.events),
            (REQUESTS, self.requests),
            (CREATE_KEY, self.create_key),
            (LIST_KEYS, self.list_keys),
            (REVOKE_KEY, self.revoke_key),
            (PEERS, self.peers),
            (SHUTDOWN, self.shutdown),
            (STREAM, self.stream),
        )
        return routes(tuple((operation, self._behind_key(endpoint)) for operation, endpoint in bound))

    def _behind_key(self, endpoint: Endpoint) -> Endpoint:
        async def guarded(request: Request) -> Response:
            self._guard.control_key(dict(request.headers.raw), self._ring)
            return await endpoint(request)

        return guarded

    async def get_status(self, _request: Request) -> Response:
        return json_answer(self._control.status())

    async def apply(self, request: Request) -> Response:
        body = await json_body(request, ApplyBody)
        if not 1 <= len(body.manifests) <= MAX_MANIFESTS:
            raise bad_value(
                "manifests", f"manifests has {len(body.manifests)} objects; it must have 1 to {MAX_MANIFESTS}"
            )
        return json_answer(await self._control.apply(body.manifests, pvc=body.pvc or {}, dry_run=body.dry_run))

    async def list_services(self, _request: Request) -> Response:
        return json_answer(self._control.services())

    async def get_service(self, request: Request) -> Response:
        return json_answer(self._control.service(request.path_params["name"]))

    async def delete_service(self, request: Request) -> Response:
        name = request.path_params["name"]
        await self._control.delete(name)
        return json_answer(DeletedView(name=name))

    async def scale(self, request: Request) -> Response:
        body = await json_body(request, ScaleBody)
        if body.replicas is not None and not 0 <= body.replicas <= MAX_REPLICAS:
            raise bad_value(
                "replicas", f"replicas is {body.replicas}; it must be null or a whole number from 0 to {MAX_REPLICAS}"
            )
        if body.park and body.replicas != 0:
            raise bad_value("park", "park is true; it means something with replicas 0 only")
        return json_answer(await self._control.scale(request.path_params["name"], body.replicas, park=body.park))

    async def logs(self, request: Request) -> Response:
        lines = self._control.logs(
            request.path_params["name"],
            replica=request.query_params.get("replica") or None,
            follow=bool_query(request, "follow"),
            tail=int_query(request, "tail", 100, low=0, high=MAX_LOG_TAIL),
        )

        return _lines_answer(lines)

    async def list_runs(self, _request: Request) -> Response:
        return json_answer(self._control.runs())

    async def get_run(self, request: Request) -> Response:
        return json_answer(self._control.run(request.path_params["name"]))

    async def delete_run(self, request: Request) -> Response:
        name = request.path_params["name"]
        await self._control.delete_run(name)
        return json_answer(DeletedView(name=name))

    async def profile_run(self, request: Request) -> Response:
        body = await json_body(request, ProfileBody)
        if not 1 <= body.steps <= MAX_STEPS:
            raise bad_value("steps", f"steps is {body.steps}; it must be a whole number from 1 to {MAX_STEPS}")
        return json_answer(await self._control.profile_run(request.path_params["name"], body.steps))

    async def run_logs(self, request: Request) -> Response:
        lines = self._control.run_logs(
            request.path_params["name"],
            rank=request.query_params.get("replica") or None,
            follow=bool_query(request, "follow"),
            tail=int_query(request, "tail", 100, low=0, high=MAX_LOG_TAIL),
        )
        return _lines_answer(lines)

    async def events(self, request: Request) -> Response:
        return json_answer(
            await self._control.events(
                service=request.query_params.get("service") or None,
                after=int_query(request, "after", 0, low=0, high=2**62),
                limit=int_query(request, "limit", 100, low=1, high=10_000),
            )
        )

    async def requests(self, request: Request) -> Response:
        return json_answer(
            await self._control.requests(
                service=request.query_params.get("service") or None,
                limit=int_query(request, "limit", 100, low=1, high=10_000),
            )
        )

    async def create_key(self, request: Request) -> Response:
        body = await json_body(request, KeyBody)
        key, token = await self._ring.create(body.name, body.scope, body.services)
        return json_answer(
            CreatedKeyView(
                id=key.id,
                key=token,
                name=key.name,
                scope=key.scope.value,
                services=sorted(key.services),
                created_s=key.created_s,
            )
        )

    async def list_keys(self, _request: Request) -> Response:
        return json_answer([_key_view(key) for key in self._ring.list()])

    async def revoke_key(self, request: Request) -> Response:
        return json_answer(_key_view(await self._ring.revoke(request.path_params["id"])))

    async def peers(self, request: Request) -> Response:
        return json_answer(self._control.peer(await json_body(request, PeerReport)))

    async def shutdown(self, request: Request) -> Response:
        body = await json_body(request, ShutdownBody)
        self._control.shutdown(stop_replicas=body.stop_replicas)
        return json_answer(ShutdownView(stopping=True, stop_replicas=body.stop_replicas))

    async def stream(self, _request: Request) -> Response:
        async def snapshots() -> AsyncIterator[bytes]:
            while True:
                yield b"data: " + _encode(_without_manifests(self._control.snapshot())) + b"\n\n"
                await asyncio.sleep(self._stream_period_s)

        return StreamingResponse(snapshots(), media_type="text/event-stream", headers={"cache-control": "no-cache"})


def _lines_answer(lines: AsyncIterator[LogLine]) -> Response:
    async def encoded() -> AsyncIterator[bytes]:
        async for line in lines:
            yield _encode(line) + b"\n"

    return StreamingResponse(encoded(), media_type="application/x-ndjson")


def _without_manifests(snapshot: SnapshotView) -> SnapshotView:
    """The page shows no manifests: their env may hold secrets."""
    services = [msgspec.structs.replace(service, manifest={}) for service in snapshot.services]
    return msgspec.structs.replace(snapshot, services=services)


def _key_view(key: Key) -> KeyView:
    return KeyView(
        id=key.id,
        name=key.name,
        scope=key.scope.value,
        services=sorted(key.services),
        created_s=key.created_s,
        last_used_s=key.last_used_s,
    )


OPERATIONS: tuple[Operation, ...] = (
    GET_STATUS,
    APPLY,
    LIST_SERVICES,
    GET_SERVICE,
    DELETE_SERVICE,
    SCALE,
    LOGS,
    LIST_RUNS,
    GET_RUN,
    DELETE_RUN,
    RUN_LOGS,
    PROFILE_RUN,
    EVENTS,
    REQUESTS,
    CREATE_KEY,
    LIST_KEYS,
    REVOKE_KEY,
    PEERS,
    SHUTDOWN,
    STREAM,
)
