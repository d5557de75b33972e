"""Accelerators as sold: memory, speed and the names that labels, drivers and clouds call them by.

Speeds are of the tensor cores, dense: vendors' sheets often print the figure with 2:4 sparsity, which is twice as much.
Memory is what the driver reports as total, which is less than the marketed size where part of it is kept for ECC and
the driver itself. A process sees some 0.4 GiB less again (`cuda_memory_bytes`, where it has been seen).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import cache

import msgspec

from ironloom.units import GB, GIB, MIB

TERA = 10**12
TB = 1000 * GB


class Accelerator(msgspec.Struct, frozen=True, kw_only=True):
    """One GPU as sold."""

    name: str
    """Canonical: `H100-SXM5-80GB`."""
    vendor: str
    """nvidia or amd."""
    architecture: str
    """Volta, Turing, Ampere, Ada, Hopper, Blackwell, CDNA3, CDNA4."""
    form: str
    """SXM4, SXM5, SXM6, PCIe, NVL (two or four PCIe cards joined by bridges), Superchip (beside a Grace), OAM."""
    marketed_gb: int
    """On the box, in powers of 1000."""
    memory_bytes: int
    """Total that the driver reports."""
    cuda_memory_bytes: int | None = None
    """Total that a process is told (cudaMemGetInfo); None where it was not seen."""
    memory_bytes_per_s: float
    fp16_flops: float
    bf16_flops: float | None
    """None where the tensor cores have no bfloat16."""
    fp8_flops: float | None = None
    fp4_flops: float | None = None
    nvlink_bytes_per_s: float | None = None
    """To the other GPUs of its NVLink domain (AMD: Infinity Fabric), both directions summed; None without one."""
    tdp_w: int
    aliases: tuple[str, ...] = ()
    """What labels, drivers and clouds call it; `find` takes them in any case, with any of space, `-` and `_`."""
    doubt: str = ""
    """What sources disagree on."""
    sources: tuple[str, ...]
    date: str
    """When the sources were read."""


_MODAL = "https://github.com/modal-labs/modal-client/pull/2797"
"""Totals of nvidia-smi of H100, A100, A10, L40S, L4, T4."""
_LIGHTNING = (
    "https://github.com/Lightning-AI/pytorch-lightning/blob/master/src/lightning/fabric/utilities/throughput.py"
)
"""Dense speeds of H100, A100, V100 and T4, each with its datasheet."""
_KARPENTER = "https://karpenter.sh/v1.14/reference/instance-types/"
"""Memory of B200, B300 and RTX PRO Server 6000 as EC2 reports it."""
_TORCHAO = "https://github.com/pytorch/ao/pull/4002"
"""B200: memory clock and bus width as the driver reports them, 7.67 TB/s; dense speeds."""
_AICONFIGURATOR = "https://github.com/ai-dynamo/aiconfigurator/tree/main/src/aiconfigurator/systems"
"""NVIDIA's own tables for its planner: memory, bandwidth, dense speeds, power."""
_HOPPER = "https://resources.nvidia.com/en-us-tensor-core/nvidia-tensor-core-gpu-datasheet"
_AMD = "https://www.amd.com/en/products/accelerators/instinct.html"
_RAY_AMD = "https://github.com/ray-project/ray/blob/master/python/ray/_private/accelerators/amd_gpu.py"
_READ = "2026-11-24"

