"""Kubernetes' own kinds that make pods.

Source of fields and defaults: https://kubernetes.io/docs/reference/kubernetes-api/workload-resources/
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from msgspec.structs import replace

from ironloom.workload import look
from ironloom.workload.kinds.around import Around
from ironloom.workload.kinds.build import MAIN, fixed, of_spec, of_template, workload
from ironloom.workload.kinds.gangs import Gang
from ironloom.workload.kinds.kind import Kind
from ironloom.workload.manifests.document import Document
from ironloom.workload.manifests.schema import Path
from ironloom.workload.workload import PodSet, Replicas, Role, TopologyWish, Workload

TEMPLATE: Path = ("spec", "template")
POD_GROUP = "kueue.x-k8s.io/pod-group-name"
MIN_PARALLELISM = "kueue.x-k8s.io/job-min-parallelism"
"""Kueue may admit a part of the job."""


def pod(document: Document, _around: Around) -> Iterator[Workload]:
    """A Pod alone, or one of a group that Kueue admits as a whole."""
    metadata = look.mapping(document.obj, "metadata")
    spec = look.mapping(document.obj, "spec")
    only = of_spec(("spec",), spec=spec, metadata_path=("metadata",), metadata=metadata)
    made = workload(document, (only,))
    yield replace(made, is_gang=POD_GROUP in only.labels or POD_GROUP in only.annotations)


def replicated(document: Document, _around: Around) -> Iterator[Workload]:
    """Deployment, StatefulSet, ReplicaSet: copies of one pod."""
    yield workload(document, (of_template(document, TEMPLATE),), fixed(document, ("spec", "replicas")))


def daemon_set(document: Document, _around: Around) -> Iterator[Workload]:
    """One pod for each node that it may be on; how many those are the fleet knows."""
    yield workload(document, (of_template(document, TEMPLATE),), Replicas(min=0, max=None, path=("spec",)))


def job(document: Document, _around: Around) -> Iterator[Workload]:
    is_partial = MIN_PARALLELISM in look.mapping(document.obj, "metadata", "annotations")
    gang = Gang.NEVER if is_partial else Gang.QUEUED
    yield workload(document, (of_job(document, ("spec",)),), gang=gang, queue_paths=((*TEMPLATE, "metadata"),))


def cron_job(document: Document, _around: Around) -> Iterator[Workload]:
    base: Path = ("spec", "jobTemplate")
    pods = of_job(document, (*base, "spec"))
    yield workload(document, (pods,), gang=Gang.QUEUED, queue_paths=((*base, "metadata"),))


def of_job(
    document: Document, path: Path, *, name: str = MAIN, times: int = 1, topology: Iterable[TopologyWish] = ()
) -> PodSet:
    """The pods of the JobSpec at `path` that run at once, so many `times`."""
    return of_template(
        document,
        (*path, "template"),
        name=name,
        num_pods=num_at_once(look.mapping(document.obj, *path)) * times,
        default_role=Role.BATCH,
        topology=topology,
    )


def num_at_once(spec: Mapping[str, Any]) -> int:
    """Pods of a JobSpec that run at once: its parallelism, as far as completions are left to do."""
    parallelism = look.count(spec, "parallelism")
    return min(parallelism, look.count(spec, "completions", default=parallelism))


_DOCS = "https://kubernetes.io/docs/reference/kubernetes-api/workload-resources/"
_QUEUED = "in a Kueue queue, or training over several pods"
KINDS = (
    Kind(group="", name="Pod", read=pod, pods="the pod", gang="in a pod group of Kueue", source=f"{_DOCS}pod-v1/"),
    Kind(group="apps", name="Deployment", read=replicated, pods="one a replica", source=f"{_DOCS}deployment-v1/"),
    Kind(group="apps", name="StatefulSet", read=replicated, pods="one a replica", source=f"{_DOCS}stateful-set-v1/"),
    Kind(group="apps", name="ReplicaSet", read=replicated, pods="one a replica", source=f"{_DOCS}replica-set-v1/"),
    Kind(group="apps", name="DaemonSet", read=daemon_set, pods="one a node", source=f"{_DOCS}daemon-set-v1/"),
    Kind(
        group="",
        name="ReplicationController",
        read=replicated,
        pods="one a replica",
        source=f"{_DOCS}replication-controller-v1/",
    ),
    Kind(group="batch", name="Job", read=job, pods="those that run at once", gang=_QUEUED, source=f"{_DOCS}job-v1/"),
    Kind(
        group="batch",
        name="CronJob",
        read=cron_job,
        pods="those of one job",
        gang=_QUEUED,
        source=f"{_DOCS}cron-job-v1/",
    ),
)
