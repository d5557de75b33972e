"""What is said of a service that was applied: of its manifest, and of what was made of it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest
from tests.backends.kubernetes.conftest import WriteKubeconfig

from ironloom.backends.kubernetes import kubeconfig
from ironloom.backends.kubernetes.backend import KubernetesBackend
from ironloom.backends.kubernetes.client import Client
from ironloom.backends.kubernetes.rendering import Place, Rendered, Renderer
from ironloom.workload.serving import Scaling, Serving

PATH = "/apis/apps/v1/namespaces/models/deployments/chat"
QUEUE = "queue team-a is not honoured: Kueue is not there"


def told(
    write_kubeconfig: WriteKubeconfig,
    monkeypatch: pytest.MonkeyPatch,
    ask: Callable[[KubernetesBackend, Serving], tuple[str, ...]],
    *,
    writer: str = "",
) -> tuple[str, ...]:
    """What is asked of a backend to which a service was made known."""

    async def found(_self: Renderer, _serving: Serving, _generation: int) -> Rendered:
        return Rendered(objects=(), place=Place(port=8000, scaled=PATH, writer=writer), notes=(QUEUE,))

    monkeypatch.setattr(Renderer, "find", found)
    target = kubeconfig.load([write_kubeconfig("http://127.0.0.1:1")]).target("prod")

    async def story() -> tuple[str, ...]:
        async with Client(target) as client:
            backend = KubernetesBackend(client, namespace="models")
            backend._on_change = lambda _: None
            backend._drain = lambda _: asyncio.sleep(0)
            serving = a_service()
            await backend.adopt(serving, 1)
            try:
                return ask(backend, serving)
            finally:
                for service in backend._services.values():
                    await service.end()

    return asyncio.run(story())


def a_service(*, park_for_s: float | None = None) -> Serving:
    return Serving(name="chat", kind="Deployment", scaling=Scaling(park_for_s=park_for_s))


def test_what_was_made_of_a_service_is_said_of_the_one_that_was_applied(
    write_kubeconfig: WriteKubeconfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ask(backend: KubernetesBackend, serving: Serving) -> tuple[str, ...]:
        return backend.notes(serving)

    assert told(write_kubeconfig, monkeypatch, ask)[-1:] == (QUEUE,)
    *_, queue, writer = told(write_kubeconfig, monkeypatch, ask, writer="keda")
    assert (queue, writer) == (QUEUE, "its scale is left alone: keda writes it")


def test_it_is_not_said_of_another_manifest_of_the_same_name(
    write_kubeconfig: WriteKubeconfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    notes = told(write_kubeconfig, monkeypatch, lambda backend, _: backend.notes(a_service(park_for_s=5.0)))
    assert QUEUE not in notes
    assert any("park" in note for note in notes)
