"""Resource amounts as whole numbers, and what a pod asks for, counted as kube-scheduler counts."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from types import MappingProxyType

from ironloom.fleet.model import NONE
from ironloom.fleet.objects import (
    Container,
    ContainerStatus,
    PodSpec,
    PodStatus,
    decode_amounts,
    decode_containers,
    decode_pod_conditions,
    decode_resources,
    decode_statuses,
)
from ironloom.units import parse_quantity

GPU_RESOURCES = ("nvidia.com/gpu", "amd.com/gpu", "gpu.intel.com/xe", "gpu.intel.com/i915", "habana.ai/gaudi")
"""Resource names that whole GPUs are asked by."""
MAX_AMOUNT = 2**63 - 1
DRA_PREFIX = "deviceclass.resource.kubernetes.io/"
"""Before a device class, the resource that its devices are counted as."""
MIG_PREFIX = "nvidia.com/mig-"
_RESIZE = b"PodResizePending"
_POD_LEVEL = ("cpu", "memory", "hugepages-")
"""What spec.resources of a pod may say for the pod as a whole."""


@lru_cache(maxsize=65_536)
def amount(resource: str, quantity: str | int | float) -> int:
    """A quantity in the unit of its resource, rounded up: cpu in thousandths, everything else in ones.

    Raises ValueError when it is no quantity, negative, or more than the API can say (2^63 - 1).
    """
    value = parse_quantity(quantity) * (1000 if resource == "cpu" else 1)
    if value < 0:
        raise ValueError(f"{quantity!r} is negative")
    if value > MAX_AMOUNT:
        raise ValueError(f"{str(quantity)[:40]!r} is more than any amount can be")
    return int(value.to_integral_value(rounding="ROUND_CEILING"))


def amounts(written: Mapping[str, str | int | float] | None) -> dict[str, int]:
    """A resource list in whole numbers. Raises ValueError when one of it is no quantity."""
    return {name: amount(name, quantity) for name, quantity in written.items()} if written else {}


@lru_cache(maxsize=65_536)
def amounts_written(written: bytes) -> Mapping[str, int]:
    """The same of a resource list's JSON; empty for none. Raises msgspec.ValidationError too."""
    return MappingProxyType(amounts(decode_amounts(written))) if written else NONE


def is_gpu(resource: str) -> bool:
    """Whether a resource is GPUs, whole or in parts."""
    return resource in GPU_RESOURCES or resource.startswith((MIG_PREFIX, DRA_PREFIX))


def gpu_resource_of(*lists: Mapping[str, int]) -> str:
    """The name that a node's GPUs are asked by: whole ones before claims before parts; empty when no list has any."""
    for listed in lists:
        found = [name for name in GPU_RESOURCES if listed.get(name)]
        found += sorted(name for name in listed if name.startswith(DRA_PREFIX) and listed[name])
        found += sorted((name for name in listed if name.startswith(MIG_PREFIX) and listed[name]), key=len)
        if found:
            return found[0]
    return ""


def requests_of(spec: PodSpec, status: PodStatus | None = None) -> Mapping[str, int]:
    """What a pod asks for: its containers and sidecars together, or an init container with the sidecars started before
    it where that is more; what the pod as a whole says in place of that; plus its overhead.

    A container that is being resized counts as the most of what it asks for, has, and was given; where its node can
    never give it what it asks for, that does not count. A limit without a request is a request, as the API server fills
    it in.
    Source: https://github.com/kubernetes/kubernetes/blob/master/staging/src/k8s.io/component-helpers/resource/helpers.go
    Raises ValueError when one of the amounts is no quantity, msgspec.ValidationError when `resources` is
    not what the API makes it.
    """
    if not (spec.initContainers or spec.resources or spec.overhead):
        if status is None:
            return _shared(bytes(spec.containers), b"")[0]
        shared, is_as_asked = _shared(bytes(spec.containers), bytes(status.containerStatuses))
        if is_as_asked or _RESIZE not in bytes(status.conditions):
            return shared
    seen = _seen(status) if status is not None else NONE
    containers = _containers(bytes(spec.containers))
    starters = _containers(bytes(spec.initContainers))
    total: dict[str, int] = {}
    for container in containers:
        _add(total, _asked(container, seen, status))
    if starters:
        beside: dict[str, int] = {}
        most: dict[str, int] = {}
        for container in starters:
            asked = _asked(container, seen, status)
            if container.restartPolicy == "Always":
                _add(total, asked)
                _add(beside, asked)
                starting: Mapping[str, int] = beside
            else:
                starting = {name: asked.get(name, 0) + beside.get(name, 0) for name in {**asked, **beside}}
            _raise(most, starting)
        _raise(total, most)
    if spec.resources is not None:
        whole = {**(spec.resources.limits or {}), **(spec.resources.requests or {})}
        for name, quantity in whole.items():
            if name.startswith(_POD_LEVEL):
                total[name] = amount(name, quantity)
    if spec.overhead:
        _add(total, amounts(spec.overhead))
    return total


@lru_cache(maxsize=4096)
def _shared(containers: bytes, statuses: bytes) -> tuple[Mapping[str, int], bool]:
    """(the same of a pod of containers alone, whether each has what it asks for). Nobody may write to the first, for
    all pods that say the same share it."""
    seen = _statuses(statuses)
    asking = _containers(containers)
    total: dict[str, int] = {}
    for container in asking:
        _add(total, _asked(container, seen, None))
    is_as_asked = all(one.name not in seen or bytes(seen[one.name].resources) == bytes(one.resources) for one in asking)
    return MappingProxyType(total), is_as_asked


@lru_cache(maxsize=4096)
def _containers(written: bytes) -> tuple[Container, ...]:
    return tuple(decode_containers(written) or ()) if written else ()


def _seen(status: PodStatus) -> Mapping[str, ContainerStatus]:
    """Statuses by container where they say what the container has."""
    seen = _statuses(bytes(status.containerStatuses))
    starters = _statuses(bytes(status.initContainerStatuses))
    return {**seen, **starters} if starters else seen


@lru_cache(maxsize=4096)
def _statuses(written: bytes) -> Mapping[str, ContainerStatus]:
    return {one.name: one for one in decode_statuses(written) or () if one.resources} if written else NONE


def _is_infeasible(status: PodStatus) -> bool:
    conditions = decode_pod_conditions(bytes(status.conditions)) if status.conditions else None
    return any(one.type == _RESIZE.decode() and one.reason == "Infeasible" for one in conditions or ())


def _asked(container: Container, seen: Mapping[str, ContainerStatus], status: PodStatus | None) -> Mapping[str, int]:
    asked = _requests(bytes(container.resources))
    one = seen.get(container.name)
    if one is None or bytes(one.resources) == bytes(container.resources):
        return asked
    has = dict(_requests(bytes(one.resources)))
    if not has:
        return asked
    _raise(has, amounts_written(bytes(one.allocatedResources)))
    if status is None or not _is_infeasible(status):
        _raise(has, asked)
    return has


@lru_cache(maxsize=65_536)
def _requests(written: bytes) -> Mapping[str, int]:
    """What a container's `resources` ask for; nobody may write to it, for thousands of pods share it."""
    resources = decode_resources(written) if written else None
    if resources is None:
        return NONE
    return MappingProxyType(amounts({**(resources.limits or {}), **(resources.requests or {})}))


def _raise(total: dict[str, int], other: Mapping[str, int]) -> None:
    for name, number in other.items():
        if number > total.get(name, 0):
            total[name] = number


def _add(total: dict[str, int], more: Mapping[str, int]) -> None:
    for name, number in more.items():
        total[name] = total.get(name, 0) + number
