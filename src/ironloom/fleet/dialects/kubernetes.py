"""What Kubernetes itself and its usual companions set on every cluster.

A zone is an availability zone by convention, and a rack where those who built the cluster chose so: its meaning is read
from the data.
"""

from __future__ import annotations

from ironloom.fleet.dialects.dialect import Axis, Dialect, LevelKey, Rank

REGION = "topology.kubernetes.io/region"
ZONE = "topology.kubernetes.io/zone"
HOSTNAME = "kubernetes.io/hostname"

DIALECT = Dialect(
    name="kubernetes",
    title="Kubernetes",
    levels=(
        LevelKey(key=REGION, name="region", rank=Rank.REGION, axis=Axis.PLACE),
        LevelKey(
            key="failure-domain.beta.kubernetes.io/region",
            name="region",
            rank=Rank.REGION,
            axis=Axis.PLACE,
            same_as=REGION,
        ),
        LevelKey(key=ZONE, name="zone", rank=Rank.ZONE, axis=Axis.PLACE, is_open=True),
        LevelKey(
            key="failure-domain.beta.kubernetes.io/zone",
            name="zone",
            rank=Rank.ZONE,
            axis=Axis.PLACE,
            same_as=ZONE,
            is_open=True,
        ),
    ),
    products=("skypilot.co/accelerator",),
    pool="karpenter.sh/nodepool",
    conditions_true={
        "KernelDeadlock": "its kernel hangs",
        "ReadonlyFilesystem": "its file system cannot be written to",
        "CperHardwareErrorFatal": "its firmware reports a fatal fault",
        "XfsShutdown": "its file system has shut down",
        "NetworkUnavailable": "its network is not set up",
    },
    draining_taints=(
        "ToBeDeletedByClusterAutoscaler",
        "karpenter.sh/disrupted",
        "karpenter.sh/disruption",
        "node.kubernetes.io/out-of-service",
    ),
    sources=(
        "https://kubernetes.io/docs/reference/labels-annotations-taints/",
        "https://github.com/kubernetes/node-problem-detector",
        "https://github.com/kubernetes/autoscaler/blob/master/cluster-autoscaler/FAQ.md",
        "https://karpenter.sh/docs/concepts/disruption/",
    ),
    date="2026-11-24",
)
