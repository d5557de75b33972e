"""CoreWeave Kubernetes Service.

The labels of `backend.coreweave.cloud/` say the same for InfiniBand and RoCE; those of `ib.coreweave.cloud/` are older
and still set. On nodes without a fabric they stand there with an empty value. The zone label is a rack's number on the
nodes seen, though CoreWeave's pages call a zone a part of a region with data halls: so its meaning is read from the
data.
"""

from __future__ import annotations

import re
from functools import lru_cache

from ironloom.fleet.dialects.dialect import NVLINK_DOMAIN, Axis, Dialect, Health, Labels, LevelKey, Rank
from ironloom.fleet.model import Lifecycle, Link

BACKEND = "backend.coreweave.cloud/"
INFINIBAND = "ib.coreweave.cloud/"
RACK = "node.coreweave.cloud/rack"
STATE = "node.coreweave.cloud/state"
_NEIGHBOR = re.compile(r"(backend|ib)\.coreweave\.cloud/neighbors\.(current|expected)\.([^./]+)\.(device|port-name)")
_SPEED = re.compile(r"(\d+(?:\.\d+)?)\s*(?:G|Gb/s|Gbps|GBPS)?", re.IGNORECASE)
_WHOLE_NODE_GBIT_PER_S = 800
"""More than one port can do today: a larger speed is that of all ports together (3200G is 8 of 400)."""
_BROKEN = ("triage", "rma", "debug", "fail")
_TESTING = ("onboard", "seatrial", "zap", "test", "burn")


def _health(labels: Labels) -> Health | None:
    state = labels.get(STATE, "").lower()
    if not state or state == "production":
        return None
    if any(word in state for word in _BROKEN):
        return Health(lifecycle=Lifecycle.BROKEN, why=f"{STATE} is {labels[STATE]}")
    if any(word in state for word in _TESTING):
        return Health(lifecycle=Lifecycle.TESTING, why=f"{STATE} is {labels[STATE]}")
    return None


def _speed(labels: Labels, which: str) -> float | None:
    for prefix in (BACKEND, INFINIBAND):
        found = _SPEED.fullmatch(labels.get(f"{prefix}speed.{which}", "").strip())
        if found is not None:
            return float(found[1])
    if which == "current":
        found = _SPEED.fullmatch(labels.get(f"{INFINIBAND}speed", "").strip())
        return float(found[1]) if found is not None else None
    return None


@lru_cache(maxsize=256)  # the nodes of a fleet have the same labels
def _cables(keys: tuple[str, ...]) -> tuple[tuple[tuple[str, str, str, str], ...], int]:
    """Of a node with these labels: (interface, what, key of the expected end, key of the current one), and how many
    interfaces."""
    found = {}
    interfaces = set()
    for key in keys:
        if "neighbors." in key and (parts := _NEIGHBOR.fullmatch(key)) is not None:
            interfaces.add(parts[3])
            if parts[2] == "expected":
                now = f"{parts[1]}.coreweave.cloud/neighbors.current.{parts[3]}.{parts[4]}"
                # The newer labels say the same as the older: one of them is enough.
                if parts[1] == "backend" or (parts[3], parts[4]) not in found:
                    found[parts[3], parts[4]] = (parts[3], parts[4], key, now)
    return tuple(found[place] for place in sorted(found)), len(interfaces)


_FABRICS = {"infiniband": "InfiniBand", "roce": "RoCE"}


def _links(labels: Labels) -> tuple[Link, ...]:
    flavor = labels.get(f"{BACKEND}flavor", "")
    cables, num_interfaces = _cables(tuple(labels))
    current, expected = _speed(labels, "current"), _speed(labels, "expected")
    if not flavor and not num_interfaces and not current:
        return ()
    num_rails = num_interfaces or None
    problems = []
    for interface, what, key, now in cables:
        wanted = labels[key]
        if wanted and labels.get(now) != wanted:
            problems.append(f"{interface} should be at {what} {wanted} and is at {labels.get(now) or 'none'}")
    if current is not None and expected is not None and current < expected:
        problems.append(
            f"the speed of its {_FABRICS.get(flavor, 'fabric')} is {current:g} Gbit/s and should be {expected:g}"
        )
    total = max(current or 0, expected or 0) > _WHOLE_NODE_GBIT_PER_S
    share = num_rails or 1
    return (
        Link(
            kind=flavor if flavor in ("infiniband", "roce") else "infiniband",
            num_rails=num_rails,
            gbit_per_s=current / share if current is not None and total and num_rails else current,
            expected_gbit_per_s=expected / share if expected is not None and total and num_rails else expected,
            problem="; ".join(problems),
            source=BACKEND + "*" if flavor else INFINIBAND + "*",
        ),
    )


DIALECT = Dialect(
    name="coreweave",
    title="CoreWeave Kubernetes Service",
    levels=(
        LevelKey(key=f"{BACKEND}fabric", name="fabric", rank=Rank.FABRIC, axis=Axis.NETWORK),
        LevelKey(
            key=f"{INFINIBAND}fabric",
            name="fabric",
            rank=Rank.FABRIC,
            axis=Axis.NETWORK,
            same_as=f"{BACKEND}fabric",
        ),
        LevelKey(key=f"{BACKEND}superpod", name="superpod", rank=Rank.SUPERPOD, axis=Axis.NETWORK),
        LevelKey(
            key=f"{INFINIBAND}superpod",
            name="superpod",
            rank=Rank.SUPERPOD,
            axis=Axis.NETWORK,
            same_as=f"{BACKEND}superpod",
        ),
        LevelKey(key=f"{BACKEND}leafgroup", name="leaf group", rank=Rank.LEAF, axis=Axis.NETWORK),
        LevelKey(
            key=f"{BACKEND}leafgroup-name",
            name="leaf group",
            rank=Rank.LEAF,
            axis=Axis.NETWORK,
            same_as=f"{BACKEND}leafgroup",
        ),
        LevelKey(
            key=f"{INFINIBAND}leafgroup",
            name="leaf group",
            rank=Rank.LEAF,
            axis=Axis.NETWORK,
            same_as=f"{BACKEND}leafgroup",
        ),
        LevelKey(key=RACK, name="rack", rank=Rank.RACK, axis=Axis.PLACE),
        LevelKey(
            key="ds.coreweave.com/physical-topology.rack-name",
            name="rack",
            rank=Rank.RACK,
            axis=Axis.PLACE,
            same_as=RACK,
        ),
        LevelKey(key="ds.coreweave.com/nvlink.domain", name=NVLINK_DOMAIN, rank=Rank.NVLINK, axis=Axis.NVLINK),
    ),
    products=("gpu.nvidia.com/class", "gpu.nvidia.com/model"),
    memory_gb="gpu.nvidia.com/vram",
    num_gpus="gpu.nvidia.com/count",
    pool="compute.coreweave.com/node-pool",
    health=_health,
    links=_links,
    sources=(
        "https://docs.coreweave.com/products/networking/hpc-interconnect/infiniband-roce-labels",
        "https://github.com/kubernetes-sigs/dranet/issues/301",
        "https://github.com/kubernetes/autoscaler/tree/master/cluster-autoscaler/cloudprovider/coreweave",
        "https://docs.coreweave.com/docs/products/cks/nodes/node-lifecycle",
    ),
    date="2026-11-24",
)
