"""`ironloom snapshot`: a cluster into a file that --fleet reads, and no secret in it."""

from __future__ import annotations

import gc
import gzip
import json
import os
from base64 import b64encode
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.backends.kubernetes.conftest import kubeconfig_of, node, pod
from tests.fakes.kube_api import Answer, KubeApi, Objects, status

from ironloom.cli.main import main
from ironloom.fleet.here import fleet_of
from ironloom.fleet.node import Gpu, Node
from ironloom.fleet.snapshot import read_snapshot
from ironloom.place.fit import room
from ironloom.units import GIB

SECRET = "hf_DoNotTellAnyone0123456789"
NODES, PODS, SECRETS = "/api/v1/nodes", "/api/v1/pods", "/api/v1/secrets"
CONFIG_MAPS = "/api/v1/configmaps"


def telling_pod() -> dict[str, Any]:
    """A pod with the secret everywhere that people have put one."""
    made = pod("chat", "gpu-1", 2)
    made["metadata"]["annotations"] = {
        "kubectl.kubernetes.io/last-applied-configuration": json.dumps(
            {"env": [{"name": "HF_TOKEN", "value": SECRET}]}
        ),
        "notes": SECRET,
    }
    made["metadata"]["managedFields"] = [{"manager": "kubectl", "fieldsV1": {"f:spec": {SECRET: {}}}}]
    container = made["spec"]["containers"][0]
    container["env"] = [
        {"name": "HF_TOKEN", "value": SECRET},
        {"name": "OTHER", "valueFrom": {"secretKeyRef": {"name": SECRET, "key": "token"}}},
    ]
    container["args"] = ["--api-key", SECRET]
    container["command"] = ["sh", "-c", f"HF_TOKEN={SECRET} vllm serve"]
    container["livenessProbe"] = {"httpGet": {"httpHeaders": [{"name": "Authorization", "value": f"Bearer {SECRET}"}]}}
    container["lifecycle"] = {"postStart": {"exec": {"command": ["login", SECRET]}}}
    made["spec"]["initContainers"] = [{"name": "pull", "image": "x", "env": [{"name": "K", "value": SECRET}]}]
    made["spec"]["ephemeralContainers"] = [{"name": "debug", "args": [SECRET]}]
    made["spec"]["volumes"] = [{"name": "v", "csi": {"driver": "x", "volumeAttributes": {"password": SECRET}}}]
    made["status"]["message"] = SECRET
    made["status"]["containerStatuses"] = [
        {"name": "main", "ready": False, "restartCount": 1, "lastState": {"terminated": {"message": SECRET}}}
    ]
    return made


def telling_cluster() -> Objects:
    plain = json.dumps({"stringData": {"token": SECRET}})
    applied = {"kubectl.kubernetes.io/last-applied-configuration": plain}
    gpu = node("gpu-1")
    gpu["metadata"]["annotations"] = dict(applied)
    gpu["metadata"]["managedFields"] = [{"fieldsV1": {SECRET: {}}}]
    return {
        NODES: [gpu],
        PODS: [telling_pod()],
        SECRETS: [
            {
                "metadata": {"name": "hf", "namespace": "team-a", "annotations": applied},
                "data": {"token": b64encode(SECRET.encode()).decode()},
                "stringData": {"token": SECRET},
            }
        ],
        CONFIG_MAPS: [
            {"metadata": {"name": "env", "namespace": "team-a", "annotations": applied}, "data": {"T": SECRET}}
        ],
        "/api/v1/namespaces": [{"metadata": {"name": "team-a", "annotations": applied}}],
    }


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    def run(api: KubeApi, out: str) -> tuple[int, Path]:
        config = tmp_path / "config"
        config.write_text(json.dumps(kubeconfig_of(api.url)))
        monkeypatch.setenv("KUBECONFIG", str(config))
        return main(["snapshot", "--context", "prod", "--out", str(tmp_path / out)]), tmp_path / out

    return run


