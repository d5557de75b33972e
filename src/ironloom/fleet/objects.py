"""Kubernetes objects with just the fields that a fleet is read from, decoded straight from JSON.

A cluster has a hundred pods a node, each some kilobytes: as plain dicts they are gigabytes. `decode` makes a Node or a
Pod of their bytes without the rest ever standing in memory; other kinds are few and come as plain dicts, or as their
names alone (`Named`) where nothing else of them is read.
"""

# ruff: noqa: N815 (names of the API)

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

import msgspec

from ironloom.errors import ManifestError

Quantity = str | int | float
MAX_NAME_CHARS = 253
"""Of a name, as the API server has it."""
MAX_PROBLEM_CHARS = 200


class OwnerReference(msgspec.Struct, frozen=True, gc=False):
    kind: str = ""
    name: str = ""
    controller: bool | None = None


NOTHING = msgspec.Raw()
"""A field that is read later, of an object that does not have it."""


class NodeMeta(msgspec.Struct, frozen=True):
    name: str | None = None
    namespace: str | None = None
    labels: dict[str, str] | None = None
    annotations: dict[str, str] | None = None


class PodMeta(msgspec.Struct, frozen=True):
    name: str | None = None
    namespace: str | None = None
    labels: dict[str, str] | None = None
    annotations: msgspec.Raw = NOTHING
    """Of type dict[str, str], not decoded yet: few pods are asked for theirs."""
    ownerReferences: msgspec.Raw = NOTHING
    """Of type list[OwnerReference], not decoded yet: the pods of a job say the same, and each text is read once."""


class Taint(msgspec.Struct, frozen=True, gc=False):
    key: str = ""
    value: str | None = None
    effect: str | None = None


class Condition(msgspec.Struct, frozen=True, gc=False):
    type: str = ""
    status: str = ""
    reason: str | None = None
    message: str | None = None


class NodeSpec(msgspec.Struct, frozen=True):
    providerID: str | None = None
    unschedulable: bool | None = None
    taints: list[Taint] | None = None


class NodeStatus(msgspec.Struct, frozen=True):
    capacity: msgspec.Raw = NOTHING
    """Of type dict[str, Quantity], not decoded yet: thousands of nodes say the same, and each text is read once."""
    allocatable: msgspec.Raw = NOTHING
    conditions: msgspec.Raw = NOTHING
    """Of type list[Condition], likewise."""


class Node(msgspec.Struct, frozen=True):
    metadata: NodeMeta
    spec: NodeSpec | None = None
    status: NodeStatus | None = None


class Resources(msgspec.Struct, frozen=True):
    requests: dict[str, Quantity] | None = None
    limits: dict[str, Quantity] | None = None


class Container(msgspec.Struct, frozen=True):
    name: str = ""
    resources: msgspec.Raw = NOTHING
    """Of type Resources, not decoded yet, as a node's amounts."""
    restartPolicy: str | None = None


class SchedulingGate(msgspec.Struct, frozen=True, gc=False):
    name: str = ""


class WorkloadReference(msgspec.Struct, frozen=True, gc=False):
    """How a pod joined a gang in Kubernetes 1.35."""

    name: str | None = None


class SchedulingGroup(msgspec.Struct, frozen=True, gc=False):
    """How it does from 1.36 on."""

    podGroupName: str | None = None


class PodSpec(msgspec.Struct, frozen=True):
    nodeName: str | None = None
    containers: msgspec.Raw = NOTHING
    """Of type list[Container], not decoded yet: the pods of a job say the same, and each text is read once."""
    initContainers: msgspec.Raw = NOTHING
    overhead: dict[str, Quantity] | None = None
    resources: Resources | None = None
    """Of the pod as a whole, from Kubernetes 1.32 on."""
    priority: int | None = None
    priorityClassName: str | None = None
    schedulingGates: list[SchedulingGate] | None = None
    workloadRef: WorkloadReference | None = None
    schedulingGroup: SchedulingGroup | None = None


class ContainerStatus(msgspec.Struct, frozen=True):
    name: str = ""
    resources: msgspec.Raw = NOTHING
    allocatedResources: msgspec.Raw = NOTHING


class PodCondition(msgspec.Struct, frozen=True, gc=False):
    type: str = ""
    reason: str | None = None


