"""A published article's Deployment, mended by `check --fix` and by hand as `check` says: accepted by a real API server,
its four replicas bound to H100 nodes by the real scheduler, and the same manifest running on a real kubelet. There its
cpu, its memory and its selector are cut to this machine, and a stand-in of vLLM's image answers: no model and no GPU is
there to run.
"""

from __future__ import annotations

import contextlib
import copy
import json
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from functools import cache
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
metadata:
  name: llama3-inference
spec:
  replicas: 4
  template:
    spec:
      nodeSelector:
        gpu.nvidia.com/model: H100_NVL
      containers:
      - name: inference-server
        image: vllm/vllm-openai:latest
        resources:
          limits:
            nvidia.com/gpu: 2
            memory: "128Gi"
            cpu: "16"
          requests:
            nvidia.com/gpu: 2
            memory: "128Gi"
            cpu: "16"
      # Critical for multi-node: ensure pods are in the same physical rack
      affinity:
        podAffinity:
          requiredDuringSchedulingIgnoredDuringExecution:
          - labelSelector:
              matchExpressions:
              - key: app
                operator: In
                values:
                - llama3-inference
            topologyKey: "topology.kubernetes.io/zone"
"""
FOUND = {"IL003", "IL102", "IL201", "IL202", "IL203", "IL301", "IL401", "IL530"}
"""What `check` finds in it, of severity error or warning."""
BY_HAND = {
    "IL102": "which GPUs the nodes have, their label says",
    "IL202": "what is a rack, only who knows the cluster can say",
    "IL203": "replicas that do not talk may stand anywhere: one rack is wanted and not required",
    "IL401": "which model, only its writer knows; with it go its length and the token of its hub",
    "IL530": "which path says that it is ready: vLLM answers at /health",
}
"""What `check --fix` leaves to a person, and why."""
pytestmark = pytest.mark.kube
SECRETS = "/api/v1/namespaces/default/secrets"
DEPLOYMENTS = "/apis/apps/v1/namespaces/default/deployments"
ZONE = "topology.kubernetes.io/zone"
LEAF = "backend.coreweave.cloud/leafgroup"
H100 = "H100_NVLINK_80GB"
MODEL = "meta-llama/Llama-3.1-70B-Instruct"
SECRET = "hub"
WITHIN_S = 120.0


def listing() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(LISTING)
    return found


@cache
def fixed() -> str:
    """What `check --fix` makes of the listing."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "deployment.yaml"
        path.write_text(LISTING)
        command = [sys.executable, "-m", "ironloom.cli", "check", "--fix", str(path)]
        done = subprocess.run(command, check=False, capture_output=True, text=True)
        assert done.stderr == "2 fixed.\n"
        return path.read_text()


def mended() -> dict[str, Any]:
    """The form that `check --fix` makes, with what it leaves to a person."""
    one: dict[str, Any] = yaml.safe_load(fixed())
    pod = one["spec"]["template"]["spec"]
    pod["nodeSelector"] = {"gpu.nvidia.com/model": H100}
    (term,) = pod["affinity"]["podAffinity"].pop("requiredDuringSchedulingIgnoredDuringExecution")
    term["topologyKey"] = LEAF
    preferred = [{"weight": 100, "podAffinityTerm": term}]
    pod["affinity"]["podAffinity"]["preferredDuringSchedulingIgnoredDuringExecution"] = preferred
    (container,) = pod["containers"]
    container["image"] = "vllm/vllm-openai:v0.26.0"
    container["args"] = ["--model", MODEL, "--tensor-parallel-size", "2", "--max-model-len", "4096"]
    container["env"] = [{"name": "HF_TOKEN", "valueFrom": {"secretKeyRef": {"name": SECRET, "key": "token"}}}]
    container["readinessProbe"] = {"httpGet": {"path": "/health", "port": 8000}}
    return one


def found_in(text: str) -> set[str]:
    """Rules of severity error or warning that find something."""
    found = check(read_texts({"deployment.yaml": text}), list(registry.load().values()), Setting()).findings
    return {one.rule for one in found if one.severity is not Severity.NOTE}


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
    assert found_in(LISTING) == FOUND


def test_what_check_does_not_mend_itself_is_what_a_person_must_know_and_then_nothing_is_found() -> None:
    assert found_in(fixed()) == set(BY_HAND)
    assert found_in(yaml.safe_dump(mended())) == set()


def test_the_four_replicas_of_the_mended_listing_are_bound_to_h100_nodes(cluster: Cluster) -> None:
    one = mended()
    for number in range(2):
        labels = {"gpu.nvidia.com/model": H100, LEAF: "a", ZONE: "z1"}
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
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": SECRET}, "stringData": {"token": "hf_none"}}
    kubelet_cluster.request("POST", SECRETS, secret)
    kubelet_cluster.request("POST", DEPLOYMENTS, one)

    def run() -> bool:
        found = pods_of(kubelet_cluster, name)
        return len(found) == 4 and all(one["status"]["phase"] == "Running" for one in found)

    wait_until(run, kubelet_cluster, name)
    for one in pods_of(kubelet_cluster, name):
        assert one["spec"]["nodeName"] == NODE
        wait_until(lambda address=one["status"]["podIP"]: answers(address), kubelet_cluster, name)  # type: ignore[misc]
    wait_until(lambda: all(is_ready(one) for one in pods_of(kubelet_cluster, name)), kubelet_cluster, name)
    kubelet_cluster.request("DELETE", f"{DEPLOYMENTS}/{name}")
    kubelet_cluster.request("DELETE", f"{SECRETS}/{SECRET}")
    wait_until(lambda: not pods_of(kubelet_cluster, name), kubelet_cluster, name)


def is_ready(pod: dict[str, Any]) -> bool:
    """By the probe of the manifest, which the kubelet asks."""
    conditions = pod["status"].get("conditions", ())
    return any((one["type"], one["status"]) == ("Ready", "True") for one in conditions)


def answers(address: str) -> bool:
    with contextlib.suppress(OSError), urllib.request.urlopen(f"http://{address}:8000/health", timeout=5):
        return True
    return False
