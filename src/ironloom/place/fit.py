"""Which nodes take the pods of a set, how many each, and why the others do not: in kube-scheduler's order and words.

The filters are those of its default profile that can be told from a snapshot: node name, taints, node affinity,
resources, topology spread, inter-pod affinity. A node counts once, under the first filter that refuses it, and under
each resource that is short, as in the scheduler's own events.
Source: https://github.com/kubernetes/kubernetes/tree/master/pkg/scheduler/framework/plugins
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import msgspec

from ironloom.fleet.model import NONE, Amounts, Fleet, FleetNode, FleetPod, Lifecycle, Taint
from ironloom.place.affinity import ENDED, REQUIRED, neighbours, refuses_itself_on_a_node
from ironloom.place.selectors import matches_node, tolerates
from ironloom.workload.workload import PodSet

NO_NAME = "node(s) didn't match the requested node name"
NO_SELECTOR = "node(s) didn't match Pod's node affinity/selector"
UNSCHEDULABLE = "node(s) were unschedulable"
TOO_MANY_PODS = "Too many pods"
PODS = "pods"
SHARES = frozenset({"nvidia.com/gpumem", "nvidia.com/gpumem-percentage", "nvidia.com/gpucores"})
"""Parts of a GPU that HAMi's own scheduler counts: no node lists them, and kube-scheduler is told to pass over them.
Source: https://github.com/Project-HAMi/HAMi/issues/302."""
UNSCHEDULABLE_TAINT = Taint(key="node.kubernetes.io/unschedulable", effect="NoSchedule")
PASSING_TAINTS = (
    "node.kubernetes.io/",
    "node.cloudprovider.kubernetes.io/",
    "ToBeDeletedByClusterAutoscaler",
    "DeletionCandidateOfClusterAutoscaler",
    "karpenter.sh/disrupted",
)
"""Prefixes of taints that come and go with a node's state, and say nothing of what it is for."""
GKE_NODE = "cloud.google.com/gke-nodepool"
"""On GKE the admission plugin ExtendedResourceToleration is on: a pod that asks for an extended resource tolerates the
taint of that name. https://cloud.google.com/kubernetes-engine/docs/how-to/gpus"""
_MANY = 10**9


class NodeFit(msgspec.Struct, frozen=True):
    """Where the pods of a set fit."""

    num_nodes: int
    """Looked at: all of the fleet."""
    pods_by_node: Mapping[str, int]
    """Names of the nodes that take at least one, with how many they take (each asked alone)."""
    excluded: Mapping[str, int]
    """Nodes by kube-scheduler's reason; a node that is short of two resources counts under both."""

    @property
    def num_pods(self) -> int:
        """That fit in all, as far as nodes decide."""
        return sum(self.pods_by_node.values())

    def __str__(self) -> str:
        """`0/40 nodes are available: 32 node(s) didn't match …, 8 Insufficient nvidia.com/gpu`."""
        # In the order of the texts, as kube-scheduler sorts its own.
        said = sorted(f"{count} {reason}" for reason, count in self.excluded.items())
        found = f"{len(self.pods_by_node)}/{self.num_nodes} nodes are available"
        return f"{found}: {', '.join(said)}" if said else found


def fit(
    pod_set: PodSet,
    fleet: Fleet,
    *,
    namespace: str = "default",
    tolerations: Iterable[Mapping[str, Any]] = (),
    ignored: Callable[[FleetPod], bool] | None = None,
) -> NodeFit:
    """Where the set's pods fit now. `tolerations` are added to the pods' own (a Kueue flavor's); pods that `ignored`
    says yes to count as gone: the workload's own, from before."""
    spec, requests = pod_set.spec, pod_set.requests
    given = _tolerations(spec, tolerations)
    gone = _released(fleet, ignored) if ignored is not None else {}
    refusals = {node.name: _refusal(spec, requests, given, node) for node in fleet.nodes}
    eligible = [node for node in fleet.nodes if not refusals[node.name]]
    around = neighbours(spec, pod_set.labels, namespace, fleet, eligible)
    most = _most_on_a_node(pod_set, namespace)

    def look(node: FleetNode) -> tuple[int, Sequence[str]]:
        refusal = refusals[node.name]
        if refusal:
            return 0, (refusal,)
        used = node.allocated
        if node.name in gone:
            used = {name: used.get(name, 0) - gone[node.name].get(name, 0) for name in (*requests, PODS)}
        number, short = room(requests, node.allocatable, used)
        if short:
            return 0, short
        away = around.why_not(node)
        return (0, (away,)) if away else (min(number, most), ())

    return _tell(fleet.nodes, look)