class PodStatus(msgspec.Struct, frozen=True):
    phase: str | None = None
    conditions: msgspec.Raw = NOTHING
    """Of type list[PodCondition], not decoded yet: few pods are asked for theirs."""
    containerStatuses: msgspec.Raw = NOTHING
    """Of type list[ContainerStatus], not decoded yet, as the containers."""
    initContainerStatuses: msgspec.Raw = NOTHING


class Pod(msgspec.Struct, frozen=True):
    metadata: PodMeta
    spec: PodSpec | None = None
    status: PodStatus | None = None


class NamedMeta(msgspec.Struct, frozen=True, gc=False):
    name: str | None = None
    namespace: str | None = None


class Named(msgspec.Struct, frozen=True):
    """An object of which the name is all that is read: Secrets, ConfigMaps, and every kind that nobody here knows."""

    metadata: NamedMeta
    apiVersion: str = ""
    kind: str = ""


class _Head(msgspec.Struct, frozen=True):
    apiVersion: str | None = None
    kind: str | None = None


FleetObject = Node | Pod | Named | Mapping[str, Any]


KINDS_READ_WHOLE = frozenset(
    {
        ("", "LimitRange"),
        ("", "Namespace"),
        ("", "ResourceQuota"),
        ("scheduling.k8s.io", "PriorityClass"),
        ("policy", "PodDisruptionBudget"),
        ("kueue.x-k8s.io", "ClusterQueue"),
        ("kueue.x-k8s.io", "LocalQueue"),
        ("kueue.x-k8s.io", "ResourceFlavor"),
        ("kueue.x-k8s.io", "Topology"),
        ("kueue.x-k8s.io", "Cohort"),
        ("compute.coreweave.com", "NodePool"),
        ("karpenter.sh", "NodePool"),
        ("cluster.x-k8s.io", "MachineDeployment"),
        ("cluster.x-k8s.io", "MachineSet"),
        ("cluster.x-k8s.io", "MachinePool"),
        ("machine.openshift.io", "MachineSet"),
        ("karpenter.k8s.aws", "EC2NodeClass"),
        ("resource.k8s.io", "ResourceClaim"),
        ("resource.k8s.io", "ResourceSlice"),
    }
)
"""Groups and kinds of which more than the name is read."""
AUTOSCALER_STATUS = "cluster-autoscaler-status"
"""The ConfigMap in which the cluster autoscaler says how large its node groups are and may be."""

_nodes = msgspec.json.Decoder(Node, strict=False)
_pods = msgspec.json.Decoder(Pod, strict=False)
_named = msgspec.json.Decoder(Named, strict=False)
decode_named: Callable[[bytes], FleetObject] = _named.decode
_heads = msgspec.json.Decoder(_Head, strict=False)
_mappings = msgspec.json.Decoder(dict[str, Any])
decode_containers = msgspec.json.Decoder(list[Container] | None, strict=False).decode
decode_statuses = msgspec.json.Decoder(list[ContainerStatus] | None, strict=False).decode
decode_texts = msgspec.json.Decoder(dict[str, str] | None, strict=False).decode
decode_owners = msgspec.json.Decoder(list[OwnerReference] | None, strict=False).decode
decode_conditions = msgspec.json.Decoder(list[Condition] | None, strict=False).decode
decode_pod_conditions = msgspec.json.Decoder(list[PodCondition] | None, strict=False).decode
decode_resources = msgspec.json.Decoder(Resources | None, strict=False).decode
decode_amounts = msgspec.json.Decoder(dict[str, Quantity] | None, strict=False).decode
_HEAD = re.compile(rb'\s*\{\s*"apiVersion"\s*:\s*"([^"\\]{1,100})"\s*,\s*"kind"\s*:\s*"([^"\\]{1,100})"\s*[,}]')
"""How `kubectl -o json` and the API server begin an object: keys in order, these two before all others."""


def group_of(api_version: str) -> str:
    """The API group of `group/version`; empty for the core group (`v1`)."""
    group, slash, _ = api_version.rpartition("/")
    return group if slash else ""


