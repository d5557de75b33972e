"""On a real kubelet, through the real KServe: it makes the Deployment and its pods are containers, the gateway in the
cluster holds requests at zero, and none is lost through faults.

The engine is the fake one, packed with the Python that runs the tests.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import pytest
from tests.kube import kserving
from tests.kube.cluster import Cluster, kubectl
from tests.kube.gateway import SHORT, Gateway, apply, installed, replicas, rolled_out, wait_for
from tests.kube.image import ENGINE, STORAGE
from tests.kube.kubelet import RealNode
from tests.kube.needs import need_programs
from tests.kube.test_gateway_image import Steady
from tests.kube.test_real_kubelet import NUM_REQUESTS, WITHIN_S, lost_through_faults, manifest, pods_of, wait_until

from ironloom.backends.kubernetes.render.plain import VLLM_IMAGE

pytestmark = pytest.mark.kube


@pytest.fixture(scope="module")
def gateway(kubelet_cluster: Cluster, gateway_image: str) -> Iterator[Gateway]:
    need_programs(kserving.missing_kserve())
    with (
        kserving.running(kubelet_cluster),
        may_list_runtimes(kubelet_cluster),
        installed(kubelet_cluster, gateway_image, namespace="default") as made,
    ):
        yield made


@contextlib.contextmanager
def may_list_runtimes(cluster: Cluster) -> Iterator[None]:
    """A right on the whole cluster: without it KServe's own choice of a runtime is not known, and left to it."""
    name = "ironloom-runtimes"
    resource = "clusterservingruntimes.serving.kserve.io"
    kubectl(cluster, "create", "clusterrole", name, "--verb=list", f"--resource={resource}")
    role = f"--clusterrole={name}"
    kubectl(cluster, "create", "clusterrolebinding", name, role, "--serviceaccount=default:ironloom")
    yield
    kubectl(cluster, "delete", "clusterrolebinding,clusterrole", name)


def made_by_kserve(cluster: Cluster, name: str) -> dict[str, Any]:
    """The Deployment of a service, which only KServe can have made."""
    found: dict[str, Any] = cluster.request("GET", f"/apis/apps/v1/namespaces/default/deployments/{name}-predictor")
    [owner] = found["metadata"]["ownerReferences"]
    assert (owner["kind"], owner["name"]) == ("InferenceService", name)
    return found


def test_a_first_request_at_zero_is_held_until_kserves_container_answers_and_it_goes_to_zero_and_up_again(
    kubelet_cluster: Cluster, gateway: Gateway
) -> None:
    apply(gateway, manifest("through", **SHORT))
    assert gateway.ask("through")
    assert replicas(kubelet_cluster, "through-predictor") == 1
    [container] = made_by_kserve(kubelet_cluster, "through")["spec"]["template"]["spec"]["containers"]
    assert container["name"] == "kserve-container"
    annotations = kubelet_cluster.request("GET", f"{kserving.SERVICES}/through")["metadata"]["annotations"]
    assert annotations["serving.kserve.io/deploymentMode"] == "Standard"
    assert annotations["serving.kserve.io/autoscalerClass"] == "external"
    wait_for(kubelet_cluster, "through-predictor", 0, WITHIN_S)
    wait_until(lambda: not pods_of(kubelet_cluster, "through"), "its pod did not go")
    assert gateway.ask("through", "again")
    assert replicas(kubelet_cluster, "through-predictor") == 1


def test_a_model_is_fetched_by_kserve_and_served_by_the_runtime_that_was_made_for_it(
    kubelet_cluster: Cluster, node: RealNode, gateway: Gateway
) -> None:
    for name in (f"docker.io/{VLLM_IMAGE}", STORAGE):
        node.ctr("images", "tag", ENGINE, name)
    written = manifest("fetched", **SHORT)
    written["spec"]["predictor"] = {
        "minReplicas": 0,
        "model": {
            "modelFormat": {"name": "huggingface"},
            "storageUri": "hf://owner/name:main",
            "resources": {"limits": {"nvidia.com/gpu": "1"}},
        },
    }
    apply(gateway, written)
    assert gateway.ask("fetched")
    (pod,) = pods_of(kubelet_cluster, "fetched")
    (fetching,) = pod["spec"]["initContainers"]
    assert (fetching["image"], fetching["args"][0]) == (STORAGE, "hf://owner/name:main")
    assert pod["spec"]["containers"][0]["args"][:2] == ["--model", "/mnt/models"]
    assert "ServingRuntime fetched runs vLLM" in " ".join(gateway.call("GET", "/api/v1/services/fetched")["notes"])


def test_no_request_is_lost_while_pods_that_kserve_wanted_are_killed_a_node_is_silent_and_the_api_server_restarts(
    kubelet_cluster: Cluster, node: RealNode, gateway: Gateway
) -> None:
    apply(gateway, manifest("wounded", min_replicas=2, knobs='{"token_delay_s": 0.02}'))
    assert gateway.ask("wounded")
    assert lost_through_faults(kubelet_cluster, node, gateway, "wounded") == []
    assert replicas(kubelet_cluster, "wounded-predictor") == 2
    gateway.call("DELETE", "/api/v1/services/wounded", timeout_s=WITHIN_S)


def test_no_request_of_200_to_a_service_of_kserves_is_lost_while_the_gateway_is_rolled_out(
    kubelet_cluster: Cluster, gateway: Gateway
) -> None:
    apply(gateway, manifest("rolled", min_replicas=1, knobs='{"token_delay_s": 0.05}'))
    assert gateway.ask("rolled")
    before = {pod["metadata"]["uid"] for pod in gateways(kubelet_cluster)}
    load = Steady(gateway, "rolled")
    load.wait_for(10)
    while load.num_done < NUM_REQUESTS:
        kubectl(kubelet_cluster, "rollout", "restart", "deployment/ironloom")
        rolled_out(kubelet_cluster, "default")
    assert load.end() == []
    assert not before & {pod["metadata"]["uid"] for pod in gateways(kubelet_cluster)}
    made_by_kserve(kubelet_cluster, "rolled")
    assert replicas(kubelet_cluster, "rolled-predictor") == 1


def gateways(cluster: Cluster) -> list[dict[str, Any]]:
    """Their pods that are not ending."""
    path = "/api/v1/namespaces/default/pods?labelSelector=app.kubernetes.io/name=ironloom"
    return [pod for pod in cluster.request("GET", path)["items"] if "deletionTimestamp" not in pod["metadata"]]
