"""Kueue's own Workload, kueue.x-k8s.io: what it makes of a job, which people write only for pods of their own.

Source: https://github.com/kubernetes-sigs/kueue/blob/main/apis/kueue/v1beta2/workload_types.go
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from msgspec.structs import replace

from ironloom.workload import look
from ironloom.workload.kinds.around import Around
from ironloom.workload.kinds.build import MAIN, of_template, workload
from ironloom.workload.kinds.gangs import Gang
from ironloom.workload.kinds.kind import Kind
from ironloom.workload.manifests.document import Document
from ironloom.workload.manifests.schema import Path
from ironloom.workload.workload import Role, TopologyWish, Workload

QUEUE: Path = ("spec", "queueName")


def kueue_workload(document: Document, _around: Around) -> Iterator[Workload]:
    """One set of pods for each of its podSets."""
    pod_sets = [
        of_template(
            document,
            ("spec", "podSets", number, "template"),
            name=look.text(pods, "name") or MAIN,
            num_pods=look.count(pods, "count"),
            default_role=Role.BATCH,
            topology=_wishes(look.mapping(pods, "topologyRequest"), ("spec", "podSets", number, "topologyRequest")),
        )
        for number, pods in look.mappings(document.obj, "spec", "podSets")
    ]
    named = look.text(document.obj, "spec", "priorityClassName")
    priority = named or look.text(document.obj, "spec", "priorityClassRef", "name")
    made = workload(document, pod_sets, gang=Gang.ALWAYS, priority_class=priority)
    queue = look.text(document.obj, *QUEUE)
    yield replace(made, queue=queue, queue_path=QUEUE) if queue else made


def _wishes(request: Mapping[str, Any], path: Path) -> Iterator[TopologyWish]:
    slice_key = look.text(request, "podSetSliceRequiredTopology")
    slice_size = look.count(request, "podSetSliceSize", default=0)
    names = [name for name in ("required", "preferred") if look.text(request, name)]
    for name in names or (["podSetSliceRequiredTopology"] if slice_key else []):
        yield TopologyWish(
            key=look.text(request, name) if names else "",
            is_required=name == "required",
            source="kueue",
            path=(*path, name),
            slice_key=slice_key,
            slice_size=slice_size,
        )


KINDS = (
    Kind(
        group="kueue.x-k8s.io",
        name="Workload",
        read=kueue_workload,
        pods="one set an entry of podSets",
        gang="more than one pod",
        source="https://github.com/kubernetes-sigs/kueue/blob/main/apis/kueue/v1beta2/workload_types.go",
    ),
)
