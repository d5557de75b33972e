"""The gateway in the cluster from its own image, on a real kubelet: without root, on a root file system that is
read-only, reached by its Service, and rolled out under requests; with a volume of its own, and what outlives it there.
"""

from __future__ import annotations

import gzip
import json
import os
import shutil
import subprocess
import threading
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPException
from pathlib import Path
from typing import Any

import pytest
from scripts.build_image.__main__ import cache, made, native
from scripts.build_image.tree import of_tar, write_out
from tests.kube.cluster import Cluster, kubectl
from tests.kube.gateway import (
    SHORT,
    Gateway,
    install,
    installed,
    ironloom,
    leader,
    leading_pod,
    rolled_out,
)
from tests.kube.image import ENGINE, python_path
from tests.kube.kubelet import NAME as NODE
from tests.kube.kubelet import RealNode
from tests.kube.test_real_kubelet import NUM_REQUESTS, manifest, wait_until

from ironloom.backends.kubernetes.install import USER_ID

pytestmark = pytest.mark.kube
NAMESPACE = "inside"
WHERE = ("--namespace", NAMESPACE)
GATEWAYS = f"/api/v1/namespaces/{NAMESPACE}/pods?labelSelector=app.kubernetes.io/name=ironloom"
VOLUMES = "by-hand"
"""The class of volumes that nobody makes but the test."""
NUM_ROWS = 24
"""Of a batch, each of two seconds and two at once: it is open for long after a rollout began."""
ASKS = """
import json, sys, urllib.request
address, key = sys.argv[1:]
body = {"model": "asked", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 4}
headers = {"Content-Type": "application/json", "Authorization": f"Bearer {key}"}
request = urllib.request.Request(f"{address}/v1/chat/completions", json.dumps(body).encode(), headers)
print(json.load(urllib.request.urlopen(request, timeout=120))["choices"][0]["message"]["role"])
"""
NEEDED = """
import bz2, ctypes, curses, dbm.ndbm, hashlib, lzma, readline, socket, sqlite3, ssl, uuid, zlib, zoneinfo
import hf_xet, httptools, msgspec, uvloop, yaml.cyaml
import huggingface_hub, httpx2, starlette
import ironloom.server.daemon, ironloom.backends.kubernetes.client
assert ssl.create_default_context().cert_store_stats()["x509_ca"] > 100
assert zoneinfo.ZoneInfo("Europe/Berlin") and socket.getservbyname("https") == 443
print("all of it")
"""


@pytest.fixture(scope="module")
def gateway(kubelet_cluster: Cluster, gateway_image: str) -> Iterator[Gateway]:
    kubectl(kubelet_cluster, "create", "namespace", NAMESPACE)
    with installed(kubelet_cluster, gateway_image, namespace=NAMESPACE) as made:
        yield made


def applied(cluster: Cluster, folder: Path, obj: dict[str, Any]) -> None:
    """By the command line, through the API server."""
    file = folder / "service.json"
    file.write_text(json.dumps(obj))
    ironloom(cluster, "apply", "-f", str(file), "-y", *WHERE)


def replicas(cluster: Cluster, name: str) -> int:
    found = cluster.request("GET", f"/apis/apps/v1/namespaces/{NAMESPACE}/deployments/{name}")
    return int(found["spec"]["replicas"])


def gateways(cluster: Cluster) -> set[str]:
    """Those that are not ending."""
    return {one["metadata"]["name"] for one in cluster.request("GET", GATEWAYS)["items"] if not is_ending(one)}


def is_ending(pod: dict[str, Any]) -> bool:
    return "deletionTimestamp" in pod["metadata"]


