"""Amazon EKS and Karpenter.

Network layers are counted from the spine (1) to the leaf (3). A capacity block is a reservation; with P6e-GB200 it is
one UltraServer, which is one NVLink domain.
"""

from __future__ import annotations

from ironloom.fleet.dialects.dialect import NVLINK_DOMAIN, Axis, Dialect, LevelKey, Rank

_AWS = "topology.k8s.aws/"

DIALECT = Dialect(
    name="eks",
    title="Amazon EKS",
    levels=(
        LevelKey(key=f"{_AWS}network-node-layer-1", name="network layer 1", rank=Rank.SPINE, axis=Axis.NETWORK),
        LevelKey(key=f"{_AWS}network-node-layer-2", name="network layer 2", rank=Rank.SPINE + 10, axis=Axis.NETWORK),
        LevelKey(key=f"{_AWS}network-node-layer-3", name="network layer 3", rank=Rank.LEAF, axis=Axis.NETWORK),
        LevelKey(key=f"{_AWS}ultraserver-id", name=NVLINK_DOMAIN, rank=Rank.NVLINK, axis=Axis.NVLINK),
    ),
    products=("karpenter.k8s.aws/instance-gpu-name", "eks.amazonaws.com/instance-gpu-name"),
    memory_mib="karpenter.k8s.aws/instance-gpu-memory",
    num_gpus="karpenter.k8s.aws/instance-gpu-count",
    pool="eks.amazonaws.com/nodegroup",
    conditions_false={
        "AcceleratedHardwareReady": "its monitoring agent found a fault of a GPU or its link",
        "NetworkingReady": "its monitoring agent found a fault of the network",
        "KernelReady": "its monitoring agent found a fault of the kernel",
        "StorageReady": "its monitoring agent found a fault of the storage",
        "ContainerRuntimeReady": "its monitoring agent found a fault of the container runtime",
    },
    draining_taints=(
        "aws-node-termination-handler/spot-itn",
        "aws-node-termination-handler/scheduled-maintenance",
        "aws-node-termination-handler/rebalance-recommendation",
    ),
    sources=(
        "https://docs.aws.amazon.com/eks/latest/userguide/node-health.html",
        "https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_InstanceTopology.html",
        "https://karpenter.sh/v1.14/reference/instance-types/",
        "https://github.com/NVIDIA/topograph/blob/main/docs/reference/node-labels.md",
    ),
    date="2026-11-24",
)
