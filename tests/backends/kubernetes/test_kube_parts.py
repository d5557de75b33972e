"""What a cluster's parts say of themselves, and what of it may not be read: against a stand-in of the API server."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from typing import Any

import pytest
from tests.backends.kubernetes.conftest import WriteKubeconfig
from tests.fakes.kube_api import Answer, KubeApi, status

from ironloom.backends.kubernetes import kubeconfig
from ironloom.backends.kubernetes.capabilities import PARTS
from ironloom.backends.kubernetes.client import Client
from ironloom.backends.kubernetes.parts import PartView, State, read_parts
from ironloom.backends.kubernetes.render.training import POD_GROUP_API
from ironloom.errors import ClusterError

KSERVE = "/apis/serving.kserve.io/v1beta1/inferenceservices"
CONFIG = "/api/v1/namespaces/kserve/configmaps/inferenceservice-config"
KUEUE = "/apis/kueue.x-k8s.io/v1beta2"
LOCAL = f"{KUEUE}/namespaces/ml/localqueues"
DEPLOYMENTS = "/apis/apps/v1/deployments"
GROUP = f"/apis/{POD_GROUP_API}/podgroups"
TRIAL = f"/apis/{POD_GROUP_API}/namespaces/ml/podgroups/ironloom-trial"
KINDS: Mapping[str, tuple[str, bool]] = {
    "/api/v1/configmaps": ("ConfigMap", True),
    DEPLOYMENTS: ("Deployment", True),
    KSERVE: ("InferenceService", True),
    f"{KUEUE}/workloads": ("Workload", True),
    f"{KUEUE}/localqueues": ("LocalQueue", True),
    f"{KUEUE}/clusterqueues": ("ClusterQueue", False),
    f"{KUEUE}/topologies": ("Topology", False),
    f"{KUEUE}/resourceflavors": ("ResourceFlavor", False),
    GROUP: ("PodGroup", True),
    "/apis/resource.k8s.io/v1/resourceclaims": ("ResourceClaim", True),
    "/apis/resource.k8s.io/v1/deviceclasses": ("DeviceClass", False),
    "/apis/nvidia.com/v1/clusterpolicies": ("ClusterPolicy", False),
}
FORBIDDEN = status(403, "Forbidden", "not for you")


def ok(body: object) -> Answer:
    return Answer(200, json.dumps(body).encode())


def named(name: str, **fields: Any) -> dict[str, Any]:
    return {"metadata": {"name": name}, **fields}


def config(mode: str) -> Answer:
    return ok(named("inferenceservice-config", data={"deploy": json.dumps({"defaultDeploymentMode": mode})}))


def parts_of(api: KubeApi, write_kubeconfig: WriteKubeconfig) -> dict[str, PartView]:
    with api.running():
        write_kubeconfig(api.url)
        target = kubeconfig.load().target("prod")

        async def ask() -> tuple[PartView, ...]:
            async with Client(target) as client:
                return await read_parts(client, "ml")

        return {one.name: one for one in asyncio.run(ask())}


def test_every_part_is_there_or_not_there_and_said(write_kubeconfig: WriteKubeconfig) -> None:
    found = parts_of(KubeApi(kinds=KINDS), write_kubeconfig)
    assert list(found) == [part.name for part in PARTS]
    assert (found["KServe"].state, found["KServe"].version) == (State.THERE, "v1beta1")
    assert (found["KEDA"].state, found["KEDA"].version, found["KEDA"].details) == (State.NOT_THERE, "", ())
    assert all(one.sentence for one in found.values())


def test_metrics_are_not_said_to_be_scraped_where_nothing_of_ours_has_them_scraped(
    write_kubeconfig: WriteKubeconfig,
) -> None:
    kinds = {**KINDS, "/apis/monitoring.coreos.com/v1/podmonitors": ("PodMonitor", True)}
    assert "none is made here" in parts_of(KubeApi(kinds=kinds), write_kubeconfig)["Prometheus Operator"].sentence


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (config("Standard"), "its default mode is Standard; services that are applied here are in Standard mode"),
        (config("RawDeployment"), "its default mode is Standard; "),
        (config("Serverless"), "its default mode is Knative, and Knative is not there; "),
        (ok(named("inferenceservice-config", data={})), "ConfigMap inferenceservice-config names none"),
        (ok(named("inferenceservice-config", data={"deploy": "[1]"})), "ConfigMap inferenceservice-config names none"),
        (FORBIDDEN, "its default mode: not read: The cluster of context prod forbids user ada to get configmap"),
    ],
)
def test_the_mode_that_kserve_is_installed_with_is_told(
    answer: Answer, said: str, write_kubeconfig: WriteKubeconfig
) -> None:
    api = KubeApi(kinds=KINDS)
    api.always[CONFIG] = answer
    (line,) = parts_of(api, write_kubeconfig)["KServe"].details
    assert said in line


def test_kserves_configuration_is_found_in_whatever_namespace_it_is(write_kubeconfig: WriteKubeconfig) -> None:
    made = named("inferenceservice-config", data={"deploy": '{"defaultDeploymentMode": "Standard"}'})
    (line,) = parts_of(KubeApi({"/api/v1/configmaps": [made]}, kinds=KINDS), write_kubeconfig)["KServe"].details
    assert "its default mode is Standard" in line
    (line,) = parts_of(KubeApi(kinds=KINDS), write_kubeconfig)["KServe"].details
    assert "there is no ConfigMap inferenceservice-config" in line


def test_kueues_release_queues_and_levels_are_named(write_kubeconfig: WriteKubeconfig) -> None:
    container = {"name": "manager", "image": "registry.example:5000/kueue/kueue:v0.19.2@sha256:0a"}
    controller = named("kueue", spec={"template": {"spec": {"containers": [container]}}})
    levels = [{"nodeLabel": "cloud/leafgroup"}, {"nodeLabel": "kubernetes.io/hostname"}]
    api = KubeApi(
        {
            DEPLOYMENTS: [controller],
            f"{KUEUE}/clusterqueues": [named(f"q{number}") for number in range(10)],
            f"{KUEUE}/topologies": [named("fabric", spec={"levels": levels}), named("unused", spec={"levels": levels})],
            f"{KUEUE}/resourceflavors": [named("h100", spec={"topologyName": "fabric"}), named("cpu", spec={})],
        },
        kinds=KINDS,
    )
    api.always[LOCAL] = ok({"items": [named("gpus", spec={"clusterQueue": "research"})]})
    found = parts_of(api, write_kubeconfig)
    assert found["Kueue"].details == (
        "its controller is v0.19.2",
        "ClusterQueues: q0, q1, q2, q3, q4, q5, q6, q7 and 2 more",
        "LocalQueues in namespace ml: gpus (of ClusterQueue research)",
    )
    assert found["Kueue topologies"].details == (
        "Topology fabric: cloud/leafgroup > kubernetes.io/hostname; of ResourceFlavors h100",
        "Topology unused: cloud/leafgroup > kubernetes.io/hostname; no ResourceFlavor names it, so nothing uses it",
    )


def test_what_of_kueue_may_not_be_read_is_said_and_the_rest_is_told(write_kubeconfig: WriteKubeconfig) -> None:
    api = KubeApi({f"{KUEUE}/topologies": [named("fabric", spec={})]}, kinds=KINDS)
    for path in (DEPLOYMENTS, f"{KUEUE}/clusterqueues", f"{KUEUE}/resourceflavors"):
        api.always[path] = FORBIDDEN
    api.always[LOCAL] = ok({"items": []})
    found = parts_of(api, write_kubeconfig)
    release, queues, local = found["Kueue"].details
    assert release.startswith("its release: not read: The cluster of context prod forbids user ada to list deployments")
    assert queues.startswith("ClusterQueues: not read: ")
    assert local == "no LocalQueue in namespace ml: a run there has no queue"
    assert "its ResourceFlavors: not read: " in found["Kueue topologies"].details[0]


def test_a_part_of_which_nothing_may_be_read_is_there_all_the_same(write_kubeconfig: WriteKubeconfig) -> None:
    api = KubeApi(kinds=KINDS)
    api.always["/apis/nvidia.com/v1/clusterpolicies"] = FORBIDDEN
    found = parts_of(api, write_kubeconfig)["GPU Operator"]
    assert found.state is State.THERE
    assert found.details[0].startswith("not read: The cluster of context prod forbids user ada to list clusterpolicies")


def test_pod_groups_count_once_a_trial_is_taken(write_kubeconfig: WriteKubeconfig) -> None:
    api = KubeApi(kinds=KINDS)
    api.always[TRIAL] = ok({"kind": "PodGroup"})
    found = parts_of(api, write_kubeconfig)["pod groups"]
    assert found.details == ("a trial in namespace ml was taken: runs of several pods are held together by one",)
    assert {one.params.get("dryRun") for one in api.asked if one.path == TRIAL} == {"All"}


def test_pod_groups_whose_trial_is_refused_are_not_used_and_that_is_said(write_kubeconfig: WriteKubeconfig) -> None:
    api = KubeApi(kinds=KINDS)
    api.always[TRIAL] = FORBIDDEN
    (line,) = parts_of(api, write_kubeconfig)["pod groups"].details
    assert line.startswith("not used, as a trial was not taken: The cluster of context prod forbids user ada to apply")


def test_devices_and_drivers_are_named(write_kubeconfig: WriteKubeconfig) -> None:
    objects = {
        "/apis/resource.k8s.io/v1/deviceclasses": [named("gpu.nvidia.com")],
        "/apis/nvidia.com/v1/clusterpolicies": [named("gpus", status={"state": "ready"}), named("new")],
    }
    found = parts_of(KubeApi(objects, kinds=KINDS), write_kubeconfig)
    assert found["DRA"].details == ("DeviceClasses: gpu.nvidia.com",)
    assert found["GPU Operator"].details == ("ClusterPolicy gpus is ready", "ClusterPolicy new is in no state yet")


def test_a_cluster_that_refuses_who_asks_is_an_error(write_kubeconfig: WriteKubeconfig) -> None:
    api = KubeApi(kinds=KINDS)
    api.always[CONFIG] = status(401, "Unauthorized", "Unauthorized")
    with pytest.raises(ClusterError, match="answered 401"):
        parts_of(api, write_kubeconfig)
