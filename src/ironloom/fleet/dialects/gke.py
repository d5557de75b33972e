"""Google Kubernetes Engine.

The topology labels stand on capacity that is bound to a reservation (A3 Ultra, A4, A4X). A sub-block is a rack; with
A4X it is one NVLink domain. A host is the machine under the virtual one.
"""

from __future__ import annotations

from ironloom.fleet.dialects.dialect import Axis, Dialect, LevelKey, Rank

DIALECT = Dialect(
    name="gke",
    title="Google Kubernetes Engine",
    levels=(
        LevelKey(key="cloud.google.com/gce-topology-block", name="block", rank=Rank.SPINE, axis=Axis.NETWORK),
        LevelKey(key="cloud.google.com/gce-topology-subblock", name="sub-block", rank=Rank.LEAF, axis=Axis.NETWORK),
        LevelKey(key="cloud.google.com/gce-topology-host", name="physical host", rank=Rank.MACHINE, axis=Axis.NETWORK),
    ),
    products=("cloud.google.com/gke-accelerator",),
    num_gpus="cloud.google.com/gke-accelerator-count",
    pool="cloud.google.com/gke-nodepool",
    draining_taints=("cloud.google.com/impending-node-termination",),
    sources=(
        "https://cloud.google.com/ai-hypercomputer/docs/workloads/schedule-gke-workloads-tas",
        "https://github.com/NVIDIA/topograph/blob/main/docs/reference/node-labels.md",
    ),
    date="2026-11-24",
)
