"""What the pools of a fleet can still give to a pod that waits for a node, and what a node costs once it is empty.

Zero pods is not a freed node: it stands, and is billed, until something takes it away. Functions of values alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec

from ironloom.catalog import instances
from ironloom.fleet import objects
from ironloom.fleet.amounts import requests_of
from ironloom.fleet.model import NONE, Amounts, NodePool
from ironloom.place.selectors import tolerates
from ironloom.units import format_duration

_INSTANCE_TYPE = "node.kubernetes.io/instance-type"
_BLOCKING = frozenset({"NoSchedule", "NoExecute"})
_COMES = {"coreweave": "5 to 15 minutes"}
"""How long a new node takes, where its provider says so.

Source: https://docs.coreweave.com/products/cks/nodes/autoscaling"""


class Outlook(msgspec.Struct, frozen=True, kw_only=True):
    """What may become of a pod that waits for a node."""

    could: tuple[str, ...] = ()
    """Of each pool whose nodes would take it, what it can still give."""
    others: tuple[str, ...] = ()
    """Of each other pool, why its nodes would not."""

    def __str__(self) -> str:
        """One line for a person; empty where no pool is known."""
        if self.could:
            return "; ".join(self.could)
        return f"no pool that is known has nodes for it: {'; '.join(self.others)}" if self.others else ""


def outlook(spec: Mapping[str, Any], pools: Iterable[NodePool]) -> Outlook:
    """Of a pod by its spec. Where a pool does not say what its nodes will be, they count as fit."""
    asked = requests(spec)
    could, others = [], []
    for pool in pools:
        if why := refusal(spec, asked, pool):
            others.append(f"pool {pool.name}: {why}")
        else:
            could.append(supply(pool))
    return Outlook(could=tuple(could), others=tuple(others))


def requests(spec: Mapping[str, Any]) -> Amounts:
    """What a pod of this spec asks for; nothing where it is not as the API writes it."""
    try:
        pod = objects.convert({"apiVersion": "v1", "kind": "Pod", "metadata": {}, "spec": dict(spec)})
        return requests_of(pod.spec) if isinstance(pod, objects.Pod) and pod.spec is not None else NONE
    except (msgspec.MsgspecError, TypeError, ValueError):
        return NONE


def refusal(spec: Mapping[str, Any], asked: Amounts, pool: NodePool) -> str:
    """Why no new node of a pool would take such a pod, as far as the pool says what it will be; empty where one may."""
    selector = spec.get("nodeSelector") or {}
    for key, value in selector.items() if isinstance(selector, Mapping) else ():
        if key == _INSTANCE_TYPE and pool.instance_types and value not in pool.instance_types:
            return f"its nodes are {' or '.join(pool.instance_types)}, not {value}"
        if pool.labels.get(key, value) != value:
            return f"its nodes have {key}={pool.labels[key]}, not {value}"
    tolerations = spec.get("tolerations") or ()
    for taint in pool.taints:
        if taint.effect in _BLOCKING and not tolerates(tolerations, taint):
            return f"its taint {taint.key} is not tolerated"
    for resource, amount in asked.items() if pool.allocatable else ():
        have = pool.allocatable.get(resource, 0)
        if amount > have and (resource in pool.allocatable or "/" in resource):
            return f"a node of it has {have} {resource} and {amount} are asked for" if "/" in resource else (
                f"a node of it has less {resource} than is asked for"
            )  # fmt: skip
    return ""


def supply(pool: NodePool) -> str:
    """What a pool can still give: `pool h100 (coreweave) can still give 3 nodes, 4 of at most 7 are there`."""
    name = f"pool {pool.name} ({pool.kind})"
    there = f"{nodes(pool.num_nodes)} {'is' if pool.num_nodes == 1 else 'are'} there"
    if pool.num_more is None:
        said = f"{name} says nowhere how many nodes it may have; {there}"
    elif not pool.max_nodes:
        said = f"{name} is set to no nodes at all"
    elif not pool.num_more:
        said = f"{name} gives no more: all {nodes(pool.num_nodes)} that it may have are there"
    elif pool.is_autoscaled is False:
        said = f"{name} is to have {nodes(pool.max_nodes)}, and {there}"
    else:
        said = f"{name} can still give {nodes(pool.num_more)}; {there}"
        if pool.kind in _COMES:
            said += f"; one takes {_COMES[pool.kind]} to come"
    return f"{said} ({pool.note})" if pool.note else said


def cost_when_empty(pool: NodePool) -> str:
    """What a node of a pool costs while nothing runs on it, and how long it stands so. Prices are the catalogue's."""
    prices = _usd_per_hour(pool)
    if not prices:
        said = "an empty node of it costs as much as a full one (no price of it is known here)"
    else:
        least, most = min(prices), max(prices)
        price = f"{least:,.2f}" if least == most else f"{least:,.2f} to {most:,.2f}"
        said = f"an empty node of it costs {price} USD an hour at list price"
    if pool.is_autoscaled is False:
        return f"{said}, for as long as it stands: nothing takes it away"
    if pool.is_autoscaled is None:
        return f"{said}, until something takes it away: whether anything does is not said in the cluster"
    if pool.min_nodes and pool.num_nodes <= pool.min_nodes:
        return f"{said}, for as long as it stands: the pool keeps {nodes(pool.min_nodes)}"
    if pool.empty_for_s is None:
        return f"{said}, until its autoscaler takes it away"
    after = format_duration(pool.empty_for_s)
    if pool.kind != "karpenter":
        after += " by the default of the cluster autoscaler"
    if prices and pool.empty_for_s:
        spent = max(prices) * pool.empty_for_s / 3600
        after += f", which is {'up to ' if len(set(prices)) > 1 else ''}{spent:,.2f} USD"
    return f"{said}, until its autoscaler takes it away after {after}"


def _usd_per_hour(pool: NodePool) -> Sequence[float]:
    """List prices of each type of node that a pool may have; empty unless all are known."""
    found = [instances.find(name) for name in pool.instance_types]
    prices = [one.usd_per_hour for one in found if one is not None and one.usd_per_hour is not None]
    return prices if len(prices) == len(found) else []


def nodes(number: int) -> str:
    """`1 node`, `3 nodes`."""
    return f"{number:,} node{'' if number == 1 else 's'}"


def told(spec: Mapping[str, Any], pools: Sequence[NodePool]) -> tuple[str, ...]:
    """Sentences for a person on the nodes of pods of this spec: what each pool that would take them can still give,
    and what a node of it costs once those pods are gone."""
    found = outlook(spec, pools)
    if not found.could:
        return (f"{str(found)[:1].upper()}{str(found)[1:]}.",) if found.others else ()
    asked = requests(spec)
    lines = []
    for pool in pools:
        if not refusal(spec, asked, pool):
            said = supply(pool)
            lines += [f"{said[:1].upper()}{said[1:]}.", f"Pool {pool.name}: {cost_when_empty(pool)}."]
    return tuple(lines)