_ALL = (
    Accelerator(
        name="H100-SXM5-80GB",
        vendor="nvidia",
        architecture="Hopper",
        form="SXM5",
        marketed_gb=80,
        memory_bytes=81_559 * MIB,
        cuda_memory_bytes=int(79.11 * GIB),
        memory_bytes_per_s=3.35 * TB,
        fp16_flops=989 * TERA,
        bf16_flops=989 * TERA,
        fp8_flops=1979 * TERA,
        nvlink_bytes_per_s=900 * GB,
        tdp_w=700,
        aliases=(
            "H100",
            "H100-80GB",
            "H100-SXM",
            "H100-SXM5",
            "H100-SXM-80GB",
            "H100-80GB-HBM3",
            "NVIDIA-H100-80GB-HBM3",
            "H100_NVLINK_80GB",
            "H100_NVLINK",
            "nvidia-h100-80gb",
            "nvidia-h100-mega-80gb",
            "nvidia-h100",
        ),
        sources=(_LIGHTNING, _MODAL, "https://github.com/vllm-project/vllm/issues/27508", _HOPPER),
        date=_READ,
    ),
    Accelerator(
        name="H100-PCIe-80GB",
        vendor="nvidia",
        architecture="Hopper",
        form="PCIe",
        marketed_gb=80,
        memory_bytes=81_559 * MIB,
        memory_bytes_per_s=2.0 * TB,
        fp16_flops=756.5 * TERA,
        bf16_flops=756.5 * TERA,
        fp8_flops=1513 * TERA,
        nvlink_bytes_per_s=600 * GB,
        tdp_w=350,
        aliases=("H100-PCIe", "NVIDIA-H100-PCIe", "H100_PCIE_80GB", "H100_PCIE"),
        sources=(_LIGHTNING, "https://github.com/qoofyk/LLM_Sizing_Guide/issues/3", _HOPPER),
        date=_READ,
    ),
    Accelerator(
        name="H100-NVL-94GB",
        vendor="nvidia",
        architecture="Hopper",
        form="NVL",
        marketed_gb=94,
        memory_bytes=95_830 * MIB,
        cuda_memory_bytes=93 * GIB,
        memory_bytes_per_s=3.9 * TB,
        fp16_flops=835.5 * TERA,
        bf16_flops=835.5 * TERA,
        fp8_flops=1671 * TERA,
        nvlink_bytes_per_s=600 * GB,
        tdp_w=400,
        aliases=("H100-NVL", "NVIDIA-H100-NVL", "H100NVL", "H100_NVL"),
        sources=(_HOPPER, "https://github.com/ali-vilab/VACE/issues/56"),
        date=_READ,
    ),
    Accelerator(
        name="H200-SXM5-141GB",
        vendor="nvidia",
        architecture="Hopper",
        form="SXM5",
        marketed_gb=141,
        memory_bytes=143_771 * MIB,
        memory_bytes_per_s=4.8 * TB,
        fp16_flops=989 * TERA,
        bf16_flops=989 * TERA,
        fp8_flops=1979 * TERA,
        nvlink_bytes_per_s=900 * GB,
        tdp_w=700,
        aliases=(
            "H200",
            "H200-141GB",
            "H200-SXM",
            "H200-SXM5",
            "NVIDIA-H200",
            "H200_NVLINK_141GB",
            "nvidia-h200-141gb",
        ),
        sources=(
            "https://github.com/allenai/open-instruct/pull/1441",
            "https://www.nvidia.com/en-us/data-center/h200/",
        ),
        date=_READ,
    ),
    Accelerator(
        name="H200-NVL-141GB",
        vendor="nvidia",
        architecture="Hopper",
        form="NVL",
        marketed_gb=141,
        memory_bytes=143_771 * MIB,
        memory_bytes_per_s=4.8 * TB,
        fp16_flops=835.5 * TERA,
        bf16_flops=835.5 * TERA,
        fp8_flops=1671 * TERA,
        nvlink_bytes_per_s=900 * GB,
        tdp_w=600,
        aliases=("H200-NVL", "NVIDIA-H200-NVL"),
        sources=("https://www.nvidia.com/en-us/data-center/h200/",),
        date=_READ,
    ),
    Accelerator(
        name="H800-SXM5-80GB",
        vendor="nvidia",
        architecture="Hopper",
        form="SXM5",
        marketed_gb=80,
        memory_bytes=81_559 * MIB,
        memory_bytes_per_s=3.35 * TB,
        fp16_flops=989 * TERA,
        bf16_flops=989 * TERA,
        fp8_flops=1979 * TERA,
        nvlink_bytes_per_s=400 * GB,
        tdp_w=700,
        aliases=("H800", "NVIDIA-H800"),
        sources=(_AICONFIGURATOR,),
        date=_READ,
    ),
    Accelerator(
        name="H20-SXM5-96GB",
        vendor="nvidia",
        architecture="Hopper",
        form="SXM5",
        marketed_gb=96,
        memory_bytes=97_871 * MIB,
        memory_bytes_per_s=4.0 * TB,
        fp16_flops=148 * TERA,
        bf16_flops=148 * TERA,
        fp8_flops=296 * TERA,
        nvlink_bytes_per_s=900 * GB,
        tdp_w=500,
        aliases=("H20", "NVIDIA-H20"),
        sources=(_AICONFIGURATOR,),
        date=_READ,
    ),
    Accelerator(
        name="GH200-96GB",
        vendor="nvidia",
        architecture="Hopper",
        form="Superchip",
        marketed_gb=96,
        memory_bytes=97_871 * MIB,
        memory_bytes_per_s=4.0 * TB,
        fp16_flops=990 * TERA,
        bf16_flops=990 * TERA,
        fp8_flops=1979 * TERA,
        nvlink_bytes_per_s=900 * GB,
        tdp_w=900,
        aliases=("GH200", "NVIDIA-GH200-480GB", "GH200-480GB", "NVIDIA-GH200-120GB"),
        sources=("https://github.com/stas00/ml-engineering/blob/master/compute/accelerator/README.md",),
        date=_READ,
        doubt="480GB and 120GB in its driver's names are the Grace's memory, not the GPU's",
    ),
    Accelerator(
        name="B200-SXM6-180GB",
        vendor="nvidia",
        architecture="Blackwell",
        form="SXM6",
        marketed_gb=180,
        memory_bytes=183_359 * MIB,
        cuda_memory_bytes=int(178.35 * GIB),
        memory_bytes_per_s=7.67 * TB,
        fp16_flops=2250 * TERA,
        bf16_flops=2250 * TERA,
        fp8_flops=4500 * TERA,
        fp4_flops=9000 * TERA,
        nvlink_bytes_per_s=1800 * GB,
        tdp_w=1000,
        aliases=("B200", "B200-SXM", "B200-180GB", "B200-192GB", "NVIDIA-B200", "nvidia-b200"),
        sources=(_TORCHAO, _KARPENTER, "https://github.com/huggingface/huggingface.js/pull/1539"),
        date=_READ,
        doubt="sheets print 8 TB/s and 192 GB; the driver reports a 7680-bit bus and 180 GB",
    ),
    Accelerator(
        name="GB200-186GB",
        vendor="nvidia",
        architecture="Blackwell",
        form="Superchip",
        marketed_gb=186,
        memory_bytes=189_471 * MIB,
        memory_bytes_per_s=8.0 * TB,
        fp16_flops=2500 * TERA,
        bf16_flops=2500 * TERA,
        fp8_flops=5000 * TERA,
        fp4_flops=10_000 * TERA,
        nvlink_bytes_per_s=1800 * GB,
        tdp_w=1200,
        aliases=("GB200", "NVIDIA-GB200", "nvidia-gb200", "GB200-NVL72"),
        sources=("https://www.nvidia.com/en-us/data-center/gb200-nvl72/",),
        date=_READ,
    ),
    Accelerator(
        name="B300-SXM6-270GB",
        vendor="nvidia",
        architecture="Blackwell",
        form="SXM6",
        marketed_gb=270,
        memory_bytes=275_040 * MIB,
        memory_bytes_per_s=7.75 * TB,
        fp16_flops=2250 * TERA,
        bf16_flops=2250 * TERA,
        fp8_flops=4500 * TERA,
        fp4_flops=13_500 * TERA,
        nvlink_bytes_per_s=1800 * GB,
        tdp_w=1100,
        aliases=("B300", "NVIDIA-B300", "NVIDIA-B300-SXM6-AC", "B300-SXM6-AC", "nvidia-b300"),
        sources=(_KARPENTER, _AICONFIGURATOR),
        date=_READ,
        doubt="sheets print 2250 to 2500 TFLOPS of bfloat16, 270 to 288 GB, 1000 to 1400 W",
    ),
    Accelerator(
        name="GB300-279GB",
        vendor="nvidia",
        architecture="Blackwell",
        form="Superchip",
        marketed_gb=279,
        memory_bytes=284_208 * MIB,
        memory_bytes_per_s=8.0 * TB,
        fp16_flops=2500 * TERA,
        bf16_flops=2500 * TERA,
        fp8_flops=5000 * TERA,
        fp4_flops=15_000 * TERA,
        nvlink_bytes_per_s=1800 * GB,
        tdp_w=1400,
        aliases=("GB300", "NVIDIA-GB300", "nvidia-gb300", "GB300-NVL72"),
        sources=(
            "https://developer.nvidia.com/blog/inside-nvidia-blackwell-ultra-the-chip-powering-the-ai-factory-era/",
        ),
        date=_READ,
        doubt="sheets print 279 to 288 GB; the workstation's GB300 has 252 GB and is another product",
    ),
    Accelerator(
        name="A100-SXM4-80GB",
        vendor="nvidia",
        architecture="Ampere",
        form="SXM4",
        marketed_gb=80,
        memory_bytes=81_920 * MIB,
        memory_bytes_per_s=2.039 * TB,
        fp16_flops=312 * TERA,
        bf16_flops=312 * TERA,
        nvlink_bytes_per_s=600 * GB,
        tdp_w=400,
        aliases=(
            "A100-80GB",
            "A100-SXM-80GB",
            "NVIDIA-A100-SXM4-80GB",
            "A100_NVLINK_80GB",
            "nvidia-a100-80gb",
            "A100-80GB-SXM",
        ),
        sources=(_LIGHTNING, _MODAL),
        date=_READ,
    ),
    Accelerator(
        name="A100-PCIe-80GB",
        vendor="nvidia",
        architecture="Ampere",
        form="PCIe",
        marketed_gb=80,
        memory_bytes=81_920 * MIB,
        memory_bytes_per_s=1.935 * TB,
        fp16_flops=312 * TERA,
        bf16_flops=312 * TERA,
        nvlink_bytes_per_s=600 * GB,
        tdp_w=300,
        aliases=("NVIDIA-A100-80GB-PCIe", "A100_PCIE_80GB", "A100-80GB-PCIe"),
        sources=(_LIGHTNING, _MODAL),
        date=_READ,
    ),
    Accelerator(
        name="A100-SXM4-40GB",
        vendor="nvidia",
        architecture="Ampere",
        form="SXM4",
        marketed_gb=40,
        memory_bytes=40_960 * MIB,
        memory_bytes_per_s=1.555 * TB,
        fp16_flops=312 * TERA,
        bf16_flops=312 * TERA,
        nvlink_bytes_per_s=600 * GB,
        tdp_w=400,
        aliases=("A100-40GB", "NVIDIA-A100-SXM4-40GB", "A100_NVLINK_40GB", "A100_NVLINK", "nvidia-tesla-a100"),
        sources=(_LIGHTNING, _MODAL),
        date=_READ,
    ),
    Accelerator(
        name="A100-PCIe-40GB",
        vendor="nvidia",
        architecture="Ampere",
        form="PCIe",
        marketed_gb=40,
        memory_bytes=40_960 * MIB,
        memory_bytes_per_s=1.555 * TB,
        fp16_flops=312 * TERA,
        bf16_flops=312 * TERA,
        nvlink_bytes_per_s=600 * GB,
        tdp_w=250,
        aliases=("NVIDIA-A100-PCIE-40GB", "A100_PCIE_40GB"),
        sources=(_LIGHTNING, _MODAL),
        date=_READ,
    ),
    Accelerator(
        name="A10-24GB",
        vendor="nvidia",
        architecture="Ampere",
        form="PCIe",
        marketed_gb=24,
        memory_bytes=23_028 * MIB,
        memory_bytes_per_s=600 * GB,
        fp16_flops=125 * TERA,
        bf16_flops=125 * TERA,
        tdp_w=150,
        aliases=("A10", "NVIDIA-A10"),
        sources=(_MODAL, "https://github.com/karpathy/llm.c/pull/621"),
        date=_READ,
    ),
    Accelerator(
        name="A10G-24GB",
        vendor="nvidia",
        architecture="Ampere",
        form="PCIe",
        marketed_gb=24,
        memory_bytes=23_028 * MIB,
        memory_bytes_per_s=600 * GB,
        fp16_flops=70 * TERA,
        bf16_flops=70 * TERA,
        tdp_w=300,
        aliases=("A10G", "NVIDIA-A10G"),
        sources=("https://github.com/zzc0721/torch-performance-test-data/issues/126", _KARPENTER),
        date=_READ,
        doubt="tables that give it the A10's 125 TFLOPS are wrong: 69.5 were measured",
    ),
    Accelerator(
        name="A30-24GB",
        vendor="nvidia",
        architecture="Ampere",
        form="PCIe",
        marketed_gb=24,
        memory_bytes=24_576 * MIB,
        memory_bytes_per_s=933 * GB,
        fp16_flops=165 * TERA,
        bf16_flops=165 * TERA,
        nvlink_bytes_per_s=200 * GB,
        tdp_w=165,
        aliases=("A30", "NVIDIA-A30"),
        sources=("https://www.nvidia.com/en-us/data-center/products/a30-gpu/",),
        date=_READ,
    ),
    Accelerator(
        name="A40-48GB",
        vendor="nvidia",
        architecture="Ampere",
        form="PCIe",
        marketed_gb=48,
        memory_bytes=46_068 * MIB,
        memory_bytes_per_s=696 * GB,
        fp16_flops=149.7 * TERA,
        bf16_flops=149.7 * TERA,
        nvlink_bytes_per_s=112.5 * GB,
        tdp_w=300,
        aliases=("A40", "NVIDIA-A40"),
        sources=("https://www.nvidia.com/en-us/data-center/a40/",),
        date=_READ,
    ),
    Accelerator(
        name="RTX-A6000-48GB",
        vendor="nvidia",
        architecture="Ampere",
        form="PCIe",
        marketed_gb=48,
        memory_bytes=49_140 * MIB,
        memory_bytes_per_s=768 * GB,
        fp16_flops=154.8 * TERA,
        bf16_flops=154.8 * TERA,
        nvlink_bytes_per_s=112.5 * GB,
        tdp_w=300,
        aliases=("RTX-A6000", "NVIDIA-RTX-A6000", "RTX_A6000"),
        sources=("https://www.nvidia.com/en-us/design-visualization/rtx-a6000/",),
        date=_READ,
    ),
    Accelerator(
        name="L4-24GB",
        vendor="nvidia",
        architecture="Ada",
        form="PCIe",
        marketed_gb=24,
        memory_bytes=23_034 * MIB,
        memory_bytes_per_s=300 * GB,
        fp16_flops=121 * TERA,
        bf16_flops=121 * TERA,
        fp8_flops=242 * TERA,
        tdp_w=72,
        aliases=("L4", "NVIDIA-L4", "nvidia-l4"),
        sources=(_MODAL, "https://www.nvidia.com/en-us/data-center/l4/"),
        date=_READ,
    ),
    Accelerator(
        name="L40-48GB",
        vendor="nvidia",
        architecture="Ada",
        form="PCIe",
        marketed_gb=48,
        memory_bytes=46_068 * MIB,
        memory_bytes_per_s=864 * GB,
        fp16_flops=181 * TERA,
        bf16_flops=181 * TERA,
        fp8_flops=362 * TERA,
        tdp_w=300,
        aliases=("L40", "NVIDIA-L40"),
        sources=("https://www.nvidia.com/en-us/data-center/l40/",),
        date=_READ,
    ),
    Accelerator(
        name="L40S-48GB",
        vendor="nvidia",
        architecture="Ada",
        form="PCIe",
        marketed_gb=48,
        memory_bytes=46_068 * MIB,
        memory_bytes_per_s=864 * GB,
        fp16_flops=362 * TERA,
        bf16_flops=362 * TERA,
        fp8_flops=733 * TERA,
        tdp_w=350,
        aliases=("L40S", "NVIDIA-L40S"),
        sources=(_MODAL, _AICONFIGURATOR),
        date=_READ,
    ),
    Accelerator(
        name="RTX-6000-Ada-48GB",
        vendor="nvidia",
        architecture="Ada",
        form="PCIe",
        marketed_gb=48,
        memory_bytes=46_068 * MIB,
        cuda_memory_bytes=int(44.43 * GIB),
        memory_bytes_per_s=960 * GB,
        fp16_flops=364 * TERA,
        bf16_flops=364 * TERA,
        fp8_flops=728 * TERA,
        tdp_w=300,
        aliases=("NVIDIA-RTX-6000-Ada-Generation", "RTX-6000-Ada", "RTX_6000_ADA"),
        sources=("https://github.com/DINGYANB/MTVCrafter/issues/21",),
        date=_READ,
        doubt="46,068 MiB with ECC on, 49,140 MiB with it off",
    ),
    Accelerator(
        name="RTX-4090-24GB",
        vendor="nvidia",
        architecture="Ada",
        form="PCIe",
        marketed_gb=24,
        memory_bytes=24_564 * MIB,
        memory_bytes_per_s=1.008 * TB,
        fp16_flops=165 * TERA,
        bf16_flops=165 * TERA,
        fp8_flops=330 * TERA,
        tdp_w=450,
        aliases=("RTX-4090", "NVIDIA-GeForce-RTX-4090", "GeForce-RTX-4090"),
        sources=("https://images.nvidia.com/aem-dam/Solutions/geforce/ada/nvidia-ada-gpu-architecture.pdf",),
        date=_READ,
    ),
    Accelerator(
        name="RTX-5090-32GB",
        vendor="nvidia",
        architecture="Blackwell",
        form="PCIe",
        marketed_gb=32,
        memory_bytes=32_607 * MIB,
        cuda_memory_bytes=int(31.37 * GIB),
        memory_bytes_per_s=1.792 * TB,
        fp16_flops=209.5 * TERA,
        bf16_flops=209.5 * TERA,
        fp8_flops=419 * TERA,
        fp4_flops=1676 * TERA,
        tdp_w=575,
        aliases=("RTX-5090", "NVIDIA-GeForce-RTX-5090", "GeForce-RTX-5090"),
        sources=(_AICONFIGURATOR, "https://github.com/Wan-Video/Wan2.1/issues/465"),
        date=_READ,
        doubt="with sums kept in 32 bits, as engines do; sheets print twice as much, with sums in 16 bits",
    ),
    Accelerator(
        name="RTX-PRO-6000-96GB",
        vendor="nvidia",
        architecture="Blackwell",
        form="PCIe",
        marketed_gb=96,
        memory_bytes=97_887 * MIB,
        memory_bytes_per_s=1.792 * TB,
        fp16_flops=467.8 * TERA,
        bf16_flops=467.8 * TERA,
        fp8_flops=935.6 * TERA,
        fp4_flops=1871.2 * TERA,
        tdp_w=600,
        aliases=(
            "RTX-PRO-6000",
            "RTXP6000",
            "NVIDIA-RTX-PRO-6000-Blackwell-Server-Edition",
            "NVIDIA-RTX-PRO-6000-Blackwell-Workstation-Edition",
            "RTX-PRO-6000-Blackwell",
            "nvidia-rtx-pro-6000",
            "rtx-pro-server-6000",
            "RTX_PRO_6000_Blackwell_Server_Edition",
        ),
        sources=(_AICONFIGURATOR, _KARPENTER),
        date=_READ,
    ),
    Accelerator(
        name="V100-SXM2-32GB",
        vendor="nvidia",
        architecture="Volta",
        form="SXM2",
        marketed_gb=32,
        memory_bytes=32_768 * MIB,
        memory_bytes_per_s=900 * GB,
        fp16_flops=125 * TERA,
        bf16_flops=None,
        nvlink_bytes_per_s=300 * GB,
        tdp_w=300,
        aliases=("Tesla-V100-SXM2-32GB", "V100-32GB", "V100M32", "Tesla-V100-SXM3-32GB"),
        sources=(_LIGHTNING, _KARPENTER),
        date=_READ,
    ),
    Accelerator(
        name="V100-SXM2-16GB",
        vendor="nvidia",
        architecture="Volta",
        form="SXM2",
        marketed_gb=16,
        memory_bytes=16_384 * MIB,
        memory_bytes_per_s=900 * GB,
        fp16_flops=125 * TERA,
        bf16_flops=None,
        nvlink_bytes_per_s=300 * GB,
        tdp_w=300,
        aliases=("Tesla-V100-SXM2-16GB", "V100-16GB", "V100M16", "V100", "nvidia-tesla-v100", "Tesla_V100_NVLINK"),
        sources=(_LIGHTNING,),
        date=_READ,
    ),
    Accelerator(
        name="T4-16GB",
        vendor="nvidia",
        architecture="Turing",
        form="PCIe",
        marketed_gb=16,
        memory_bytes=15_360 * MIB,
        cuda_memory_bytes=int(14.75 * GIB),
        memory_bytes_per_s=320 * GB,
        fp16_flops=65 * TERA,
        bf16_flops=None,
        tdp_w=70,
        aliases=("T4", "Tesla-T4", "NVIDIA-T4", "nvidia-tesla-t4"),
        sources=(_LIGHTNING, _MODAL, "https://github.com/hpcaitech/Open-Sora/issues/697"),
        date=_READ,
    ),
    Accelerator(
        name="MI300X-192GB",
        vendor="amd",
        architecture="CDNA3",
        form="OAM",
        marketed_gb=192,
        memory_bytes=192 * GIB,
        memory_bytes_per_s=5.3 * TB,
        fp16_flops=1307 * TERA,
        bf16_flops=1307 * TERA,
        fp8_flops=2615 * TERA,
        nvlink_bytes_per_s=896 * GB,
        tdp_w=750,
        aliases=("MI300X", "AMD-Instinct-MI300X-OAM", "AMD-MI300X-192G", "AMD-Instinct-MI300X"),
        sources=(_RAY_AMD, _AMD),
        date=_READ,
    ),
    Accelerator(
        name="MI325X-256GB",
        vendor="amd",
        architecture="CDNA3",
        form="OAM",
        marketed_gb=256,
        memory_bytes=256 * GB,
        memory_bytes_per_s=6.0 * TB,
        fp16_flops=1307 * TERA,
        bf16_flops=1307 * TERA,
        fp8_flops=2615 * TERA,
        nvlink_bytes_per_s=896 * GB,
        tdp_w=1000,
        aliases=("MI325X", "AMD-Instinct-MI325X-OAM", "AMD-Instinct-MI325-OAM", "AMD-Instinct-MI325X"),
        sources=(_RAY_AMD, _AMD),
        date=_READ,
        doubt="its driver's total was not seen: the marketed size stands for it",
    ),
    Accelerator(
        name="MI355X-288GB",
        vendor="amd",
        architecture="CDNA4",
        form="OAM",
        marketed_gb=288,
        memory_bytes=288 * GB,
        memory_bytes_per_s=8.0 * TB,
        fp16_flops=2500 * TERA,
        bf16_flops=2500 * TERA,
        fp8_flops=5000 * TERA,
        fp4_flops=10_000 * TERA,
        nvlink_bytes_per_s=1075 * GB,
        tdp_w=1400,
        aliases=("MI355X", "AMD-Instinct-MI355X-OAM", "AMD-Instinct-MI355X"),
        sources=(_RAY_AMD, _AMD),
        date=_READ,
        doubt="its driver's total was not seen: the marketed size stands for it",
    ),
)
ACCELERATORS: dict[str, Accelerator] = {accelerator.name: accelerator for accelerator in _ALL}

