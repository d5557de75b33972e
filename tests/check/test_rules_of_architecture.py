"""An image is for the processors of the nodes that take its pods, or it is told."""

from __future__ import annotations

import pytest

from ironloom.catalog import accelerators
from ironloom.check import images, registry
from ironloom.check.engine import Setting, check
from ironloom.check.finding import Severity
from ironloom.check.inputs import read_texts
from ironloom.check.rules import examples
from ironloom.fleet.model import Fleet

RULES = registry.select(["IL109"])


@pytest.mark.parametrize(
    ("image", "architecture"),
    [
        ("vllm/vllm-openai:v0.9.2", "amd64"),
        ("vllm/vllm-openai:v0.10.0", "amd64"),
        ("docker.io/vllm/vllm-openai:v0.8.5.post1", "amd64"),
        ("vllm/vllm-openai:v0.10.1.1", None),
        ("vllm/vllm-openai:v0.9.2-aarch64", "arm64"),
        ("vllm/vllm-openai:v0.11.0-x86_64", "amd64"),
        ("vllm/vllm-openai:latest", None),
        ("my/vllm-openai:v0.9.2", None),
        ("arm64v8/python:3.12", "arm64"),
        ("registry.example.com:5000/amd64/python:3.12", "amd64"),
        ("amd64.example.com/tools:1", None),
        ("example.com/tools:1-amd64-arm64", None),
        ("example.com/swarm64:1", None),
        ("", None),
    ],
)
def test_the_name_of_an_image_says_what_it_is_for(image: str, architecture: str | None) -> None:
    said = images.architecture(image)
    assert (said[0] if said else None) == architecture


def pod(image: str, selector: str = "", gpus: int = 4) -> str:
    return f"""\
apiVersion: v1
kind: Pod
metadata:
  name: llama
spec:
  nodeSelector: {{{selector}}}
  containers:
  - name: main
    image: {image}
    resources:
      limits:
        nvidia.com/gpu: {gpus}
"""


def severities(text: str, fleet: Fleet | None = None, accelerator: str = "") -> list[Severity]:
    setting = Setting(fleet=fleet, accelerator=accelerators.find(accelerator) if accelerator else None)
    result = check(read_texts({"a.yaml": text}), RULES, setting)
    assert result.faults == ()
    return [finding.severity for finding in result.findings]


OLD = "vllm/vllm-openai:v0.9.2"


@pytest.mark.parametrize(
    "selector",
    [
        "kubernetes.io/arch: arm64",
        "node.kubernetes.io/instance-type: gd-1xgh200",
        "cloud.google.com/gke-accelerator: nvidia-gb200",
    ],
)
def test_a_selector_that_means_arm64_is_understood(selector: str) -> None:
    assert severities(pod(OLD, selector)) == [Severity.ERROR]
    assert severities(pod(f"{OLD}-aarch64", selector)) == []


@pytest.mark.parametrize(
    "selector", ["", "node.kubernetes.io/instance-type: gd-8xh100ib-i128", "kubernetes.io/arch: amd64"]
)
def test_other_nodes_take_an_image_for_amd64(selector: str) -> None:
    assert severities(pod(OLD, selector)) == []


def test_an_image_for_arm64_is_told_on_nodes_of_amd64() -> None:
    assert severities(pod("vllm/vllm-openai:v0.11.0-aarch64", "kubernetes.io/arch: amd64")) == [Severity.ERROR]


def test_an_accelerator_with_a_grace_cpu_is_known_without_a_fleet() -> None:
    assert severities(pod(OLD), accelerator="GB200-186GB") == [Severity.ERROR]
    assert severities(pod(OLD), accelerator="H100-SXM5-80GB") == []


def test_with_a_fleet_the_nodes_that_take_the_pod_decide() -> None:
    arm = examples.node("a", gpus=4, labels={"kubernetes.io/arch": "arm64"})
    amd = examples.node("b", gpus=8)
    unlabelled = examples.node("c", gpus=8, labels={"kubernetes.io/arch": ""})
    assert severities(pod(OLD), examples.fleet(arm)) == [Severity.ERROR]
    assert severities(pod(OLD), examples.fleet(arm, amd)) == [Severity.WARNING]
    assert severities(pod(OLD, gpus=8), examples.fleet(arm, amd)) == [], "only the other node has so many GPUs"
    assert severities(pod(OLD), examples.fleet(amd)) == []
    assert severities(pod(OLD), examples.fleet(unlabelled)) == []
