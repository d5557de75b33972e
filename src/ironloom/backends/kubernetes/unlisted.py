"""What it costs that the gateway may not look at something, as notes of its services. Functions of values alone.

Nodes, and pods of all namespaces, are rights on the whole cluster: an installation has them where it is asked for them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

NODES: Final = "nodes"
PODS: Final = "pods of all namespaces"
REMEDY: Final = "`ironloom install --cluster-reads` gives the gateway the right to"
TAINTS: Final = "none of their taints is tolerated"
ROOM: Final = "the new replica of a rollout starts first, whether a GPU is free for it or not"

FABRIC: Final = "no RDMA is asked for"


@dataclass(frozen=True, kw_only=True, slots=True)
class Unlisted:
    """A list that was forbidden, in place of what would have been in it."""

    what: str
    """As a person says it: `nodes`."""


def notes(
    *, taints: Unlisted | None = None, room: Unlisted | None = None, fabric: Unlisted | None = None
) -> tuple[str, ...]:
    """What a service lacks because of lists that were forbidden: one sentence for each of them. `taints` was to say
    what its pods must tolerate, `room` whether a rollout finds GPUs, `fabric` how its nodes reach each other."""
    lost: dict[str, list[str]] = {}
    for forbidden, loss in ((taints, TAINTS), (room, ROOM), (fabric, FABRIC)):
        if forbidden is not None:
            lost.setdefault(forbidden.what, []).append(loss)
    return tuple(f"{what} may not be listed: {', and '.join(losses)}; {REMEDY}" for what, losses in lost.items())


def supply_note(kinds: Sequence[str]) -> str:
    """Where a pod waits for a node, and lists that would say what may come were forbidden; empty without any."""
    if not kinds:
        return ""
    is_known = "what may come is not known" if NODES in kinds else "more may come than is told"
    return f"{is_known}: {', '.join(kinds)} may not be listed; {REMEDY}"


def secret_note(name: str) -> str:
    """Where it may not be seen whether a Secret is there."""
    return (
        f"Secret {name} may not be looked at: its token is left out, be it there or not; the Role of `ironloom "
        "install` has the right to"
    )
