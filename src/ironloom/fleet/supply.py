"""Node supply: what could still come, of which kind, and what stands and is billed whether pods run or not.

Each source of nodes says it in its own objects, and where there are none the nodes' labels name the pools that they
came from. What no object says is None: a pool that is known by its nodes alone may be able to grow, or not.
"""

from __future__ import annotations

import io
import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from ironloom.catalog import instances
from ironloom.errors import ManifestError
from ironloom.fleet.amounts import GPU_RESOURCES, amount
from ironloom.fleet.model import NONE, FleetNode, NodePool
from ironloom.fleet.objects import AUTOSCALER_STATUS
from ironloom.fleet.queues import items, mapping, name_of, number, taints_of, text, texts
from ironloom.fleet.yaml_objects import read_yaml
from ironloom.units import parse_duration_s

COREWEAVE = "compute.coreweave.com/NodePool"
KARPENTER = "karpenter.sh/NodePool"
EC2_CLASS = "karpenter.k8s.aws/EC2NodeClass"
CAPI = ("cluster.x-k8s.io/MachineDeployment", "cluster.x-k8s.io/MachineSet", "cluster.x-k8s.io/MachinePool")
OPENSHIFT = "machine.openshift.io/MachineSet"
_MIN = "cluster-api-autoscaler-node-group-min-size"
_MAX = "cluster-api-autoscaler-node-group-max-size"
_CAPACITY = "capacity.cluster-autoscaler.kubernetes.io/"
_CAPI_OWNER, _CAPI_NAME = "cluster.x-k8s.io/owner-name", "cluster.x-k8s.io/deployment-name"
_OPENSHIFT_MACHINE = "machine.openshift.io/machine"
_POOL_KINDS = {
    "cloud.google.com/gke-nodepool": "gke",
    "eks.amazonaws.com/nodegroup": "eks",
    "alpha.eksctl.io/nodegroup-name": "eks",
    "karpenter.sh/nodepool": "karpenter",
    "compute.coreweave.com/node-pool": "coreweave",
    "sagemaker.amazonaws.com/instance-group-name": "hyperpod",
    "oci.oraclecloud.com/node-pool-id": "oke",
    "kubernetes.azure.com/agentpool": "aks",
    "kops.k8s.io/instancegroup": "kops",
}
UNNEEDED_S = 600.0
"""How long the cluster autoscaler leaves an empty node by default, and so CoreWeave's pools, which it scales.

Source: https://github.com/kubernetes/autoscaler/blob/master/cluster-autoscaler/FAQ.md (scale-down-unneeded-time)"""
_GROUP_1_OLD = re.compile(r"Name:\s+(\S+).*?cloudProviderTarget=(\d+) \(minSize=(\d+), maxSize=(\d+)\)", re.DOTALL)
Object = Mapping[str, Any]


def pools_of(
    of: Callable[[str], Iterable[Object]], nodes: Sequence[FleetNode], autoscaler_status: str = ""
) -> tuple[NodePool, ...]:
    """Every pool that an object, the cluster autoscaler's status or the nodes' labels tell of, in order of name.

    `of` gives the objects of a `group/Kind`. Raises ValueError for an amount that is no quantity.
    """
    by_pool: dict[str, list[FleetNode]] = {}
    for node in nodes:
        if node.pool:
            by_pool.setdefault(node.pool, []).append(node)
    classes = {name_of(obj): obj for obj in of(EC2_CLASS)}
    found = [_coreweave(obj, by_pool.get(name_of(obj), ())) for obj in of(COREWEAVE)]
    found += [_karpenter(obj, by_pool.get(name_of(obj), ()), classes) for obj in of(KARPENTER)]
    deployments = {name_of(obj) for obj in of(CAPI[0])}
    for kind in (*CAPI, OPENSHIFT):
        found += [made for obj in of(kind) if (made := _machines(obj, nodes, deployments)) is not None]
    known = {pool.name for pool in found}
    groups = _groups(autoscaler_status)
    for name, members in by_pool.items():
        if name not in known:
            group = _group_of(name, groups)
            found.append(_labelled(name, members, group))
            if group is not None:
                groups.pop(group[0])
    found += [
        NodePool(name=name, kind="cluster-autoscaler", num_nodes=target, min_nodes=least, max_nodes=most,
                 is_autoscaled=True, empty_for_s=UNNEEDED_S,
                 note="from the autoscaler's status: which kind of node it adds is not said there")
        for name, (target, least, most) in groups.items()
        if name not in known
    ]  # fmt: skip
    return tuple(sorted(found, key=lambda pool: (pool.name, pool.kind)))


