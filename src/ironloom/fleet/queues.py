"""What decides who may run: Kueue's queues, flavors and topologies, priorities, disruption budgets."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

from ironloom.fleet.amounts import amount
from ironloom.fleet.model import (
    ClusterQueue,
    ContainerLimits,
    DisruptionBudget,
    Flavor,
    LocalQueue,
    NamespaceQuota,
    PriorityClass,
    Quota,
    Taint,
    Topology,
)

Object = Mapping[str, Any]
_Named = TypeVar(
    "_Named",
    ClusterQueue,
    LocalQueue,
    Flavor,
    Topology,
    PriorityClass,
    DisruptionBudget,
    NamespaceQuota,
    ContainerLimits,
)


def mapping(value: object) -> Mapping[str, Any]:
    """A part of an object that should be a mapping; an empty one where it is none."""
    return value if isinstance(value, Mapping) else {}


def items(value: object) -> list[Mapping[str, Any]]:
    """A part of an object that should be a list of mappings; what is none of these is left out."""
    return [item for item in value if isinstance(item, Mapping)] if isinstance(value, list) else []


def text(value: object) -> str:
    return value if isinstance(value, str) else ""


def texts(value: object) -> dict[str, str]:
    """A mapping of strings to strings; other values are left out."""
    return {str(key): one for key, one in mapping(value).items() if isinstance(one, str)}


def number(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def taints_of(value: object) -> tuple[Taint, ...]:
    return tuple(
        Taint(key=text(one.get("key")), effect=text(one.get("effect")), value=text(one.get("value")))
        for one in items(value)
    )


def name_of(obj: Object) -> str:
    return text(mapping(obj.get("metadata")).get("name"))


def namespace_of(obj: Object) -> str:
    return text(mapping(obj.get("metadata")).get("namespace"))


def cluster_queue_of(obj: Object) -> ClusterQueue:
    """Kueue's ClusterQueue, with what is used now from its status. Raises ValueError for an amount that is none.

    v1beta1 has the cohort under `cohort`, v1beta2 under `cohortName`.
    """
    spec, status = mapping(obj.get("spec")), mapping(obj.get("status"))
    used: dict[tuple[str, str], int] = {}
    for flavor in items(status.get("flavorsReservation")) or items(status.get("flavorsUsage")):
        for resource in items(flavor.get("resources")):
            key = text(flavor.get("name")), text(resource.get("name"))
            used[key] = _amount(key[1], resource.get("total")) or 0
    quotas = []
    for group in items(spec.get("resourceGroups")):
        for flavor in items(group.get("flavors")):
            for resource in items(flavor.get("resources")):
                key = text(flavor.get("name")), text(resource.get("name"))
                quotas.append(
                    Quota(
                        flavor=key[0],
                        resource=key[1],
                        nominal=_amount(key[1], resource.get("nominalQuota")) or 0,
                        borrowing_limit=_amount(key[1], resource.get("borrowingLimit")),
                        lending_limit=_amount(key[1], resource.get("lendingLimit")),
                        used=used.get(key, 0),
                    )
                )
    active = [one for one in items(status.get("conditions")) if one.get("type") == "Active"]
    selector = spec.get("namespaceSelector")
    return ClusterQueue(
        name=name_of(obj),
        cohort=text(spec.get("cohortName")) or text(spec.get("cohort")),
        quotas=tuple(quotas),
        is_active=active[0].get("status") == "True" if active else None,
        stop_policy=text(spec.get("stopPolicy")),
        namespace_selector=selector if isinstance(selector, Mapping) else None,
    )


def local_queue_of(obj: Object) -> LocalQueue:
    spec = mapping(obj.get("spec"))
    return LocalQueue(
        namespace=namespace_of(obj),
        name=name_of(obj),
        cluster_queue=text(spec.get("clusterQueue")),
        stop_policy=text(spec.get("stopPolicy")),
    )


def flavor_of(obj: Object) -> Flavor:
    spec = mapping(obj.get("spec"))
    return Flavor(
        name=name_of(obj),
        node_labels=texts(spec.get("nodeLabels")),
        node_taints=taints_of(spec.get("nodeTaints")),
        tolerations=tuple(items(spec.get("tolerations"))),
        topology=text(spec.get("topologyName")),
    )


def topology_of(obj: Object) -> Topology:
    spec = mapping(obj.get("spec"))
    return Topology(
        name=name_of(obj),
        levels=tuple(key for level in items(spec.get("levels")) if (key := text(level.get("nodeLabel")))),
    )


def priority_class_of(obj: Object) -> PriorityClass:
    return PriorityClass(
        name=name_of(obj),
        value=number(obj.get("value")) or 0,
        is_default=obj.get("globalDefault") is True,
        preempts=obj.get("preemptionPolicy") != "Never",
    )


def budget_of(obj: Object) -> DisruptionBudget:
    spec, status = mapping(obj.get("spec")), mapping(obj.get("status"))
    return DisruptionBudget(
        namespace=namespace_of(obj),
        name=name_of(obj),
        selector=mapping(spec.get("selector")),
        disruptions_allowed=number(status.get("disruptionsAllowed")),
    )


def by_name(found: Iterable[_Named]) -> tuple[_Named, ...]:
    """In order of namespace and name, so that the order of the objects changes nothing."""
    return tuple(sorted(found, key=lambda one: (getattr(one, "namespace", ""), one.name)))


def _amount(resource: str, value: object) -> int | None:
    return amount(resource, value) if isinstance(value, str | int | float) and not isinstance(value, bool) else None
