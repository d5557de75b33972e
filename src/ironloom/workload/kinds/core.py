"""Kubernetes' own kinds that make pods.

Source of fields and defaults: https://kubernetes.io/docs/reference/kubernetes-api/workload-resources/
"""

from __future__ import annotations

from ironloom.workload import look
from ironloom.workload.kinds.around import Around
from ironloom.workload.kinds.build import fixed, of_spec, of_template, workload
from ironloom.workload.kinds.kind import Kind
from ironloom.workload.manifests.document import Document
from ironloom.workload.manifests.schema import Path
from ironloom.workload.workload import PodSet, Replicas, Role, Workload

TEMPLATE: Path = ("spec", "template")


def pod(document: Document, _around: Around) -> Workload:
    """A Pod alone."""
    spec = look.mapping(document.obj, "spec")
    metadata = look.mapping(document.obj, "metadata")
    only = of_spec(("spec",), spec=spec, metadata_path=("metadata",), metadata=metadata)
    return workload(document, (only,), Replicas(min=1, max=1, path=()))


def replicated(document: Document, _around: Around) -> Workload:
    """Deployment, StatefulSet, ReplicaSet: copies of one pod."""
    return workload(document, (of_template(document, TEMPLATE),), fixed(document, ("spec", "replicas")))


def daemon_set(document: Document, _around: Around) -> Workload:
    """One pod for each node that it may be on; how many those are the fleet knows."""
    return workload(document, (of_template(document, TEMPLATE),), Replicas(min=0, max=None, path=("spec",)))


def job(document: Document, _around: Around) -> Workload:
    return workload(document, (of_job(document, ("spec",)),), Replicas(min=1, max=1, path=()))


def cron_job(document: Document, _around: Around) -> Workload:
    path: Path = ("spec", "jobTemplate", "spec")
    found = of_job(document, path)
    return workload(
        document, (found,), Replicas(min=1, max=1, path=()), queue_paths=(("spec", "jobTemplate", "metadata"),)
    )


def of_job(document: Document, path: Path, *, name: str = "main", times: int = 1) -> PodSet:
    """The pods of the JobSpec at `path` that run at once, so many `times`."""
    spec = look.mapping(document.obj, *path)
    parallelism = look.count(spec, "parallelism")
    completions = look.count(spec, "completions", default=parallelism)
    at_once = min(parallelism, completions) if "completions" in spec else parallelism
    return of_template(document, (*path, "template"), name=name, num_pods=at_once * times, default_role=Role.BATCH)


_DOCS = "https://kubernetes.io/docs/reference/kubernetes-api/workload-resources/"
KINDS = (
    Kind(group="", name="Pod", read=pod, pods="the pod", source=f"{_DOCS}pod-v1/"),
    Kind(group="apps", name="Deployment", read=replicated, pods="a pod a replica", source=f"{_DOCS}deployment-v1/"),
    Kind(group="apps", name="StatefulSet", read=replicated, pods="a pod a replica", source=f"{_DOCS}stateful-set-v1/"),
    Kind(group="apps", name="ReplicaSet", read=replicated, pods="a pod a replica", source=f"{_DOCS}replica-set-v1/"),
    Kind(group="apps", name="DaemonSet", read=daemon_set, pods="a pod a node", source=f"{_DOCS}daemon-set-v1/"),
    Kind(group="batch", name="Job", read=job, pods="those that run at once", source=f"{_DOCS}job-v1/"),
    Kind(group="batch", name="CronJob", read=cron_job, pods="those of one job", source=f"{_DOCS}cron-job-v1/"),
)
