"""The Kubernetes backend against a real API server, scheduler and controller manager."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import time
import urllib.error
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from typing import Any

import pytest
from tests.kube.cluster import Cluster, kubectl

from ironloom.backends.kubernetes import roles
from ironloom.backends.kubernetes.backend import KubernetesBackend
from ironloom.backends.kubernetes.client import Client
from ironloom.backends.kubernetes.kubeconfig import User, load
from ironloom.errors import ClusterError, UsageError
from ironloom.serve.replica import Replica, ReplicaState, ScaleOrder, ServiceReplicas
from ironloom.workload.manifests.read import parse_object
from ironloom.workload.serving import Serving

pytestmark = pytest.mark.kube
WITHIN_S = 120.0


@pytest.fixture(scope="module", autouse=True)
def node(cluster: Cluster) -> None:
    if not cluster.nodes:
        cluster.add_node("gpu-1", allocatable={"nvidia.com/gpu": "64"})


def serving(name: str, **predictor: Any) -> Serving:
    container = {
        "name": "kserve-container",
        "image": "vllm/vllm-openai:v0.26.0",
        "args": ["--model", "a/b", "--port", "8000"],
        "resources": {"limits": {"nvidia.com/gpu": "1"}},
    }
    return parse_object(
        {
            "apiVersion": "serving.kserve.io/v1beta1",
            "kind": "InferenceService",
            "metadata": {"name": name},
            "spec": {"predictor": {"minReplicas": 0, "containers": [container], **predictor}},
        }
    )


class Seen:
    """What a backend reported last, and whom it drained."""

    def __init__(self) -> None:
        self.reports: dict[str, ServiceReplicas] = {}
        self.drained: list[str] = []
        self.changed = asyncio.Event()
        self.holds: asyncio.Event | None = None
        """While it is not set, a drain goes on."""

    def take(self, report: ServiceReplicas) -> None:
        self.reports[report.service] = report
        self.changed.set()

    async def drain(self, replica: Replica) -> None:
        self.drained.append(replica.id)
        if self.holds is not None:
            await self.holds.wait()

    async def until(self, service: str, is_so: Callable[[ServiceReplicas], bool]) -> ServiceReplicas:
        async with asyncio.timeout(WITHIN_S):
            while service not in self.reports or not is_so(self.reports[service]):
                self.changed.clear()
                await self.changed.wait()
        return self.reports[service]


@asynccontextmanager
async def opened(
    cluster: Cluster, *, namespace: str = "default", token: str = "", stop_replicas: bool = False
) -> AsyncIterator[tuple[KubernetesBackend, Seen]]:
    target = load([cluster.kubeconfig]).target("test")
    if token:
        target = replace(target, user=User(name="ironloom", token=token))
    backend, seen = KubernetesBackend(Client(target), namespace=namespace), Seen()
    await backend.open(on_change=seen.take, drain=seen.drain)
    try:
        yield backend, seen
    finally:
        await backend.close(stop_replicas=stop_replicas)


def run(coroutine: Awaitable[None]) -> None:
    asyncio.run(coroutine)  # type: ignore[arg-type]


def deployment(cluster: Cluster, name: str) -> Any:
    return cluster.request("GET", f"/apis/apps/v1/namespaces/default/deployments/{name}")


def num_ready(report: ServiceReplicas) -> int:
    return sum(one.state is ReplicaState.READY for one in report.replicas)


async def until(is_so: Callable[[], bool]) -> None:
    """Until the cluster is so: asked in a thread, so that the backend goes on."""
    await asyncio.to_thread(wait_until, is_so)


def wait_until(is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WITHIN_S
    while not is_so():
        assert time.monotonic() < deadline, "it did not come to be"
        time.sleep(0.05)


def test_a_service_is_applied_at_zero_and_its_count_has_a_manager_of_its_own_from_its_first_replica_on(
    cluster: Cluster,
) -> None:
    async def story() -> None:
        async with opened(cluster) as (backend, _):
            await backend.apply(serving("zero"), 1)
            made = deployment(cluster, "zero")
            assert made["spec"]["replicas"] == 0
            await backend.apply(serving("zero", timeout=60), 2)
            assert deployment(cluster, "zero")["spec"]["replicas"] == 0
            backend.scale("zero", ScaleOrder(num_ready=1))
            await until(lambda: deployment(cluster, "zero")["spec"]["replicas"] == 1)
            made = deployment(cluster, "zero")
            owners = {
                entry["manager"]: entry["fieldsV1"].get("f:spec", {}) for entry in made["metadata"]["managedFields"]
            }
            assert "f:replicas" in owners["ironloom-scale"]
            assert "f:replicas" not in owners["ironloom"]
            await backend.apply(serving("zero", timeout=90), 3)
            assert deployment(cluster, "zero")["spec"]["replicas"] == 1
            await backend.delete("zero")

    run(story())
    with pytest.raises(urllib.error.HTTPError, match="404"):
        deployment(cluster, "zero")


def test_an_order_starts_a_pod_and_the_next_one_drains_it_before_it_goes(cluster: Cluster) -> None:
    async def story() -> None:
        async with opened(cluster) as (backend, seen):
            await backend.apply(serving("one"), 1)
            backend.scale("one", ScaleOrder(num_ready=1))
            report = await seen.until("one", lambda report: bool(report.replicas))
            assert report.replicas[0].state is ReplicaState.STARTING
            await until(lambda: bool(list(cluster.run_pods("ironloom.dev/service=one", pod_ip="10.1.2.3"))))
            report = await seen.until("one", lambda report: num_ready(report) == 1)
            replica = report.replicas[0]
            assert (replica.host, replica.port, replica.generation) == ("10.1.2.3", 8000, 1)
            assert replica.devices == ("gpu-1/gpu",)
            backend.scale("one", ScaleOrder(num_ready=0))
            await until(lambda: deployment(cluster, "one")["spec"]["replicas"] == 0)
            assert seen.drained == [replica.id]
            await backend.delete("one")

    run(story())


def test_an_order_that_comes_while_its_service_is_applied_is_obeyed(cluster: Cluster) -> None:
    async def story() -> None:
        async with opened(cluster) as (backend, _):
            applying = asyncio.create_task(backend.apply(serving("early"), 1))
            await asyncio.sleep(0)
            backend.scale("early", ScaleOrder(num_ready=1))
            await applying
            await until(lambda: deployment(cluster, "early")["spec"]["replicas"] == 1)
            await backend.delete("early")

    run(story())


def test_a_pod_that_no_node_can_take_says_why(cluster: Cluster) -> None:
    async def story() -> None:
        async with opened(cluster) as (backend, seen):
            container = {
                "name": "kserve-container",
                "image": "vllm/vllm-openai:v0.26.0",
                "args": ["--model", "a/b"],
                "resources": {"limits": {"nvidia.com/gpu": "65"}},
            }
            await backend.apply(serving("large", containers=[container]), 1)
            backend.scale("large", ScaleOrder(num_ready=1))
            report = await seen.until("large", lambda report: any("nvidia" in one.phase for one in report.replicas))
            assert "Insufficient nvidia.com/gpu" in report.replicas[0].phase
            await backend.delete("large")

    run(story())


def test_a_count_that_an_autoscaler_writes_is_left_alone(cluster: Cluster) -> None:
    async def story() -> None:
        async with opened(cluster) as (backend, seen):
            await backend.apply(serving("scaled"), 1)
            backend.scale("scaled", ScaleOrder(num_ready=1))
            await until(lambda: deployment(cluster, "scaled")["spec"]["replicas"] == 1)
            autoscaler = {
                "apiVersion": "autoscaling/v2",
                "kind": "HorizontalPodAutoscaler",
                "metadata": {"name": "scaled"},
                "spec": {
                    "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "scaled"},
                    "minReplicas": 3,
                    "maxReplicas": 4,
                    "metrics": [
                        {
                            "type": "Resource",
                            "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 50}},
                        }
                    ],
                },
            }
            hpas = "/apis/autoscaling/v2/namespaces/default/horizontalpodautoscalers"
            cluster.request("POST", hpas, autoscaler)
            await until(lambda: deployment(cluster, "scaled")["spec"]["replicas"] == 3)
            backend.scale("scaled", ScaleOrder(num_ready=2))
            report = await seen.until("scaled", lambda report: bool(report.notes))
            assert "left alone" in report.notes[-1]
            assert deployment(cluster, "scaled")["spec"]["replicas"] == 3
            assert not any(one.state is ReplicaState.STOPPING for one in seen.reports["scaled"].replicas)
            cluster.request("DELETE", f"{hpas}/scaled")
            kubectl(cluster, "scale", "deployment/scaled", "--replicas=4")
            backend.scale("scaled", ScaleOrder(num_ready=1))
            await until(lambda: deployment(cluster, "scaled")["spec"]["replicas"] == 1)
            await seen.until("scaled", lambda report: not report.notes)
            await backend.delete("scaled")

    run(story())


def test_a_count_that_a_person_wrote_is_taken_over_at_the_next_order(cluster: Cluster) -> None:
    async def story() -> None:
        async with opened(cluster) as (backend, _):
            await backend.apply(serving("manual"), 1)
            kubectl(cluster, "scale", "deployment/manual", "--replicas=2")
            backend.scale("manual", ScaleOrder(num_ready=1))
            await until(lambda: deployment(cluster, "manual")["spec"]["replicas"] == 1)
            await backend.delete("manual")

    run(story())


def test_a_field_that_another_manager_owns_is_named_with_its_owner(cluster: Cluster) -> None:
    async def story() -> None:
        async with opened(cluster) as (backend, _):
            await backend.apply(serving("owned"), 1)
            patch = '{"spec":{"progressDeadlineSeconds":77}}'
            kubectl(cluster, "patch", "deployment", "owned", "--field-manager=somebody", "-p", patch)
            with pytest.raises(ClusterError, match="belongs to field manager somebody") as failed:
                await backend.apply(serving("owned", timeout=50), 2)
            assert failed.value.status == 409
            assert "apply deployment owned in namespace default: .spec.progressDeadlineSeconds" in str(failed.value)
            assert "somebody must give it up" in str(failed.value.hint)
            await backend.delete("owned")

    run(story())


def test_the_watch_goes_on_after_the_api_server_was_killed(cluster: Cluster) -> None:
    async def story() -> None:
        async with opened(cluster) as (backend, seen):
            await backend.apply(serving("lasting"), 1)
            backend.scale("lasting", ScaleOrder(num_ready=1))
            await seen.until("lasting", lambda report: len(report.replicas) == 1)
            await asyncio.to_thread(cluster.end, "kube-apiserver", signal.SIGKILL)
            await asyncio.sleep(0.2)
            await asyncio.to_thread(cluster.start_api_server)
            pods: list[str] = []

            def run_pods() -> bool:
                with suppress(OSError):
                    pods.extend(cluster.run_pods("ironloom.dev/service=lasting"))
                return bool(pods)

            await until(run_pods)
            await seen.until("lasting", lambda report: num_ready(report) == 1)
            await backend.delete("lasting")

    run(story())


def test_an_idle_backend_asks_nothing(cluster: Cluster) -> None:
    async def story() -> None:
        async with opened(cluster) as (backend, _):
            await backend.apply(serving("idle"), 1)
            await asyncio.sleep(0.5)
            before = len(cluster.requests_of("ironloom/"))
            begun = time.monotonic()
            await asyncio.sleep(3)
            asked = len(cluster.requests_of("ironloom/")) - before
            assert asked / (time.monotonic() - begun) <= 0.5
            await backend.delete("idle")

    run(story())


def test_what_is_applied_can_be_read_by_kubectl(cluster: Cluster) -> None:
    async def story() -> None:
        async with opened(cluster) as (backend, _):
            await backend.apply(serving("kept", minReplicas=2), 1)
            found = await asyncio.to_thread(
                kubectl, cluster, "get", "deploy,svc,pdb", "-l", "ironloom.dev/service=kept", "-o", "name"
            )
            assert sorted(found) == [
                "deployment.apps/kept",
                "poddisruptionbudget.policy/kept",
                "service/kept",
            ]
            await backend.apply(serving("kept"), 2)
            found = await asyncio.to_thread(
                kubectl, cluster, "get", "pdb", "-l", "ironloom.dev/service=kept", "-o", "name"
            )
            assert found == []
            await backend.delete("kept")

    run(story())


def test_the_role_of_an_installation_is_enough_and_without_it_the_first_look_is_refused(cluster: Cluster) -> None:
    kubectl(cluster, "create", "namespace", "models")
    kubectl(cluster, "create", "serviceaccount", "ironloom", "-n", "models")
    (token,) = kubectl(cluster, "create", "token", "ironloom", "-n", "models")

    async def refused() -> None:
        with pytest.raises(ClusterError, match="forbids user ironloom to list pods in namespace models"):
            async with opened(cluster, namespace="models", token=token):
                pass

    async def allowed() -> None:
        async with opened(cluster, namespace="models", token=token) as (backend, _):
            await backend.apply(serving("small", minReplicas=2), 1)
            await backend.apply(serving("small"), 2)
            backend.scale("small", ScaleOrder(num_ready=1))
            path = "/apis/apps/v1/namespaces/models/deployments/small"
            await until(lambda: cluster.request("GET", path)["spec"]["replicas"] == 1)
            kubectl(cluster, "-n", "models", "set", "image", "deployment/small", "kserve-container=other:1")
            (told,) = await backend.apply(serving("small"), 2)
            assert "changed by kubectl-set" in told
            await backend.delete("small")
            with pytest.raises(urllib.error.HTTPError, match="404"):
                cluster.request("GET", path)

    run(refused())
    kubectl(cluster, "apply", "-f", "-", text=json.dumps(roles.role("models")))
    bound = ("--role=ironloom", "--serviceaccount=models:ironloom", "-n", "models")
    kubectl(cluster, "create", "rolebinding", "ironloom", *bound)
    run(allowed())


def test_a_manifest_of_another_namespace_is_refused_before_anything_is_made(cluster: Cluster) -> None:
    async def story() -> None:
        async with opened(cluster) as (backend, _):
            made = serving("elsewhere")
            metadata = {**made.manifest["metadata"], "namespace": "other"}
            with pytest.raises(UsageError, match="belongs to namespace other"):
                await backend.check(replace(made, manifest={**made.manifest, "metadata": metadata}))

    run(story())


def test_who_ends_the_gateway_with_its_replicas_leaves_none(cluster: Cluster) -> None:
    async def story() -> None:
        async with opened(cluster, stop_replicas=True) as (backend, _):
            await backend.apply(serving("ended"), 1)
            backend.scale("ended", ScaleOrder(num_ready=1))
            await until(lambda: deployment(cluster, "ended")["spec"]["replicas"] == 1)
        assert deployment(cluster, "ended")["spec"]["replicas"] == 0
        kubectl(cluster, "delete", "deploy,svc", "-l", "ironloom.dev/service=ended")

    run(story())


def test_a_pod_that_is_wanted_again_while_it_is_drained_goes_on(cluster: Cluster) -> None:
    async def story() -> None:
        async with opened(cluster) as (backend, seen):
            await backend.apply(serving("again"), 1)
            backend.scale("again", ScaleOrder(num_ready=1))
            await until(lambda: bool(list(cluster.run_pods("ironloom.dev/service=again"))))
            await seen.until("again", lambda report: num_ready(report) == 1)
            seen.holds = asyncio.Event()
            backend.scale("again", ScaleOrder(num_ready=0))
            await seen.until("again", lambda report: num_ready(report) == 0)
            backend.scale("again", ScaleOrder(num_ready=1))
            seen.holds.set()
            await seen.until("again", lambda report: num_ready(report) == 1)
            assert deployment(cluster, "again")["spec"]["replicas"] == 1
            await backend.delete("again")

    run(story())


def test_kubectl_is_the_real_one(cluster: Cluster) -> None:
    assert any("v1.37.2" in line for line in kubectl(cluster, "version"))
    with pytest.raises(subprocess.CalledProcessError):
        kubectl(cluster, "get", "nonsense")
