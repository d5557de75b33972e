"""Keys of node labels that are near a well-known one, and are none."""

from __future__ import annotations

from collections.abc import Iterator
from difflib import SequenceMatcher

from ironloom.catalog.node_labels import NODE_LABELS
from ironloom.check import edits
from ironloom.check.finding import Confidence, Edit, Patch, Severity
from ironloom.check.labels import wanted_labels
from ironloom.check.rule import Context, Problem, Source, problem, rule
from ironloom.workload.manifests.suggest import nearest
from ironloom.workload.workload import Workload

_OWN_PREFIXES = frozenset(key.partition("/")[0] for key in NODE_LABELS) - {"nvidia.com"}


@rule(
    id="IL108",
    name="label-key-misspelt",
    family="selection",
    severity=Severity.WARNING,
    subject=Workload,
    summary="a node label that is one or two letters from a well-known one",
    why="Labels of a cloud's or of Kubernetes' own prefix are set by them alone. A key that nobody sets is on no node, "
    "and the pod that selects by it is Pending for ever. With a fleet, its own labels are looked at in place of this.",
    bad="""\
apiVersion: v1
kind: Pod
metadata:
  name: llama
spec:
  nodeSelector:
    node.kubernetes.io/instance_type: gd-8xh100ib-i128
  containers:
  - name: main
    image: vllm/vllm-openai:v0.11.0
    resources:
      limits:
        nvidia.com/gpu: 1
""",
    good="""\
apiVersion: v1
kind: Pod
metadata:
  name: llama
spec:
  nodeSelector:
    node.kubernetes.io/instance-type: gd-8xh100ib-i128
  containers:
  - name: main
    image: vllm/vllm-openai:v0.11.0
    resources:
      limits:
        nvidia.com/gpu: 1
""",
    sources=(
        Source("https://kubernetes.io/docs/reference/labels-annotations-taints/", "labels that Kubernetes sets"),
        Source("https://docs.coreweave.com/products/cks/clusters/scheduling/workload-scheduling", "CoreWeave's"),
    ),
)
def label_key_misspelt(workload: Workload, context: Context) -> Iterator[Problem]:
    if context.fleet is not None and context.fleet.nodes:
        return
    for pod_set in workload.pod_sets:
        for one in wanted_labels(pod_set):
            prefix, _, name = one.key.partition("/")
            if one.key in NODE_LABELS or prefix not in _OWN_PREFIXES or not name:
                continue
            near = nearest(name, {key.partition("/")[2] for key in NODE_LABELS if key.startswith(f"{prefix}/")})
            if near is None or abs(len(near) - len(name)) > 2 or not _is_slip(name, near):
                continue
            place = workload.document.positions.key(one.key_path)
            is_key = one.term is None
            edit = None if is_key else edits.replace(workload.document, one.key_path, f"{prefix}/{near}")
            if is_key and place.end > place.start:
                edit = Edit(start=place.start, end=place.end, text=f"{prefix}/{near}")
            yield problem(
                workload.document,
                one.key_path,
                f"{one.key} is no label that {prefix} is known to set",
                at_key=is_key,
                help=f"did you mean {prefix}/{near}?",
                patch=Patch(title=f"select by {prefix}/{near}", edits=(edit,), is_safe=False) if edit else None,
                confidence=Confidence.LIKELY,
            )


def _is_slip(name: str, near: str) -> bool:
    """Whether two names differ as slips do: a letter or two of a long word, or dashes and case alone. Numbers at the
    end count things: layer-1 and layer-4 are two labels."""
    if name.rstrip("0123456789") == near.rstrip("0123456789"):
        return False
    return SequenceMatcher(None, name, near).ratio() >= 0.9
