"""Knative's Service, serving.knative.dev.

Source: https://knative.dev/docs/serving/autoscaling/scale-bounds/
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from ironloom.workload import look
from ironloom.workload.kinds.around import Around
from ironloom.workload.kinds.build import of_template, workload
from ironloom.workload.kinds.kind import Kind
from ironloom.workload.manifests.document import Document
from ironloom.workload.manifests.schema import Path
from ironloom.workload.workload import Replicas, Role, Workload

TEMPLATE: Path = ("spec", "template")
AUTOSCALING = "autoscaling.knative.dev/"
MIN_SCALE = ("min-scale", "minScale")
MAX_SCALE = ("max-scale", "maxScale")


def service(document: Document, _around: Around) -> Iterator[Workload]:
    """The pods of a revision, whose number requests decide."""
    annotations = look.texts(document.obj, *TEMPLATE, "metadata", "annotations")
    low, path = _bound(annotations, MIN_SCALE)
    high, _ = _bound(annotations, MAX_SCALE)
    base: Path = (*TEMPLATE, "metadata", "annotations", path)
    replicas = Replicas(
        min=low, max=high or None, path=look.nearest(document.obj, base if path else TEMPLATE), decider="knative"
    )
    yield workload(document, (of_template(document, TEMPLATE, default_role=Role.OTHER),), replicas)


def _bound(annotations: Mapping[str, str], names: tuple[str, ...]) -> tuple[int, str]:
    for name in names:
        value = annotations.get(AUTOSCALING + name, "")
        if value.isascii() and value.isdecimal() and len(value) < 10:
            return int(value), AUTOSCALING + name
    return 0, ""


KINDS = (
    Kind(
        group="serving.knative.dev",
        name="Service",
        read=service,
        pods="one a replica",
        source="https://github.com/knative/serving/tree/main/pkg/apis/serving/v1",
    ),
)
