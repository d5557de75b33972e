"""Oracle Kubernetes Engine: the RDMA network of its bare-metal GPU shapes, from the host's metadata."""

from __future__ import annotations

from ironloom.fleet.dialects.dialect import Axis, Dialect, LevelKey, Rank

_HOST = "oci.oraclecloud.com/host."

DIALECT = Dialect(
    name="oke",
    title="Oracle Kubernetes Engine",
    levels=(
        LevelKey(key=f"{_HOST}hpc_island_id", name="HPC island", rank=Rank.SUPERPOD, axis=Axis.NETWORK),
        LevelKey(key=f"{_HOST}network_block_id", name="network block", rank=Rank.SPINE, axis=Axis.NETWORK),
        LevelKey(key=f"{_HOST}local_block_id", name="local block", rank=Rank.LEAF, axis=Axis.NETWORK),
        LevelKey(key=f"{_HOST}rack_id", name="rack", rank=Rank.RACK, axis=Axis.NETWORK),
    ),
    pool="oci.oraclecloud.com/node-pool-id",
    sources=(
        "https://docs.oracle.com/iaas/Content/Compute/References/computeshapes.htm",
        "https://github.com/kubernetes-sigs/dranet/blob/main/pkg/cloudprovider/oke/oke.go",
        "https://github.com/NVIDIA/topograph/blob/main/docs/reference/node-labels.md",
    ),
    date="2026-11-24",
)