def decode(raw: bytes, *, api_version: str = "", kind: str = "") -> FleetObject:
    """One object of its JSON. `api_version` and `kind` are its list's word, for an item that does not say them itself.
    An object without them comes as a plain dict.

    Raises msgspec.DecodeError when it is no JSON, msgspec.ValidationError when a field that is read has another type
    than the API gives it, RecursionError when it is nested too deep, UnicodeDecodeError when a text is not UTF-8.
    `refused` makes a sentence of these.
    """
    found = decoder_of(raw)
    if found is not None:
        return found[1](raw)
    head = _heads.decode(raw)
    api_version, kind = head.apiVersion or api_version, head.kind or kind
    made = _decoder(api_version.encode(), kind.encode())(raw)
    if isinstance(made, Named):
        return made if made.kind else Named(made.metadata, api_version, kind)
    return {"apiVersion": api_version, "kind": kind, **made} if isinstance(made, Mapping) and kind else made


def decoder_of(raw: bytes) -> tuple[bytes, Callable[[bytes], FleetObject]] | None:
    """(the beginning that says the kind, what decodes every object that begins so); None where the object begins in
    another way, and has to be looked through for its kind."""
    beginning = _HEAD.match(raw)
    return (beginning[0], _decoder(beginning[1], beginning[2])) if beginning is not None else None


@lru_cache(maxsize=1024)
def _decoder(api_version: bytes, kind: bytes) -> Callable[[bytes], FleetObject]:
    """What decodes objects of a kind."""
    version, name = api_version.decode(errors="replace"), kind.decode(errors="replace")
    if version == "v1" and name in ("Pod", "Node"):
        return _pods.decode if name == "Pod" else _nodes.decode
    if not name or name.endswith("List") or (group_of(version), name) in KINDS_READ_WHOLE:
        return _mappings.decode
    if version == "v1" and name == "ConfigMap":
        return _config_map
    return _named.decode


def _config_map(raw: bytes) -> FleetObject:
    """Its name alone, but for the one in which the cluster autoscaler tells of its groups."""
    return _mappings.decode(raw) if AUTOSCALER_STATUS.encode() in raw else _named.decode(raw)


def convert(obj: Mapping[str, Any]) -> FleetObject:
    """The same of an object that is decoded already. Raises as `decode`, and TypeError for what no JSON can say."""
    if obj.get("apiVersion") == "v1" and obj.get("kind") in ("Pod", "Node"):
        return decode(msgspec.json.encode(obj))
    return obj


def refused(error: Exception, file: str, obj: bytes | Mapping[str, Any] | FleetObject | None = None) -> ManifestError:
    """The sentence of an error that `decode` or `convert`, or an amount in the object, ends with."""
    why = str(error)[:MAX_PROBLEM_CHARS]
    if isinstance(error, RecursionError):
        why = "it is nested too deep"
    elif isinstance(error, UnicodeError):
        why = "it has text that is not UTF-8"
    return ManifestError(
        f"{_called(obj)} is not as the Kubernetes API writes it: {why}",
        hint="Take the objects with `kubectl get nodes,pods,… -A -o json`, or with `ironloom snapshot`",
        file=file,
    )


def _called(obj: bytes | Mapping[str, Any] | FleetObject | None) -> str:
    """`Pod team-a/x` as far as it says."""
    if isinstance(obj, bytes):
        try:
            obj = msgspec.json.decode(obj)
        except (msgspec.MsgspecError, RecursionError, UnicodeError):
            return "an object"
    if isinstance(obj, Node | Pod | Named):
        kind = obj.kind if isinstance(obj, Named) else type(obj).__name__
        parts: tuple[object, ...] = (obj.metadata.namespace, obj.metadata.name)
    elif isinstance(obj, Mapping):
        metadata = obj.get("metadata")
        kind = obj["kind"] if isinstance(obj.get("kind"), str) else ""
        parts = (metadata.get("namespace"), metadata.get("name")) if isinstance(metadata, Mapping) else ()
    else:
        return "an object"
    name = "/".join(str(part)[:MAX_NAME_CHARS] for part in parts if part and isinstance(part, str | int))
    if kind and not name:
        return f"{_article(kind)} {kind[:MAX_NAME_CHARS]}"
    return f"{kind[:MAX_NAME_CHARS]} {name}".strip() or "an object"


def _article(noun: str) -> str:
    return "an" if noun[:1].lower() in "aeiou" else "a"
