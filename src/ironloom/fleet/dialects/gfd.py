"""GPU Feature Discovery and the node labellers of the GPU operators: what a node's GPUs are.

`nvidia.com/gpu.clique` is `<ClusterUUID>.<CliqueID>`: its first part names the physical NVLink domain, the whole of it
the partition that may share memory. It is set on multi-node NVLink hardware alone, once the fabric is up. The UUID says
nothing of the distance between two domains.
"""

from __future__ import annotations

from ironloom.fleet.dialects.dialect import NVLINK_PARTITION, Axis, Dialect, LevelKey, Rank

CLIQUE = "nvidia.com/gpu.clique"

DIALECT = Dialect(
    name="gfd",
    title="GPU Feature Discovery",
    levels=(LevelKey(key=CLIQUE, name=NVLINK_PARTITION, rank=Rank.PARTITION, axis=Axis.NVLINK),),
    products=("nvidia.com/gpu.product", "amd.com/gpu.product-name", "beta.amd.com/gpu.product-name"),
    memory_mib="nvidia.com/gpu.memory",
    num_gpus="nvidia.com/gpu.count",
    sources=(
        "https://github.com/NVIDIA/k8s-device-plugin/blob/main/docs/gpu-feature-discovery/README.md",
        "https://github.com/NVIDIA/topograph/blob/main/docs/reference/node-labels.md",
        "https://instinct.docs.amd.com/projects/k8s-device-plugin/en/latest/user-guide/labeller.html",
    ),
    date="2026-11-24",
)
