"""A Fleet of Kubernetes objects, whoever fetched them: a snapshot's file, a live cluster's API, a test."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec
from msgspec.structs import replace

from ironloom.fleet import dra, namespaces, objects, queues
from ironloom.fleet.levels import build_tree, find_levels, natural
from ironloom.fleet.model import NONE, Fleet, FleetNode, FleetPod
from ironloom.fleet.nodes import node_of, with_expectations
from ironloom.fleet.objects import FleetObject, Named, group_of
from ironloom.fleet.pods import pod_of
from ironloom.fleet.queues import mapping, text, texts
from ironloom.fleet.supply import pools_of


def build_fleet(
    found: Iterable[FleetObject],
    *,
    name: str,
    source: str,
    levels: Sequence[str] = (),
    taken_at: str = "",
    version: str = "",
    kinds_served: Iterable[str] | None = None,
    kinds_listed: Iterable[str] = (),
) -> Fleet:
    """The fleet that these objects are: dicts as the API gives them, or what `objects.decode` makes of their bytes.

    `kinds_listed` are `group/Kind` of which all objects are here, be it none; `kinds_served` are `group/version/Kind`
    that the API server has. Raises ManifestError for an object that is not as the API writes it, UsageError for a label
    of `levels` that no node has.
    """
    builder = Builder(name=name, source=source)
    for kind in kinds_listed:
        builder.listed(kind)
    for obj in found:
        builder.add(obj)
    return builder.fleet(levels=levels, taken_at=taken_at, version=version, kinds_served=kinds_served)


class Builder:
    """Takes objects one by one, in any order; of two of the same kind and name the later counts."""

    def __init__(self, *, name: str, source: str) -> None:
        self._name = name
        self._source = source
        self._nodes: dict[str, objects.Node] = {}
        self._pods: dict[str, FleetPod | None] = {}
        """By `namespace/name`; None for one that has ended."""
        self._whole: dict[str, dict[str, Mapping[str, Any]]] = defaultdict(dict)
        """Objects of which more than the name is read, by `group/Kind` and name."""
        self._names: dict[str, set[str]] = {}

    def listed(self, kind: str) -> None:
        """All objects of this `group/Kind` are among those that are added, be it none."""
        self._names.setdefault(kind, set())

    def add(self, obj: FleetObject, *, file: str = "") -> None:
        """One object. What is no Kubernetes object is passed over. `file` stands in an error.

        Raises ManifestError when it is not as the API writes it.
        """
        try:
            # Pods first: they are many, and asking an abstract class costs more than the rest of a pod.
            if type(obj) is not objects.Pod and isinstance(obj, Mapping):
                obj = objects.convert(obj)
            if isinstance(obj, objects.Pod):
                metadata = obj.metadata
                self._pods[f"{metadata.namespace or 'default'}/{metadata.name or ''}"] = pod_of(obj)
                return
        except (msgspec.MsgspecError, RecursionError, TypeError, ValueError) as error:
            raise objects.refused(error, file or self._source, obj) from error
        if isinstance(obj, objects.Node):
            self._nodes[obj.metadata.name or ""] = obj
        elif isinstance(obj, Named):
            self._know(obj.apiVersion, obj.kind, obj.metadata.namespace or "", obj.metadata.name or "")
        else:
            self._add_other(obj, file)

    def fleet(
        self,
        *,
        levels: Sequence[str] = (),
        taken_at: str = "",
        version: str = "",
        kinds_served: Iterable[str] | None = None,
        name: str = "",
    ) -> Fleet:
        """Everything that was added; `name` in place of the one it began with. Raises as `build_fleet` does."""
        held = dra.claimed(self._of("resource.k8s.io/ResourceClaim"))
        pods = tuple([pod for pod in self._pods.values() if pod is not None])
        if held.by_pod:
            pods = tuple(
                replace(pod, requests={**pod.requests, **held.by_pod[pod.namespace, pod.name]})
                if (pod.namespace, pod.name) in held.by_pod
                else pod
                for pod in pods
            )
        nodes = self._made_nodes(pods, held)
        topologies = queues.by_name(map(queues.topology_of, self._of("kueue.x-k8s.io/Topology")))
        found = find_levels(nodes, given=levels, topologies=topologies)
        return Fleet(
            name=name or self._name,
            source=self._source,
            taken_at=taken_at,
            version=version,
            nodes=tuple(nodes),
            pods=pods,
            levels=found,
            root=build_tree(nodes, found, name or self._name),
            pools=self._read(lambda status: pools_of(self._of, nodes, status), self._autoscaler_status()),
            cluster_queues=queues.by_name(
                self._read(queues.cluster_queue_of, obj) for obj in self._of("kueue.x-k8s.io/ClusterQueue")
            ),
            local_queues=queues.by_name(map(queues.local_queue_of, self._of("kueue.x-k8s.io/LocalQueue"))),
            flavors=queues.by_name(map(queues.flavor_of, self._of("kueue.x-k8s.io/ResourceFlavor"))),
            topologies=topologies,
            priority_classes=queues.by_name(map(queues.priority_class_of, self._of("scheduling.k8s.io/PriorityClass"))),
            disruption_budgets=queues.by_name(map(queues.budget_of, self._of("policy/PodDisruptionBudget"))),
            namespace_quotas=queues.by_name(namespaces.quotas_of(self._of("/ResourceQuota"))),
            container_limits=queues.by_name(namespaces.container_limits_of(self._of("/LimitRange"))),
            names=self._all_names(),
            namespace_labels={
                queues.name_of(obj): texts(mapping(obj.get("metadata")).get("labels")) for obj in self._of("/Namespace")
            },
            kinds_served=frozenset(kinds_served) if kinds_served is not None else None,
        )

    def _made_nodes(self, pods: Sequence[FleetPod], held: dra.Claimed) -> list[FleetNode]:
        devices = dra.devices_of(self._of("resource.k8s.io/ResourceSlice"))
        allocated: dict[str, dict[str, int]] = {name: dict(held.by_node.get(name, ())) for name in self._nodes}
        # Most pods of a node share one and the same mapping of requests, and are added up as one.
        mappings = {id(pod.requests): pod.requests for pod in pods}
        for (name, mapping_id), num_pods in Counter([(pod.node, id(pod.requests)) for pod in pods]).items():
            total = allocated.get(name)
            if total is not None:
                for resource, number in mappings[mapping_id].items():
                    total[resource] = total.get(resource, 0) + number * num_pods
                total["pods"] = total.get("pods", 0) + num_pods
        made = []
        for name in sorted(self._nodes, key=natural):
            try:
                made.append(node_of(self._nodes[name], allocated[name], devices.get(name, NONE)))
            except (msgspec.MsgspecError, ValueError) as error:
                raise objects.refused(error, self._source, self._nodes[name]) from error
        return with_expectations(made)

    def _add_other(self, obj: Mapping[str, Any], file: str) -> None:
        api_version, kind = text(obj.get("apiVersion")), text(obj.get("kind"))
        listed = obj.get("items")
        if kind.endswith("List") and isinstance(listed, list):
            for item in listed:
                if isinstance(item, Mapping):
                    own = {"apiVersion": api_version, "kind": kind.removesuffix("List")} if kind != "List" else {}
                    self.add({**own, **item}, file=file)
            return
        name, namespace = queues.name_of(obj), queues.namespace_of(obj)
        if not kind or not api_version or not name:
            return
        self._know(api_version, kind, namespace, name)
        group = group_of(api_version)
        if (group, kind) in objects.KINDS_READ_WHOLE or (kind == "ConfigMap" and name == objects.AUTOSCALER_STATUS):
            self._whole[f"{group}/{kind}"][f"{namespace}/{name}"] = obj

    def _know(self, api_version: str, kind: str, namespace: str, name: str) -> None:
        known = self._names.setdefault(f"{group_of(api_version)}/{kind}", set())
        known.add(f"{namespace}/{name}" if namespace else name)

    def _of(self, kind: str) -> Iterable[Mapping[str, Any]]:
        return self._whole[kind].values() if kind in self._whole else ()

    def _read(self, read: Any, obj: Any) -> Any:
        """`read(obj)`, with a ValueError as a sentence that names the object."""
        try:
            return read(obj)
        except ValueError as error:
            raise objects.refused(error, self._source, obj) from error

    def _autoscaler_status(self) -> str:
        for obj in self._of("/ConfigMap"):
            return text(mapping(obj.get("data")).get("status"))
        return ""

    def _all_names(self) -> dict[str, frozenset[str]]:
        names = {kind: frozenset(known) for kind, known in self._names.items()}
        if self._nodes:
            names["/Node"] = frozenset(self._nodes)
        if self._pods:
            names["/Pod"] = frozenset(self._pods)
        return names
