"""Nodes of Kubernetes as FleetNodes: what they are, what they should have, how they do."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from functools import lru_cache

import msgspec
from msgspec.structs import replace

from ironloom.catalog import accelerators, instances
from ironloom.catalog.accelerators import Accelerator
from ironloom.fleet import objects
from ironloom.fleet.amounts import amounts_written, gpu_resource_of, is_gpu
from ironloom.fleet.dialects import DIALECTS
from ironloom.fleet.dialects.dialect import Labels
from ironloom.fleet.health import lifecycle_of
from ironloom.fleet.model import NONE, Amounts, Condition, FleetNode, Link, Taint
from ironloom.units import GB, GIB, MIB

INSTANCE_TYPE = "node.kubernetes.io/instance-type"
_INSTANCE_TYPES = (INSTANCE_TYPE, "beta.kubernetes.io/instance-type", "node.coreweave.cloud/type")
_PRODUCTS = tuple(key for dialect in DIALECTS for key in dialect.products)
_MEMORIES = (
    *((dialect.memory_mib, MIB) for dialect in DIALECTS if dialect.memory_mib),
    *((dialect.memory_gb, GB) for dialect in DIALECTS if dialect.memory_gb),
)
_COUNTS = tuple(dialect.num_gpus for dialect in DIALECTS if dialect.num_gpus)
_POOLS = (
    *(dialect.pool for dialect in DIALECTS if dialect.pool),
    "alpha.eksctl.io/nodegroup-name",
    "kubernetes.azure.com/agentpool",
    "kops.k8s.io/instancegroup",
)
_LINKS = tuple(dialect.links for dialect in DIALECTS)
_SHARING = "nvidia.com/gpu.sharing-strategy"
_REPLICAS = "nvidia.com/gpu.replicas"
_MIG_STRATEGY = "nvidia.com/mig.strategy"
_PRODUCT = "nvidia.com/gpu.product"
_EFA = "vpc.amazonaws.com/efa"
_TELLING = tuple(
    dict.fromkeys(
        (*_INSTANCE_TYPES, *_PRODUCTS, *(key for key, _ in _MEMORIES), *_COUNTS, *_POOLS, _SHARING, _REPLICAS,
         _MIG_STRATEGY, _PRODUCT)
    )
)  # fmt: skip
"""Labels by which one make of node is told from another."""
MEMORY_TOLERANCE = 0.1
"""Labels print marketed or driver's gigabytes: two products of one name differ by more than this."""
MEMORY_STEP_BYTES = 64 * GIB
"""Machines alike differ by some MiB; machines of another kind by whole modules."""
_MACHINE = "nvidia.com/gpu.machine"
MIN_SIBLINGS = 3
"""Nodes alike, by which one with less is told from one that is smaller by intention."""


def node_of(node: objects.Node, allocated: Amounts = NONE, devices: Amounts = NONE) -> FleetNode:
    """One node, without its siblings' word (see `with_expectations`). `devices` are those that claims hand out.

    Raises ValueError when one of its amounts is no quantity, msgspec.ValidationError when they are no resource list.
    """
    metadata, spec, status = node.metadata, node.spec, node.status
    labels = metadata.labels or NONE
    taints = tuple(
        Taint(key=taint.key, effect=taint.effect or "", value=taint.value or "")
        for taint in (spec.taints if spec is not None else None) or ()
    )
    conditions = _conditions(bytes(status.conditions)) if status is not None else ()
    lifecycle, why = lifecycle_of(
        labels, taints, conditions, is_unschedulable=spec is not None and bool(spec.unschedulable)
    )
    capacity = amounts_written(bytes(status.capacity)) if status is not None else NONE
    allocatable = (amounts_written(bytes(status.allocatable)) if status is not None else NONE) or capacity
    if devices:
        capacity, allocatable = {**capacity, **devices}, {**allocatable, **devices}
    machine = _machine(
        tuple([labels.get(key, "") for key in _TELLING]), tuple(capacity.items()), tuple(allocatable.items())
    )
    seen = tuple([link for says in _LINKS for link in says(labels)])
    return FleetNode(
        name=metadata.name or "",
        labels=labels,
        annotations=metadata.annotations or NONE,
        taints=taints,
        conditions=conditions,
        lifecycle=lifecycle,
        why=why,
        capacity=capacity,
        allocatable=allocatable,
        allocated=allocated,
        gpu_resource=machine.gpu_resource,
        accelerator=machine.accelerator,
        gpu_product=machine.gpu_product,
        expected_num_gpus=machine.expected_num_gpus,
        instance_type=machine.instance_type,
        pool=machine.pool,
        links=(*machine.nvlink, *(seen or machine.unseen)),
    )


