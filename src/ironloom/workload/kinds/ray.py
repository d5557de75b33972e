"""RayCluster, RayJob and RayService, ray.io.

Source: https://github.com/ray-project/kuberay/tree/master/ray-operator/apis/ray/v1
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from msgspec.structs import replace

from ironloom.workload import look
from ironloom.workload.kinds import roles
from ironloom.workload.kinds.around import Around
from ironloom.workload.kinds.build import of_template, workload
from ironloom.workload.kinds.gangs import Gang
from ironloom.workload.kinds.kind import Kind
from ironloom.workload.launch import text_launch
from ironloom.workload.manifests.document import Document
from ironloom.workload.manifests.schema import Path
from ironloom.workload.workload import Container, PodSet, Role, Workload


def ray_cluster(document: Document, _around: Around) -> Iterator[Workload]:
    yield workload(document, _cluster(document, ("spec",)), gang=Gang.QUEUED)


def ray_job(document: Document, _around: Around) -> Iterator[Workload]:
    """The cluster that the job makes; its head runs the entrypoint."""
    pod_sets = _cluster(document, ("spec", "rayClusterSpec"), Role.BATCH)
    entrypoint: Path = ("spec", "entrypoint")
    launch = text_launch(look.text(document.obj, *entrypoint), entrypoint)
    if launch is not None and pod_sets and pod_sets[0].containers:
        first, *others = pod_sets[0].containers
        containers: tuple[Container, ...] = (replace(first, launch=first.launch or launch), *others)
        role = roles.of_containers(containers, Role.BATCH)
        pod_sets = [replace(pod_sets[0], containers=containers), *pod_sets[1:]]
        pod_sets = [replace(pods, role=role) for pods in pod_sets]
    if pod_sets:  # a job with a clusterSelector runs on a cluster that is there
        yield workload(document, pod_sets, gang=Gang.QUEUED)


def ray_service(document: Document, _around: Around) -> Iterator[Workload]:
    """The cluster that serves. What Ray Serve runs on it stands in serveConfigV2, and its own replicas share it."""
    yield workload(document, _cluster(document, ("spec", "rayClusterConfig"), Role.SERVING), gang=Gang.QUEUED)


def _cluster(document: Document, path: Path, role: Role = Role.OTHER) -> list[PodSet]:
    """The head, and each group of workers: as many as are there at first, of so many hosts each."""
    spec = look.mapping(document.obj, *path)
    pod_sets = []
    if look.mapping(spec, "headGroupSpec"):
        pod_sets.append(of_template(document, (*path, "headGroupSpec", "template"), name="head", default_role=role))
    for number, group in look.mappings(spec, "workerGroupSpecs"):
        pod_sets.append(
            of_template(
                document,
                (*path, "workerGroupSpecs", number, "template"),
                name=look.text(group, "groupName") or "worker",
                num_pods=_num_workers(group) * max(1, look.count(group, "numOfHosts")),
                default_role=role,
            )
        )
    return pod_sets


def _num_workers(group: Mapping[str, Any]) -> int:
    """Replicas lie between minReplicas and maxReplicas, whatever is written."""
    least = look.count(group, "minReplicas", default=0)
    most = look.count(group, "maxReplicas", default=2**31)
    return min(max(look.count(group, "replicas", default=least), least), most)


_SOURCE = "https://github.com/ray-project/kuberay/tree/master/ray-operator/apis/ray/v1"
_PODS = "head, one set a group of workers"
KINDS = tuple(
    Kind(group="ray.io", name=name, read=read, pods=_PODS, gang="in a Kueue queue, or training", source=_SOURCE)
    for name, read in (("RayCluster", ray_cluster), ("RayJob", ray_job), ("RayService", ray_service))
)
