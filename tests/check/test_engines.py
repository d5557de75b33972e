"""Which GPU a server may land on, and what of its command line is understood."""

from __future__ import annotations

import pytest

from ironloom.check.engine import Setting, _context
from ironloom.check.engines import Engine, accelerators_of, engines
from ironloom.check.inputs import read_texts
from ironloom.check.rule import Context
from ironloom.check.rules.examples import fleet, node
from ironloom.check.rules.serving_examples import serving
from ironloom.fleet.model import Fleet

AFFINITY = """\
affinity:
  nodeAffinity:
    requiredDuringSchedulingIgnoredDuringExecution:
      nodeSelectorTerms:
      - matchExpressions:
        - key: {key}
          operator: {operator}
          values: [{values}]
"""


def engine(text: str, known: Fleet | None = None) -> Engine:
    context, _ = _context(read_texts({"m.yaml": text}), Setting(fleet=known))
    [only] = engines(context.workloads[0], context)
    return only


def gpus(text: str, known: Fleet | None = None) -> list[str]:
    one = engine(text, known)
    return [accelerator.name for accelerator, _ in accelerators_of(one.pod_set, one.context)]


@pytest.mark.parametrize(
    ("selector", "name"),
    [
        ("nvidia.com/gpu.product: NVIDIA-H100-80GB-HBM3", "H100-SXM5-80GB"),
        ("gpu.nvidia.com/class: H100_NVLINK_80GB", "H100-SXM5-80GB"),
        ("cloud.google.com/gke-accelerator: nvidia-l4", "L4-24GB"),
        ("node.kubernetes.io/instance-type: gd-8xh200ib-i128", "H200-SXM5-141GB"),
        ("node.kubernetes.io/instance-type: p5.48xlarge", "H100-SXM5-80GB"),
    ],
)
def test_a_node_selector_names_the_gpu(selector: str, name: str) -> None:
    assert gpus(serving("--model=x/y", selector=selector)) == [name]


@pytest.mark.parametrize(
    ("key", "operator", "values", "names"),
    [
        ("nvidia.com/gpu.product", "In", "NVIDIA-L4, NVIDIA-A10", ["L4-24GB", "A10-24GB"]),
        ("nvidia.com/gpu.product", "NotIn", "NVIDIA-L4", []),
        ("nvidia.com/gpu.product", "In", "NVIDIA-L4, Somebody-Else", []),
        ("kubernetes.io/arch", "In", "amd64", []),
    ],
)
def test_a_required_affinity_names_the_gpus(key: str, operator: str, values: str, names: list[str]) -> None:
    text = serving("--model=x/y", pod=AFFINITY.format(key=key, operator=operator, values=values))
    assert gpus(text) == names


def test_a_fleet_says_what_the_matching_nodes_have() -> None:
    both = fleet(node("a"), node("b", accelerator="H200-SXM5-141GB"), node("c", gpus=0))
    assert gpus(serving("--model=x/y"), both) == ["H100-SXM5-80GB", "H200-SXM5-141GB"]
    assert gpus(serving("--model=x/y"), fleet(node("a"), node("b", accelerator=None))) == [], "one is not known"
    assert gpus(serving("--model=x/y"), fleet()) == []


@pytest.mark.parametrize(
    ("image", "version"),
    [
        ("vllm/vllm-openai:v0.11.0", (0, 11, 0)),
        ("registry.example:5000/vllm/vllm-openai:v0.26.0-cu129", (0, 26, 0)),
        ("vllm/vllm-openai:v0.8.5.post1@sha256:abc", (0, 8, 5)),
        ("registry.example/vllm-openai:v0.26.0", (0, 26, 0)),
        ("vllm-openai:v0.26.0", (0, 26, 0)),
        ("lmcache/vllm-openai:v0.3.9post2", None),
        ("registry.example/lmcache/vllm-openai:v0.3.9post2", None),
        ("vllm/vllm-openai:latest", None),
        ("vllm/vllm-openai", None),
        ("ghcr.io/llm-d/llm-d-cuda:v0.3.0", None),
        ("acme/vllm:1.2.3", None),
    ],
)
def test_the_version_is_that_of_vllm_s_own_images(image: str, version: tuple[int, int, int] | None) -> None:
    assert engine(serving("--model=x/y", image=image)).version == version


def test_the_share_of_memory_follows_the_version() -> None:
    images = {"vllm/vllm-openai:v0.11.0": 0.9, "vllm/vllm-openai:v0.26.0": 0.92, "vllm/vllm-openai:latest": 0.92}
    assert {image: engine(serving("--model=x/y", image=image)).utilization for image in images} == images


def test_a_switch_counts_as_it_stands_last() -> None:
    one = engine(serving("--model=x/y", "--enforce-eager", "--no-enforce-eager", "--no-enable-prefix-caching"))
    assert not one.is_on("--enforce-eager")
    assert one.is_off("--enable-prefix-caching")
    assert not one.is_off("--enable-chunked-prefill")


def test_servers_are_understood_once_in_a_run() -> None:
    context, _ = _context(read_texts({"m.yaml": serving("--model=x/y")}), Setting())
    assert isinstance(context, Context)
    assert engines(context.workloads[0], context) is engines(context.workloads[0], context)


def test_disable_is_the_opposite_of_enable_and_the_last_one_counts() -> None:
    assert engine(serving("--model=a/b", "--disable-chunked-prefill")).is_off("--enable-chunked-prefill")
    both = engine(serving("--model=a/b", "--disable-expert-parallel", "--enable-expert-parallel"))
    assert both.is_on("--enable-expert-parallel")
    assert not engine(serving("--model=a/b", "--disable-custom-all-reduce")).is_on("--enable-custom-all-reduce")
    assert not engine(serving("--model=a/b", "--no-enforce-eager")).is_on("--enforce-eager")
