"""What a namespace allows: ResourceQuotas, and LimitRanges as far as they speak of containers.

Sources: https://kubernetes.io/docs/concepts/policy/resource-quotas/ and
https://kubernetes.io/docs/concepts/policy/limit-range/
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from ironloom.fleet.amounts import amount
from ironloom.fleet.model import ContainerLimits, NamespaceQuota
from ironloom.fleet.queues import items, mapping, name_of, namespace_of

PREFIXES = ("requests.", "limits.")


def resource_of(word: str) -> str:
    """The resource that a quota's word counts: `nvidia.com/gpu` of `requests.nvidia.com/gpu`."""
    for prefix in PREFIXES:
        word = word.removeprefix(prefix)
    return word


def quotas_of(found: Iterable[Mapping[str, Any]]) -> Iterator[NamespaceQuota]:
    """The ResourceQuotas that count every pod; one with scopes counts some, and is left out."""
    for obj in found:
        spec, status = mapping(obj.get("spec")), mapping(obj.get("status"))
        if spec.get("scopes") or spec.get("scopeSelector"):
            continue
        yield NamespaceQuota(
            namespace=namespace_of(obj),
            name=name_of(obj),
            hard=_amounts(spec.get("hard")),
            used=_amounts(status.get("used")),
        )


def container_limits_of(found: Iterable[Mapping[str, Any]]) -> Iterator[ContainerLimits]:
    """The parts of LimitRanges that are of containers. A limit's default is the request's too where that has none."""
    for obj in found:
        for one in items(mapping(obj.get("spec")).get("limits")):
            if one.get("type") != "Container":
                continue
            default = _amounts(one.get("default"))
            yield ContainerLimits(
                namespace=namespace_of(obj),
                name=name_of(obj),
                default_requests={**default, **_amounts(one.get("defaultRequest"))},
                default_limits=default,
                min=_amounts(one.get("min")),
                max=_amounts(one.get("max")),
            )


def _amounts(written: object) -> dict[str, int]:
    """What is no amount is left out: a fleet is read whatever stands in it."""
    found = {}
    for word, value in mapping(written).items():
        if isinstance(value, str | int | float) and not isinstance(value, bool):
            try:
                found[word] = amount(resource_of(word), value)
            except ValueError:
                continue
    return found