_SEPARATORS = re.compile(r"[\s_-]+")
_PART = re.compile(r"-mig-.*$|-shared$")
"""What GPU Feature Discovery adds to a product of which a node offers parts or time slices."""


def _plain(text: str) -> str:
    plain = _PART.sub("", _SEPARATORS.sub("-", text.strip().lower()))
    return plain.removeprefix("nvidia-").removeprefix("amd-")


_BY_ALIAS: dict[str, Accelerator] = {}
for _accelerator in _ALL:
    for _alias in (_accelerator.name, *_accelerator.aliases):
        _other = _BY_ALIAS.setdefault(_plain(_alias), _accelerator)
        assert _other is _accelerator, f"{_alias} names both {_other.name} and {_accelerator.name}"


@cache
def find(text: str) -> Accelerator | None:
    """The accelerator of that name: canonical, of a label, of a driver or of a cloud; None where there is none.

    A name that two products share (`A100`, of 40 and of 80 GB) is none: see `candidates`.
    """
    return _BY_ALIAS.get(_plain(text))


def candidates(text: str, known: Iterable[Accelerator] = _ALL) -> tuple[Accelerator, ...]:
    """The accelerators whose family a name is (`A100`: four of them), for a question that `find` leaves open."""
    plain = _plain(text)
    return tuple(item for item in known if _plain(item.name) == plain or _plain(item.name).startswith(f"{plain}-"))
