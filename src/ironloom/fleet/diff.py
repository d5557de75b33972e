"""What changed between two fleets: nodes gone, come and changed, GPUs, pods."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ironloom.fleet.levels import natural
from ironloom.fleet.model import Fleet, FleetNode, FleetPod
from ironloom.fleet.table import columns
from ironloom.fleet.tally import Tally, tally

MAX_ROWS = 40


@dataclass(frozen=True, kw_only=True, slots=True)
class Change:
    """One thing of one node or pod that is not as it was."""

    name: str
    what: str
    """lifecycle, GPUs, taints, links, allocated GPUs, labels, node, phase."""
    before: str
    after: str


@dataclass(frozen=True, kw_only=True, slots=True)
class FleetDiff:
    """Everything that changed from one fleet to another, in order of name."""

    before: Tally
    after: Tally
    nodes_gone: tuple[str, ...] = ()
    nodes_new: tuple[str, ...] = ()
    nodes_changed: tuple[Change, ...] = ()
    pods_gone: tuple[str, ...] = ()
    """`namespace/name`."""
    pods_new: tuple[str, ...] = ()
    pods_changed: tuple[Change, ...] = ()

    def __bool__(self) -> bool:
        return bool(
            self.nodes_gone or self.nodes_new or self.nodes_changed
            or self.pods_gone or self.pods_new or self.pods_changed
        )  # fmt: skip


def diff(before: Fleet, after: Fleet) -> FleetDiff:
    """What changed. The order of nodes and pods in either changes nothing."""
    old, new = before.node_by_name, after.node_by_name
    levels = {level.key for level in (*before.levels, *after.levels)}
    old_pods, new_pods = _by_name(before), _by_name(after)
    return FleetDiff(
        before=tally(before.nodes),
        after=tally(after.nodes),
        nodes_gone=_sorted(old.keys() - new.keys()),
        nodes_new=_sorted(new.keys() - old.keys()),
        nodes_changed=tuple(
            change
            for name in _sorted(old.keys() & new.keys())
            for change in _node_changes(old[name], new[name], levels)
        ),
        pods_gone=_sorted(old_pods.keys() - new_pods.keys()),
        pods_new=_sorted(new_pods.keys() - old_pods.keys()),
        pods_changed=tuple(
            Change(name=name, what=what, before=was, after=now)
            for name in _sorted(old_pods.keys() & new_pods.keys())
            for what, was, now in _pod_changes(old_pods[name], new_pods[name])
        ),
    )


def render(found: FleetDiff) -> str:
    """The difference as text, without a last newline."""
    if not found:
        return "Nothing changed."
    rows = [
        (title, f"{getattr(found.before, name):,}", f"{getattr(found.after, name):,}",
         f"{getattr(found.after, name) - getattr(found.before, name):+,}")
        for title, name in (("nodes", "num_nodes"), ("ready nodes", "num_ready"), ("GPUs", "num_gpus"),
                            ("used", "num_used"), ("free", "num_free"), ("closed", "num_closed"),
                            ("broken", "num_broken"))
    ]  # fmt: skip
    parts = [columns(("", "BEFORE", "AFTER", "CHANGE"), rows)]
    parts += _list("Nodes gone", found.nodes_gone) + _list("Nodes new", found.nodes_new)
    parts += _changes("Nodes changed", found.nodes_changed)
    parts += _list("Pods gone", found.pods_gone) + _list("Pods new", found.pods_new)
    parts += _changes("Pods changed", found.pods_changed)
    return "\n".join(parts)


def _list(title: str, names: tuple[str, ...]) -> list[str]:
    if not names:
        return []
    more = [f"  … {len(names) - MAX_ROWS:,} more: -o json"] if len(names) > MAX_ROWS else []
    return ["", f"{title}: {len(names):,}", *(f"  {name}" for name in names[:MAX_ROWS]), *more]


def _changes(title: str, changes: tuple[Change, ...]) -> list[str]:
    if not changes:
        return []
    rows = [(one.name, one.what, one.before or "-", one.after or "-") for one in changes[:MAX_ROWS]]
    more = [f"… {len(changes) - MAX_ROWS:,} more: -o json"] if len(changes) > MAX_ROWS else []
    return ["", f"{title}: {len(changes):,}", columns(("NAME", "WHAT", "BEFORE", "AFTER"), rows), *more]


def _sorted(names: set[str]) -> tuple[str, ...]:
    return tuple(sorted(names, key=natural))


def _by_name(fleet: Fleet) -> Mapping[str, FleetPod]:
    return {f"{pod.namespace}/{pod.name}": pod for pod in fleet.pods}


def _node_changes(old: FleetNode, new: FleetNode, levels: set[str]) -> list[Change]:
    seen = [
        ("lifecycle", _state(old), _state(new)),
        ("GPUs", str(old.num_gpus), str(new.num_gpus)),
        ("allocated GPUs", str(old.num_gpus - old.num_free_gpus), str(new.num_gpus - new.num_free_gpus)),
        ("instance type", old.instance_type, new.instance_type),
        ("taints", _taints(old), _taints(new)),
        ("links", _links(old), _links(new)),
        *((key, old.labels.get(key, ""), new.labels.get(key, "")) for key in sorted(levels)),
    ]
    return [Change(name=new.name, what=what, before=was, after=now) for what, was, now in seen if was != now]


def _state(node: FleetNode) -> str:
    return f"{node.lifecycle.value} ({node.why})" if node.why else node.lifecycle.value


def _taints(node: FleetNode) -> str:
    return ", ".join(sorted(f"{one.key}={one.value}:{one.effect}" for one in node.taints))


def _links(node: FleetNode) -> str:
    return "; ".join(link.problem for link in node.links if link.problem)


def _pod_changes(old: FleetPod, new: FleetPod) -> list[tuple[str, str, str]]:
    seen = [("node", old.node, new.node), ("phase", old.phase, new.phase)]
    asked = [(name, str(old.requests.get(name, 0)), str(new.requests.get(name, 0)))
             for name in sorted(old.requests.keys() | new.requests.keys())]  # fmt: skip
    return [(what, was, now) for what, was, now in (*seen, *asked) if was != now]
