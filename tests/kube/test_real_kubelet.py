"""On a real kubelet: a service's pods are containers of containerd and runc, held at zero and through faults.

The gateway is one of them, from its own image. The engine is the fake one, in an image packed from the Python that runs
the tests.
"""

from __future__ import annotations

import gzip
import json
import signal
import threading
import time
import urllib.error
from base64 import b64encode
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from tests.kube.cluster import Cluster
from tests.kube.gateway import SHORT, Gateway, apply, installed, ironloom, leader, replicas, wait_for
from tests.kube.image import ENGINE
from tests.kube.kubelet import NAME as NODE
from tests.kube.kubelet import RealNode

from ironloom.backends.kubernetes.reader import read_fleet
from ironloom.fleet.snapshot import read_snapshot

pytestmark = pytest.mark.kube
WITHIN_S = 120.0
NUM_REQUESTS = 200
TIMEOUT_S = 300
"""Of a service whose pods cannot start: whoever waits for it has waited in vain."""
LONG = {**SHORT, "autoscaling.knative.dev/window": "600s"}


@pytest.fixture(scope="module")
def gateway(kubelet_cluster: Cluster, gateway_image: str) -> Iterator[Gateway]:
    with installed(kubelet_cluster, gateway_image, namespace="default") as made:
        yield made


def manifest(name: str, *, min_replicas: int = 0, knobs: str = "{}", **annotations: str) -> dict[str, Any]:
    container = {
        "name": "kserve-container",
        "image": ENGINE,
        "args": ["--model", "a/b", "--port", "8000"],
        "env": [{"name": "FAKE_KNOBS", "value": knobs}],
        # Little, as KServe asks for a whole processor where nothing is said, and a machine may have two.
        "resources": {"requests": {"cpu": "20m", "memory": "64Mi"}, "limits": {"nvidia.com/gpu": "1"}},
    }
    return {
        "apiVersion": "serving.kserve.io/v1beta1",
        "kind": "InferenceService",
        "metadata": {"name": name, "annotations": annotations},
        "spec": {"predictor": {"minReplicas": min_replicas, "containers": [container]}},
    }


def pods_of(cluster: Cluster, name: str) -> list[dict[str, Any]]:
    path = f"/api/v1/namespaces/default/pods?labelSelector=ironloom.dev/service={name}"
    found: list[dict[str, Any]] = cluster.request("GET", path)["items"]
    return found


def wait_until(holds: Callable[[], bool], what: str, last: Callable[[], object] = str) -> None:
    """`last` is what is seen when it takes too long."""
    deadline = time.monotonic() + WITHIN_S
    while not holds():
        assert time.monotonic() < deadline, f"{what}: {last()}"
        time.sleep(0.05)


class Load:
    """Requests one after the other from a few clients while faults happen; those that failed, by what they got."""

    def __init__(self, gateway: Gateway, model: str, num_requests: int, num_clients: int = 4) -> None:
        self._gateway, self._model = gateway, model
        self._pool = ThreadPoolExecutor(num_clients)
        self._lock = threading.Lock()
        self.failed: list[str] = []
        self.asked: list[Future[None]] = []
        self.more(num_requests)

    def more(self, num_requests: int) -> None:
        begin = len(self.asked)
        self.asked += [self._pool.submit(self._ask, begin + number) for number in range(num_requests)]

    @property
    def num_done(self) -> int:
        return sum(one.done() for one in self.asked)

    def _ask(self, number: int) -> None:
        try:
            assert self._gateway.ask(self._model, f"request {number}", timeout_s=WITHIN_S)
        except (urllib.error.URLError, TimeoutError, AssertionError) as error:
            with self._lock:
                self.failed.append(f"{number}: {error}")

    def wait_for(self, number: int) -> None:
        wait_until(lambda: self.num_done >= number, f"{number} requests were not answered")

    def end(self) -> list[str]:
        """Raises what a request ended in that is no answer of the gateway's."""
        self._pool.shutdown()
        for one in self.asked:
            one.result()
        return self.failed