@pytest.mark.parametrize("name", ["prod.json", "prod.json.gz"])
def test_a_secret_that_stands_everywhere_is_not_in_the_file(
    name: str, run: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    with KubeApi(telling_cluster()).running() as api:
        result, out = run(api, name)
    assert result == 0
    data = out.read_bytes()
    if name.endswith(".gz"):
        assert data[:2] == b"\x1f\x8b"
        data = gzip.decompress(data)
    assert b"gpu-1" in data
    for form in (SECRET, b64encode(SECRET.encode()).decode().rstrip("="), SECRET.removeprefix("hf_")):
        assert form.encode() not in data
    assert b"managedFields" not in data
    said = capsys.readouterr()
    assert said.out.startswith(f"{out}: 1 node, 1 pod, 4 objects in all")


def test_the_file_is_the_fleet_that_the_cluster_is(run: Any) -> None:
    with KubeApi(telling_cluster()).running() as api:
        _, out = run(api, "prod.json.gz")
    fleet = read_snapshot([out])
    assert (fleet.name, fleet.version) == ("prod", "v1.37.2")
    assert [(one.name, one.num_free_gpus) for one in fleet.nodes] == [("gpu-1", 6)]
    assert fleet.taken_at
    assert fleet.has("/ConfigMap", "env", "team-a") is True
    assert fleet.has("/ConfigMap", "other", "team-a") is False
    assert fleet.has("/Secret", "hf", "team-a") is None, "names of secrets are left out, and so nothing is said of them"
    assert fleet.kinds_served is not None
    assert "/v1/Pod" in fleet.kinds_served


def test_for_programs_the_counts_are_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config, out = tmp_path / "config", tmp_path / "prod.json"
    monkeypatch.setenv("KUBECONFIG", str(config))
    with KubeApi(telling_cluster()).running() as api:
        config.write_text(json.dumps(kubeconfig_of(api.url)))
        assert main(["snapshot", "--context", "prod", "--out", str(out), "-o", "json"]) == 0
    counts = {"nodes": 1, "pods": 1, "objects": 4}
    assert json.loads(capsys.readouterr().out) == {"file": str(out), **counts, "size_bytes": out.stat().st_size}


def test_a_snapshot_that_fails_leaves_the_one_before(run: Any, tmp_path: Path) -> None:
    (tmp_path / "prod.json").write_text("the one before")
    with KubeApi(telling_cluster()).running() as api:
        api.always[PODS] = Answer(200, b"no json")
        result, out = run(api, "prod.json")
    assert result == 2
    assert out.read_text() == "the one before"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config", "prod.json"]
    gc.collect()  # a file that was left open would be told now


def test_an_expired_token_in_the_middle_of_a_list_counts_nothing_twice(run: Any) -> None:
    pods = [pod(f"p-{number}", "gpu-1", 0) for number in range(6)]
    with KubeApi({NODES: [node("gpu-1")], PODS: pods}, max_page=4).running() as api:
        api.faults[f"{PODS}?continue"] = [status(410, "Expired", "too old")]
        _, out = run(api, "prod.json")
    names = [item["metadata"]["name"] for item in json.loads(out.read_bytes())["items"]]
    assert sorted(names) == ["gpu-1", *(f"p-{number}" for number in range(6))]


def test_what_may_not_be_listed_is_said(run: Any, capsys: pytest.CaptureFixture[str]) -> None:
    with KubeApi(telling_cluster()).running() as api:
        api.always[CONFIG_MAPS] = status(403, "Forbidden", "no")
        result, out = run(api, "prod.json")
    assert result == 0
    assert "configmaps are unknown: The cluster of context prod forbids user ada" in capsys.readouterr().err
    assert read_snapshot([out]).has("/ConfigMap", "env", "team-a") is None


def test_a_folder_that_is_not_there_is_said_before_the_cluster_is_asked(
    run: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    with KubeApi(telling_cluster()).running() as api:
        result, _ = run(api, "no/such/prod.json")
        assert api.asked == []
    assert result == 2
    assert "There is no folder" in capsys.readouterr().err


def test_a_link_stays_a_link_and_a_pipe_is_written_into(run: Any, tmp_path: Path) -> None:
    (tmp_path / "latest.json").symlink_to(tmp_path / "today.json")
    os.mkfifo(tmp_path / "pipe")
    with KubeApi(telling_cluster()).running() as api:
        assert run(api, "latest.json")[0] == 0
        with ThreadPoolExecutor() as pool:
            got = pool.submit((tmp_path / "pipe").read_bytes)
            assert run(api, "pipe")[0] == 0
    assert (tmp_path / "latest.json").is_symlink()
    assert read_snapshot([tmp_path / "today.json"]).nodes
    assert (tmp_path / "pipe").is_fifo()
    assert len(json.loads(got.result())["items"]) == 4


GPU = Gpu(index=0, uuid="u", name="NVIDIA H100 80GB HBM3", memory_bytes=80 * GIB, free_memory_bytes=80 * GIB)
MACHINE = Node(name="here", num_cpus=16, memory_bytes=128 * GIB, available_memory_bytes=96 * GIB)


@pytest.mark.parametrize(
    "gpus",
    [
        pytest.param((), id="without GPUs"),
        pytest.param((GPU, replace(GPU, index=1, uuid="v", free_memory_bytes=GIB)), id="two GPUs, one in use"),
        pytest.param((GPU, replace(GPU, index=1, uuid="v", name="NVIDIA L4")), id="of two products"),
    ],
)
def test_without_a_context_the_file_is_the_fleet_that_this_machine_is(
    gpus: tuple[Gpu, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    machine = replace(MACHINE, gpus=gpus)
    monkeypatch.setattr("ironloom.fleet.machine.this_machine", lambda: machine)
    out = tmp_path / "here.json"
    assert main(["snapshot", "--out", str(out)]) == 0
    assert capsys.readouterr().out.startswith(f"{out}: 1 node, 1 pod, 2 objects in all")
    read, here = read_snapshot([out]), fleet_of(machine)
    assert (read.name, bool(read.taken_at)) == ("here", True)
    [one], [other] = read.nodes, here.nodes
    for field in ("name", "capacity", "allocatable", "gpu_resource", "accelerator", "lifecycle", "num_free_gpus"):
        assert getattr(one, field) == getattr(other, field), field
    assert one.allocated["memory"] == other.allocated["memory"]
    for amount in {"memory": 40 * GIB}, {"nvidia.com/gpu": 1} if gpus else {"cpu": 1}:
        assert room(amount, one.allocatable, one.allocated) == room(amount, other.allocatable, other.allocated)


def test_a_namespace_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for context in ([], ["--context", "prod"]):
        assert main(["snapshot", *context, "-n", "models", "--out", str(tmp_path / "x.json")]) == 2
        assert "A snapshot is of all namespaces" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
