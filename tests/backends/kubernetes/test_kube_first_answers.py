"""Pods that are asked before their kubelet has called them ready, and those that are left alone."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from ironloom.backends.kubernetes.first_answers import Door, FirstAnswers, answers, door_of

_Test = Callable[..., Coroutine[Any, Any, None]]
HTTP = {"httpGet": {"path": "/health", "port": 8000, "scheme": "HTTP"}}


def on_a_loop(test: _Test) -> Callable[..., None]:
    @functools.wraps(test)
    def run(*args: Any, **named: Any) -> None:
        asyncio.run(test(*args, **named))

    return run


def pod(
    probe: dict[str, Any] | None = None,
    *,
    is_running: bool = True,
    is_ready: bool = False,
    container_id: str = "c1",
    sidecars: tuple[dict[str, Any], ...] = (),
    **more: Any,
) -> dict[str, Any]:
    container = {"name": "main", "ports": [{"name": "http", "containerPort": 8000}], "readinessProbe": probe or HTTP}
    state = {"running": {}} if is_running else {"waiting": {"reason": "ContainerCreating"}}
    statuses = [{"name": "main", "containerID": container_id, "state": state}]
    return {
        "metadata": {"name": "p", **more.pop("metadata", {})},
        "spec": {"containers": [container, *sidecars], **more},
        "status": {
            "podIP": "10.0.0.7",
            "containerStatuses": statuses,
            "conditions": [{"type": "Ready", "status": "True" if is_ready else "False"}],
        },
    }


@pytest.mark.parametrize(
    ("one", "door"),
    [
        pytest.param(pod(), Door("10.0.0.7", 8000, "/health"), id="an HTTP probe"),
        pytest.param(pod({"httpGet": {"port": "http"}}), Door("10.0.0.7", 8000, "/"), id="a port by its name"),
        pytest.param(pod({"tcpSocket": {"port": 8000}}), Door("10.0.0.7", 8000, None), id="a connection is enough"),
        pytest.param(pod(is_running=False), None, id="a container that does not run yet"),
        pytest.param(pod({"exec": {"command": ["true"]}}), None, id="a command"),
        pytest.param(pod({"grpc": {"port": 8000}}), None, id="gRPC"),
        pytest.param(pod({"httpGet": {"port": 8000, "scheme": "HTTPS"}}), None, id="TLS"),
        pytest.param(pod({"httpGet": {"port": 8000, "httpHeaders": [{"name": "A"}]}}), None, id="headers"),
        pytest.param(pod({"httpGet": {"port": 8000, "host": "elsewhere"}}), None, id="another host"),
        pytest.param(pod({**HTTP, "initialDelaySeconds": 5}), None, id="a delay"),
        pytest.param(pod({**HTTP, "successThreshold": 2}), None, id="twice in a row"),
        pytest.param(pod({"httpGet": {"port": "other"}}), None, id="a port that the container has not"),
        pytest.param(pod(readinessGates=[{"conditionType": "x"}]), None, id="a readiness gate"),
        pytest.param(pod(sidecars=({"name": "b", "readinessProbe": HTTP},)), None, id="two containers with probes"),
        pytest.param(pod(sidecars=({"name": "b"},)), None, id="a second container that does not run yet"),
    ],
)
def test_what_is_asked_is_the_probe_of_the_manifest(one: dict[str, Any], door: Door | None) -> None:
    assert door_of(one) == door


class Asked:
    """Answers no until it is opened."""

    def __init__(self) -> None:
        self.is_open = False
        self.doors: list[Door] = []
        self.changed = 0

    async def __call__(self, door: Door) -> bool:
        self.doors.append(door)
        return self.is_open

    def change(self) -> None:
        self.changed += 1


async def turns(number: int = 3) -> None:
    for _ in range(number):
        await asyncio.sleep(0)


@on_a_loop
async def test_a_pod_counts_as_open_once_it_answers_and_until_its_kubelet_speaks() -> None:
    asked = Asked()
    pods = FirstAnswers(asked.change, asked)
    pods.take("p", pod(is_running=False))
    await turns()
    assert asked.doors == []
    asked.is_open = True
    pods.take("p", pod())
    await turns()
    assert (pods.is_open("p"), asked.changed) == (True, 1)
    pods.take("p", pod(is_ready=True))
    assert not pods.is_open("p")
    pods.take("p", pod(is_ready=False))  # taken out of service later: its kubelet's word
    await turns()
    assert not pods.is_open("p")
    assert len(asked.doors) == 1


@on_a_loop
async def test_a_container_that_is_started_again_is_asked_again() -> None:
    asked = Asked()
    asked.is_open = True
    pods = FirstAnswers(asked.change, asked)
    pods.take("p", pod())
    await turns()
    assert pods.is_open("p")
    pods.take("p", pod(is_running=False, container_id="c1"))
    assert not pods.is_open("p")
    pods.take("p", pod(container_id="c2"))
    await turns()
    assert pods.is_open("p")


@pytest.mark.parametrize("gone", [None, pod(metadata={"deletionTimestamp": "2026-01-01T00:00:00Z"})])
@on_a_loop
async def test_a_pod_that_goes_is_asked_no_more(gone: dict[str, Any] | None) -> None:
    asked = Asked()
    pods = FirstAnswers(asked.change, asked)
    pods.take("p", pod())
    await turns()
    pods.take("p", gone)
    asked.is_open = True
    number = len(asked.doors)
    await asyncio.sleep(0.05)
    assert (len(asked.doors), pods.is_open("p"), asked.changed) == (number, False, 0)


@on_a_loop
async def test_nothing_is_asked_after_the_stop() -> None:
    asked = Asked()
    pods = FirstAnswers(asked.change, asked)
    pods.take("p", pod())
    pods.stop()
    pods.take("q", pod())
    await asyncio.sleep(0.05)
    assert asked.doors == []


@pytest.mark.parametrize(
    ("said", "is_open"),
    [(b"HTTP/1.1 200 OK\r\n\r\n", True), (b"HTTP/1.1 302 Found\r\n\r\n", True),
     (b"HTTP/1.1 503 Busy\r\n\r\n", False), (b"no HTTP\r\n", False), (b"", False)],
)  # fmt: skip
@on_a_loop
async def test_an_engine_is_open_when_it_answers_as_a_kubelet_wants_it(said: bytes, is_open: bool) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readline()
        writer.write(said)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    assert await answers(Door("127.0.0.1", port, "/health")) == is_open
    assert await answers(Door("127.0.0.1", port, None))
    server.close()
    await server.wait_closed()
    assert not await answers(Door("127.0.0.1", port, None))
