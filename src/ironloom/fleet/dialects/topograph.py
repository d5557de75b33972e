"""NVIDIA Topograph, in the three generations of its labels.

From v1.0 (August 2026) tiers are counted from the node outwards and have no fixed depth; before that three switches had
names, and before February 2026 other names. A value of more than 63 characters stands as its FNV-64a hash: equal values
are the same switch all the same.
"""

from __future__ import annotations

import re

from ironloom.fleet.dialects.dialect import (
    NVLINK_DOMAIN,
    NVLINK_PARTITION,
    Axis,
    Dialect,
    LevelKey,
    LevelPattern,
    Rank,
)

_OLD = "network.topology.nvidia.com/"

DIALECT = Dialect(
    name="topograph",
    title="NVIDIA Topograph",
    levels=(
        LevelKey(key=f"{_OLD}core", name="core switch", rank=Rank.SUPERPOD, axis=Axis.NETWORK),
        LevelKey(
            key=f"{_OLD}datacenter", name="core switch", rank=Rank.SUPERPOD, axis=Axis.NETWORK, same_as=f"{_OLD}core"
        ),
        LevelKey(key=f"{_OLD}spine", name="spine switch", rank=Rank.SPINE, axis=Axis.NETWORK),
        LevelKey(key=f"{_OLD}leaf", name="leaf switch", rank=Rank.LEAF, axis=Axis.NETWORK),
        LevelKey(key=f"{_OLD}block", name="leaf switch", rank=Rank.LEAF, axis=Axis.NETWORK, same_as=f"{_OLD}leaf"),
        LevelKey(key="accelerator.topograph.run/domain", name=NVLINK_DOMAIN, rank=Rank.NVLINK, axis=Axis.NVLINK),
        LevelKey(
            key=f"{_OLD}accelerator",
            name=NVLINK_DOMAIN,
            rank=Rank.NVLINK,
            axis=Axis.NVLINK,
            same_as="accelerator.topograph.run/domain",
        ),
        LevelKey(
            key="accelerator.topograph.run/sub-domain",
            name=NVLINK_PARTITION,
            rank=Rank.PARTITION,
            axis=Axis.NVLINK,
        ),
    ),
    patterns=(
        LevelPattern(
            pattern=re.compile(r"fabric\.topograph\.run/tier-(\d{1,2})"),
            name="fabric tier {tier}",
            nearest_rank=Rank.LEAF,
            axis=Axis.NETWORK,
        ),
    ),
    sources=(
        "https://github.com/NVIDIA/topograph/blob/e2b625071e327ee5c3bb119d8a31289a818c30fc/docs/reference/node-labels.md",
        "https://github.com/NVIDIA/topograph/commit/3abaae8",
    ),
    date="2026-11-24",
)