def fit_ever(
    pod_set: PodSet,
    fleet: Fleet,
    *,
    namespace: str = "default",
    tolerations: Iterable[Mapping[str, Any]] = (),
    standing: Mapping[str, Amounts] | None = None,
) -> NodeFit:
    """Where they would fit with nothing on the nodes but DaemonSets: what does not fit here never will. Cordons and
    taints that pass are looked over. `standing` is what `fleet_standing` says, for those who have it already."""
    spec, requests = pod_set.spec, pod_set.requests
    given = _tolerations(spec, tolerations)
    standing = fleet_standing(fleet) if standing is None else standing
    most = _most_on_a_node(pod_set, namespace)

    def look(node: FleetNode) -> tuple[int, Sequence[str]]:
        refusal = _refusal(spec, requests, given, node, is_ever=True)
        if refusal:
            return 0, (refusal,)
        number, short = room(requests, node.allocatable, standing.get(node.name, NONE))
        return (0, short) if short else (min(number, most), ())

    return _tell(fleet.nodes, look)


def matching(pod_set: PodSet, fleet: Fleet, tolerations: Iterable[Mapping[str, Any]] | None = None) -> list[FleetNode]:
    """The nodes that the set's selector and affinity take; with `tolerations` (the set's own are added) only those
    whose lasting taints it tolerates."""
    spec, requests = pod_set.spec, pod_set.requests
    given = None if tolerations is None else _tolerations(spec, tolerations)
    return [
        node
        for node in fleet.nodes
        if selects(spec, node) and (given is None or _untolerated(given, requests, node, is_ever=True) is None)
    ]


def selects(spec: Mapping[str, Any], node: FleetNode) -> bool:
    """Whether nodeSelector and required node affinity take a node."""
    selector = spec.get("nodeSelector") or {}
    if not isinstance(selector, Mapping) or any(node.labels.get(key) != value for key, value in selector.items()):
        return False
    required = node_affinity(spec)
    return required is None or matches_node(required.get("nodeSelectorTerms"), node.labels, node.name)