class _Machine(msgspec.Struct, frozen=True, kw_only=True):
    """What nodes of one make have in common."""

    instance_type: str
    pool: str
    gpu_resource: str
    expected_num_gpus: int | None
    """As far as a node says itself."""
    gpu_product: str
    accelerator: str | None
    nvlink: tuple[Link, ...]
    unseen: tuple[Link, ...]
    """Links between nodes, for one whose labels say nothing of them."""


@lru_cache(maxsize=4096)  # a fleet has few makes of nodes
def _machine(
    told: tuple[str, ...], capacity: tuple[tuple[str, int], ...], allocatable: tuple[tuple[str, int], ...]
) -> _Machine:
    """The make of a node whose labels of _TELLING have these values."""
    labels, has, offers = dict(zip(_TELLING, told, strict=True)), dict(capacity), dict(allocatable)
    instance_type = next((labels[key] for key in _INSTANCE_TYPES if labels[key]), "")
    gpu_resource, expected = _gpus(labels, has, offers, instance_type)
    product, accelerator = _accelerator(labels, instance_type) if gpu_resource else ("", None)
    return _Machine(
        instance_type=instance_type,
        pool=next((labels[key] for key in _POOLS if labels[key]), ""),
        gpu_resource=gpu_resource,
        expected_num_gpus=expected,
        gpu_product=product,
        accelerator=accelerator.name if accelerator is not None else None,
        nvlink=_nvlink(instance_type, accelerator, expected or offers.get(gpu_resource, 0)),
        unseen=_unseen(offers, instance_type),
    )


@lru_cache(maxsize=1024)  # the healthy nodes of a snapshot all say the same
def _conditions(written: bytes) -> tuple[Condition, ...]:
    return tuple(
        [
            _condition(one.type, one.status, one.reason or "", one.message or "")
            for one in (objects.decode_conditions(written) if written else None) or ()
        ]
    )


@lru_cache(maxsize=4096)  # in what kubectl wrote each has its own times
def _condition(type_: str, status: str, reason: str, message: str) -> Condition:
    return Condition(type=type_, status=status, reason=reason, message=message)


def with_expectations(nodes: Sequence[FleetNode]) -> list[FleetNode]:
    """The same nodes, each with what its siblings say that it should have.

    Siblings have the same instance type, or where none is said the same pool, product, machine, processors and memory:
    a pool of one product may hold machines of two and of eight GPUs. A node that has as many GPUs
    as most of them, or more, is whole; where an instance type is in the catalogue, the catalogue's word stands.
    """
    families: dict[tuple[object, ...], list[FleetNode]] = defaultdict(list)
    for node in nodes:
        if node.gpu_resource:
            families[_family(node)].append(node)
    usual = {}
    for family, siblings in families.items():
        if len(siblings) >= MIN_SIBLINGS:
            counts = Counter(max(one.num_gpus, one.expected_num_gpus or 0) for one in siblings)
            # The larger of two that are equally common: a half of a pool may be degraded, none grows GPUs.
            usual[family] = max(counts, key=lambda number: (counts[number], number))
    made = []
    for node in nodes:
        most = usual.get(_family(node), 0) if node.gpu_resource and instances.find(node.instance_type) is None else 0
        known = max(most, node.expected_num_gpus or 0)
        made.append(replace(node, expected_num_gpus=known) if known > (node.expected_num_gpus or 0) else node)
    return made


