"""The daemon that `ironloom up` runs: gateway, autoscaler, control API, page and event log in one process.

It puts the parts together and owns none of their state: pools count, scalers decide, the backend runs replicas, the
event log records, `Services` knows which services there are. What it owns is the order in which things begin and end.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack
from typing import Any, cast

import ironloom
from ironloom.account.database import Database
from ironloom.account.events import Event, EventKind
from ironloom.account.log import EventLog
from ironloom.errors import UsageError
from ironloom.serve.autoscale.scaler import TICK_S
from ironloom.serve.gateway.app import Gateway
from ironloom.serve.gateway.config import GatewayConfig
from ironloom.serve.gateway.keys import KeyRing
from ironloom.server import run_metrics
from ironloom.server.batches import Batches
from ironloom.server.control import (
    AppliedView,
    AskedProfileView,
    EventView,
    LogLine,
    PeerAnswer,
    PeerReport,
    RequestView,
    RunView,
    ServiceView,
    SnapshotView,
    StatusView,
    not_leader,
)
from ironloom.server.descriptors import raise_limit
from ironloom.server.doors import Rooms, open_door
from ironloom.server.files import FileStore
from ironloom.server.ground import (
    BackendFactory,
    Options,
    find_machine,
    kubernetes_backend,
    local_backend,
    own_url,
    shown_host,
    tls_context,
)
from ironloom.server.own_keys import admit_key, own_key
from ironloom.server.promptness import be_prompt
from ironloom.server.runs import Runs
from ironloom.server.security import Guard, door_notes, is_loopback
from ironloom.server.service_store import ServiceStore
from ironloom.server.services import Services
from ironloom.server.shared import Shared, SharedBackend
from ironloom.server.state_dir import Discovery, StateDir
from ironloom.server.view import event_view, log_line, machine_view, request_view, snapshot_view

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
        self._stop = asyncio.Event()
        self._stop_replicas = not options.keeps_replicas
        self._tasks: list[asyncio.Task[None]] = []
        self._started_s = time.time()
        self._shared: Shared | None = None
        """Where it is one of several gateways."""
        self._peer_key: str | None = None
        """Opens the control API of the others."""
        self.url = ""

    # --- beginning and end ---

    async def open(self) -> None:
        """Listen, and take up what an earlier daemon left. Raises UsageError when the address cannot be had, and what
        the backend's opening raises; what was open by then is closed again."""
        async with AsyncExitStack() as opened:
            await self._open(opened)
            opened.pop_all()

    async def _open(self, opened: AsyncExitStack) -> None:
        """`opened` gets what closes each part, should a later one not open."""
        options, folder = self._options, self._folder
        tls = tls_context(options)
        self._database = Database.open(folder.database)
        opened.callback(self._database.close)
        self._log = await EventLog.open(self._database, folder.journal)
        opened.push_async_callback(self._log.close)
        self._ring = await KeyRing.open(self._database)
        if options.is_shared and self._keys_required and options.control_key_file is None:
            raise UsageError(
                "Several gateways want keys of one another, and --control-key-file names none",
                hint="mount the Secret that `ironloom install` makes, or listen on loopback",
            )
        if options.control_key_file is not None:
            self._peer_key = await admit_key(self._ring, options.control_key_file)
        self._node = await find_machine()
        self._backend = self._backend_factory(self._database, self._log, folder.path, self._node)
        self._runs = Runs(self._database, getattr(self._backend, "runs", None), self._log.event)
        self._gateway = Gateway(
            log=self._log,
            keys=self._ring,
            config=GatewayConfig(keys_required=self._keys_required, allow_origins=frozenset(options.allow_origins)),
            on_end=self._request_ended,
        )
        self._services = self._begin_services()
        more_metrics: Callable[[], bytes] = getattr(self._backend, "metrics", bytes)
        self._gateway.more_metrics = lambda: run_metrics.render(self._runs.reports()) + more_metrics()
        self._gateway.start()
        opened.callback(self._gateway.close)
        self._batches = Batches(
            self._database,
            self._gateway.call,
            why_not=self._why_no_batch,
            concurrency=lambda name: self._services.known(name).num_at_once if name in self._services else 0,
            on_event=self._log.event,
        )
        self._files = FileStore(self._database)
        rooms = Rooms(control=self, gateway=self._gateway, ring=self._ring, batches=self._batches, files=self._files)
        guard = Guard(
            loopback=self._loopback,
            keys_required=self._keys_required,
            allowed_hosts=frozenset(options.allow_hosts),
            allowed_origins=frozenset(options.allow_origins),
        )
        self._door = await open_door(rooms, options, guard=guard, tls=tls, num_descriptors=self._num_descriptors)
        self._server = self._door.server
        opened.push_async_callback(self._server.close)
        for close in self._door.closers:
            opened.push_async_callback(close)
        scheme = "https" if tls else "http"
        self.url = f"{scheme}://{shown_host(options.host)}:{self._server.port}"
        self._services.url = options.url or self.url
        self._services.namespace = options.cluster.namespace if options.cluster is not None else ""
        self._log.event(
            Event(
                kind=EventKind.DAEMON_STARTED,
                reason="DaemonStarted",
                message=f"listening on {self.url}",
                data={"pid": os.getpid()},
            )
        )
        await self._services.take_up()
        opened.push_async_callback(self._backend.close, stop_replicas=False)
        if self._shared is None:
            await self._runs.open()
        else:
            url = own_url(options.host, self.url)
            self._shared.begin(url=url, key=self._peer_key, on_keys=self._ring.take)
            opened.push_async_callback(self._shared.close)
            opened.push_async_callback(self._shared.leave)
            await self._shared.keys_known()
        opened.push_async_callback(self._batches.close)
        await self._batches.open()
        loop = asyncio.get_running_loop()
        self._tasks = [
            loop.create_task(self._tick_for_ever(), name="scaler"),
            loop.create_task(self._keep_house_for_ever(), name="housekeeping"),
        ]
        opened.push_async_callback(self._end_tasks)
        folder.announce(
            Discovery(
                pid=os.getpid(),
                url=self.url,
                started=self._started_s,
                version=ironloom.__version__,
                key=await own_key(self._ring, folder.path) if self._keys_required else None,
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
        in_flight = sum(service.pool.in_flight for service in self._services.by_name.values())
        _logger.info("ending: %d requests in flight", in_flight)
        self._gateway.stop()
        await self._end_tasks()
        self._batches.stop()
        if self._shared is not None:
            await self._shared.leave()
        self._server.stop_accepting()
        await self._services.drain_requests()
        await self._batches.close()
        for close in self._door.closers:
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

    async def _end_tasks(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _signalled(self, number: int) -> None:
        if self._stop.is_set():
            _logger.warning("second signal: ending at once")
            os._exit(128 + number)
        self._stop.set()

    # --- what the parts tell each other ---

    def _begin_services(self) -> Services:
        """The owner of the set, among the other gateways where there are some."""
        services = Services(
            backend=self._backend,
            gateway=self._gateway,
            log=self._log,
            runs=self._runs,
            store=ServiceStore(self._database),
            has_gpus=bool(self._node().gpus),
        )
        if group := getattr(self._backend, "group", None):
            backend = cast("SharedBackend", self._backend)
            shared = Shared(group, backend, host=services, services=services.by_name, changing=services.changing)
            self._shared = services.shared = self._ring.shelf = shared
            services.store = shared.store
        return services

    def _request_ended(self, name: str, num_tokens: int) -> None:
        self._services.count_tokens(name, num_tokens)

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
            await self._services.tick()

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
            backend=self._backend.name,
        )

    async def apply(
        self, manifests: Sequence[dict[str, Any]], *, pvc: dict[str, str], dry_run: bool = False
    ) -> AppliedView:
        return await self._services.apply(manifests, pvc, dry_run=dry_run)

    def services(self) -> list[ServiceView]:
        return self._services.views()

    def service(self, name: str) -> ServiceView:
        return self._services.view(name)

    async def scale(self, name: str, replicas: int | None, *, park: bool) -> ServiceView:
        return await self._services.scale(name, replicas, park=park)

    async def delete(self, name: str) -> None:
        await self._services.delete(name)

    def runs(self) -> list[RunView]:
        return self._runs.views()

    def run(self, name: str) -> RunView:
        return self._runs.view(name)

    async def profile_run(self, name: str, num_steps: int) -> AskedProfileView:
        return await self._runs.profile(name, num_steps)

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
        self._services.known(name)

        async def lines() -> AsyncIterator[LogLine]:
            async for source, line in self._backend.logs(name, replica, follow=follow, tail=tail):
                yield log_line(source, line)

        return lines()

    def snapshot(self) -> SnapshotView:
        return snapshot_view(self.services(), self._runs.views(with_manifests=False))

    def peer(self, report: PeerReport) -> PeerAnswer:
        if self._shared is None:
            raise not_leader("")
        return self._shared.take(report)

    def shutdown(self, *, stop_replicas: bool) -> None:
        self._stop_replicas = stop_replicas
        self._stop.set()


__all__ = ["Daemon", "Options", "run"]
