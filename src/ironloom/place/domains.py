"""How much of a gang one domain of a level holds."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from ironloom.fleet.model import Fleet
from ironloom.place.fit import NodeFit


class Room(msgspec.Struct, frozen=True):
    """What one domain takes of a set of pods."""

    value: str
    """The level's label on its nodes."""
    num_pods: int
    num_nodes: int
    """Nodes of it that take at least one."""


def rooms(fleet: Fleet, key: str, found: NodeFit, *, slice_key: str = "", slice_size: int = 1) -> tuple[Room, ...]:
    """The domains of a level (a node label), the largest first, with how many of the pods each takes.

    With a slice, only whole slices count: `slice_size` pods that share a value of `slice_key`, which is the same label
    or one of a finer level. A node without the label is in no domain: what it could take does not count.
    """
    nodes: dict[str, int] = {}
    pods: dict[str, dict[str, int]] = {}
    for node in fleet.nodes:
        value = node.labels.get(key)
        part = node.labels.get(slice_key, "") if slice_key else ""
        if not value or (slice_key and not part):
            continue
        number = found.pods_by_node.get(node.name, 0)
        nodes[value] = nodes.get(value, 0) + (number > 0)
        inside = pods.setdefault(value, {})
        inside[part] = inside.get(part, 0) + number
    made = (
        Room(value, sum(number // slice_size * slice_size for number in inside.values()), nodes[value])
        for value, inside in pods.items()
    )
    return tuple(sorted(made, key=lambda one: (-one.num_pods, one.value)))


def largest(fleet: Fleet, key: str, found: NodeFit) -> Room:
    """The domain that takes most of the pods; an empty one where no node has the label."""
    return next(iter(rooms(fleet, key, found)), Room("", 0, 0))


def values(fleet: Fleet, key: str) -> Mapping[str, int]:
    """Nodes by value of a label; those without it are left out."""
    counts: dict[str, int] = {}
    for node in fleet.nodes:
        if value := node.labels.get(key):
            counts[value] = counts.get(value, 0) + 1
    return counts