def _family(node: FleetNode) -> tuple[object, ...]:
    kind = node.gpu_product or node.accelerator or ""
    if node.instance_type:
        return (node.gpu_resource, node.instance_type, kind)
    memory = round(node.capacity.get("memory", 0) / MEMORY_STEP_BYTES)
    machine = node.labels.get(_MACHINE, "")
    return (node.gpu_resource, node.pool, kind, machine, node.capacity.get("cpu", 0), memory)


def _gpus(
    labels: Labels, capacity: Mapping[str, int], allocatable: Mapping[str, int], instance_type: str
) -> tuple[str, int | None]:
    """(resource that its GPUs are asked by, how many it should have as far as it says itself)."""
    resource = gpu_resource_of(allocatable, capacity)
    known = instances.find(instance_type)
    labelled = max((_number(labels.get(key)) for key in _COUNTS), default=0)
    if not resource:
        if known is None and not labelled:
            return "", None
        # It has GPUs that nobody offers: the device plugin is not there, or all of them have fallen off.
        resource = "amd.com/gpu" if known is not None and known.accelerator.startswith("MI") else "nvidia.com/gpu"
    if not _is_whole(labels, resource, allocatable):
        return resource, capacity.get(resource) or None
    expected = max(known.num_gpus if known is not None else 0, labelled, capacity.get(resource, 0))
    return resource, expected or None


def _is_whole(labels: Labels, resource: str, allocatable: Mapping[str, int]) -> bool:
    """False where one piece of the resource is not one GPU: time slices and MIG parts."""
    if labels.get(_SHARING, "none") not in ("", "none") or _number(labels.get(_REPLICAS)) > 1:
        return False
    if labels.get(_MIG_STRATEGY) == "single" and "-MIG-" in labels.get(_PRODUCT, ""):
        return False
    return not any(count and name != resource and is_gpu(name) for name, count in allocatable.items())


def _number(text: str | None) -> int:
    return int(text) if text and text.isascii() and text.isdecimal() and len(text) < 10 else 0


def _accelerator(labels: Labels, instance_type: str) -> tuple[str, Accelerator | None]:
    """(what its labels call its GPU, the accelerator that it is)."""
    product = ""
    for key in _PRODUCTS:
        if called := labels.get(key):
            product = product or called
            if (found := accelerators.find(called)) is not None:
                return called, found
    if (known := instances.find(instance_type)) is not None:
        return product, accelerators.ACCELERATORS[known.accelerator]
    memory = next((_number(labels.get(key)) * unit for key, unit in _MEMORIES if _number(labels.get(key))), 0)
    alike = [
        one
        for one in accelerators.candidates(product)
        if memory and abs(one.memory_bytes - memory) <= MEMORY_TOLERANCE * one.memory_bytes
    ]
    return product, alike[0] if product and len({one.marketed_gb for one in alike}) == 1 else None


def _nvlink(instance_type: str, accelerator: Accelerator | None, num_gpus: int) -> tuple[Link, ...]:
    if accelerator is None or not accelerator.nvlink_bytes_per_s:
        return ()
    known = instances.find(instance_type)
    spans_nodes = known is not None and known.nvlink_domain_nodes > 1
    # Cards with bridges may stand alone: two of four is not known from here.
    if not spans_nodes and (num_gpus < 2 or accelerator.form in ("PCIe", "NVL")):
        return ()
    rate = accelerator.nvlink_bytes_per_s * 8 / 2 / 1e9
    return (Link(kind="nvlink", gbit_per_s=rate, source=f"catalogue: {accelerator.name}"),)


def _unseen(allocatable: Mapping[str, int], instance_type: str) -> tuple[Link, ...]:
    known = instances.find(instance_type)
    if rails := allocatable.get(_EFA):
        total = known.gbit_per_s if known is not None else None
        return (Link(kind="efa", num_rails=rails, gbit_per_s=total / rails if total else None, source=_EFA),)
    if known is not None and known.network in ("infiniband", "roce"):
        return (Link(kind=known.network, source=f"catalogue: {known.name}"),)
    return ()
