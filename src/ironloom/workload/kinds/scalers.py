"""Autoscalers that stand beside a workload and write its number of copies, and KEDA's jobs.

Sources: https://kubernetes.io/docs/reference/kubernetes-api/workload-resources/horizontal-pod-autoscaler-v2/,
https://keda.sh/docs/latest/reference/scaledobject-spec/, https://keda.sh/docs/latest/reference/scaledjob-spec/.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from msgspec.structs import replace

from ironloom.workload import look
from ironloom.workload.kinds.around import Around, namespace_of
from ironloom.workload.kinds.build import workload
from ironloom.workload.kinds.core import of_job
from ironloom.workload.kinds.kind import Kind
from ironloom.workload.manifests.document import Document
from ironloom.workload.workload import Replicas, Workload

HPA = ("autoscaling", "HorizontalPodAutoscaler")
SCALED_OBJECT = ("keda.sh", "ScaledObject")
KEDA_MAX_REPLICAS = 100
"""What KEDA takes for maxReplicaCount where it is not said."""
Target = tuple[str, str, str]
"""(group, kind, name) of what an autoscaler writes to."""


def scalers_of(around: Around) -> Mapping[Target, list[Document]]:
    """Every autoscaler among the documents, by its target; KEDA's before Kubernetes' own, which KEDA makes itself."""
    found: dict[Target, list[Document]] = {}
    for key in (SCALED_OBJECT, HPA):
        for document in around.of(*key):
            target = look.mapping(document.obj, "spec", "scaleTargetRef")
            is_keda = key == SCALED_OBJECT
            kind = look.text(target, "kind") or ("Deployment" if is_keda else "")
            version = look.text(target, "apiVersion") or ("apps/v1" if is_keda else "")
            name = look.text(target, "name")
            if name:
                found.setdefault((version.rpartition("/")[0], kind, name), []).append(document)
    return found


def scaled(found: Workload, scalers: Mapping[Target, list[Document]]) -> Workload:
    """The workload with the bounds of the autoscaler that has it for target."""
    group = found.document.api_version.rpartition("/")[0]
    for document in scalers.get((group, found.kind, found.name), ()):
        namespace = namespace_of(document)
        if namespace and found.namespace and namespace != found.namespace:
            continue
        return replace(found, replicas=_replicas(document, found.replicas))
    return found


def _replicas(scaler: Document, own: Replicas) -> Replicas:
    spec = look.mapping(scaler.obj, "spec")
    if scaler.kind == HPA[1]:
        high = look.count(spec, "maxReplicas", default=0)
        return replace(own, min=look.count(spec, "minReplicas"), max=high or None, decider="hpa")
    low = look.count(spec, "minReplicaCount", default=0)
    low = look.count(spec, "idleReplicaCount", default=low)
    return replace(own, min=low, max=look.count(spec, "maxReplicaCount", default=KEDA_MAX_REPLICAS), decider="keda")


def scaled_job(document: Document, _around: Around) -> Iterator[Workload]:
    """KEDA's ScaledJob: a job for each event, so many at once."""
    replicas = Replicas(
        min=look.count(document.obj, "spec", "minReplicaCount", default=0),
        max=look.count(document.obj, "spec", "maxReplicaCount", default=KEDA_MAX_REPLICAS),
        path=look.nearest(document.obj, ("spec", "maxReplicaCount")),
        decider="keda",
    )
    yield workload(document, (of_job(document, ("spec", "jobTargetRef")),), replicas)


KINDS = (
    Kind(
        group="keda.sh",
        name="ScaledJob",
        read=scaled_job,
        pods="those of one job",
        source="https://keda.sh/docs/latest/reference/scaledjob-spec/",
    ),
)
