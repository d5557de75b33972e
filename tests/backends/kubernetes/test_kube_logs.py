"""What pods wrote, and what is said of those whose output cannot be read."""

from __future__ import annotations

import asyncio

from tests.backends.kubernetes.conftest import WriteKubeconfig
from tests.fakes.kube_api import Answer, KubeApi, status

from ironloom.backends.kubernetes import kubeconfig
from ironloom.backends.kubernetes.backend import KubernetesBackend
from ironloom.backends.kubernetes.client import Client
from ironloom.errors import ClusterError, IronloomError

LOG = "/api/v1/namespaces/models/pods/{pod}/log"


def read(write_kubeconfig: WriteKubeconfig, api: KubeApi, pod: str) -> list[tuple[str, str | IronloomError]]:
    with api.running():
        target = kubeconfig.load([write_kubeconfig(api.url)]).target("prod")

        async def run() -> list[tuple[str, str | IronloomError]]:
            async with Client(target) as client:
                lines = KubernetesBackend(client, namespace="models").logs("chat", pod, follow=False, tail=5)
                return [one async for one in lines]

        return asyncio.run(run())


def test_lines_are_told_under_the_pod_s_name(write_kubeconfig: WriteKubeconfig) -> None:
    api = KubeApi()
    api.always[LOG.format(pod="chat-1")] = Answer(200, b"loading\nready\n")
    assert read(write_kubeconfig, api, "chat-1") == [("chat-1", "loading"), ("chat-1", "ready")]
    assert api.asked[-1].params == {"tailLines": "5", "follow": "false"}


def test_a_log_that_the_api_server_refuses_is_an_error_and_no_line(write_kubeconfig: WriteKubeconfig) -> None:
    api = KubeApi()
    api.always[LOG.format(pod="chat-1")] = status(403, "Forbidden", "no role")
    ((pod, error),) = read(write_kubeconfig, api, "chat-1")
    assert pod == "chat-1"
    assert isinstance(error, ClusterError)
    assert "forbids user ada to get pods/log chat-1: no role" in error.message
