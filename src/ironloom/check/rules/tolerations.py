"""Tolerations that contradict themselves, of pods and of Kueue's flavors."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ironloom.check import look
from ironloom.check.fields import PLACEHOLDER, is_part
from ironloom.check.finding import Severity
from ironloom.check.rule import Context, Problem, Source, problem, rule
from ironloom.check.rules.pod_parts import VALIDATION, whole_pods
from ironloom.workload.manifests.document import Document
from ironloom.workload.manifests.schema import Path
from ironloom.workload.workload import Workload


def _tolerating(lines: str) -> str:
    return f"""\
apiVersion: v1
kind: Pod
metadata:
  name: llama
spec:
  tolerations:
{lines}  containers:
  - name: main
    image: vllm/vllm-openai:v0.11.0
"""


@rule(
    id="IL028",
    name="toleration-contradicts-itself",
    family="schema",
    severity=Severity.ERROR,
    subject=Workload,
    summary="a toleration with a value and Exists, without a key and Equal, or with seconds and no NoExecute",
    why="Exists asks for the key alone, so that a value beside it says two things; without a key only Exists has a "
    "meaning; tolerationSeconds counts from a NoExecute taint. The API server refuses the pod: of a Deployment the "
    "object, of a JobSet the jobs' pods.",
    bad=_tolerating("  - key: nvidia.com/gpu\n    operator: Exists\n    value: present\n    effect: NoSchedule\n"),
    good=_tolerating("  - key: nvidia.com/gpu\n    operator: Exists\n    effect: NoSchedule\n"),
    sources=(
        VALIDATION,
        Source(
            "https://kubernetes.io/docs/concepts/scheduling-eviction/taint-and-toleration/",
            "with Exists no value should be specified; an empty key needs Exists",
        ),
    ),
)
def toleration_contradicts_itself(workload: Workload, context: Context) -> Iterator[Problem]:
    for pod_set, spec in whole_pods(workload, context):
        yield from _tolerations(workload.document, (*pod_set.path, "tolerations"), look.entries(spec, ("tolerations",)))


@rule(
    id="IL633",
    name="flavor-toleration-contradicts-itself",
    family="queue",
    severity=Severity.ERROR,
    subject=Document,
    summary="a ResourceFlavor's toleration or taint that no pod could have",
    why="Kueue adds the flavor's tolerations to the pods that it admits. They keep to the same rules as a pod's own, "
    "and the API server refuses the flavor: Exists without a value, a key unless Exists, seconds with NoExecute.",
    bad="""\
apiVersion: kueue.x-k8s.io/v1beta2
kind: ResourceFlavor
metadata:
  name: h100
spec:
  tolerations:
  - key: nvidia.com/gpu
    operator: Exists
    value: present
""",
    good="""\
apiVersion: kueue.x-k8s.io/v1beta2
kind: ResourceFlavor
metadata:
  name: h100
spec:
  tolerations:
  - key: nvidia.com/gpu
    operator: Exists
""",
    sources=(
        Source(
            "https://github.com/kubernetes-sigs/kueue/blob/main/apis/kueue/v1beta2/resourceflavor_types.go",
            "the rules of tolerations in the definition",
        ),
    ),
)
def flavor_toleration_contradicts_itself(document: Document, context: Context) -> Iterator[Problem]:
    if document.kind != "ResourceFlavor" or look.group(document) != "kueue.x-k8s.io" or is_part(document, context):
        return
    path: Path = ("spec", "tolerations")
    yield from _tolerations(document, path, look.entries(document.obj, path))


def _tolerations(document: Document, path: Path, tolerations: list[Any]) -> Iterator[Problem]:
    for index, one in enumerate(tolerations):
        if not isinstance(one, Mapping) or any(PLACEHOLDER.search(str(value)) for value in one.values()):
            continue
        operator, key = one.get("operator") or "Equal", one.get("key")
        if operator == "Exists" and one.get("value"):
            yield problem(
                document,
                (*path, index, "value"),
                f"a toleration with operator Exists has no value, and this one has {one['value']}",
                help="leave the value out, which tolerates the key with any value; or write operator: Equal",
            )
        if not key and operator == "Equal" and set(one) & {"operator", "value", "effect", "key"}:
            where = (*path, index, "operator") if "operator" in one else (*path, index)
            yield problem(
                document, where, "a toleration without a key needs operator: Exists", help="name the taint's key"
            )
        if one.get("tolerationSeconds") is not None and one.get("effect") != "NoExecute":
            where = (*path, index, "tolerationSeconds")
            yield problem(document, where, "tolerationSeconds needs effect: NoExecute", at_key=True)
