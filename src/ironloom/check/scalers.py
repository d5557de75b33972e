"""The autoscalers of a run: what they write to, between which bounds, by which signals."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

import msgspec

from ironloom.check import look
from ironloom.check.rule import Context
from ironloom.workload.manifests.document import Document
from ironloom.workload.manifests.schema import Path
from ironloom.workload.workload import PodSet, Role, Workload

KEDA_MAX_REPLICAS = 100
"""What KEDA takes for maxReplicaCount where it is not said."""


class Scaler(msgspec.Struct, frozen=True, kw_only=True):
    """A HorizontalPodAutoscaler or a ScaledObject."""

    document: Document
    is_keda: bool
    group: str
    """Of its target."""
    kind: str
    name: str
    min_replicas: int
    max_replicas: int | None
    """None where it is not said."""

    @property
    def target_path(self) -> Path:
        return ("spec", "scaleTargetRef")

    @property
    def min_path(self) -> Path:
        return ("spec", "minReplicaCount" if self.is_keda else "minReplicas")

    @property
    def max_path(self) -> Path:
        return ("spec", "maxReplicaCount" if self.is_keda else "maxReplicas")

    @property
    def said(self) -> str:
        return f"{self.document.kind} {self.document.name}"


def scaler(document: Document) -> Scaler | None:
    """The autoscaler of a document; None where it is none, or names no target."""
    match (look.group(document), document.kind):
        case ("autoscaling", "HorizontalPodAutoscaler"):
            is_keda = False
        case ("keda.sh", "ScaledObject"):
            is_keda = True
        case _:
            return None
    target = look.mapping(document.obj, ("spec", "scaleTargetRef"))
    name = look.text(target, ("name",))
    if not name:
        return None
    version = look.text(target, ("apiVersion",)) or ("apps/v1" if is_keda else "")
    low = look.integer(document.obj, ("spec", "minReplicaCount" if is_keda else "minReplicas"))
    high = look.integer(document.obj, ("spec", "maxReplicaCount" if is_keda else "maxReplicas"))
    return Scaler(
        document=document,
        is_keda=is_keda,
        group=version.rpartition("/")[0],
        kind=look.text(target, ("kind",)) or ("Deployment" if is_keda else ""),
        name=name,
        min_replicas=low if low is not None else int(not is_keda),
        max_replicas=high if high is not None else (KEDA_MAX_REPLICAS if is_keda else None),
    )


def scalers(context: Context) -> Sequence[Scaler]:
    """Every autoscaler of the run, in the order of the documents."""
    if "scalers" not in context.memo:
        context.memo["scalers"] = tuple(one for one in map(scaler, context.documents) if one is not None)
    found: Sequence[Scaler] = context.memo["scalers"]
    return found


def target_of(one: Scaler, context: Context) -> Workload | None:
    """The workload that it scales, where the run has one of that name: of several, as in a folder of examples, nobody
    knows which is meant."""
    known: dict[int, Workload | None] = context.memo.setdefault("target of", {})
    key = id(one.document)
    if key not in known:
        named = context.workloads_named(one.kind, one.name)
        found = list(islice((each for each in named if is_target(one, each)), 2))
        known[key] = found[0] if len(found) == 1 else None
    return known[key]


def scaler_of(workload: Workload, context: Context) -> Scaler | None:
    """The first autoscaler of the run that scales this workload."""
    if "scaler of" not in context.memo:
        targets = [(one, target_of(one, context)) for one in scalers(context)]
        context.memo["scaler of"] = {id(found): one for one, found in reversed(targets) if found is not None}
    found: Scaler | None = context.memo["scaler of"].get(id(workload))
    return found


def is_target(one: Scaler, workload: Workload) -> bool:
    if (workload.kind, workload.name) != (one.kind, one.name) or look.group(workload.document) != one.group:
        return False
    return same_namespace(one.document, workload.document)


def same_namespace(one: Document, other: Document) -> bool:
    """Whether two objects may stand in one namespace: what names none is in any."""
    names = {look.text(document.obj, ("metadata", "namespace")) for document in (one, other)} - {""}
    return len(names) < 2


def gpu_servers(workload: Workload) -> Iterator[PodSet]:
    """Its sets of pods that serve with GPUs."""
    return (pod_set for pod_set in workload.pod_sets if pod_set.role is Role.SERVING and pod_set.gpus()[1])


def metrics(document: Document) -> Iterator[tuple[Path, Mapping[str, Any]]]:
    """The metrics of an autoscaling/v2 HorizontalPodAutoscaler."""
    for index, metric in enumerate(look.entries(document.obj, ("spec", "metrics"))):
        if isinstance(metric, Mapping):
            yield ("spec", "metrics", index), metric


def triggers(document: Document) -> Iterator[tuple[Path, Mapping[str, Any]]]:
    """The triggers of a ScaledObject."""
    for index, trigger in enumerate(look.entries(document.obj, ("spec", "triggers"))):
        if isinstance(trigger, Mapping):
            yield ("spec", "triggers", index), trigger
