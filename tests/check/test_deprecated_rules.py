"""What is deprecated is told with what a change of the word would miss."""

from __future__ import annotations

import pytest
from tests.fakes.checking import findings

from ironloom.check import registry
from ironloom.check.engine import Setting, check
from ironloom.check.finding import Severity
from ironloom.check.inputs import read_texts

QUEUE = """\
apiVersion: kueue.x-k8s.io/v1beta1
kind: ClusterQueue
metadata:
  name: a
spec:
  namespaceSelector: {{}}{more}
  resourceGroups:
  - coveredResources: [cpu]
    flavors:
    - name: d
      resources:
      - name: cpu
        nominalQuota: 3
"""


def test_a_field_that_the_newer_version_lacks_is_named() -> None:
    (plain,) = findings(QUEUE.format(more=""), "IL902")
    assert plain.evidence == ()
    assert plain.patch is not None
    assert plain.patch.is_safe
    (changed,) = findings(QUEUE.format(more="\n  admissionChecks: [slices]"), "IL902")
    assert changed.evidence == ("in kueue.x-k8s.io/v1beta2 spec has no field 'admissionChecks'",)
    assert changed.patch is not None
    assert not changed.patch.is_safe


@pytest.mark.parametrize(("kind", "since"), [("PyTorchJob", "2.0"), ("JAXJob", "2.2"), ("XGBoostJob", "2.2")])
def test_a_training_job_has_a_successor_since_trainer_has_a_runtime_for_it(kind: str, since: str) -> None:
    (found,) = findings(f"apiVersion: kubeflow.org/v1\nkind: {kind}\nmetadata: {{name: a}}\nspec: {{}}\n", "IL902")
    assert f"Kubeflow Trainer {since}:" in found.message


@pytest.mark.parametrize(("more", "is_told"), [("", True), ("\n  selector: {matchLabels: {a: b}}", False)])
def test_a_claim_of_a_volume_made_by_hand_binds_its_pods_to_no_node(more: str, is_told: bool) -> None:
    manifest = f"""\
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {{name: models}}
spec:
  accessModes: [ReadWriteOnce]
  resources: {{requests: {{storage: 10Gi}}}}{more}
---
apiVersion: apps/v1
kind: Deployment
metadata: {{name: a}}
spec:
  replicas: 2
  selector: {{matchLabels: {{a: b}}}}
  template:
    metadata: {{labels: {{a: b}}}}
    spec:
      containers:
      - name: main
        image: vllm/vllm-openai:v0.20.0
        resources: {{limits: {{nvidia.com/gpu: 1}}}}
      volumes:
      - name: models
        persistentVolumeClaim: {{claimName: models}}
"""
    assert bool(findings(manifest, "IL522")) is is_told


@pytest.mark.parametrize(
    ("annotations", "told"),
    [
        ("{autoscaling.knative.dev/minScale: '1'}", [("IL907", Severity.NOTE)]),
        (
            "{autoscaling.knative.dev/minScale: '1', autoscaling.knative.dev/min-scale: '2'}",
            [("IL907", Severity.WARNING)],
        ),
        ("{autoscaling.knative.dev/min-scale: '1', autoscaling.knative.dev/target: '2'}", []),
        ("{example.com/minScale: '1', 3: 4}", []),
    ],
)
def test_knatives_annotations_are_written_with_dashes(annotations: str, told: list[tuple[str, Severity]]) -> None:
    text = (
        "apiVersion: serving.knative.dev/v1\nkind: Service\nmetadata:\n  name: a\nspec:\n  template:\n    metadata:\n"
    )
    text += f"      annotations: {annotations}\n    spec:\n      containers:\n      - image: a:1\n"
    result = check(read_texts({"a.yaml": text}), registry.select(["IL907"]), Setting())
    assert [(finding.rule, finding.severity) for finding in result.findings] == told