def node_affinity(spec: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The required node affinity as written; None for none."""
    affinity = spec.get("affinity")
    part = affinity.get("nodeAffinity") if isinstance(affinity, Mapping) else None
    required = part.get(REQUIRED) if isinstance(part, Mapping) else None
    return required if isinstance(required, Mapping) else None


def untolerated(pod_set: PodSet, node: FleetNode, tolerations: Iterable[Mapping[str, Any]] = ()) -> Taint | None:
    """The first lasting taint of a node that keeps the set's pods off; None for none."""
    return _untolerated(_tolerations(pod_set.spec, tolerations), pod_set.requests, node, is_ever=True)


def room(requests: Amounts, allocatable: Amounts, used: Amounts) -> tuple[int, tuple[str, ...]]:
    """(pods that fit, what is short: `Insufficient cpu`). A node that says nothing of `pods` has no limit of them."""
    number, short = _MANY, []
    if PODS in allocatable:
        number = max(0, allocatable[PODS] - used.get(PODS, 0))
        if not number:
            short.append(TOO_MANY_PODS)
    for name, amount in requests.items():
        if name in SHARES and name not in allocatable:
            continue
        if amount <= 0:
            continue
        fitting = max(0, allocatable.get(name, 0) - used.get(name, 0)) // amount
        number = min(number, fitting)
        if not fitting:
            short.append(f"Insufficient {name}")
    return number, tuple(short)


def fleet_standing(fleet: Fleet) -> Mapping[str, Amounts]:
    """What the DaemonSets' pods ask for on each node: no other pod ever has it."""
    return _released(fleet, lambda pod: pod.owner.startswith("DaemonSet/"))


def _released(fleet: Fleet, chosen: Callable[[FleetPod], bool]) -> dict[str, Amounts]:
    found: dict[str, Counter[str]] = {}
    for pod in fleet.pods:
        if pod.node and pod.phase not in ENDED and chosen(pod):
            one = found.setdefault(pod.node, Counter())
            one.update(pod.requests)
            one[PODS] += 1
    return dict(found)


def _refusal(
    spec: Mapping[str, Any],
    requests: Amounts,
    given: Sequence[Mapping[str, Any]],
    node: FleetNode,
    *,
    is_ever: bool = False,
) -> str:
    """Why a node is refused before its resources are looked at; empty for not."""
    if not is_ever and node.lifecycle is Lifecycle.CORDONED and not tolerates(given, UNSCHEDULABLE_TAINT):
        return UNSCHEDULABLE
    if not is_ever and node.lifecycle is Lifecycle.NOT_READY and not tolerates(given, coming := _not_ready(node)):
        return f"node(s) had untolerated taint {{{coming.key}: }}"
    name = spec.get("nodeName")
    if name and name != node.name:
        return NO_NAME
    taint = _untolerated(given, requests, node, is_ever=is_ever)
    if taint is not None:
        return f"node(s) had untolerated taint {{{taint.key}: {taint.value}}}"
    return "" if selects(spec, node) else NO_SELECTOR


def _not_ready(node: FleetNode) -> Taint:
    """The taint that the node controller puts on a node whose condition Ready is not True; a snapshot may have been
    taken, or made, before it has.

    Source: https://kubernetes.io/docs/concepts/scheduling-eviction/taint-and-toleration/#taint-nodes-by-condition
    """
    is_unknown = any(one.type == "Ready" and one.status == "Unknown" for one in node.conditions)
    key = "node.kubernetes.io/unreachable" if is_unknown else "node.kubernetes.io/not-ready"
    return Taint(key=key, effect="NoSchedule")


def _untolerated(
    given: Sequence[Mapping[str, Any]], requests: Amounts, node: FleetNode, *, is_ever: bool
) -> Taint | None:
    for taint in node.taints:
        if taint.effect not in {"NoSchedule", "NoExecute"} or (is_ever and taint.key.startswith(PASSING_TAINTS)):
            continue
        if GKE_NODE in node.labels and requests.get(taint.key):
            continue
        if not tolerates(given, taint):
            return taint
    return None


def _tolerations(spec: Mapping[str, Any], more: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    own = spec.get("tolerations")
    return [*(one for one in (own if isinstance(own, list) else []) if isinstance(one, Mapping)), *more]


def _most_on_a_node(pod_set: PodSet, namespace: str) -> int:
    """1 where two pods of the set cannot share a node: they refuse each other, or take a port of the host."""
    if refuses_itself_on_a_node(pod_set.spec, pod_set.labels, namespace) or any(_host_ports(pod_set)):
        return 1
    return _MANY


def _host_ports(pod_set: PodSet) -> Iterator[int]:
    is_host = pod_set.spec.get("hostNetwork") is True
    for container in pod_set.containers:
        ports = container.spec.get("ports")
        for port in ports if isinstance(ports, list) else []:
            if isinstance(port, Mapping) and (
                number := port.get("hostPort") or (is_host and port.get("containerPort"))
            ):
                yield number


def _tell(nodes: Sequence[FleetNode], look: Callable[[FleetNode], tuple[int, Sequence[str]]]) -> NodeFit:
    found: dict[str, int] = {}
    excluded: Counter[str] = Counter()
    for node in nodes:
        number, why = look(node)
        if number:
            found[node.name] = number
        excluded.update(why)
    return NodeFit(num_nodes=len(nodes), pods_by_node=found, excluded=dict(excluded))
