"""How much of a gang one domain of a level holds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ironloom.fleet.model import Fleet
from ironloom.place.fit import NodeFit


@dataclass(frozen=True, slots=True)
class Room:
    """What one domain takes of a set of pods."""

    value: str
    """The level's label on its nodes."""
    num_pods: int
    num_nodes: int
    """Nodes of it that take at least one."""


def rooms(fleet: Fleet, key: str, found: NodeFit) -> tuple[Room, ...]:
    """The domains of a level (a node label), the largest first, with how many of the pods each takes.

    A node without the label is in no domain: what it could take does not count.
    """
    pods: dict[str, int] = {}
    nodes: dict[str, int] = {}
    for node in fleet.nodes:
        value = node.labels.get(key)
        if not value:
            continue
        number = found.pods_by_node.get(node.name, 0)
        pods[value] = pods.get(value, 0) + number
        nodes[value] = nodes.get(value, 0) + (number > 0)
    made = (Room(value, number, nodes[value]) for value, number in pods.items())
    return tuple(sorted(made, key=lambda one: (-one.num_pods, one.value)))


def largest(fleet: Fleet, key: str, found: NodeFit) -> Room:
    """The domain that takes most of the pods; an empty one where no node has the label."""
    return next(iter(rooms(fleet, key, found)), Room("", 0, 0))


def whole_slices(found: Sequence[Room], slice_size: int) -> int:
    """Slices of a gang that fit when each must stay inside one domain."""
    return sum(one.num_pods // slice_size for one in found)


def values(fleet: Fleet, key: str) -> Mapping[str, int]:
    """Nodes by value of a label; those without it are left out."""
    counts: dict[str, int] = {}
    for node in fleet.nodes:
        if value := node.labels.get(key):
            counts[value] = counts.get(value, 0) + 1
    return counts
