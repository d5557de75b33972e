"""Asks a pod's container itself whether it is ready, until its kubelet says so for the first time.

A kubelet probes every so many seconds and then reports; a request held at zero would wait for both. So the very probe
of the pod's manifest is made from here, more often, as soon as its container runs. Once the kubelet has called the
container ready its word alone counts, so that a pod that is taken out of service later is left alone.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ironloom.backends.local.probe import ask, poll_interval_s

ASK_WITHIN_S = 2.0


@dataclass(frozen=True, slots=True)
class Door:
    """What a pod's own readiness probe asks. `path` is None where a connection is enough."""

    host: str
    port: int
    path: str | None


def door_of(pod: Mapping[str, Any]) -> Door | None:
    """Of a pod whose readiness is one plain probe of one container that runs; None of any other.

    Nothing is asked where the kubelet would ask in another way: by a command or gRPC, over TLS or with headers, after a
    delay, several times, or where readiness gates have their say.
    """
    spec, status = pod.get("spec") or {}, pod.get("status") or {}
    probed = [one for one in spec.get("containers") or () if one.get("readinessProbe")]
    if len(probed) != 1 or spec.get("readinessGates") or not status.get("podIP"):
        return None
    probe = probed[0]["readinessProbe"]
    if probe.get("initialDelaySeconds", 0) or probe.get("successThreshold", 1) != 1:
        return None
    running = {one["name"] for one in status.get("containerStatuses") or () if "running" in (one.get("state") or {})}
    if {one["name"] for one in spec["containers"]} - running:
        return None
    http, tcp = probe.get("httpGet"), probe.get("tcpSocket")
    asked = http or tcp or {}
    if asked.get("host") or asked.get("httpHeaders") or asked.get("scheme", "HTTP") != "HTTP":
        return None
    named = {port.get("name"): port["containerPort"] for port in probed[0].get("ports") or ()}
    port = named.get(asked.get("port"), asked.get("port"))
    if not isinstance(port, int):
        return None
    return Door(host=status["podIP"], port=port, path=(http.get("path") or "/") if http else None)


async def answers(door: Door) -> bool:
    """Whether it is open now. A status from 200 to 399 is, as for a kubelet:
    https://kubernetes.io/docs/tasks/configure-pod-container/configure-liveness-readiness-startup-probes/.
    """
    try:
        if door.path is None:
            async with asyncio.timeout(ASK_WITHIN_S):
                _, writer = await asyncio.open_connection(door.host, door.port)
                writer.close()
            return True
        status, _ = await ask(door.port, "GET", door.path, timeout_s=ASK_WITHIN_S, host=door.host)
    except (OSError, TimeoutError, ValueError):
        return False
    return 200 <= status < 400


@dataclass(slots=True)
class _Asked:
    containers: tuple[str, ...]
    """Their ids, empty for one that does not run."""
    is_open: bool = False
    is_known: bool = False
    """The kubelet has called these containers ready: its word counts from here on."""
    task: asyncio.Task[None] | None = None

    def stop(self) -> None:
        if self.task is not None:
            self.task.cancel()
            self.task = None


class FirstAnswers:
    """Of one service's pods. `changed` is called when one answers; on the event loop."""

    def __init__(self, changed: Callable[[], None], asks: Callable[[Door], Awaitable[bool]] = answers) -> None:
        self._changed, self._asks = changed, asks
        self._pods: dict[str, _Asked] = {}
        self._is_stopped = False

    def take(self, name: str, pod: Mapping[str, Any] | None) -> None:
        """A pod changed, or is gone."""
        if self._is_stopped:
            return
        known = self._pods.get(name)
        if pod is None or pod["metadata"].get("deletionTimestamp"):
            if known is not None:
                known.stop()
                del self._pods[name]
            return
        status = pod.get("status") or {}
        containers = tuple(
            str(one.get("containerID", "")) if "running" in (one.get("state") or {}) else ""
            for one in status.get("containerStatuses") or ()
        )
        if known is None or known.containers != containers:
            if known is not None:
                known.stop()
            known = self._pods[name] = _Asked(containers)
        if any(one.get("type") == "Ready" and one.get("status") == "True" for one in status.get("conditions") or ()):
            known.stop()
            known.is_known, known.is_open = True, False
        elif not known.is_known and not known.is_open and known.task is None and (door := door_of(pod)) is not None:
            known.task = asyncio.create_task(self._ask(known, door), name=f"ask-{name}")

    def is_open(self, name: str) -> bool:
        """Whether a pod answers that its kubelet has not called ready yet."""
        known = self._pods.get(name)
        return known is not None and known.is_open

    def stop(self) -> None:
        """Nothing is asked after it."""
        self._is_stopped = True
        for known in self._pods.values():
            known.stop()

    async def _ask(self, known: _Asked, door: Door) -> None:
        loop = asyncio.get_running_loop()
        begun_s = loop.time()
        while True:
            if await self._asks(door):
                break
            await asyncio.sleep(poll_interval_s(loop.time() - begun_s))
        known.is_open, known.task = True, None
        self._changed()
