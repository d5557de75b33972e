"""What every kind's reader builds with: sets of pods of a template, and the workload around them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from msgspec.structs import replace

from ironloom.workload import look
from ironloom.workload.kinds import roles, wishes
from ironloom.workload.kinds.around import namespace_of
from ironloom.workload.kinds.containers import amounts, containers_of, requested
from ironloom.workload.kinds.gangs import Gang, is_gang
from ironloom.workload.manifests.document import Document
from ironloom.workload.manifests.schema import Path
from ironloom.workload.workload import NONE, Container, PodSet, Replicas, Role, TopologyWish, Workload

MAIN = "main"
QUEUE_LABEL = "kueue.x-k8s.io/queue-name"
ONE = Replicas(min=1, max=1, path=())
"""One copy, of a kind that has no number of copies."""


def of_template(
    document: Document,
    path: Path,
    *,
    name: str = MAIN,
    num_pods: int = 1,
    role: Role | None = None,
    default_role: Role = Role.OTHER,
    topology: Iterable[TopologyWish] = (),
) -> PodSet:
    """The pods of the PodTemplateSpec at `path` of the document. `role` None reads it from what they run,
    `default_role` where that says nothing."""
    template = look.mapping(document.obj, *path)
    return of_spec(
        (*path, "spec"),
        spec=look.mapping(template, "spec"),
        metadata_path=(*path, "metadata"),
        metadata=look.mapping(template, "metadata"),
        name=name,
        num_pods=num_pods,
        role=role,
        default_role=default_role,
        topology=topology,
    )


def of_spec(
    path: Path,
    *,
    spec: Mapping[str, Any],
    metadata_path: Path,
    metadata: Mapping[str, Any],
    name: str = MAIN,
    num_pods: int = 1,
    role: Role | None = None,
    default_role: Role = Role.OTHER,
    topology: Iterable[TopologyWish] = (),
    containers: tuple[Container, ...] | None = None,
    is_written: bool = True,
) -> PodSet:
    """The pods of a PodSpec. `containers` are given where they do not stand in the spec at `path`."""
    if containers is None:
        containers = containers_of(spec, path)
    annotations = look.texts(metadata, "annotations")
    return PodSet(
        name=name,
        role=role or roles.of_containers(containers, default_role),
        num_pods=num_pods,
        path=path,
        metadata_path=metadata_path,
        spec=spec,
        labels=look.texts(metadata, "labels"),
        annotations=annotations,
        containers=containers,
        topology=(
            *wishes.of_annotations(annotations, (*metadata_path, "annotations")),
            *wishes.of_affinity(spec, path),
            *topology,
        ),
        pod_requests=requested(spec) if "resources" in spec else NONE,
        overhead=amounts(look.mapping(spec, "overhead")) if "overhead" in spec else NONE,
        is_written=is_written,
    )


def workload(
    document: Document,
    pod_sets: Sequence[PodSet],
    replicas: Replicas = ONE,
    *,
    gang: Gang = Gang.NEVER,
    queue_paths: Sequence[Path] = (),
    priority_class: str = "",
) -> Workload:
    """The workload of a document. Its queue is the label of the object, or else of one of `queue_paths` (metadata)."""
    queue, queue_path = _queue(document, (("metadata",), *queue_paths))
    classes = (look.text(pod_set.spec, "priorityClassName") for pod_set in pod_sets)
    return Workload(
        document=document,
        kind=document.kind,
        name=document.name,
        namespace=namespace_of(document),
        pod_sets=_with_owners_wishes(document, pod_sets),
        replicas=replicas,
        is_gang=is_gang(gang, pod_sets, is_queued=bool(queue)),
        queue=queue,
        queue_path=queue_path,
        priority_class=priority_class or next((one for one in classes if one), ""),
    )


def fixed(document: Document, path: Path, default: int = 1) -> Replicas:
    """A number of copies that stands at `path` and that nobody changes."""
    number = look.count(document.obj, *path, default=default)
    return Replicas(min=number, max=number, path=look.nearest(document.obj, path))


def _with_owners_wishes(document: Document, pod_sets: Sequence[PodSet]) -> tuple[PodSet, ...]:
    """The pods with the wishes of their object's annotations that its scheduler reads there: KAI's."""
    annotations = look.texts(document.obj, "metadata", "annotations")
    path: Path = ("metadata", "annotations")
    own = [wish for wish in wishes.of_annotations(annotations, path) if wish.source == "kai"] if annotations else []
    if not own:
        return tuple(pod_sets)
    return tuple(
        replace(pods, topology=(*pods.topology, *(wish for wish in own if wish not in pods.topology)))
        for pods in pod_sets
    )


def _queue(document: Document, places: Sequence[Path]) -> tuple[str, Path]:
    for place in places:
        path = (*place, "labels", QUEUE_LABEL)
        name = look.text(document.obj, *path)
        if name:
            return name, path
    return "", ()
