"""How many GPUs of some nodes are used, free, closed or broken: each is exactly one of these."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from ironloom.fleet.model import Domain, Fleet, FleetNode, Lifecycle

_BROKEN = (Lifecycle.BROKEN, Lifecycle.NOT_READY)


@dataclass(frozen=True, kw_only=True, slots=True)
class Tally:
    """Counts of some nodes. used + free + closed + broken = GPUs."""

    num_nodes: int = 0
    num_ready: int = 0
    """Nodes that take pods."""
    num_gpus: int = 0
    """That the nodes should have."""
    num_used: int = 0
    """Asked for by pods that are bound and have not ended, whatever their node's state."""
    num_free: int = 0
    """On nodes that take pods."""
    num_closed: int = 0
    """Not used, on nodes that take no pods for now: cordoned, draining, tested."""
    num_broken: int = 0
    """Missing, or not used on nodes that are broken or do not report."""
    num_whole_free: int = 0
    """Ready nodes of which no GPU is used or missing."""

    def __add__(self, other: Tally) -> Tally:
        return Tally(**{name: getattr(self, name) + getattr(other, name) for name in self.__slots__})


def tally_node(node: FleetNode) -> Tally:
    """The counts of one node."""
    is_ready = node.lifecycle is Lifecycle.READY
    num_there = node.num_gpus
    num_used = min(num_there, node.allocated.get(node.gpu_resource, 0)) if node.gpu_resource else 0
    num_left = num_there - num_used
    num_missing = max(0, (node.expected_num_gpus or 0) - num_there)
    is_broken = node.lifecycle in _BROKEN
    return Tally(
        num_nodes=1,
        num_ready=int(is_ready),
        num_gpus=num_there + num_missing,
        num_used=num_used,
        num_free=num_left if is_ready else 0,
        num_closed=num_left if not is_ready and not is_broken else 0,
        num_broken=num_missing + (num_left if is_broken else 0),
        num_whole_free=int(is_ready and num_there > 0 and not num_used and not num_missing),
    )


def tally(nodes: Iterable[FleetNode]) -> Tally:
    """The counts of these nodes together."""
    totals = [0] * len(Tally.__slots__)
    for node in nodes:
        one = tally_node(node)
        for index, name in enumerate(Tally.__slots__):
            totals[index] += getattr(one, name)
    return Tally(**dict(zip(Tally.__slots__, totals, strict=True)))


def accelerators_of(nodes: Iterable[FleetNode]) -> dict[str, int]:
    """GPUs by kind, most first; by what its labels call it where the catalogue does not know it."""
    counts: Counter[str] = Counter()
    for node in nodes:
        if node.gpu_resource:
            counts[node.accelerator or node.gpu_product or node.gpu_resource] += tally_node(node).num_gpus
    return dict(counts.most_common())


def problems_of(node: FleetNode) -> tuple[str, ...]:
    """What is not as it should be with a node, each a sentence without its name."""
    found = [f"{node.lifecycle.value}: {node.why}" if node.why else node.lifecycle.value] if (
        node.lifecycle is not Lifecycle.READY
    ) else []  # fmt: skip
    if node.is_degraded:
        found.append(f"{node.num_gpus} of {node.expected_num_gpus} GPUs")
    over = node.allocated.get(node.gpu_resource, 0) - node.num_gpus if node.gpu_resource else 0
    if over > 0:
        found.append(f"its pods ask for {over} more GPUs than it has")
    found += [link.problem for link in node.links if link.problem]
    return tuple(found)


def walk(domain: Domain, depth: int = 0) -> Iterator[tuple[int, Domain]]:
    """Every domain with its depth, the root first at 0."""
    yield depth, domain
    for child in domain.children:
        yield from walk(child, depth + 1)


def summary(fleet: Fleet) -> str:
    """A fleet in one sentence."""
    total = tally(fleet.nodes)
    kinds = accelerators_of(fleet.nodes)
    said = f"{fleet.name}: {total.num_nodes:,} node{'s' if total.num_nodes != 1 else ''}"
    if not total.num_gpus:
        return f"{said}, no GPUs"
    states = [
        (total.num_used, "used"),
        (total.num_free, "free"),
        (total.num_closed, "closed"),
        (total.num_broken, "broken"),
    ]
    parts = [f"{count:,} {state}" for count, state in states if count or state in ("used", "free")]
    kind = next(iter(kinds)) if len(kinds) == 1 else f"{len(kinds)} kinds"
    return f"{said}, {total.num_gpus:,} GPU{'s' if total.num_gpus != 1 else ''} ({kind}): {', '.join(parts)}"