def lost_through_faults(cluster: Cluster, node: RealNode, gateway: Gateway, service: str) -> list[str]:
    """Of 200 requests those that failed while pods were killed, the API server was killed and the node was silent."""
    # At its own address: on a node that is silent no pod of the Service counts as ready, this one neither.
    load = Load(leader(cluster, "default", gateway.key), service, NUM_REQUESTS // 2)

    for number in (20, 40):
        load.wait_for(number)
        killed = pods_of(cluster, service)[0]["metadata"]["name"]
        cluster.request("DELETE", f"/api/v1/namespaces/default/pods/{killed}", {"gracePeriodSeconds": 0})

    load.wait_for(70)
    cluster.end("kube-apiserver", signal.SIGKILL)
    cluster.start_api_server()

    load.wait_for(90)
    node.freeze()
    node.wait_ready(is_ready=False)
    wait_until(lambda: not any(_is_ready(pod) for pod in pods_of(cluster, service)), "its pods still count as ready")
    load.more(NUM_REQUESTS - len(load.asked))
    node.thaw()
    node.wait_ready()

    lost = load.end()
    assert load.num_done == NUM_REQUESTS
    return lost


def test_a_first_request_at_zero_is_held_until_its_container_answers_and_the_service_goes_back_to_zero(
    kubelet_cluster: Cluster, gateway: Gateway
) -> None:
    apply(gateway, manifest("woken", **SHORT))
    assert replicas(kubelet_cluster, "woken") == 0
    assert gateway.ask("woken")
    wait_for(kubelet_cluster, "woken", 0, WITHIN_S)
    wait_until(lambda: not pods_of(kubelet_cluster, "woken"), "its pod did not go")
    told = [event for event in gateway.call("GET", "/api/v1/events?service=woken") if event["replica"]]
    kinds = [event["kind"] for event in told]
    assert [kind for at, kind in enumerate(kinds) if at == 0 or kind != kinds[at - 1]] == [
        "replica.starting", "replica.ready", "replica.stopping", "replica.stopped",
    ]  # fmt: skip
    assert {event["kind"]: event["devices"] for event in told}["replica.ready"] == [f"{NODE}/gpu"]
    assert gateway.ask("woken", "again")


def test_no_request_is_lost_while_pods_are_killed_a_node_is_silent_and_the_api_server_restarts(
    kubelet_cluster: Cluster, node: RealNode, gateway: Gateway
) -> None:
    apply(gateway, manifest("hurt", min_replicas=2, knobs='{"token_delay_s": 0.02}'))
    gateway.ask("hurt")
    assert lost_through_faults(kubelet_cluster, node, gateway, "hurt") == []
    wait_until(lambda: _answers(gateway), "the gateway's Service leads to no pod again")


def _answers(gateway: Gateway) -> bool:
    try:
        gateway.call("GET", "/api/v1/services")
    except OSError:
        return False
    return True


def test_a_container_that_dies_is_started_again_and_the_request_that_it_had_is_answered(
    kubelet_cluster: Cluster, gateway: Gateway
) -> None:
    apply(gateway, manifest("dying", min_replicas=1, knobs='{"crash_after_requests": 3}'))
    assert all(gateway.ask("dying", str(number), timeout_s=WITHIN_S) for number in range(5))

    def is_told() -> bool:
        (pod,) = pods_of(kubelet_cluster, "dying")
        return bool(pod["status"]["containerStatuses"][0]["restartCount"])

    wait_until(is_told, "no restart is told")


def refused(gateway: Gateway, model: str) -> str:
    """What a held request is told whose pod cannot start, long before its timeout."""
    begun = time.monotonic()
    with pytest.raises(urllib.error.HTTPError) as caught:
        gateway.ask(model, timeout_s=TIMEOUT_S)
    assert time.monotonic() - begun < TIMEOUT_S / 3
    error = json.loads(caught.value.__notes__[0])["error"]
    assert (caught.value.code, error["code"]) == (503, "start_failed")
    message: str = error["message"]
    return message


def test_an_image_that_cannot_be_pulled_ends_a_held_request_and_is_told_of_the_service(
    kubelet_cluster: Cluster, gateway: Gateway
) -> None:
    wanted = manifest("imageless", **LONG)
    wanted["spec"]["predictor"]["containers"][0]["image"] = "ironloom.invalid/vllm-openai:1"
    wanted["spec"]["predictor"]["timeout"] = TIMEOUT_S
    apply(gateway, wanted)
    for message in (refused(gateway, "imageless"), refused(gateway, "imageless")):
        assert "its image cannot be pulled ironloom.invalid/vllm-openai:1: " in message
    assert len(pods_of(kubelet_cluster, "imageless")) == 1
    told = gateway.call("GET", "/api/v1/services/imageless")
    assert told["state"] == "failed"
    assert "ironloom.invalid/vllm-openai:1" in told["reason"]


def test_a_secret_that_is_not_there_ends_a_held_request_and_once_it_is_there_the_next_is_answered(
    kubelet_cluster: Cluster, gateway: Gateway
) -> None:
    wanted = manifest("secretive", **LONG)
    container = wanted["spec"]["predictor"]["containers"][0]
    container["envFrom"] = [{"secretRef": {"name": "not-there"}}]
    wanted["spec"]["predictor"]["timeout"] = TIMEOUT_S
    apply(gateway, wanted)
    assert 'its container cannot be made: secret "not-there" not found' in refused(gateway, "secretive")
    secret = {"metadata": {"name": "not-there"}, "stringData": {"A": "b"}}
    kubelet_cluster.request("POST", "/api/v1/namespaces/default/secrets", secret)

    def is_ready() -> bool:
        return bool(gateway.call("GET", "/api/v1/services/secretive")["state"] == "ready")

    wait_until(is_ready, "it is not started once it can be")
    assert gateway.ask("secretive")
    kubelet_cluster.request("DELETE", "/api/v1/namespaces/default/secrets/not-there")


def test_the_command_prints_the_logs_of_a_services_containers_each_under_its_replicas_name(
    kubelet_cluster: Cluster, gateway: Gateway
) -> None:
    apply(gateway, manifest("spoken", min_replicas=2))
    gateway.ask("spoken")
    wait_until(
        lambda: sum(_is_ready(pod) for pod in pods_of(kubelet_cluster, "spoken")) == 2, "two replicas do not get ready"
    )
    names = sorted(pod["metadata"]["name"] for pod in pods_of(kubelet_cluster, "spoken"))
    for name in names:
        path = f"/api/v1/namespaces/default/pods/{name}/log"
        assert b"a/b listens on 8000" in kubelet_cluster.request("GET", path, decode=False)
    lines = ironloom(kubelet_cluster, "logs", "spoken").splitlines()
    heard = sorted(line for line in lines if "listens on" in line)
    assert heard == [f"[{one}] fake engine: a/b listens on 8000" for one in names]
    (line,) = ironloom(kubelet_cluster, "logs", "spoken", "--replica", names[1], "--tail", "1").splitlines()
    assert not line.startswith("["), "there is one to tell of"
    entry, *_ = ironloom(kubelet_cluster, "logs", "spoken", "-o", "json").splitlines()
    assert json.loads(entry)["replica"] in names


def test_a_snapshot_of_a_cluster_is_its_fleet_without_its_secrets(
    kubelet_cluster: Cluster, gateway: Gateway, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KUBECONFIG", str(kubelet_cluster.kubeconfig))
    apply(gateway, manifest("pictured", min_replicas=1))
    gateway.ask("pictured")
    file = tmp_path / "fleet.json.gz"
    assert f"{file}: 1 node, " in ironloom(kubelet_cluster, "snapshot", "--out", str(file))
    text = gzip.decompress(file.read_bytes()).decode()
    assert '"kind":"Secret"' not in text
    for secret in (gateway.key, b64encode(gateway.key.encode()).decode(), kubelet_cluster.token):
        assert secret not in text
    seen = read_snapshot([file])
    live = read_fleet(context="test")
    assert [(one.name, one.num_gpus) for one in seen.nodes] == [(NODE, 8)]
    assert seen.version == live.version
    there = {(one.namespace, one.name) for one in live.pods}
    assert ("default", pods_of(kubelet_cluster, "pictured")[0]["metadata"]["name"]) in there
    assert {(one.namespace, one.name) for one in seen.pods} & there
    assert seen.has("/ServiceAccount", "ironloom", "default") is True, "what manifests refer to is named"
    assert (live.has("/Secret", "ironloom-key", "default"), seen.has("/Secret", "ironloom-key", "default")) == (
        True,
        None,
    )


def _is_ready(pod: dict[str, Any]) -> bool:
    return any(one["type"] == "Ready" and one["status"] == "True" for one in pod["status"].get("conditions", ()))
