"""Services whose replica spans nodes, through the real LeaderWorkerSet controller."""

from __future__ import annotations

import asyncio
import json
import urllib.error
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.kube import grouping
from tests.kube.cluster import Cluster, cache, free_ports, kubectl, missing
from tests.kube.engine_pods import EnginePods
from tests.kube.gateway import SHORT, apply, running
from tests.kube.test_backend import num_ready, opened, run, until, wait_until

from ironloom.serve.replica import ReplicaState, ScaleOrder
from ironloom.workload.manifests.read import parse_object, read_text, to_workloads
from ironloom.workload.serving import Serving

pytestmark = pytest.mark.kube
NUM_NODES = 8
LEAF = "backend.coreweave.cloud/leafgroup"
"""Of two, with four nodes each."""
LABELS = "ironloom.dev/service"


@pytest.fixture(scope="module")
def with_groups(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    if absent := [*missing(), *grouping.missing_lws()]:
        pytest.skip(f"no {absent[0]}: run scripts/setup_kubernetes")
    with Cluster(tmp_path_factory.mktemp("groups")) as made:
        try:
            for number in range(NUM_NODES):
                offered = {"nvidia.com/gpu": "8", "rdma/ib": "1"}
                made.add_node(f"gpu-{number}", labels={LEAF: str(number // 4)}, allocatable=offered)
            grouping.start(made)
            yield made
        finally:
            made.end("lws")


@pytest.fixture(autouse=True)
def _no_pods_left(with_groups: Cluster) -> Iterator[None]:
    """No kubelet ends what was deleted: it would hold its GPUs, and its domain, for ever. While a StatefulSet of a
    group is there yet, it makes such a pod anew."""
    yield
    pods, sets = "/api/v1/namespaces/default/pods", "/apis/apps/v1/namespaces/default/statefulsets"

    def is_none_left() -> bool:
        with_groups.request("DELETE", pods, {"gracePeriodSeconds": 0})
        return all(with_groups.request("GET", path)["items"] == [] for path in (grouping.SETS, sets, pods))

    wait_until(is_none_left)


def manifest(name: str, *, port: int = 0, **annotations: str) -> dict[str, Any]:
    """Two nodes of eight GPUs each. With a port its containers are its own."""
    gpus = {"limits": {"nvidia.com/gpu": "8"}}
    model: dict[str, Any] = {
        "modelFormat": {"name": "huggingface"},
        "storageUri": "hf://owner/name",
        "resources": gpus,
    }
    head: dict[str, Any] = {"model": model}
    worker: dict[str, Any] = {"tensorParallelSize": 8, "pipelineParallelSize": 2}
    if port:
        own = {"image": "vllm/vllm-openai:v0.26.0", "resources": gpus}
        head = {"containers": [{"name": "kserve-container", "args": ["--model", "a/b", "--port", str(port)], **own}]}
        worker["containers"] = [{"name": "worker-container", "args": ["--model", "a/b", "--headless"], **own}]
    return {
        "apiVersion": "serving.kserve.io/v1beta1",
        "kind": "InferenceService",
        "metadata": {"name": name, "annotations": annotations},
        "spec": {"predictor": {"minReplicas": 0, **head, "workerSpec": worker}},
    }


def serving(name: str, **annotations: str) -> Serving:
    return parse_object(manifest(name, **annotations))


def group_set(cluster: Cluster, name: str) -> dict[str, Any]:
    found: dict[str, Any] = cluster.request("GET", f"{grouping.SETS}/{name}")
    return found


def pods(cluster: Cluster, name: str) -> list[str]:
    found = cluster.request("GET", f"/api/v1/namespaces/default/pods?labelSelector={LABELS}={name}")
    return sorted(one["metadata"]["name"] for one in found["items"])


def num_scales(cluster: Cluster, name: str) -> int:
    """How often its count was written."""
    found = [one for one in cluster.requests_of("ironloom/") if one["verb"] == "patch"]
    return sum(
        one["objectRef"].get("name") == name and "fieldManager=ironloom-scale" in one["requestURI"] for one in found
    )


def is_gone(cluster: Cluster, name: str) -> bool:
    try:
        group_set(cluster, name)
    except urllib.error.HTTPError as error:
        return error.code == 404
    return False


def test_groups_are_replicas_whose_count_is_written_by_the_scales_own_manager_and_the_last_goes_first(
    with_groups: Cluster,
) -> None:
    async def story() -> None:
        async with opened(with_groups) as (backend, seen):
            await backend.apply(serving("wide"), 1)
            assert group_set(with_groups, "wide")["spec"]["replicas"] == 0
            backend.scale("wide", ScaleOrder(num_ready=2))
            await until(lambda: pods(with_groups, "wide") == ["wide-0", "wide-0-1", "wide-1", "wide-1-1"])
            report = await seen.until("wide", lambda one: len(one.replicas) == 2)
            assert {one.state for one in report.replicas} == {ReplicaState.STARTING}
            await until(lambda: len(list(with_groups.run_pods(f"{LABELS}=wide"))) == 4)
            report = await seen.until("wide", lambda one: num_ready(one) == 2)
            assert {one.id for one in report.replicas} == {"wide-0", "wide-1"}
            assert all(len(one.devices) == 16 for one in report.replicas)
            managers = group_set(with_groups, "wide")["metadata"]["managedFields"]
            owners = [one["manager"] for one in managers if "f:replicas" in one["fieldsV1"].get("f:spec", {})]
            assert owners == ["ironloom-scale"]
            await backend.apply(serving("wide"), 1)
            assert group_set(with_groups, "wide")["spec"]["replicas"] == 2
            backend.scale("wide", ScaleOrder(num_ready=1))
            await until(lambda: group_set(with_groups, "wide")["spec"]["replicas"] == 1)
            assert seen.drained == ["wide-1"]
            await backend.delete("wide")
            await until(lambda: is_gone(with_groups, "wide"))

    run(story())


def test_groups_that_ask_for_a_domain_have_one_each_and_reach_each_other_by_its_fabric(with_groups: Cluster) -> None:
    async def story() -> None:
        async with opened(with_groups) as (backend, seen):
            await backend.apply(serving("apart", **{"kueue.x-k8s.io/podset-required-topology": LEAF}), 1)
            backend.scale("apart", ScaleOrder(num_ready=2))
            await until(lambda: len(with_groups.bound(f"{LABELS}=apart")) == 4)
            leaves = {
                name: int(node.removeprefix("gpu-")) // 4 for name, node in with_groups.bound(f"{LABELS}=apart").items()
            }
            assert leaves["apart-0"] == leaves["apart-0-1"] != leaves["apart-1"] == leaves["apart-1-1"]
            for name in leaves:
                pod = with_groups.request("GET", f"/api/v1/namespaces/default/pods/{name}")
                [container] = pod["spec"]["containers"]
                assert container["resources"]["limits"] == {"nvidia.com/gpu": "8", "rdma/ib": "1"}
                assert container["securityContext"]["capabilities"]["add"] == ["IPC_LOCK"]
                assert {"NCCL_IB_HCA", "NCCL_SOCKET_IFNAME"} <= {one["name"] for one in container["env"]}
            report = await seen.until("apart", lambda one: bool(one.notes))
            assert "each pod asks for rdma/ib: 1, which its nodes offer" in report.notes
            assert any(f"gives each group one {LEAF} to itself" in note for note in report.notes)
            # A third group finds no domain of its own, though four nodes are free.
            backend.scale("apart", ScaleOrder(num_ready=3))
            await until(lambda: any(one.id == "apart-2" and "waits for a node" in one.phase for one in
                                    seen.reports["apart"].replicas))  # fmt: skip
            assert len(with_groups.bound(f"{LABELS}=apart")) == 4
            await backend.delete("apart")
            await until(lambda: is_gone(with_groups, "apart"))

    run(story())


def test_what_the_groups_pods_run_is_told_where_their_leader_is(with_groups: Cluster) -> None:
    async def story() -> None:
        async with opened(with_groups) as (backend, _):
            await backend.apply(serving("told"), 1)
            backend.scale("told", ScaleOrder(num_ready=1))
            await until(lambda: len(pods(with_groups, "told")) == 2)
            worker = with_groups.request("GET", "/api/v1/namespaces/default/pods/told-0-1")
            [container] = worker["spec"]["containers"]
            env = {one["name"]: one.get("value") for one in container["env"]}
            assert env["LWS_LEADER_ADDRESS"].startswith("told-0.told.")
            assert (env["LWS_GROUP_SIZE"], env["LWS_WORKER_INDEX"]) == ("2", "1")
            assert container["args"][-1] == "--headless"
            await backend.delete("told")

    run(story())


def test_a_request_at_zero_makes_a_group_and_goes_to_its_leader(with_groups: Cluster, tmp_path: Path) -> None:
    (port,) = free_ports(1)
    (tmp_path / "state").mkdir()
    with running(with_groups, tmp_path / "state") as gateway:
        apply(gateway, manifest("asked", port=port, **SHORT))
        assert group_set(with_groups, "asked")["spec"]["replicas"] == 0
        with EnginePods(with_groups, "asked", port, tmp_path / "engine.log"):
            assert gateway.ask("asked")
            service = gateway.call("GET", "/api/v1/services/asked")
            assert [one["id"] for one in service["replicas"]] == ["asked-0"]
            # The address of these pods is loopback's, which no EndpointSlice takes: it is asked who would be one.
            service_object = with_groups.request("GET", "/api/v1/namespaces/default/services/asked-leaders")
            chosen = ",".join(f"{key}={value}" for key, value in service_object["spec"]["selector"].items())
            found = with_groups.request("GET", f"/api/v1/namespaces/default/pods?labelSelector={chosen}")
            assert [one["metadata"]["name"] for one in found["items"]] == ["asked-0"]
            assert pods(with_groups, "asked") == ["asked-0", "asked-0-1"]
            wait_until(lambda: group_set(with_groups, "asked")["spec"]["replicas"] == 0)
            assert gateway.ask("asked", "again")
        assert "LeaderWorkerSet" in json.dumps(service["notes"])
        gateway.call("DELETE", "/api/v1/services/asked")


def test_a_rollout_without_room_takes_turns_and_a_claim_outlives_its_service_and_both_come_back_as_they_were_written(
    with_groups: Cluster,
) -> None:
    async def story() -> None:
        async with opened(with_groups) as (backend, seen):
            written = manifest("tight", **{"ironloom.dev/model-cache": "1Gi"})
            predictor = written["spec"]["predictor"]
            del predictor["workerSpec"]
            predictor["minReplicas"] = NUM_NODES
            await backend.apply(parse_object(written), 1)
            made = with_groups.request("GET", "/apis/apps/v1/namespaces/default/deployments/tight")
            assert made["spec"]["strategy"]["rollingUpdate"] == {"maxSurge": 0, "maxUnavailable": 1}
            report = await seen.until("tight", lambda one: bool(one.notes))
            wanted = f"of its replicas of 8 nvidia.com/gpu, and a rollout beside the old one takes {NUM_NODES + 1}"
            assert any(wanted in note for note in report.notes), report.notes
            text = await asyncio.to_thread(kubectl, with_groups, "get", "deployment", "tight", "-o", "yaml")
            [again] = to_workloads(read_text("\n".join(text))).servings
            assert again.manifest == written
            await backend.delete("tight")
            left = await asyncio.to_thread(kubectl, with_groups, "get", "pvc,deployment", "-o", "name")
            assert left == ["persistentvolumeclaim/tight-models"]
            with_groups.request("DELETE", "/api/v1/namespaces/default/persistentvolumeclaims/tight-models")

    run(story())


def test_an_llm_inference_service_is_applied_as_itself_where_its_kind_is_served(with_groups: Cluster) -> None:
    definition = cache() / "crds" / "kserve" / "llmisvc" / "serving.kserve.io_llminferenceservices.yaml"
    kubectl(with_groups, "apply", "--server-side", "-f", str(definition))
    path = "/apis/serving.kserve.io/v1alpha2/namespaces/default/llminferenceservices"
    wait_until(lambda: bool(kubectl(with_groups, "api-resources", "--api-group=serving.kserve.io", "-o", "name")))
    spec = {
        "model": {"uri": "hf://owner/name"},
        "template": {"containers": [{"name": "main", "resources": {"limits": {"nvidia.com/gpu": "1"}}}]},
    }
    kind = {"apiVersion": "serving.kserve.io/v1alpha2", "kind": "LLMInferenceService"}

    async def story() -> None:
        async with opened(with_groups) as (backend, seen):
            await backend.apply(parse_object({**kind, "metadata": {"name": "llm"}, "spec": spec}), 1)
            backend.scale("llm", ScaleOrder(num_ready=3))
            made = with_groups.request("GET", f"{path}/llm")
            assert made["spec"]["labels"]["ironloom.dev/service"] == "llm"
            assert "replicas" not in made["spec"]
            report = await seen.until("llm", lambda one: bool(one.notes))
            assert any("KServe (an LLMInferenceService's own controller) writes it" in note for note in report.notes)
            deployments = with_groups.request("GET", "/apis/apps/v1/namespaces/default/deployments")
            assert deployments["items"] == []
            await backend.delete("llm")
            await until(lambda: not with_groups.request("GET", path)["items"])

    run(story())


def test_another_gateway_that_takes_over_knows_the_count_that_was_written(with_groups: Cluster) -> None:
    async def story() -> None:
        async with opened(with_groups) as (first, _):
            await first.apply(serving("kept"), 1)
            first.scale("kept", ScaleOrder(num_ready=1))
            await until(lambda: group_set(with_groups, "kept")["spec"]["replicas"] == 1)
        async with opened(with_groups) as (second, _):
            await second.adopt(serving("kept"), 1)
            await second.begin_to_lead()
            before = num_scales(with_groups, "kept")
            second.scale("kept", ScaleOrder(num_ready=1))
            second.scale("kept", ScaleOrder(num_ready=2))
            await until(lambda: group_set(with_groups, "kept")["spec"]["replicas"] == 2)
            assert num_scales(with_groups, "kept") == before + 1
            await second.delete("kept")

    run(story())
