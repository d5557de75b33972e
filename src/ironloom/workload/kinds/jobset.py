"""JobSet, jobset.x-k8s.io.

Source: https://github.com/kubernetes-sigs/jobset/blob/main/api/jobset/v1alpha2/jobset_types.go
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from msgspec.structs import replace

from ironloom.workload import look
from ironloom.workload.kinds.around import Around
from ironloom.workload.kinds.build import workload
from ironloom.workload.kinds.core import num_at_once, of_job
from ironloom.workload.kinds.gangs import Gang
from ironloom.workload.kinds.kind import Kind
from ironloom.workload.manifests.document import Document
from ironloom.workload.manifests.schema import Path
from ironloom.workload.workload import PodSet, TopologyWish, Workload

EXCLUSIVE = "alpha.jobset.sigs.k8s.io/exclusive-topology"
JOBS: Path = ("spec", "replicatedJobs")


def job_set(document: Document, _around: Around) -> Iterator[Workload]:
    """The pods of each replicated job."""
    jobs = look.mappings(document.obj, *JOBS)
    pod_sets = [_pods(document, (*JOBS, number), one) for number, one in jobs]
    # Jobs that wait for others to end are never there at once with them.
    waits = any(
        look.text(wait, "status") == "Complete" for _, one in jobs for _, wait in look.mappings(one, "dependsOn")
    )
    gang = Gang.NEVER if waits else Gang.QUEUED
    yield workload(document, pod_sets, gang=gang, queue_paths=())


def _pods(document: Document, path: Path, job: Mapping[str, Any]) -> PodSet:
    times = look.count(job, "replicas")
    at_once = num_at_once(look.mapping(job, "template", "spec"))
    pods = of_job(
        document,
        (*path, "template", "spec"),
        name=look.text(job, "name"),
        times=times,
        topology=_exclusive(document, path, times, at_once),
    )
    return replace(pods, num_jobs=max(1, times))


def _exclusive(document: Document, path: Path, times: int, at_once: int) -> Iterator[TopologyWish]:
    """Each child job has a domain to itself: the jobs are slices, and several of them never share one domain."""
    for place in ((*path, "template", "metadata"), ("metadata",)):
        at: Path = (*place, "annotations", EXCLUSIVE)
        key = look.text(document.obj, *at)
        if key:
            yield TopologyWish(
                key=key,
                is_required=True,
                source="jobset",
                path=at,
                slice_key=key if times > 1 else "",
                slice_size=at_once if times > 1 else 0,
            )
            return


KINDS = (
    Kind(
        group="jobset.x-k8s.io",
        name="JobSet",
        read=job_set,
        pods="one set a replicated job",
        gang="in a Kueue queue, or training, unless a job waits for another to end",
        source="https://github.com/kubernetes-sigs/jobset/blob/main/api/jobset/v1alpha2/jobset_types.go",
    ),
)