def billing(pool: NodePool) -> str:
    """What scaling pods to zero does to this pool's bill, as a sentence; empty for a pool without nodes.

    A node is billed while it stands: CoreWeave's pages bill instances whole, running or idle, and so do the clouds
    whose autoscalers take nodes away. Source: https://docs.coreweave.com/products/instances
    """
    if not pool.num_nodes:
        return ""
    nodes = f"{pool.num_nodes} node{'s' if pool.num_nodes > 1 else ''}"
    each = instances.find(pool.instance_types[0]) if len(pool.instance_types) == 1 else None
    per_node = each.usd_per_hour if each is not None else 0

    def cost(num_nodes: int) -> str:
        return f", {num_nodes * per_node:,.2f} USD an hour at list price" if per_node else ""

    price = cost(pool.num_nodes)
    frees_none = f"Zero pods frees none of the {nodes} of pool {pool.name}{price}"
    if pool.is_autoscaled is False:
        return f"{frees_none}: it has a fixed size"
    if pool.is_autoscaled is None:
        return f"{frees_none}, unless an autoscaler that is not known here takes them away"
    if pool.min_nodes:
        kept = min(pool.num_nodes, pool.min_nodes)
        if kept == pool.num_nodes:
            return f"{frees_none}: its autoscaler keeps {pool.min_nodes}"
        num_freed = pool.num_nodes - kept
        some = f"Zero pods frees at most {num_freed} of the {nodes} of pool {pool.name}{cost(num_freed)}"
        return f"{some}: its autoscaler keeps {pool.min_nodes}, and takes others away only after a while"
    comma = "," if price else ""
    return f"Zero pods frees the {nodes} of pool {pool.name}{price}{comma} only when its autoscaler takes them away"


def _coreweave(obj: Object, members: Sequence[FleetNode]) -> NodePool:
    """Source: https://docs.coreweave.com/products/cks/reference/node-pool"""
    spec, status = mapping(obj.get("spec")), mapping(obj.get("status"))
    target = number(spec.get("targetNodes"))
    is_autoscaled = spec.get("autoscaling") is True
    current = number(status.get("currentNodes"))
    instance_type = text(spec.get("instanceType"))
    notes = [
        f"{one.get('type')} is {one.get('status')}" + (f": {why}" if (why := _why(one)) else "")
        for one in items(status.get("conditions"))
        if one.get("status") == "False" and text(one.get("type")).startswith(("Valid", "Accepted", "Capacity", "Quota"))
    ]
    known = instances.find(instance_type)
    if known is not None and known.nvlink_domain_nodes > 1:
        notes.append(f"it grows by racks of {known.nvlink_domain_nodes} nodes alone")
    return NodePool(
        name=name_of(obj),
        kind="coreweave",
        instance_types=(instance_type,) if instance_type else (),
        num_nodes=len(members) or current or 0,
        min_nodes=number(spec.get("minNodes")) if is_autoscaled else target,
        max_nodes=number(spec.get("maxNodes")) if is_autoscaled else target,
        is_autoscaled=is_autoscaled,
        labels=texts(spec.get("nodeLabels")),
        taints=taints_of(spec.get("nodeTaints")),
        allocatable=_one_node(members, (instance_type,)),
        empty_for_s=UNNEEDED_S if is_autoscaled else None,
        note="; ".join(notes),
    )