class Steady:
    """Requests one after the other from a few clients until the end; those that failed, by what they got."""

    def __init__(self, gateway: Gateway, model: str, num_clients: int = 8) -> None:
        self._gateway, self._model = gateway, model
        self._is_over = threading.Event()
        self._pool = ThreadPoolExecutor(num_clients)
        self._failed: list[str] = []
        self.num_done = 0
        self._lock = threading.Lock()
        for _ in range(num_clients):
            self._pool.submit(self._ask)

    def _ask(self) -> None:
        while not self._is_over.is_set():
            failure = ""
            try:
                assert self._gateway.ask(self._model, timeout_s=120)
            except (OSError, HTTPException, AssertionError) as error:
                failure = f"{error!r} {getattr(error, '__notes__', '')}"
            with self._lock:
                self.num_done += 1
                self._failed += [failure] if failure else []

    def wait_for(self, number: int) -> None:
        wait_until(lambda: self.num_done >= number, f"{number} requests were not answered", lambda: self._failed)

    def end(self) -> list[str]:
        self._is_over.set()
        self._pool.shutdown()
        return self._failed


@pytest.mark.usefixtures("gateway_image")
def test_all_that_the_gateway_imports_finds_its_libraries_in_the_image(tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir(mode=0o755)
    for name in ("base", "dependencies", "ironloom"):
        (layer,) = (cache() / "layers").glob(f"{name}-{native()}-*.tar.gz")
        write_out(of_tar(gzip.decompress(layer.read_bytes())), root)
    os.chown(root / "var" / "lib" / "ironloom", USER_ID, USER_ID)
    done = subprocess.run(
        ["chroot", "--userspec", f"{USER_ID}:{USER_ID}", str(root), "/opt/ironloom/bin/python", "-c", NEEDED],
        env={"HOME": "/var/lib/ironloom", "PATH": "/usr/sbin:/usr/bin"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout == "all of it\n", done.stderr
    shutil.rmtree(root)


def test_the_same_checkout_built_again_from_its_packages_is_the_same_image(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gateway_image: str
) -> None:
    first = made(tmp_path / "first", native(), [gateway_image], or_newest=True)
    again = tmp_path / "cache"
    again.mkdir()
    for name in ("debs", "wheels"):  # what was fetched, without the layers that were made of it
        (again / name).symlink_to(cache() / name)
    monkeypatch.setenv("IRONLOOM_IMAGE_CACHE", str(again))
    assert made(tmp_path / "second", native(), [gateway_image], or_newest=True) == first


def test_a_service_at_zero_is_held_and_answered_for_a_pod_that_asks_by_the_name_of_the_gateway(
    kubelet_cluster: Cluster, gateway: Gateway, tmp_path: Path
) -> None:
    applied(kubelet_cluster, tmp_path, manifest("asked", **SHORT))
    assert replicas(kubelet_cluster, "asked") == 0
    command = [str(python_path()), "-c", ASKS, f"http://ironloom.{NAMESPACE}.svc", gateway.key]
    container = {"name": "client", "image": ENGINE, "command": command}
    spec = {"restartPolicy": "Never", "containers": [container]}
    pods = f"/api/v1/namespaces/{NAMESPACE}/pods"
    kubelet_cluster.request("POST", pods, {"metadata": {"name": "client"}, "spec": spec})

    def has_ended() -> bool:
        return kubelet_cluster.request("GET", f"{pods}/client")["status"]["phase"] in {"Succeeded", "Failed"}

    wait_until(has_ended, "the client did not end")
    assert kubelet_cluster.request("GET", f"{pods}/client/log", decode=False) == b"assistant\n"
    wait_until(lambda: replicas(kubelet_cluster, "asked") == 0, "it does not go back to zero")
    assert gateway.ask("asked")


@pytest.mark.usefixtures("gateway")
def test_its_container_has_no_root_and_writes_nowhere_but_to_what_is_mounted(
    kubelet_cluster: Cluster, node: RealNode
) -> None:
    (pod,) = [one for one in kubelet_cluster.request("GET", GATEWAYS)["items"] if not is_ending(one)]
    (told,) = pod["status"]["containerStatuses"]
    assert (told["ready"], told["restartCount"]) == (True, 0)
    task = json.loads(node.ctr("containers", "info", told["containerID"].partition("://")[2]))["Spec"]
    assert task["process"]["user"]["uid"] == USER_ID
    assert task["root"]["readonly"] is True
    assert not any((task["process"].get("capabilities") or {}).values())
    assert task["process"]["noNewPrivileges"] is True


def test_no_request_of_200_is_lost_while_the_gateway_is_rolled_out_and_while_one_that_decides_is_deleted(
    kubelet_cluster: Cluster, gateway_image: str, gateway: Gateway, tmp_path: Path
) -> None:
    applied(kubelet_cluster, tmp_path, manifest("rolled", min_replicas=1, knobs='{"token_delay_s": 0.05}'))
    gateway.ask("rolled")
    before = gateways(kubelet_cluster)
    load = Steady(gateway, "rolled")
    load.wait_for(10)
    while load.num_done < NUM_REQUESTS:
        kubectl(kubelet_cluster, *("-n", NAMESPACE), "rollout", "restart", "deployment/ironloom")
        rolled_out(kubelet_cluster, NAMESPACE)
    assert not before & gateways(kubelet_cluster)

    install(kubelet_cluster, gateway_image, namespace=NAMESPACE, num_replicas=2)
    assert len(gateways(kubelet_cluster)) == 2
    wait_until(lambda: leading_pod(kubelet_cluster, NAMESPACE) is not None, "no gateway decides")
    pod = leading_pod(kubelet_cluster, NAMESPACE)
    assert pod is not None
    kubectl(kubelet_cluster, *("-n", NAMESPACE), "delete", "pod", pod["metadata"]["name"])  # until it is gone
    load.wait_for(load.num_done + 10)

    assert load.end() == []


def test_with_a_volume_the_event_log_files_and_an_open_batch_outlive_a_rollout_and_a_kill(
    kubelet_cluster: Cluster, node: RealNode, gateway_image: str, gateway: Gateway, tmp_path: Path
) -> None:
    slow = manifest("kept", min_replicas=1, knobs='{"token_delay_s": 0.05, "num_tokens": 40}')
    slow["spec"]["predictor"]["containerConcurrency"] = 2
    applied(kubelet_cluster, tmp_path, slow)
    load = Steady(gateway, "kept", num_clients=2)
    load.wait_for(5)
    offer_volume(kubelet_cluster, node)
    options = ("--state-size", "1Gi", "--state-class", VOLUMES)
    for _ in range(2):  # the second takes the Deployment away where the first did not wait for so long
        install(kubelet_cluster, gateway_image, *options, namespace=NAMESPACE, num_replicas=1, form="statefulset")
    wait_until(lambda: gateways(kubelet_cluster) == {"ironloom-0"}, "the pods of the Deployment do not go")
    load.wait_for(load.num_done + 5)
    assert load.end() == []

    wait_until(lambda: leading_pod(kubelet_cluster, NAMESPACE) is not None, "no gateway decides")
    direct = leader(kubelet_cluster, NAMESPACE, gateway.key)
    file = uploaded(direct, rows("kept"))
    body = {"input_file_id": file, "endpoint": "/v1/chat/completions", "completion_window": "24h"}
    batch = direct.call("POST", "/v1/batches", body)["id"]

    def counts() -> dict[str, int]:
        found: dict[str, int] = direct.call("GET", f"/v1/batches/{batch}")["request_counts"]
        return found

    wait_until(lambda: counts()["completed"] >= 1, "no row of the batch is answered")
    before = logged(direct)
    assert len(before) >= 5
    kubectl(kubelet_cluster, *("-n", NAMESPACE), "rollout", "restart", "statefulset/ironloom")
    rolled_out(kubelet_cluster, NAMESPACE, "statefulset")
    direct = leader(kubelet_cluster, NAMESPACE, gateway.key)
    assert counts()["completed"] < NUM_ROWS
    assert before <= logged(direct)

    done = counts()["completed"]
    wait_until(lambda: counts()["completed"] > done, "the batch is not taken up")
    before = logged(direct)
    kill(kubelet_cluster, node, "ironloom-0")
    wait_until(lambda: restarts(kubelet_cluster, "ironloom-0") == (1, True), "it does not come back")
    direct = leader(kubelet_cluster, NAMESPACE, gateway.key)
    assert before <= logged(direct)
    wait_until(lambda: counts()["completed"] == NUM_ROWS, "the batch does not end", lambda: str(counts()))
    wait_until(lambda: direct.call("GET", f"/v1/batches/{batch}")["status"] == "completed", "the batch does not end")
    output = direct.call("GET", f"/v1/batches/{batch}")["output_file_id"]
    answered = [json.loads(line)["custom_id"] for line in content(direct, output).splitlines()]
    assert sorted(answered) == sorted(f"row-{number}" for number in range(NUM_ROWS))
    assert content(direct, file) == rows("kept")


def offer_volume(cluster: Cluster, node: RealNode) -> None:
    """A folder of the node as a volume, as an administrator makes one by hand."""
    folder = node.folder / "volume"
    folder.mkdir(mode=0o755)
    at_node = {"key": "kubernetes.io/hostname", "operator": "In", "values": [NODE]}
    spec = {
        "capacity": {"storage": "1Gi"},
        "accessModes": ["ReadWriteOnce"],
        "persistentVolumeReclaimPolicy": "Retain",
        "storageClassName": VOLUMES,
        "local": {"path": str(folder)},
        "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [at_node]}]}},
    }
    cluster.request("POST", "/api/v1/persistentvolumes", {"metadata": {"name": "ironloom-state"}, "spec": spec})


def rows(model: str) -> bytes:
    body = {"model": model, "messages": [{"role": "user", "content": "hello"}], "max_tokens": 40}
    row = {"method": "POST", "url": "/v1/chat/completions", "body": body}
    return "".join(json.dumps({"custom_id": f"row-{number}", **row}) + "\n" for number in range(NUM_ROWS)).encode()


def uploaded(gateway: Gateway, data: bytes) -> str:
    """The id of a file for a batch."""
    fields = (("purpose", "", b"batch"), ("file", '; filename="rows.jsonl"', data))
    parts = [
        f'--part\r\nContent-Disposition: form-data; name="{name}"{more}\r\n\r\n'.encode() + value + b"\r\n"
        for name, more, value in fields
    ]
    headers = {"Content-Type": "multipart/form-data; boundary=part", "Authorization": f"Bearer {gateway.key}"}
    request = urllib.request.Request(f"{gateway.url}/v1/files", b"".join(parts) + b"--part--\r\n", headers)
    with urllib.request.urlopen(request, timeout=60) as answer:
        return str(json.load(answer)["id"])


def content(gateway: Gateway, file: str) -> bytes:
    headers = {"Authorization": f"Bearer {gateway.key}"}
    request = urllib.request.Request(f"{gateway.url}/v1/files/{file}/content", headers=headers)
    with urllib.request.urlopen(request, timeout=60) as answer:
        return bytes(answer.read())


def logged(gateway: Gateway) -> set[str]:
    """The requests of a gateway's event log that have ended."""
    found = gateway.call("GET", "/api/v1/requests?service=kept&limit=1000")
    return {one["request_id"] for one in found if one["outcome"]}


def kill(cluster: Cluster, node: RealNode, pod: str) -> None:
    (told,) = cluster.request("GET", f"/api/v1/namespaces/{NAMESPACE}/pods/{pod}")["status"]["containerStatuses"]
    node.ctr("tasks", "kill", "--signal", "SIGKILL", told["containerID"].partition("://")[2])


def restarts(cluster: Cluster, pod: str) -> tuple[int, bool]:
    """How often its container was started again, and whether it is ready."""
    (told,) = cluster.request("GET", f"/api/v1/namespaces/{NAMESPACE}/pods/{pod}")["status"]["containerStatuses"]
    return told["restartCount"], told["ready"]
