"""The verbs with --context reach the gateway that the Lease names, through the API server's proxy of its pod."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from base64 import b64decode
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.kube.cluster import Cluster, free_ports, kubectl
from tests.kube.gateway import SHORT, running
from tests.kube.test_gateway import manifest
from tests.kube.training_runs import manifest as training

from ironloom import __version__

pytestmark = pytest.mark.kube
WHERE = ("--context", "test", "--namespace", "verbs")


def own_address() -> str:
    """This machine's, off loopback: the API server's proxy goes to no other kind."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # nothing is sent
        except OSError:
            pytest.skip("this machine has no address but loopback's")
        return str(probe.getsockname()[0])


def ironloom(cluster: Cluster, *arguments: str, status: int = 0) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, "-m", "ironloom.cli", *arguments, *WHERE],
        env={**os.environ, "KUBECONFIG": str(cluster.kubeconfig)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == status, done.stdout + done.stderr
    return done


@pytest.fixture(scope="module")
def gateway(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A daemon that says it is the pod `gateway-0`, and a pod of that name at its address."""
    if not cluster.nodes:
        cluster.add_node("gpu-1", allocatable={"nvidia.com/gpu": "64"})
    kubectl(cluster, "create", "namespace", "verbs")
    ironloom(cluster, "install")
    secret = cluster.request("GET", "/api/v1/namespaces/verbs/secrets/ironloom-key")
    state = tmp_path_factory.mktemp("verbs")
    (state / "token").write_bytes(b64decode(secret["data"]["token"]))
    address = own_address()
    pods = "/api/v1/namespaces/verbs/pods"
    # the account that `install` made: the namespace's default one comes a moment later
    spec = {
        "nodeName": "gpu-1",
        "serviceAccountName": "ironloom",
        "containers": [{"name": "gateway", "image": "ironloom"}],
    }
    cluster.request("POST", pods, {"metadata": {"name": "gateway-0", "labels": {"pod": "gateway"}}, "spec": spec})
    list(cluster.run_pods("pod=gateway", namespace="verbs", pod_ip=address))
    more = ("--namespace", "verbs", "--shared", "--host", "0.0.0.0", "--control-key-file", str(state / "token"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("POD_NAME", "gateway-0")
        patch.setenv("POD_IP", address)
        with running(cluster, state, *more):
            yield "gateway-0"


@pytest.mark.usefixtures("gateway")
def test_a_service_is_applied_looked_at_scaled_and_deleted_from_elsewhere(cluster: Cluster, tmp_path: Path) -> None:
    (port,) = free_ports(1)
    file = tmp_path / "service.yaml"
    file.write_text(json.dumps(manifest("far", port, **SHORT)))
    for where in ("client", "server"):
        tried = ironloom(cluster, "apply", "-f", str(file), f"--dry-run={where}", "-o", "yaml")
        made = {one["kind"]: one for one in yaml.safe_load_all(tried.stdout)}
        assert made.keys() == {"Deployment", "Service"}
        assert made["Deployment"]["metadata"]["namespace"] == "verbs"
        is_judged = "terminationMessagePath" in made["Deployment"]["spec"]["template"]["spec"]["containers"][0]
        assert is_judged == (where == "server"), "defaults are the API server's to write"
        assert kubectl(cluster, "apply", "--dry-run=server", "-f", "-", text=tried.stdout)
    assert services(cluster) == []
    there = cluster.request("GET", "/apis/apps/v1/namespaces/verbs/deployments")["items"]
    assert "far" not in {one["metadata"]["name"] for one in there}
    assert "service/far created" in ironloom(cluster, "apply", "-f", str(file), "-y").stdout
    assert [one["name"] for one in services(cluster)] == ["far"]
    described = json.loads(ironloom(cluster, "describe", "far", "-o", "json").stdout)
    assert (described["state"], described["nodes"]) == ("zero", [])
    assert described["namespace"] == "verbs", "the gateway's, which the manifest leaves out"
    assert "is fixed at 2 replicas" in ironloom(cluster, "scale", "far", "2").stdout
    assert json.loads(ironloom(cluster, "describe", "far", "-o", "json").stdout)["scaling"]["pinned"] == 2
    ironloom(cluster, "scale", "far", "0")
    assert "service/far deleted" in ironloom(cluster, "delete", "far").stdout
    assert services(cluster) == []


@pytest.mark.usefixtures("gateway")
def test_what_becomes_of_a_file_is_told_by_the_apply_too_and_once_of_many(cluster: Cluster, tmp_path: Path) -> None:
    (port,) = free_ports(1)

    def made(number: int) -> dict[str, Any]:
        one = manifest(f"queued-{number}", port, **SHORT)
        one["metadata"]["labels"] = {"kueue.x-k8s.io/queue-name": "team-a"}
        return one

    file = tmp_path / "service.yaml"
    file.write_text(json.dumps(made(0)))
    unheard = "queue team-a is not honoured"
    assert unheard in ironloom(cluster, "apply", "-f", str(file), "--dry-run").stderr
    assert unheard in ironloom(cluster, "apply", "-f", str(file), "-y").stderr
    (done,) = json.loads(ironloom(cluster, "apply", "-f", str(file), "-y", "-o", "json").stdout)["services"]
    assert any(note.startswith(unheard) for note in done["notes"])
    file.write_text(yaml.safe_dump_all([made(number) for number in range(9)]))
    assert ironloom(cluster, "apply", "-f", str(file), "-y").stderr.count(unheard) == 1
    ironloom(cluster, "delete", "-f", str(file))


@pytest.mark.usefixtures("gateway")
def test_what_kubectl_changed_is_foretold_by_a_dry_run_and_told_by_the_apply_that_puts_it_back(
    cluster: Cluster, tmp_path: Path
) -> None:
    (port,) = free_ports(1)
    file = tmp_path / "service.yaml"
    file.write_text(json.dumps(manifest("drifted", port, **SHORT)))
    ironloom(cluster, "apply", "-f", str(file), "-y")
    assert "service/drifted unchanged" in ironloom(cluster, "apply", "-f", str(file), "-y").stdout
    same = ironloom(cluster, "apply", "-f", str(file), "--dry-run")
    assert same.stdout.splitlines()[1].split()[:2] == ["drifted", "unchanged"]
    assert "is changed by" not in same.stderr
    kubectl(cluster, "-n", "verbs", "set", "image", "deployment/drifted", "kserve-container=other:1")
    for dry_run in ("--dry-run", "--dry-run=server"):
        tried = ironloom(cluster, "apply", "-f", str(file), dry_run)
        assert "note: drifted: deployment/drifted is changed by kubectl-set (" in tried.stderr
        assert tried.stdout.splitlines()[1].split()[:2] == ["drifted", "configure"]
    done = ironloom(cluster, "apply", "-f", str(file), "-y")
    assert "service/drifted configured" in done.stdout
    assert "note: deployment/drifted had been changed by kubectl-set (" in done.stderr
    assert "service/drifted unchanged" in ironloom(cluster, "apply", "-f", str(file), "-y").stdout
    described = ironloom(cluster, "describe", "drifted").stdout
    assert "deployment/drifted had been changed by kubectl-set" in described, "among its events"
    ironloom(cluster, "delete", "drifted")


@pytest.mark.usefixtures("gateway")
def test_a_file_of_a_service_and_a_run_is_applied_whole_or_not_at_all(cluster: Cluster, tmp_path: Path) -> None:
    (port,) = free_ports(1)
    file = tmp_path / "both.yaml"

    def written(*, image: str) -> None:
        both = [manifest("both-chat", port, **SHORT), training("both-tune", nodes=2, gpus=1, image=image)]
        file.write_text(yaml.safe_dump_all(both))

    def table(*words: str) -> list[list[str]]:
        lines = ironloom(cluster, "apply", "-f", str(file), *words).stdout.splitlines()
        return [line.split()[:2] for line in lines if line.startswith("both-")]

    written(image="example.com/train:1")
    assert table("--dry-run") == [["both-chat", "create"], ["both-tune", "apply"]]
    assert table("--dry-run=server") == [["both-chat", "create"], ["both-tune", "create"]]
    done = ironloom(cluster, "apply", "-f", str(file), "-y")
    assert done.stdout.splitlines() == ["service/both-chat created", "run/both-tune created"]
    assert table("--dry-run=server") == [["both-chat", "unchanged"], ["both-tune", "unchanged"]]
    again = ironloom(cluster, "apply", "-f", str(file), "-y", "-o", "json")
    told = json.loads(again.stdout)
    assert [one["action"] for one in (*told["services"], *told["runs"])] == ["unchanged", "unchanged"]
    assert told["runs"][0]["output"] == "/out/run"

    port += 1
    written(image="example.com/train:2")
    refused = ironloom(cluster, "apply", "-f", str(file), "-y", status=2)
    assert "a run's pods cannot be changed" in refused.stderr
    kept = json.loads(ironloom(cluster, "describe", "both-chat", "-o", "json").stdout)
    assert kept["generation"] == 1, "the service was not applied either"
    missing = ironloom(cluster, "delete", "both-tune", "both-chat", "neither", status=2)
    assert "There is no training run neither in namespace verbs, and no such service: " in missing.stderr
    assert [one["name"] for one in services(cluster)] == ["both-chat"], "nothing went"
    gone = ironloom(cluster, "delete", "both-tune", "both-chat")
    assert gone.stdout.splitlines() == ["service/both-chat deleted", "run/both-tune deleted"]
    assert services(cluster) == []


OF_ANOTHER_VERSION = """
import sys, ironloom
ironloom.__version__ = "0.0.1"
from ironloom.cli.main import main
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.usefixtures("gateway")
def test_a_command_of_another_version_says_so_and_goes_on(cluster: Cluster) -> None:
    done = subprocess.run(
        [sys.executable, "-c", OF_ANOTHER_VERSION, "get", "services", "-o", "json", *WHERE],
        env={**os.environ, "KUBECONFIG": str(cluster.kubeconfig)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert f"the gateway in the cluster is Ironloom {__version__}, this command 0.0.1" in done.stderr
    assert isinstance(json.loads(done.stdout), list)
    assert "this command" not in ironloom(cluster, "get", "services").stderr


def services(cluster: Cluster) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(ironloom(cluster, "get", "services", "-o", "json").stdout)
    return found


def test_where_there_is_no_gateway_that_is_said(cluster: Cluster) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "ironloom.cli", "scale", "far", "1", "--context", "test", "--namespace", "kube-public"],
        env={**os.environ, "KUBECONFIG": str(cluster.kubeconfig)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "no gateway of Ironloom in namespace kube-public" in done.stderr
    assert "ironloom install" in done.stderr
