"""Knative's annotations in the spelling that they had before 1.0."""

from __future__ import annotations

import re
from collections.abc import Iterator

from ironloom.check import look
from ironloom.check.finding import Severity
from ironloom.check.rule import Context, Problem, Source, problem, rule
from ironloom.workload.manifests.document import Document
from ironloom.workload.manifests.schema import Path

PREFIX = "autoscaling.knative.dev/"
OLD = frozenset(
    {
        "initialScale", "maxScale", "metricAggregationAlgorithm", "minScale",
        "panicThresholdPercentage", "panicWindowPercentage", "scaleDownDelay", "scaleToZeroPodRetentionPeriod",
        "targetBurstCapacity", "targetUtilizationPercentage",
    }
)  # fmt: skip
PLACES: tuple[Path, ...] = (
    ("metadata", "annotations"),
    ("spec", "template", "metadata", "annotations"),
    ("spec", "predictor", "annotations"),
    ("spec", "transformer", "annotations"),
    ("spec", "explainer", "annotations"),
)


def _service(key: str) -> str:
    return f"""\
apiVersion: serving.kserve.io/v1beta1
kind: InferenceService
metadata:
  name: llama
  annotations:
    autoscaling.knative.dev/{key}: "1"
spec:
  predictor:
    model:
      modelFormat:
        name: huggingface
      storageUri: hf://Qwen/Qwen3-8B
"""


@rule(
    id="IL907",
    name="knative-key-of-old",
    family="deprecated",
    severity=Severity.NOTE,
    subject=Document,
    summary="an annotation of Knative's autoscaler as it was spelt before 1.0",
    why="Knative writes its annotations with dashes (min-scale) and reads the older form (minScale) as well, for the "
    "time being. Where both stand only the one with dashes counts, which makes an edit of the other a change of "
    "nothing.",
    bad=_service("minScale"),
    good=_service("min-scale"),
    sources=(
        Source(
            "https://github.com/knative/serving/blob/main/pkg/apis/autoscaling/register.go",
            "each key with the older one behind it, in the order that they are read in",
        ),
    ),
)
def knative_key_of_old(document: Document, _context: Context) -> Iterator[Problem]:
    for place in PLACES:
        annotations = look.mapping(document.obj, place)
        for key in annotations:
            name = str(key).removeprefix(PREFIX) if str(key).startswith(PREFIX) else ""
            if name not in OLD:
                continue
            new = PREFIX + re.sub(r"([A-Z])", lambda found: f"-{found[1].lower()}", name)
            is_both = new in annotations
            yield problem(
                document,
                (*place, key),
                f"{key} does not count beside {new}" if is_both else f"{key} is spelt {new} now",
                at_key=True,
                help="leave it out" if is_both else f"write {new}",
                severity=Severity.WARNING if is_both else None,
            )
