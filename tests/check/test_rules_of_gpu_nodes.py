"""Pods on GPU nodes without GPUs, servers that go to zero before they are there, and shares of a GPU."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import yaml

from ironloom.check import registry
from ironloom.check.engine import Setting, check
from ironloom.check.finding import Finding
from ironloom.check.inputs import read_texts
from ironloom.check.rules.examples import fleet, node

RULES = list(registry.load().values())


def findings(*objects: dict[str, Any], **setting: Any) -> dict[str, Finding]:
    result = check(read_texts({"a.yaml": yaml.safe_dump_all(objects)}), RULES, Setting(**setting))
    assert result.faults == ()
    assert not result.is_unreadable
    return {one.rule: one for one in result.findings}


def pod(*, limits: dict[str, Any], **spec: Any) -> dict[str, Any]:
    container = {
        "name": "main",
        "image": "registry.example.com/web:1.4",
        "resources": {"requests": {"cpu": 8, "memory": "16Gi"}, "limits": limits},
    }
    selector = {"nvidia.com/gpu.product": "NVIDIA-H100-80GB-HBM3"}
    merged = {"nodeSelector": selector, "containers": [container], **spec}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "web"}, "spec": merged}


def with_container(made: dict[str, Any], **fields: Any) -> dict[str, Any]:
    changed = copy.deepcopy(made)
    changed["spec"]["containers"][0] |= fields
    return changed


PLAIN = pod(limits={"memory": "16Gi"})


def test_a_pod_of_cpu_alone_that_selects_gpu_nodes_is_noted_at_its_spec() -> None:
    found = findings(PLAIN)["IL858"]
    assert found.path == "spec"
    assert "NVIDIA-H100-80GB-HBM3" in found.message


@pytest.mark.parametrize(
    "made",
    [
        pod(limits={"memory": "16Gi", "nvidia.com/gpu": 1}),
        pod(limits={"memory": "16Gi", "nvidia.com/mig-1g.10gb": 1}),
        pod(limits={"memory": "16Gi"}, nodeSelector={"kubernetes.io/arch": "amd64"}),
        pod(limits={"memory": "16Gi"}, runtimeClassName="nvidia"),
        pod(limits={"memory": "16Gi"}, resourceClaims=[{"name": "gpu", "resourceClaimTemplateName": "gpu"}]),
        pod(limits={"memory": "16Gi"}, hostNetwork=True),
        with_container(PLAIN, securityContext={"privileged": True}),
        with_container(PLAIN, env=[{"name": "NVIDIA_VISIBLE_DEVICES", "value": "all"}]),
        with_container(PLAIN, resources={}),
    ],
)
def test_a_pod_that_may_use_the_gpu_or_takes_nothing_is_not_noted(made: dict[str, Any]) -> None:
    assert "IL858" not in findings(made)


def test_a_daemon_set_stands_on_gpu_nodes_for_their_sake() -> None:
    daemons = {
        "apiVersion": "apps/v1",
        "kind": "DaemonSet",
        "metadata": {"name": "exporter"},
        "spec": {
            "selector": {"matchLabels": {"app": "exporter"}},
            "template": {"metadata": {"labels": {"app": "exporter"}}, "spec": PLAIN["spec"]},
        },
    }
    assert "IL858" not in findings(daemons)


def deployment(model: str, gpus: int = 4, **container: Any) -> dict[str, Any]:
    made = {
        "name": "main",
        "image": "vllm/vllm-openai:v0.18.0",
        "args": ["--model", model, "--tensor-parallel-size", str(gpus)],
        "resources": {"limits": {"nvidia.com/gpu": gpus}},
        **container,
    }
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "llama"},
        "spec": {
            "selector": {"matchLabels": {"app": "llama"}},
            "template": {"metadata": {"labels": {"app": "llama"}}, "spec": {"containers": [made]}},
        },
    }


def scaled(cooldown_s: int | None, *, least: int = 0, name: str = "llama") -> dict[str, Any]:
    spec: dict[str, Any] = {
        "scaleTargetRef": {"name": name},
        "minReplicaCount": least,
        "maxReplicaCount": 2,
        "triggers": [{"type": "cpu", "metadata": {"value": "50"}}],
    }
    if cooldown_s is not None:
        spec["cooldownPeriod"] = cooldown_s
    return {"apiVersion": "keda.sh/v1alpha1", "kind": "ScaledObject", "metadata": {"name": "s"}, "spec": spec}


LARGE, SMALL = "meta-llama/Llama-3.1-70B-Instruct", "Qwen/Qwen3-8B"


@pytest.mark.parametrize(
    ("objects", "is_found"),
    [
        ((scaled(120), deployment(LARGE)), True),
        ((scaled(None), deployment(LARGE)), True),
        ((scaled(1800), deployment(LARGE)), False),
        ((scaled(None), deployment(SMALL, gpus=1)), False),
        ((scaled(30), deployment("/models/llama")), True),
        ((scaled(120), deployment("/models/llama")), False),
        ((scaled(120, least=1), deployment(LARGE)), False),
        ((scaled(120, name="other"), deployment(LARGE)), False),
        ((scaled(120),), False),
        ((scaled(120), deployment(LARGE), deployment(LARGE)), False),  # nobody knows which is meant
    ],
)
def test_a_server_that_is_taken_away_before_it_is_there(objects: tuple[dict[str, Any], ...], is_found: bool) -> None:
    assert ("IL526" in findings(*objects)) is is_found


def test_the_cooldown_is_told_at_its_line_and_with_the_download() -> None:
    written = findings(scaled(120), deployment(LARGE))["IL526"]
    assert written.path == "spec.cooldownPeriod"
    assert "at 2 Gbit/s" in written.evidence[0]
    default = findings(scaled(None), deployment(LARGE))["IL526"]
    assert default.path == "spec.minReplicaCount"
    assert "300 s after its last trigger (the default)" in default.message


def test_shares_of_a_gpu_are_not_held_against_nodes_that_never_list_them() -> None:
    shared = pod(limits={"memory": "16Gi", "nvidia.com/gpu": 1, "nvidia.com/gpumem": 8000, "nvidia.com/gpucores": 30})
    selected = {"gpu.nvidia.com/class": "H100"}
    del shared["spec"]["nodeSelector"]
    there = fleet(node("a", labels=selected), node("b"))
    errors = {rule for rule, one in findings(shared, fleet=there).items() if one.severity == "error"}
    assert errors == set()
    unknown = pod(limits={"memory": "16Gi", "nvidia.com/gpu": 1, "example.com/part": 1})
    del unknown["spec"]["nodeSelector"]
    assert "error" in {one.severity for one in findings(unknown, fleet=there).values()}


def test_the_memory_of_a_share_is_not_that_of_the_whole_gpu() -> None:
    shared = deployment(LARGE, gpus=1)
    shared["spec"]["template"]["spec"]["nodeSelector"] = {"nvidia.com/gpu.product": "NVIDIA-H100-80GB-HBM3"}
    assert "IL451" in findings(shared)
    limits = shared["spec"]["template"]["spec"]["containers"][0]["resources"]["limits"]
    limits["nvidia.com/gpumem"] = 8000
    assert "IL451" not in findings(shared)
