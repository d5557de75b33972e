"""Volcano's Job, batch.volcano.sh.

Source: https://github.com/volcano-sh/apis/blob/master/pkg/apis/batch/v1alpha1/job.go
"""

from __future__ import annotations

from collections.abc import Iterator

from msgspec.structs import replace

from ironloom.workload import look
from ironloom.workload.kinds import wishes
from ironloom.workload.kinds.around import Around
from ironloom.workload.kinds.build import of_template, workload
from ironloom.workload.kinds.kind import Kind
from ironloom.workload.manifests.document import Document
from ironloom.workload.workload import Role, Workload


def job(document: Document, _around: Around) -> Iterator[Workload]:
    """One set of pods a task; minAvailable of them must run at once, all where it is not said."""
    spec = look.mapping(document.obj, "spec")
    whole = list(wishes.of_volcano(look.mapping(spec, "networkTopology"), ("spec", "networkTopology")))
    pod_sets = [
        of_template(
            document,
            ("spec", "tasks", number, "template"),
            name=look.text(task, "name") or f"task-{number}",
            num_pods=look.count(task, "replicas"),
            default_role=Role.BATCH,
            topology=whole,
        )
        for number, task in look.mappings(spec, "tasks")
    ]
    num_pods = sum(pods.num_pods for pods in pod_sets)
    made = workload(document, pod_sets, priority_class=look.text(spec, "priorityClassName"))
    yield replace(made, is_gang=num_pods > 1 and look.count(spec, "minAvailable", default=num_pods) > 1)


KINDS = (
    Kind(
        group="batch.volcano.sh",
        name="Job",
        read=job,
        pods="one set a task",
        gang="minAvailable above 1, which all is without it",
        source="https://github.com/volcano-sh/apis/blob/master/pkg/apis/batch/v1alpha1/job.go",
    ),
)
