"""A published article's Deployment, mended as `check` says: accepted by a real API server, its four replicas bound to
H100 nodes by the real scheduler, and the same manifest, cut to this machine, running on a real kubelet.
"""

from __future__ import annotations

import contextlib
import copy
import json
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.kube.cluster import Cluster
from tests.kube.image import ENGINE
from tests.kube.kubelet import NAME as NODE
from tests.kube.kubelet import RealNode

from ironloom.check import registry
from ironloom.check.engine import Setting, check
from ironloom.check.finding import Severity
from ironloom.check.inputs import read_texts

FILE = Path(__file__).parents[3] / "shared" / "data" / "article_listings" / "deployment.yaml"
"""As it was printed. What it says stands below, so that the tests run without it."""
LISTING = """\
apiVersion: apps/v1
kind: Deployment
metadata: {name: llama3-inference}
spec:
  replicas: 4
  template:
    spec:
      nodeSelector: {gpu.nvidia.com/model: H100_NVL}
      containers:
      - name: inference-server
        image: vllm/vllm-openai:latest
        resources:
          limits: {nvidia.com/gpu: 2, memory: 128Gi, cpu: "16"}
          requests: {nvidia.com/gpu: 2, memory: 128Gi, cpu: "16"}
      affinity:
        podAffinity:
          requiredDuringSchedulingIgnoredDuringExecution:
          - topologyKey: topology.kubernetes.io/zone
            labelSelector:
              matchExpressions:
              - {key: app, operator: In, values: [llama3-inference]}
"""
pytestmark = pytest.mark.kube
DEPLOYMENTS = "/apis/apps/v1/namespaces/default/deployments"
ZONE = "topology.kubernetes.io/zone"
H100 = "H100_NVLINK_80GB"
WITHIN_S = 120.0


def listing() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(LISTING)
    return found


def mended() -> dict[str, Any]:
    """What the findings ask for: labels and a selector, the cloud's own GPU label, one rack wanted and not required,
    memory for /dev/shm, a model, a pinned image, a request that reserves the GPUs it limits."""
    one = listing()
    labels = {"app": one["metadata"]["name"]}
    spec = one["spec"]
    spec["selector"] = {"matchLabels": labels}
    template = spec["template"]
    template["metadata"] = {"labels": labels}
    pod = template["spec"]
    pod["nodeSelector"] = {"gpu.nvidia.com/model": H100}
    (term,) = pod["affinity"]["podAffinity"].pop("requiredDuringSchedulingIgnoredDuringExecution")
    term["topologyKey"] = "backend.coreweave.cloud/rack"
    preferred = [{"weight": 100, "podAffinityTerm": term}]
    pod["affinity"]["podAffinity"]["preferredDuringSchedulingIgnoredDuringExecution"] = preferred
    (container,) = pod["containers"]
    container["image"] = "vllm/vllm-openai:v0.26.0"
    container["args"] = ["--model", "meta-llama/Meta-Llama-3-70B-Instruct", "--tensor-parallel-size", "2"]
    container["volumeMounts"] = [{"name": "shm", "mountPath": "/dev/shm"}]
    pod["volumes"] = [{"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": "16Gi"}}]
    return one


def errors_of(one: dict[str, Any]) -> list[str]:
    text = json.dumps(one)
    found = check(read_texts({"deployment.json": text}), list(registry.load().values()), Setting()).findings
    return [f"{finding.rule}: {finding.message}" for finding in found if finding.severity is Severity.ERROR]


def pods_of(cluster: Cluster, name: str) -> list[dict[str, Any]]:
    path = f"/api/v1/namespaces/default/pods?labelSelector=app={name}"
    found: list[dict[str, Any]] = cluster.request("GET", path)["items"]
    return found


def wait_until(holds: Callable[[], bool], cluster: Cluster, name: str) -> None:
    deadline = time.monotonic() + WITHIN_S
    while not holds():
        assert time.monotonic() < deadline, json.dumps([pod["status"] for pod in pods_of(cluster, name)], indent=1)
        time.sleep(0.1)


@pytest.mark.skipif(not FILE.is_file(), reason="the article's listings are not beside the repository")
def test_what_is_tried_here_is_what_the_article_printed() -> None:
    assert yaml.safe_load(FILE.read_text()) == listing()


def test_the_listing_as_it_was_printed_is_refused_by_the_api_server_and_by_check(cluster: Cluster) -> None:
    with pytest.raises(urllib.error.HTTPError) as refused:
        cluster.request("POST", DEPLOYMENTS, listing())
    assert refused.value.code == 422
    assert any("selector" in error for error in errors_of(listing()))


def test_the_mended_listing_has_no_error_and_its_four_replicas_are_bound_to_h100_nodes(cluster: Cluster) -> None:
    one = mended()
    assert errors_of(one) == []
    for number in range(2):
        labels = {"gpu.nvidia.com/model": H100, "backend.coreweave.cloud/rack": "r1", ZONE: "z1"}
        cluster.add_node(
            f"h100-{number}",
            labels=labels,
            allocatable={"nvidia.com/gpu": "8", "cpu": "126", "memory": "2000Gi"},
        )
    cluster.add_node("other", labels={"gpu.nvidia.com/model": "A100"}, allocatable={"nvidia.com/gpu": "8"})
    cluster.request("POST", DEPLOYMENTS, one)
    name = one["metadata"]["name"]

    def are_bound() -> bool:
        return len([pod for pod in pods_of(cluster, name) if pod["spec"].get("nodeName")]) == 4

    wait_until(are_bound, cluster, name)
    assert {pod["spec"]["nodeName"] for pod in pods_of(cluster, name)} <= {"h100-0", "h100-1"}
    cluster.request("DELETE", f"{DEPLOYMENTS}/{name}")
    for made in ("h100-0", "h100-1", "other"):
        cluster.remove_node(made)


def test_the_mended_listing_runs_on_a_real_kubelet_when_it_is_cut_to_this_machine(
    kubelet_cluster: Cluster, node: RealNode
) -> None:
    assert node.is_ready()
    one = copy.deepcopy(mended())
    pod = one["spec"]["template"]["spec"]
    del pod["nodeSelector"]
    (container,) = pod["containers"]
    container["image"] = ENGINE
    container["args"] += ["--port", "8000"]
    for kind in ("limits", "requests"):
        container["resources"][kind] |= {"cpu": "50m", "memory": "256Mi"}
    pod["volumes"][0]["emptyDir"]["sizeLimit"] = "64Mi"
    name = one["metadata"]["name"]
    kubelet_cluster.request("POST", DEPLOYMENTS, one)

    def run() -> bool:
        found = pods_of(kubelet_cluster, name)
        return len(found) == 4 and all(one["status"]["phase"] == "Running" for one in found)

    wait_until(run, kubelet_cluster, name)
    for one in pods_of(kubelet_cluster, name):
        assert one["spec"]["nodeName"] == NODE
        wait_until(lambda address=one["status"]["podIP"]: answers(address), kubelet_cluster, name)  # type: ignore[misc]
    kubelet_cluster.request("DELETE", f"{DEPLOYMENTS}/{name}")
    wait_until(lambda: not pods_of(kubelet_cluster, name), kubelet_cluster, name)


def answers(address: str) -> bool:
    with contextlib.suppress(OSError), urllib.request.urlopen(f"http://{address}:8000/health", timeout=5):
        return True
    return False
