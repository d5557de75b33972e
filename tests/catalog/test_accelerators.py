"""The catalogue says what it says once, with a source, and finds a thing by what others call it."""

from __future__ import annotations

import datetime

import pytest

from ironloom.catalog import instances
from ironloom.catalog.accelerators import ACCELERATORS, Accelerator, candidates, find
from ironloom.units import GB, GIB


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("NVIDIA-H100-80GB-HBM3", "H100-SXM5-80GB"),
        ("NVIDIA H100 80GB HBM3", "H100-SXM5-80GB"),
        ("H100_NVLINK_80GB", "H100-SXM5-80GB"),
        ("h100-80gb", "H100-SXM5-80GB"),
        ("nvidia-h100-mega-80gb", "H100-SXM5-80GB"),
        ("NVIDIA-H100-80GB-HBM3-MIG-1g.10gb", "H100-SXM5-80GB"),
        ("NVIDIA-H100-80GB-HBM3-SHARED", "H100-SXM5-80GB"),
        ("NVIDIA-H100-NVL", "H100-NVL-94GB"),
        ("H100_NVL", "H100-NVL-94GB"),
        ("A100_PCIE_80GB", "A100-PCIe-80GB"),
        ("nvidia-tesla-a100", "A100-SXM4-40GB"),
        ("nvidia-a100-80gb", "A100-SXM4-80GB"),
        ("NVIDIA-B300-SXM6-AC", "B300-SXM6-270GB"),
        ("NVIDIA-GH200-480GB", "GH200-96GB"),
        ("AMD_Instinct_MI300X_OAM", "MI300X-192GB"),
        ("Tesla T4", "T4-16GB"),
        ("H200", "H200-SXM5-141GB"),
    ],
)
def test_an_accelerator_is_found_by_what_labels_drivers_and_clouds_call_it(text: str, name: str) -> None:
    found = find(text)
    assert found is not None
    assert found.name == name


@pytest.mark.parametrize("text", ["", "A100", "H1000", "nvidia", "H100-80GB-HBM3-extra", "CPU"])
def test_a_name_that_is_no_ones_or_two_products_is_not_guessed(text: str) -> None:
    assert find(text) is None


def test_a_shared_name_has_candidates() -> None:
    assert {item.name for item in candidates("A100")} == {
        "A100-SXM4-80GB",
        "A100-PCIe-80GB",
        "A100-SXM4-40GB",
        "A100-PCIe-40GB",
    }
    assert candidates("Z9000") == ()


@pytest.mark.parametrize("item", ACCELERATORS.values(), ids=lambda item: item.name)
def test_each_accelerator_is_consistent(item: Accelerator) -> None:
    assert 0.9 * item.marketed_gb * GB <= item.memory_bytes <= item.marketed_gb * GIB
    if item.cuda_memory_bytes is not None:
        assert 0.97 * item.memory_bytes < item.cuda_memory_bytes < item.memory_bytes
    assert item.sources
    assert all(source.startswith("https://") for source in item.sources)
    datetime.date.fromisoformat(item.date)
    if item.fp8_flops is not None and item.bf16_flops is not None:
        assert item.fp8_flops == pytest.approx(2 * item.bf16_flops, rel=0.02), "dense FP8 is twice BF16"
    assert find(item.name) is item


@pytest.mark.parametrize("item", instances.INSTANCES.values(), ids=lambda item: item.name)
def test_each_instance_type_names_a_known_accelerator_and_its_source(item: instances.InstanceType) -> None:
    assert item.accelerator in ACCELERATORS
    assert item.num_gpus > 0
    assert item.source.startswith("https://")
    datetime.date.fromisoformat(item.date)
    if item.usd_per_hour is not None:
        datetime.date.fromisoformat(item.price_date)
        assert item.price_source.startswith("https://")
        per_gpu = item.usd_per_gpu_hour
        assert per_gpu is not None
        assert 0.3 < per_gpu < 20


def test_an_instance_type_is_found_by_its_label() -> None:
    found = instances.find("gd-8xh100ib-i128")
    assert found is not None
    assert (found.num_gpus, found.accelerator) == (8, "H100-SXM5-80GB")
    assert found.usd_per_gpu_hour == pytest.approx(6.155)
    assert instances.find("gd-8xh100nvl") is None
