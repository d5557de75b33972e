"""What a cluster refuses, or does not do, in a sentence that names the object and what to do: against a real API
server."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from tests.kube.cluster import Cluster, kubectl
from tests.kube.test_backend import opened, run, serving, until, wait_until

from ironloom.backends.kubernetes.client import Client
from ironloom.backends.kubernetes.kubeconfig import load
from ironloom.backends.kubernetes.parts import State, read_parts
from ironloom.errors import ClusterError, EngineUnavailable
from ironloom.serve.replica import ScaleOrder

pytestmark = pytest.mark.kube


@pytest.fixture(autouse=True)
def node(cluster: Cluster) -> None:
    if not cluster.nodes:
        cluster.add_node("gpu-1", allocatable={"nvidia.com/gpu": "64"})


@pytest.fixture
def namespace(cluster: Cluster, request: pytest.FixtureRequest) -> Iterator[str]:
    name = "n" + str(abs(hash(request.node.name)))[:8]
    kubectl(cluster, "create", "namespace", name)
    yield name
    kubectl(cluster, "delete", "namespace", name, "--wait=false", "--ignore-not-found")


def test_pods_that_a_quota_does_not_allow_are_told_with_its_name(cluster: Cluster, namespace: str) -> None:
    quota = ("create", "quota", "team", "--hard=requests.nvidia.com/gpu=0", "-n", namespace)
    kubectl(cluster, *quota)

    async def story() -> None:
        async with opened(cluster, namespace=namespace) as (backend, seen):
            await backend.apply(serving("poor"), 1)
            backend.scale("poor", ScaleOrder(num_ready=1))
            report = await seen.until("poor", lambda report: report.failure is not None)
            assert "exceeded quota: team" in str(report.failure)
            kubectl(cluster, "delete", "quota", "team", "-n", namespace)
            kubectl(cluster, "rollout", "restart", "deployment/poor", "-n", namespace)
            await seen.until("poor", lambda report: report.failure is None and bool(report.replicas))
            await backend.delete("poor")

    run(story())


def test_an_object_that_a_quota_does_not_allow_is_refused_with_its_name(cluster: Cluster, namespace: str) -> None:
    kubectl(cluster, "create", "quota", "none", "--hard=count/deployments.apps=0", "-n", namespace)

    async def story() -> None:
        async with opened(cluster, namespace=namespace) as (backend, _):
            with pytest.raises(ClusterError, match=r"refused to apply .*quota none is used up") as failed:
                await backend.apply(serving("many"), 1)
            assert failed.value.hint is not None
            assert "kubectl describe resourcequota none" in failed.value.hint

    run(story())


def test_a_rule_of_the_cluster_that_refuses_is_quoted(cluster: Cluster, namespace: str) -> None:
    group = "/apis/admissionregistration.k8s.io/v1"
    policy: dict[str, Any] = {
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "ValidatingAdmissionPolicy",
        "metadata": {"name": "owners"},
        "spec": {
            "matchConstraints": {
                "resourceRules": [
                    {"apiGroups": ["apps"], "apiVersions": ["v1"], "resources": ["deployments"], "operations": ["*"]}
                ]
            },
            "validations": [
                {"expression": "has(object.metadata.labels.owner)", "message": "every service has an owner"}
            ],
        },
    }
    chosen = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": namespace}}}
    binding = {
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "ValidatingAdmissionPolicyBinding",
        "metadata": {"name": "owners"},
        "spec": {"policyName": "owners", "validationActions": ["Deny"], "matchResources": chosen},
    }
    cluster.request("POST", f"{group}/validatingadmissionpolicies", policy)
    cluster.request("POST", f"{group}/validatingadmissionpolicybindings", binding)
    try:
        wait_until(lambda: is_refused(cluster, namespace))

        async def story() -> None:
            async with opened(cluster, namespace=namespace) as (backend, _):
                with pytest.raises(ClusterError, match="every service has an owner") as failed:
                    await backend.apply(serving("unowned"), 1)
                assert "owners is a rule of this cluster" in str(failed.value.hint)

        run(story())
    finally:
        cluster.request("DELETE", f"{group}/validatingadmissionpolicybindings/owners")
        cluster.request("DELETE", f"{group}/validatingadmissionpolicies/owners")


def is_refused(cluster: Cluster, namespace: str) -> bool:
    """Whether the rule counts already: the API server takes a moment to learn it."""
    trial = ("create", "deployment", "trial", "--image=none", "-n", namespace, "--dry-run=server")
    try:
        kubectl(cluster, *trial)
    except Exception:
        return True
    return False


def test_a_namespace_that_is_being_deleted_is_named(cluster: Cluster, namespace: str) -> None:
    held = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "held", "finalizers": ["tests.ironloom.dev/x"]},
    }
    maps = f"/api/v1/namespaces/{namespace}/configmaps"
    cluster.request("POST", maps, held)

    async def story() -> None:
        async with opened(cluster, namespace=namespace) as (backend, _):
            await backend.apply(serving("early"), 1)
            kubectl(cluster, "delete", "namespace", namespace, "--wait=false")
            path = f"/apis/apps/v1/namespaces/{namespace}/deployments"
            await until(lambda: not cluster.request("GET", path)["items"])
            with pytest.raises(ClusterError, match=f"namespace {namespace} is being deleted"):
                await backend.apply(serving("early"), 2)
            with pytest.raises(ClusterError, match=f"refused to create configmap late in namespace {namespace}: "):
                await backend._client.change("POST", maps, {"metadata": {"name": "late"}})

    run(story())
    merge = "application/merge-patch+json"
    cluster.request("PATCH", f"{maps}/held", {"metadata": {"finalizers": None}}, content=merge)


def test_an_image_that_cannot_be_pulled_is_told_with_its_name(cluster: Cluster) -> None:
    async def story() -> None:
        async with opened(cluster) as (backend, seen):
            await backend.apply(serving("unpulled"), 1)
            backend.scale("unpulled", ScaleOrder(num_ready=1))
            report = await seen.until("unpulled", lambda report: bool(report.replicas))
            waiting = {"reason": "ImagePullBackOff", "message": "Back-off pulling image: not found"}
            container = {
                "name": "kserve-container",
                "ready": False,
                "restartCount": 0,
                "image": "vllm/vllm-openai:v0.26.0",
                "imageID": "",
                "state": {"waiting": waiting},
            }
            path = f"/api/v1/namespaces/default/pods/{report.replicas[0].id}/status"
            status = {"status": {"phase": "Pending", "containerStatuses": [container]}}
            await asyncio.to_thread(cluster.request, "PATCH", path, status, content="application/merge-patch+json")
            report = await seen.until("unpulled", lambda report: report.failure is not None)
            assert "its image cannot be pulled vllm/vllm-openai:v0.26.0: Back-off" in str(report.failure)
            await backend.delete("unpulled")

    run(story())


@contextmanager
def served_in_v7(cluster: Cluster, group: str, kind: str, plural: str) -> Iterator[None]:
    """A kind of a known part, in a version that nobody knows alone."""
    # Of Kubernetes' own groups the API server wants to know who approved it.
    approved = {"api-approved.kubernetes.io": "unapproved, for a test"}
    definition = {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{plural}.{group}", "annotations": approved},
        "spec": {
            "group": group,
            "scope": "Namespaced",
            "names": {"plural": plural, "singular": kind.lower(), "kind": kind},
            "versions": [
                {
                    "name": "v7",
                    "served": True,
                    "storage": True,
                    "schema": {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": True}},
                }
            ],
        },
    }
    path = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
    cluster.request("POST", path, definition)
    try:
        wait_until(lambda: f"{plural}.{group}" in kubectl(cluster, "api-resources", "-o", "name"))
        yield
    finally:
        cluster.request("DELETE", f"{path}/{plural}.{group}")
        wait_until(lambda: f"{plural}.{group}" not in kubectl(cluster, "api-resources", "-o", "name"))


def test_kserve_in_a_version_that_is_not_known_is_said_and_plain_kinds_are_made(cluster: Cluster) -> None:
    async def story() -> None:
        async with opened(cluster) as (backend, _):
            (note,) = backend.notes(serving("ahead"))
            assert note.startswith("KServe is there in version v7, which is not known here")
            await backend.apply(serving("ahead"), 1)
            found = await asyncio.to_thread(kubectl, cluster, "get", "deploy", "ahead", "-o", "name")
            assert found == ["deployment.apps/ahead"]
            await backend.delete("ahead")

    with served_in_v7(cluster, "serving.kserve.io", "InferenceService", "inferenceservices"):
        run(story())


def test_a_leader_worker_set_in_a_version_that_is_not_known_is_refused_with_the_one_to_install(
    cluster: Cluster,
) -> None:
    async def story() -> None:
        async with opened(cluster) as (backend, _):
            with pytest.raises(EngineUnavailable, match="LeaderWorkerSet is there in version v7, which is") as refused:
                await backend.apply(serving("wide", workerSpec={"pipelineParallelSize": 2}), 1)
            assert str(refused.value.hint).startswith("install a LeaderWorkerSet that serves v1 ")

    with served_in_v7(cluster, "leaderworkerset.x-k8s.io", "LeaderWorkerSet", "leaderworkersets"):
        run(story())


def test_kueue_in_a_version_that_is_not_known_is_no_queue(cluster: Cluster) -> None:
    async def story() -> None:
        async with Client(load([cluster.kubeconfig]).target("test")) as client:
            told = {one.name: one for one in await read_parts(client, "default")}
        assert (told["Kueue"].state, told["Kueue"].version) == (State.NOT_KNOWN, "v7")
        assert told["Kueue"].sentence.startswith("Kueue is there in version v7, which is not known here: ")

    with served_in_v7(cluster, "kueue.x-k8s.io", "Workload", "workloads"):
        run(story())
