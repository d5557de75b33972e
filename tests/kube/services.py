"""A cluster's Services, played: their addresses lead to the ready pods behind them, as kube-proxy lets them.

The addresses are put on a device of this machine, whose pods reach them by it. Where no pod is ready those that end and
still answer are taken, as kube-proxy does:
https://kubernetes.io/docs/reference/networking/virtual-ips/#traffic-to-terminating-endpoints
"""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from itertools import count
from typing import Any

from tests.kube.cluster import AWAY, Cluster

KINDS = {"services": "/api/v1/services", "slices": "/apis/discovery.k8s.io/v1/endpointslices"}
SERVICE_OF = "kubernetes.io/service-name"
AGAIN_S = 0.2
Door = tuple[str, int]


class Services:
    """Lead somewhere until they are closed."""

    def __init__(self, cluster: Cluster, device: str) -> None:
        self._cluster, self._device = cluster, device
        self._known: dict[str, dict[str, Any]] = {kind: {} for kind in KINDS}
        self._open: dict[Door, asyncio.Server] = {}
        self._addresses: set[str] = set()
        self._turn = count()
        self._tasks: set[asyncio.Task[Any]] = set()  # the loop keeps none: one that waits for a pod that went is lost
        self._ended = threading.Event()
        self._changed = asyncio.Event()
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._run, daemon=True).start()
        for kind, path in KINDS.items():
            threading.Thread(target=self._follow, args=(kind, path), daemon=True).start()

    def close(self) -> None:
        self._ended.set()
        self._loop.call_soon_threadsafe(self._loop.stop)

    # --- what the API server says ---

    def _follow(self, kind: str, path: str) -> None:
        while not self._ended.is_set():
            with contextlib.suppress(*AWAY):  # an API server that a test has stopped
                listed = self._cluster.request("GET", path)
                self._known[kind] = {_key(one): one for one in listed["items"]}
                self._say()
                for event in self._watch(path, listed["metadata"]["resourceVersion"]):
                    if event["type"] == "ERROR":
                        break
                    if event["type"] == "DELETED":
                        self._known[kind].pop(_key(event["object"]), None)
                    else:
                        self._known[kind][_key(event["object"])] = event["object"]
                    self._say()
            self._ended.wait(AGAIN_S)

    def _watch(self, path: str, version: str) -> Iterator[dict[str, Any]]:
        trusted = ssl.create_default_context(cafile=str(self._cluster.folder / "certs" / "apiserver.crt"))
        connection = http.client.HTTPSConnection("127.0.0.1", self._cluster.port, context=trusted, timeout=60)
        try:
            headers = {"Authorization": f"Bearer {self._cluster.token}"}
            connection.request("GET", f"{path}?watch=1&resourceVersion={version}&timeoutSeconds=50", headers=headers)
            answer = connection.getresponse()
            while line := answer.readline():
                yield json.loads(line)
        finally:
            connection.close()

    def _say(self) -> None:
        with contextlib.suppress(RuntimeError):  # closed meanwhile
            self._loop.call_soon_threadsafe(self._changed.set)

    # --- the doors ---

    def _run(self) -> None:
        self._tasks.add(self._loop.create_task(self._keep()))
        self._loop.run_forever()
        left = self._tasks | asyncio.all_tasks(self._loop)
        for one in left:
            one.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            self._loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))
        for server in self._open.values():
            server.close()
        self._loop.close()

    async def _keep(self) -> None:
        while True:
            await self._changed.wait()
            self._changed.clear()
            wanted = dict(self._wanted())
            for door in self._open.keys() - wanted.keys():
                self._open.pop(door).close()
            for door in wanted.keys() - self._open.keys():
                self._have(door[0])
                self._open[door] = await asyncio.start_server(self._forward(*wanted[door]), *door)

    def _wanted(self) -> Iterator[tuple[Door, tuple[str, str]]]:
        """Addresses with the Service and the port's name that they stand for."""
        for key, service in list(self._known["services"].items()):
            address = service["spec"].get("clusterIP", "None")
            if address not in {"None", ""}:
                for port in service["spec"].get("ports", ()):
                    yield (address, port["port"]), (key, port.get("name") or "")

    def _have(self, address: str) -> None:
        if address not in self._addresses:
            command = ["ip", "addr", "add", f"{address}/32", "dev", self._device]
            subprocess.run(command, capture_output=True, check=True)
            self._addresses.add(address)

    def _forward(self, key: str, port: str) -> Callable[[asyncio.StreamReader, asyncio.StreamWriter], Any]:
        async def forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            if own := asyncio.current_task():
                self._tasks.add(own)
                own.add_done_callback(self._tasks.discard)
            with contextlib.closing(writer), contextlib.suppress(OSError, asyncio.CancelledError):
                behind = self._behind(key, port)
                if behind:
                    far_reader, far_writer = await asyncio.open_connection(*behind[next(self._turn) % len(behind)])
                    with contextlib.closing(far_writer):
                        await asyncio.gather(_pass(reader, far_writer), _pass(far_reader, writer))

        return forward

    def _behind(self, key: str, port: str) -> list[Door]:
        if key == "default/kubernetes":
            return [("127.0.0.1", self._cluster.port)]
        ready, ending = [], []
        for one in list(self._known["slices"].values()):
            namespace = one["metadata"]["namespace"]
            if f"{namespace}/{one['metadata'].get('labels', {}).get(SERVICE_OF)}" != key:
                continue
            numbers = [each["port"] for each in one.get("ports") or () if (each.get("name") or "") == port]
            for endpoint in one.get("endpoints") or ():
                doors = [(address, number) for address in endpoint["addresses"] for number in numbers]
                says = endpoint.get("conditions", {})
                ready += doors if says.get("ready") else []
                ending += doors if says.get("serving") else []
        return ready or ending


async def _pass(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """What one side says, and that it says no more."""
    with contextlib.suppress(OSError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
        if writer.can_write_eof():
            writer.write_eof()


def _key(one: dict[str, Any]) -> str:
    return f"{one['metadata']['namespace']}/{one['metadata']['name']}"
