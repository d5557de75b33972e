"""GPUs that are handed out by claims (Dynamic Resource Allocation) and not by the device plugin's counts.

A driver lists a node's devices in ResourceSlices, and an allocated ResourceClaim names those that it holds. They count
under the name that Kubernetes itself has for a device class as a resource: `deviceclass.resource.kubernetes.io/…`.
Source: https://kubernetes.io/docs/concepts/scheduling-eviction/dynamic-resource-allocation/
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ironloom.fleet.amounts import DRA_PREFIX
from ironloom.fleet.queues import items, mapping, namespace_of, text

GPU_DRIVERS = ("gpu.nvidia.com", "gpu.amd.com", "gpu.intel.com")
MAX_DEVICES = 32
"""That the API lets one claim have."""
Object = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class Claimed:
    """What claims hold or ask for: of a pod where one is named, of a node where none is."""

    by_pod: dict[tuple[str, str], dict[str, int]] = field(default_factory=dict)
    by_node: dict[str, dict[str, int]] = field(default_factory=dict)


def devices_of(slices: Iterable[Object]) -> dict[str, dict[str, int]]:
    """Node → resource → whole GPUs, by the newest generation of each driver's slices. Parts of GPUs are not counted."""
    by_pool: dict[tuple[str, str, str], tuple[int, set[str]]] = {}
    for obj in slices:
        spec = mapping(obj.get("spec"))
        driver, node, pool = text(spec.get("driver")), text(spec.get("nodeName")), mapping(spec.get("pool"))
        if driver not in GPU_DRIVERS or not node:
            continue
        generation = pool.get("generation")
        generation = generation if isinstance(generation, int) else 0
        newest, names = by_pool.get((node, driver, text(pool.get("name"))), (generation, set()))
        if generation < newest:
            continue
        names = names if generation == newest else set()
        names |= {text(one.get("name")) for one in items(spec.get("devices")) if _is_whole(one)}
        by_pool[node, driver, text(pool.get("name"))] = (generation, names)
    found: dict[str, dict[str, int]] = {}
    for (node, driver, _), (_, names) in by_pool.items():
        if names:
            counts = found.setdefault(node, {})
            counts[DRA_PREFIX + driver] = counts.get(DRA_PREFIX + driver, 0) + len(names)
    return found


def claimed(claims: Iterable[Object]) -> Claimed:
    """The GPUs of allocated claims, and those that the claim of a waiting pod asks for. A claim that several pods share
    is counted for the first of them."""
    found = Claimed()
    for obj in claims:
        status = mapping(obj.get("status"))
        if not status.get("allocation"):
            _add_asked(found, obj)
            continue
        results = items(mapping(mapping(status.get("allocation")).get("devices")).get("results"))
        held: dict[str, dict[str, int]] = {}
        for one in results:
            if text(one.get("driver")) in GPU_DRIVERS and one.get("adminAccess") is not True:
                counts = held.setdefault(text(one.get("pool")), {})
                name = DRA_PREFIX + text(one.get("driver"))
                counts[name] = counts.get(name, 0) + 1
        pods = [text(one.get("name")) for one in items(status.get("reservedFor")) if one.get("resource") == "pods"]
        for pool, counts in held.items():
            into = (
                found.by_pod.setdefault((namespace_of(obj) or "default", min(pods)), {})
                if pods
                # The drivers of GPUs name a pool as its node.
                else found.by_node.setdefault(pool, {})
            )
            for name, count in counts.items():
                into[name] = into.get(name, 0) + count
    return found


def _add_asked(found: Claimed, obj: Object) -> None:
    """What a claim that was made for one pod asks for; a device class that is named as its driver is all that is known
    of which devices those are."""
    owners = items(mapping(obj.get("metadata")).get("ownerReferences"))
    pods = [text(one.get("name")) for one in owners if one.get("kind") == "Pod"]
    for request in items(mapping(mapping(obj.get("spec")).get("devices")).get("requests")):
        # v1beta1 has the request's fields one higher.
        exactly = mapping(request.get("exactly")) or request
        name, count = text(exactly.get("deviceClassName")), exactly.get("count", 1)
        if pods and name in GPU_DRIVERS and isinstance(count, int) and 0 < count <= MAX_DEVICES:
            into = found.by_pod.setdefault((namespace_of(obj) or "default", pods[0]), {})
            into[DRA_PREFIX + name] = into.get(DRA_PREFIX + name, 0) + count


def _is_whole(device: Object) -> bool:
    # v1beta1 has the attributes one deeper.
    attributes = mapping(device.get("attributes")) or mapping(mapping(device.get("basic")).get("attributes"))
    kind = mapping(attributes.get("type")).get("string")
    return kind in (None, "gpu")
