"""The daemon that `ironloom up` runs: gateway, autoscaler, control API, page and event log in one process.

It puts the parts together and owns none of their state: pools count, scalers decide, the backend runs replicas, the
event log records. What it owns is which services there are, and the order in which things begin and end.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import ironloom
from ironloom.account.database import Database
from ironloom.account.events import Event, EventKind
from ironloom.account.log import EventLog
from ironloom.errors import RequestError, UsageError
from ironloom.serve.autoscale.scaler import TICK_S
from ironloom.serve.gateway import messages, responses
from ironloom.serve.gateway.app import Gateway
from ironloom.serve.gateway.config import GatewayConfig
from ironloom.serve.gateway.keys import KeyRing, Scope
from ironloom.serve.gateway.translated import TranslatedApi
from ironloom.serve.http.exchange import Handler, Request
from ironloom.serve.http.limits import Limits
from ironloom.serve.http.server import HttpServer, serve
from ironloom.serve.pool import ServicePool
from ironloom.serve.replica import Replica, ServiceReplicas
from ironloom.server import run_metrics
from ironloom.server.app import build_app
from ironloom.server.asgi import AsgiBridge
from ironloom.server.batches import Batches
from ironloom.server.control import (
    AppliedService,
    AppliedView,
    EventView,
    LogLine,
    PeerAnswer,
    PeerReport,
    RequestView,
    RunView,
    ServiceView,
    SnapshotView,
    StatusView,
    name_taken,
    not_leader,
    service_not_found,
)
from ironloom.server.declare import Declared, declared_services, declared_workloads, process_of
from ironloom.server.descriptors import num_connections, raise_limit
from ironloom.server.files import FileStore
from ironloom.server.files_api import FilesApi
from ironloom.server.front import front
from ironloom.server.ground import (
    BackendFactory,
    Options,
    cannot_listen,
    find_machine,
    kubernetes_backend,
    local_backend,
    own_url,
    shown_host,
    tls_context,
)
from ironloom.server.peers import SharedLoad
from ironloom.server.promptness import be_prompt
from ironloom.server.runs import Runs
from ironloom.server.security import Guard, door_notes, is_loopback
from ironloom.server.service import Service
from ironloom.server.service_store import ServiceStore, Store, StoredService
from ironloom.server.shared import Shared, SharedBackend
from ironloom.server.state_dir import Discovery, StateDir, write_private
from ironloom.server.together import together
from ironloom.server.view import event_view, machine_view, request_view, snapshot_view
from ironloom.workload.serving import Serving

PARK_ON_GPU_S = 600.0
"""How long a service at zero stays parked where it holds a GPU, unless its manifest says otherwise."""
HOUSEKEEPING_S = 60.0
"""How often the times of last use of keys are written, and expired files removed."""
_logger = logging.getLogger(__name__)


def run(options: Options) -> int:
    """Run the daemon until a signal or the control API ends it. Returns the exit status.

    Raises StateError when another daemon holds the state folder, UsageError when the address cannot be had.
    """
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    logging.getLogger("httpx2").setLevel(logging.WARNING)  # a line a request says nothing that a log must keep
    folder = StateDir(options.state_dir)
    be_prompt()
    try:
        return _runner()(_main(options, folder))
    finally:
        folder.release()


def _runner() -> Callable[[Any], int]:
    try:
        import uvloop
    except ImportError:  # Windows, where uvloop is not
        return asyncio.run
    runner: Callable[[Any], int] = uvloop.run
    return runner


async def _main(options: Options, folder: StateDir) -> int:
    cluster = options.cluster
    backend = kubernetes_backend(cluster, is_shared=options.is_shared) if cluster is not None else None
    daemon = Daemon(options, folder, backend=backend)
    await daemon.open()
    try:
        await daemon.until_stopped()
    finally:
        await daemon.close()
    return 0


class Daemon:
    """All parts, put together. Implements `Control`."""

    def __init__(self, options: Options, folder: StateDir, *, backend: BackendFactory | None = None) -> None:
        self._options = options
        self._folder = folder
        self._backend_factory = backend or local_backend
        self._num_descriptors = raise_limit()
        self._loopback = is_loopback(options.host)
        self._keys_required = options.require_keys or not self._loopback
        self._services: dict[str, Service] = {}
        self._applying = asyncio.Lock()
        """One change of the set of services at a time."""
        self._stop = asyncio.Event()
        self._stop_replicas = not options.keeps_replicas
        self._tasks: list[asyncio.Task[None]] = []
        self._closers: list[Callable[[], Awaitable[None]]] = []
        self._started_s = time.time()
        self._shared: Shared | None = None
        """Where it is one of several gateways."""
        self._peer_key: str | None = None
        """Opens the control API of the others."""
        self.url = ""

    # --- beginning and end ---

    async def open(self) -> None:
        """Take up what an earlier daemon left, then listen. Raises UsageError when the address cannot be had."""
        options, folder = self._options, self._folder
        tls = tls_context(options)
        self._database = Database.open(folder.database)
        self._log = await EventLog.open(self._database, folder.journal)
        self._ring = await KeyRing.open(self._database)
        if options.is_shared and self._keys_required and options.control_key_file is None:
            raise UsageError(
                "Several gateways want keys of one another, and --control-key-file names none",
                hint="mount the Secret that `ironloom install` makes, or listen on loopback",
            )
        if options.control_key_file is not None:
            await self._admit_key(options.control_key_file)
        self._node = await find_machine()
        self._backend = self._backend_factory(self._database, self._log, folder.path, self._node)
        self._store: Store = ServiceStore(self._database)
        if group := getattr(self._backend, "group", None):
            backend = cast("SharedBackend", self._backend)
            self._shared = Shared(group, backend, host=self, services=self._services, changing=self._applying)
            self._store = self._shared.store
        self._runs = Runs(self._database, getattr(self._backend, "runs", None), self._log.event)
        self._gateway = Gateway(
            log=self._log,
            keys=self._ring,
            config=GatewayConfig(keys_required=self._keys_required, allow_origins=frozenset(options.allow_origins)),
            on_end=self._request_ended,
        )
        more_metrics: Callable[[], bytes] = getattr(self._backend, "metrics", bytes)
        self._gateway.more_metrics = lambda: run_metrics.render(self._runs.reports()) + more_metrics()
        self._gateway.start()
        self._batches = Batches(
            self._database,
            self._gateway.call,
            why_not=self._why_no_batch,
            concurrency=lambda name: self._services[name].num_at_once if name in self._services else 0,
            on_event=self._log.event,
        )
        self._files = FileStore(self._database)
        self._server = await self._listen(tls)
        scheme = "https" if tls else "http"
        self.url = f"{scheme}://{shown_host(options.host)}:{self._server.port}"
        self._log.event(
            Event(
                kind=EventKind.DAEMON_STARTED,
                reason="DaemonStarted",
                message=f"listening on {self.url}",
                data={"pid": os.getpid()},
            )
        )
        await self._take_up()
        if self._shared is not None:
            self._shared.begin(url=own_url(options.host, self.url), key=self._peer_key)
        await self._batches.open()
        loop = asyncio.get_running_loop()
        self._tasks = [
            loop.create_task(self._tick_for_ever(), name="scaler"),
            loop.create_task(self._keep_house_for_ever(), name="housekeeping"),
        ]
        folder.announce(
            Discovery(
                pid=os.getpid(),
                url=self.url,
                started=self._started_s,
                version=ironloom.__version__,
                key=await self._own_key() if self._keys_required else None,
                cert=str(options.cert.absolute()) if options.cert else None,
            )
        )
        self._gateway.ready = True
        _logger.info("listening on %s; state in %s", self.url, folder.path)
        for note in door_notes(options.host, tls=options.cert is not None):
            _logger.warning("%s", note)

    async def until_stopped(self) -> None:
        """Return at SIGTERM, SIGINT or the control API's shutdown. A second signal ends the process at once."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._signalled, number)
        await self._stop.wait()

    async def close(self) -> None:
        """Drain and end: no new requests, those in flight answered, replicas stopped or left, the log written."""
        _logger.info(
            "ending: %d requests in flight", sum(service.pool.in_flight for service in self._services.values())
        )
        self._gateway.stop()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._batches.stop()
        if self._shared is not None:
            await self._shared.leave()
        self._server.stop_accepting()
        await self._drain_requests()
        await self._batches.close()
        for close in self._closers:
            await close()
        if self._shared is not None:
            await self._shared.close()
        await self._backend.close(stop_replicas=self._stop_replicas)
        self._gateway.close()
        await self._server.close(patience_s=2.0)
        await self._ring.flush()
        self._log.event(Event(kind=EventKind.DAEMON_STOPPED, reason="DaemonStopped"))
        await self._log.close()
        self._database.close()
        _logger.info("ended")

    async def _drain_requests(self) -> None:
        """Wait for what is in flight and held, each as long as its service's timeout lets it."""
        patience_s = max((service.serving.timeout_s for service in self._services.values()), default=0.0)
        give_up_s = time.monotonic() + patience_s
        while time.monotonic() < give_up_s:
            if not any(service.pool.in_flight + service.pool.num_held for service in self._services.values()):
                return
            for service in self._services.values():
                if service.pool.num_held:
                    service.pool.on_hold()
            await asyncio.sleep(0.05)

    def _signalled(self, number: int) -> None:
        if self._stop.is_set():
            _logger.warning("second signal: ending at once")
            os._exit(128 + number)
        self._stop.set()

    async def _listen(self, tls: ssl.SSLContext | None) -> HttpServer:
        options = self._options
        guard = Guard(
            loopback=self._loopback,
            keys_required=self._keys_required,
            allowed_hosts=frozenset(options.allow_hosts),
            allowed_origins=frozenset(options.allow_origins),
        )

        def admit(request: Request) -> Any:
            return guard.inference_key(request.headers, self._ring)

        files = FilesApi(self._files, self._batches, self._ring, guard)
        app = AsgiBridge(build_app(self, self._ring, guard, more=files.routes()))
        translated: dict[str, Handler] = {}
        self._closers = [app.close]
        for path, translate, error_body in (
            (responses.PATH, responses.ResponsesTranslation, responses.error_body),
            (messages.PATH, messages.MessagesTranslation, messages.error_body),
            (messages.COUNT_PATH, messages.CountTranslation, messages.error_body),
        ):
            handler = TranslatedApi(
                self._gateway.call,
                admit=admit,
                translate=translate,
                error_body=error_body,
                on_refusal=self._gateway.refused,
            )
            translated[path] = handler
            self._closers.append(handler.close)
        handle = front(guard=guard, gateway=self._gateway, app=app, exact=translated)
        try:
            limits = Limits(max_connections=min(Limits().max_connections, num_connections(self._num_descriptors)))
            server = await serve(handle, host=options.host, port=options.port, ssl_context=tls, limits=limits)
        except OSError as error:
            raise cannot_listen(options, error) from error
        self._gateway.server = server
        return server

    async def _take_up(self) -> None:
        """The services that were declared, with what still runs of them."""
        for stored in await self._store.load():
            declared = declared_services(stored.manifests, stored.pvc)[0]
            self._add(declared.serving, stored, was_ready=True)
        await self._backend.open(on_change=self._on_change, drain=self._drain)
        if self._shared is not None:
            for service in list(self._services.values()):
                await self._shared.know(service)
            return
        await together([partial(self._take_up_one, service) for service in list(self._services.values())])
        await self._runs.open()

    async def _take_up_one(self, service: Service) -> None:
        if service.stored.deleting:
            await self._delete(service)
            return
        await self._backend.apply(service.serving, service.stored.generation)
        self._gateway.declare(service.serving, service.pool, created_s=service.stored.created_s)
        service.scaler.tick(time.monotonic())

    async def _own_key(self) -> str:
        """The control key of this user's own commands: made once, kept where only the user can read it."""
        file = self._folder.path / "control.key"
        with contextlib.suppress(OSError):
            token = file.read_text().strip()
            if self._ring.check(token.encode()) is not None:
                return token
        _, token = await self._ring.create("commands on this machine", Scope.CONTROL)
        write_private(file, token)
        return token

    async def _admit_key(self, file: Path) -> None:
        """Raises UsageError for a file that holds no key."""
        try:
            token = file.read_text().strip()
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"The control key file {file} cannot be read: {error}") from error
        await self._ring.admit(token, "the installation's", Scope.CONTROL)
        self._peer_key = token

    # --- what the parts tell each other ---

    def _add(self, serving: Serving, stored: StoredService, *, was_ready: bool) -> Service:
        pool = ServicePool(serving)
        service = Service(
            serving,
            stored,
            pool=pool,
            backend=self._backend,
            record=self._log.event,
            default_park_for_s=PARK_ON_GPU_S if self._node().gpus and serving.resources.num_gpus else 0.0,
            was_ready=was_ready,
            now=time.monotonic,
            load=SharedLoad(pool, self._shared.peers) if self._shared is not None else None,
        )
        shared = self._shared
        pool.on_hold = service.poke if shared is None else lambda: shared.held(service)
        self._services[serving.name] = service
        return service

    def _on_change(self, report: ServiceReplicas) -> None:
        service = self._services.get(report.service)
        if service is not None:
            service.observe(report)

    async def _drain(self, replica: Replica) -> None:
        service = self._services.get(replica.service)
        if service is None:
            return
        until_s = time.monotonic() + service.serving.timeout_s
        await service.pool.drain(replica, until_s)
        if self._shared is not None:
            await self._shared.drained(replica, until_s)

    def _request_ended(self, name: str, num_tokens: int) -> None:
        service = self._services.get(name)
        if service is not None:
            service.rates.add(time.monotonic(), num_tokens)

    def _why_no_batch(self, key_id: str, name: str) -> str | None:
        if name not in self._services:
            return f"there is no service {name!r}"
        key = next((key for key in self._ring.list() if key.id == key_id), None) if key_id else None
        if key_id and key is None:
            return "the key that made this batch was revoked"
        return None if key is None or key.allows(name) else f"this key may not use the service {name!r}"

    async def _tick_for_ever(self) -> None:
        while True:
            await asyncio.sleep(TICK_S)
            now_s = time.monotonic()
            if self._shared is not None and not self._shared.decides:
                continue
            for service in list(self._services.values()):
                try:
                    if not service.stored.deleting:
                        service.scaler.tick(now_s)
                except Exception:  # one service's fault must not stop the scaling of the others
                    _logger.exception("the autoscaler of %s failed", service.name)

    async def _keep_house_for_ever(self) -> None:
        while True:
            await asyncio.sleep(HOUSEKEEPING_S)
            try:
                await self._ring.flush()
                await self._files.sweep()
            except Exception:  # nothing that a request waits for; tried again in a minute
                _logger.exception("housekeeping failed")

    # --- Control ---

    def status(self) -> StatusView:
        return StatusView(
            version=ironloom.__version__,
            pid=os.getpid(),
            started_s=self._started_s,
            url=self.url,
            host=self._options.host,
            port=self._server.port,
            state_dir=str(self._folder.path),
            machine=machine_view(self._node()),
            num_services=len(self._services),
            problems=[self._log.problem] if self._log.problem else [],
        )

    async def apply(
        self, manifests: Sequence[dict[str, Any]], *, pvc: dict[str, str], dry_run: bool = False
    ) -> AppliedView:
        declared, jobs = declared_workloads(manifests, pvc)
        self._must_decide()
        async with self._applying:
            for name in [one.serving.name for one in declared if one.serving.name in self._runs]:
                raise name_taken(name, "run")
            for name in [job.name for job in jobs if job.name in self._services]:
                raise name_taken(name, "service")
            plans = [self._plan(one, pvc) for one in declared]
            for job in jobs:
                await self._runs.check(job)
            for serving, _, action in plans:
                if action != "unchanged":
                    await self._backend.check(serving)
            if dry_run:
                return AppliedView(services=[self._told(*plan) for plan in plans])
            await self._store.save(*(stored for _, stored, action in plans if action != "unchanged"))
            return AppliedView(
                services=await together([partial(self._declare, *plan) for plan in plans]),
                runs=[await self._runs.apply(job) for job in jobs],
            )

    def _plan(self, one: Declared, pvc: dict[str, str]) -> tuple[Serving, StoredService, str]:
        service = self._services.get(one.serving.name)
        if service is None:
            stored = StoredService(
                name=one.serving.name, generation=1, manifests=one.manifests, pvc=pvc, created_s=time.time()
            )
            return one.serving, stored, "created"
        if service.stored.deleting:
            raise RequestError(
                409,
                f"the service {one.serving.name!r} is being deleted",
                code="service_deleting",
                source="gateway",
                retry_after_s=1.0,
                hint="apply it again once it is gone",
            )
        if service.stored.manifests == one.manifests and service.stored.pvc == pvc:
            return one.serving, service.stored, "unchanged"
        # A new generation rolls replicas out; what only the gateway and the scaler read does not need one.
        same_process = process_of(service.serving) == process_of(one.serving)
        generation = service.stored.generation + (0 if same_process else 1)
        return (
            one.serving,
            replace(service.stored, generation=generation, manifests=one.manifests, pvc=pvc),
            "configured",
        )

    async def _declare(self, serving: Serving, stored: StoredService, action: Any) -> AppliedService:
        service = self._services.get(serving.name)
        if service is None:
            service = self._add(serving, stored, was_ready=False)
        elif action == "configured":
            service.update(serving, stored)
        if action != "unchanged":
            self._gateway.declare(serving, service.pool, created_s=stored.created_s)
            await self._backend.apply(serving, stored.generation)
            self._log.event(
                Event(
                    kind=EventKind.SERVICE_APPLIED,
                    service=serving.name,
                    reason=action.capitalize(),
                    message=f"{serving.kind} of {serving.model_uri}",
                    data={"generation": stored.generation},
                )
            )
            service.scaler.tick(time.monotonic())
        elif service.report.is_final:
            await self._backend.apply(serving, stored.generation)
            service.scaler.tick(time.monotonic())
        return self._told(serving, stored, action)

    def _told(self, serving: Serving, stored: StoredService, action: Any) -> AppliedService:
        notes = list(self._backend.notes(serving))
        return AppliedService(
            name=serving.name, action=action, generation=stored.generation, url=f"{self.url}/v1", notes=notes
        )

    def services(self) -> list[ServiceView]:
        return [service.view(f"{self.url}/v1") for _, service in sorted(self._services.items())]

    def service(self, name: str) -> ServiceView:
        return self._known(name).view(f"{self.url}/v1")

    async def scale(self, name: str, replicas: int | None, *, park: bool) -> ServiceView:
        service = self._known(name)
        self._must_decide()
        pinned = replicas or None
        if pinned != service.stored.pinned:  # written first: what cannot be written changes nothing
            await self._store.save(replace(service.stored, pinned=pinned))
        if replicas == 0:
            service.to_zero_now(park=park)
        else:
            service.pin(replicas)
        return self.service(name)

    async def delete(self, name: str) -> None:
        service = self._known(name)
        self._must_decide()
        async with self._applying:
            await self._delete(service)

    async def _delete(self, service: Service) -> None:
        service.stored = replace(service.stored, deleting=True)
        await self._store.save(service.stored)
        self._gateway.forget(service.name)
        await self._backend.delete(service.name)
        await self._store.remove(service.name)
        self._services.pop(service.name, None)
        self._log.event(Event(kind=EventKind.SERVICE_DELETED, service=service.name))

    def runs(self) -> list[RunView]:
        return self._runs.views()

    def run(self, name: str) -> RunView:
        return self._runs.view(name)

    async def delete_run(self, name: str) -> None:
        await self._runs.delete(name)  # its last checkpoint takes a while, and nothing else need wait for it

    def run_logs(self, name: str, *, rank: str | None, follow: bool, tail: int) -> AsyncIterator[LogLine]:
        return self._runs.logs(name, rank=rank, follow=follow, tail=tail)

    async def events(self, *, service: str | None, after: int, limit: int) -> list[EventView]:
        return [
            event_view(stored) for stored in await self._log.events(service=service or "", after=after, limit=limit)
        ]

    async def requests(self, *, service: str | None, limit: int) -> list[RequestView]:
        return [request_view(row) for row in await self._log.requests(service=service or "", limit=limit)]

    def logs(self, name: str, *, replica: str | None, follow: bool, tail: int) -> AsyncIterator[LogLine]:
        self._known(name)

        async def lines() -> AsyncIterator[LogLine]:
            async for source, line in self._backend.logs(name, replica, follow=follow, tail=tail):
                yield LogLine(replica=source, line=line)

        return lines()

    def snapshot(self) -> SnapshotView:
        return snapshot_view(self.services(), self._runs.views(with_manifests=False))

    def peer(self, report: PeerReport) -> PeerAnswer:
        if self._shared is None:
            raise not_leader("")
        return self._shared.take(report)

    def _must_decide(self) -> None:
        if self._shared is not None:
            self._shared.must_decide()

    # --- what `Shared` asks of it ---

    def add(self, serving: Serving, stored: StoredService, *, was_ready: bool) -> Service:
        return self._add(serving, stored, was_ready=was_ready)

    def declare(self, service: Service) -> None:
        self._gateway.declare(service.serving, service.pool, created_s=service.stored.created_s)

    def undeclare(self, name: str) -> None:
        self._gateway.forget(name)

    def forget(self, name: str) -> None:
        self._gateway.forget(name)
        self._services.pop(name, None)

    async def finish_delete(self, service: Service) -> None:
        await self._delete(service)

    def shutdown(self, *, stop_replicas: bool) -> None:
        self._stop_replicas = stop_replicas
        self._stop.set()

    def _known(self, name: str) -> Service:
        service = self._services.get(name)
        if service is None:
            raise service_not_found(name, list(self._services))
        return service


__all__ = ["Daemon", "Options", "run"]