def _karpenter(obj: Object, members: Sequence[FleetNode], classes: Mapping[str, Object]) -> NodePool:
    """Source: https://karpenter.sh/docs/concepts/nodepools/ and https://karpenter.sh/docs/concepts/nodeclasses/"""
    spec = mapping(obj.get("spec"))
    template = mapping(spec.get("template"))
    node = mapping(template.get("spec"))
    requirements = items(node.get("requirements"))
    types = _required(requirements, "node.kubernetes.io/instance-type")
    labels = {**texts(mapping(template.get("metadata")).get("labels"))}
    for one in requirements:
        values = one.get("values")
        if one.get("operator") == "In" and isinstance(values, list) and len(values) == 1:
            labels[text(one.get("key"))] = text(values[0])
    allocatable = _one_node(members, types)
    limits = {key: amount(key, value) for key, value in mapping(spec.get("limits")).items() if _is_amount(value)}
    fixed = number(spec.get("replicas"))
    most = [limits["nodes"]] if "nodes" in limits else []
    most += [limits[key] // allocatable[key] for key in limits if key != "nodes" and allocatable.get(key)]
    max_nodes = min(most) if most else None
    if fixed is not None:
        max_nodes = min(fixed, max_nodes) if max_nodes is not None else fixed
    notes = []
    if limits and not most:
        said = ", ".join(f"{key} {value}" for key, value in mapping(spec.get("limits")).items())
        notes.append(f"its limits ({said}) are no number of nodes while the size of one is not known")
    elif not limits and fixed is None:
        notes.append("it has no limits: it grows while the cloud has capacity and the account quota")
    reference = mapping(node.get("nodeClassRef"))
    notes += _class_notes(classes.get(text(reference.get("name"))), text(reference.get("name")))
    policy = text(mapping(spec.get("disruption")).get("consolidateAfter"))
    if policy == "Never":
        notes.append("consolidateAfter is Never: an empty node stays")
    return NodePool(
        name=name_of(obj),
        kind="karpenter",
        instance_types=types,
        num_nodes=len(members),
        min_nodes=fixed if fixed is not None else 0,
        max_nodes=max_nodes,
        is_autoscaled=fixed is None and policy != "Never",
        labels=labels,
        taints=taints_of(node.get("taints")),
        allocatable=allocatable,
        empty_for_s=_duration_s(policy) if fixed is None else None,
        note="; ".join(notes),
    )


def _duration_s(written: str) -> float | None:
    """Karpenter's consolidateAfter, which is `0s` where it is not written."""
    try:
        return parse_duration_s(written) if written else 0.0
    except ValueError:
        return None


def _class_notes(node_class: Object | None, name: str) -> list[str]:
    """What keeps an EC2NodeClass from giving nodes, and whose capacity it may use."""
    if node_class is None:
        return []
    status = mapping(node_class.get("status"))
    notes = [
        f"EC2NodeClass {name} is not ready" + (f": {why}" if (why := _why(one)) else "")
        for one in items(status.get("conditions"))
        if one.get("type") == "Ready" and one.get("status") == "False"
    ]
    reserved = items(status.get("capacityReservations"))
    if reserved:
        said = ", ".join(f"{text(one.get('id'))} ({text(one.get('instanceType'))})" for one in reserved)
        notes.append(f"it may use the capacity reservations {said}")
    return notes


def _why(condition: Object) -> str:
    return text(condition.get("message")) or text(condition.get("reason"))


def _machines(obj: Object, nodes: Sequence[FleetNode], deployments: Iterable[str]) -> NodePool | None:
    """A group of Cluster API or OpenShift with the annotations that the cluster autoscaler reads; None without.

    Source: https://github.com/kubernetes/autoscaler/blob/master/cluster-autoscaler/cloudprovider/clusterapi/README.md
    """
    metadata, spec = mapping(obj.get("metadata")), mapping(obj.get("spec"))
    annotations = texts(metadata.get("annotations"))
    sizes = {}
    for key, value in annotations.items():
        for which in (_MIN, _MAX):
            if key.endswith(f"/{which}") and value.strip().isdecimal():
                sizes[which] = int(value)
    owners = {text(one.get("name")) for one in items(metadata.get("ownerReferences"))}
    if _MAX not in sizes or owners & set(deployments):
        return None
    name = name_of(obj)
    members = [node for node in nodes if _is_of_machines(node, name)]
    capacity = {key.removeprefix(_CAPACITY): value for key, value in annotations.items() if key.startswith(_CAPACITY)}
    one_node = dict(members[0].allocatable) if members else _annotated(capacity)
    return NodePool(
        name=name,
        kind="cluster-autoscaler",
        num_nodes=len(members) or number(spec.get("replicas")) or 0,
        min_nodes=sizes.get(_MIN),
        max_nodes=sizes[_MAX],
        is_autoscaled=True,
        labels=dict(pair.split("=", 1) for pair in capacity.get("labels", "").split(",") if "=" in pair),
        allocatable=one_node,
        empty_for_s=UNNEEDED_S,
    )


def _annotated(capacity: Mapping[str, str]) -> dict[str, int]:
    """What one node from nothing will have, by the annotations of its group."""
    found = {key: amount(key, capacity[key]) for key in ("cpu", "memory") if key in capacity}
    if "maxPods" in capacity:
        found["pods"] = amount("pods", capacity["maxPods"])
    if "ephemeral-disk" in capacity:
        found["ephemeral-storage"] = amount("ephemeral-storage", capacity["ephemeral-disk"])
    if "gpu-count" in capacity:
        kind = capacity.get("gpu-type", "nvidia.com/gpu")
        found[kind] = amount(kind, capacity["gpu-count"])
    return found


def _is_of_machines(node: FleetNode, name: str) -> bool:
    owner = node.annotations.get(_CAPI_OWNER, "")
    if node.annotations.get(_CAPI_NAME) == name or owner == name:
        return True
    # A MachineDeployment's sets, and OpenShift's machines, are its name with one more part.
    machine = node.annotations.get(_OPENSHIFT_MACHINE, "").rpartition("/")[2]
    return owner.rpartition("-")[0] == name or machine.rpartition("-")[0] == name


def _labelled(name: str, members: Sequence[FleetNode], group: tuple[str, tuple[int, int, int]] | None) -> NodePool:
    """A pool that its nodes' labels name, with what the autoscaler says of it."""
    labels = members[0].labels
    kind = next((kind for key, kind in _POOL_KINDS.items() if labels.get(key) == name), "other")
    types = Counter(node.instance_type for node in members if node.instance_type)
    notes = []
    if labels.get("cloud.google.com/gke-spot") == "true" or labels.get("eks.amazonaws.com/capacityType") == "SPOT":
        notes.append("spot: its nodes may be taken away at any time")
    if labels.get("cloud.google.com/gke-queued") == "true":
        notes.append("its nodes come through queued provisioning alone")
    if group is None:
        notes.append("known by its nodes alone: what could still come is not said in the cluster")
    sizes = group[1] if group is not None else None
    return NodePool(
        name=name,
        kind=kind,
        instance_types=tuple(sorted(types)),
        num_nodes=len(members),
        min_nodes=sizes[1] if sizes is not None else None,
        max_nodes=sizes[2] if sizes is not None else None,
        is_autoscaled=True if sizes is not None else None,
        allocatable=_one_node(members, tuple(types)),
        empty_for_s=UNNEEDED_S if sizes is not None else None,
        note="; ".join(notes),
    )


def _groups(status: str) -> dict[str, tuple[int, int, int]]:
    """Name → (nodes wanted now, least, most) of the cluster autoscaler's status, in either form that it has had.

    Source: https://github.com/kubernetes/autoscaler/blob/master/cluster-autoscaler/FAQ.md
    """
    found = {name: (int(target), int(least), int(most)) for name, target, least, most in _GROUP_1_OLD.findall(status)}
    if found or not status:
        return found
    try:
        # Not yaml.load, which takes the process with it where a text is nested too deep.
        read = next(read_yaml(io.BytesIO(status.encode()), file=AUTOSCALER_STATUS), None)
    except (ManifestError, UnicodeEncodeError):
        return {}
    for group in items(mapping(read).get("nodeGroups")):
        health = mapping(group.get("health"))
        sizes = [number(health.get(key)) for key in ("cloudProviderTarget", "minSize", "maxSize")]
        if sizes[2] is not None and text(group.get("name")):
            found[text(group.get("name"))] = (sizes[0] or 0, sizes[1] or 0, sizes[2])
    return found


def _group_of(pool: str, groups: Mapping[str, tuple[int, int, int]]) -> tuple[str, tuple[int, int, int]] | None:
    """The autoscaler's group of a pool where one name alone holds the pool's: clouds build one of the other."""
    alike = [name for name in groups if name == pool or re.search(rf"(?:^|[-_/]){re.escape(pool)}(?:[-_/]|$)", name)]
    return (alike[0], groups[alike[0]]) if len(alike) == 1 else None


def _required(requirements: Iterable[Object], key: str) -> tuple[str, ...]:
    for one in requirements:
        values = one.get("values")
        if one.get("key") == key and one.get("operator") == "In" and isinstance(values, list):
            return tuple(value for value in values if isinstance(value, str))
    return ()


def _one_node(members: Sequence[FleetNode], types: Sequence[str]) -> Mapping[str, int]:
    """What a new node will have: as most of its siblings, else as the catalogue has its type; empty when not known.

    Where a pool's types differ in their GPUs nothing is said of the next one.
    """
    if members and len({node.instance_type for node in members}) == 1:
        # A degraded one is no example of the next.
        return max(members, key=lambda node: (node.num_gpus, sum(map(bool, node.allocatable.values())))).allocatable
    known = [instances.find(name) for name in types]
    if (
        not known
        or any(one is None for one in known)
        or len({(one.num_gpus, one.accelerator) for one in known if one}) > 1
    ):
        return NONE
    least = min((one for one in known if one is not None), key=lambda one: one.num_cpus)
    resource = GPU_RESOURCES[1] if least.accelerator.startswith("MI") else GPU_RESOURCES[0]
    found = {"cpu": least.num_cpus * 1000, resource: least.num_gpus}
    if least.memory_bytes is not None:
        found["memory"] = math.floor(least.memory_bytes)
    if least.max_pods is not None:
        found["pods"] = least.max_pods
    return found


def _is_amount(value: object) -> bool:
    return isinstance(value, str | int | float) and not isinstance(value, bool)
