"""`ironloom check --context`: against a live cluster, and what is left when it cannot be read."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from fake_control import Run
from tests.backends.kubernetes.conftest import kubeconfig_of, node
from tests.fakes.kube_api import Answer, KubeApi, status

POD = """\
apiVersion: v1
kind: Pod
metadata:
  name: llama
spec:
  nodeSelector:
    gpu.nvidia.com/class: H200
  containers:
  - name: main
    image: vllm/vllm-openai:v0.11.0
    args: [--model=Qwen/Qwen3-8B]
    resources:
      limits: {nvidia.com/gpu: 1, cpu: 8, memory: 64Gi}
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "pod.yaml"
    path.write_text(POD)
    return path


@pytest.fixture
def api(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[KubeApi]:
    api = KubeApi({"/api/v1/nodes": [node("gpu-1", **{"gpu.nvidia.com/class": "H100_NVLINK_80GB"})]})
    (tmp_path / "config").write_text(json.dumps(kubeconfig_of(api.url)))
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "config"))
    with api.running():
        yield api


def test_a_selector_is_held_against_the_nodes_of_the_cluster(run: Run, file: Path, api: KubeApi) -> None:
    result = run("check", str(file), "--context", "prod")
    assert result.status == 1
    assert "error[IL101]" in result.out
    assert result.err == ""


def test_what_may_not_be_listed_is_told(run: Run, file: Path, api: KubeApi) -> None:
    api.always["/api/v1/secrets"] = status(403, "Forbidden", "no secrets for you")
    result = run("check", str(file), "--context", "prod")
    assert "secrets are unknown: The cluster of context prod forbids user ada to list secrets" in result.err


def test_a_cluster_that_refuses_leaves_the_files_checked_and_the_status_two(run: Run, file: Path, api: KubeApi) -> None:
    api.tokens = {"good"}
    file.write_text(POD.replace("nvidia.com/gpu: 1", "nvidia.com/gpu: 1.5"))
    result = run("check", str(file), "--context", "prod")
    assert result.status == 2
    assert "IL121" in result.out, "what can be said without a fleet is said"
    assert "answered 401" in result.err
    assert "The files were checked without a fleet." in result.err
    assert "Traceback" not in result.err


def test_a_context_that_is_not_there_is_bad_use(run: Run, file: Path, api: KubeApi) -> None:
    result = run("check", str(file), "--context", "prodd")
    assert (result.out, result.status) == ("", 2)
    assert "did you mean prod?" in result.err


def test_a_kind_that_the_cluster_does_not_describe_is_not_there(run: Run, file: Path, api: KubeApi) -> None:
    kind = {"x-kubernetes-group-version-kind": [{"group": "", "version": "v1", "kind": "Node"}]}
    index = {"paths": {"api/v1": {"serverRelativeURL": "/openapi/v3/v1"}}}
    api.always["/openapi/v3"] = Answer(200, json.dumps(index).encode())
    api.always["/openapi/v3/v1"] = Answer(200, json.dumps({"components": {"schemas": {"Node": kind}}}).encode())
    result = run("check", str(file), "--context", "prod", "--select", "IL005")
    assert "this cluster has no kind Pod of v1" in result.out


def test_the_fleet_of_a_cluster_is_shown(run: Run, api: KubeApi) -> None:
    api.always["/api/v1/configmaps"] = status(403, "Forbidden", "no")
    result = run("fleet", "--context", "prod", "-o", "json")
    assert result.status == 0
    assert "gpu-1" in result.out
    assert "configmaps are unknown" in result.err
