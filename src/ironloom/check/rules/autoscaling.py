"""Who decides the number of replicas, and whether it can go where it is told to."""

from __future__ import annotations

from collections.abc import Iterator

from ironloom.check import look
from ironloom.check.finding import Severity
from ironloom.check.rule import Context, Problem, Source, problem, rule
from ironloom.workload.manifests.document import Document

MODE = "serving.kserve.io/deploymentMode"
AUTOSCALER = "serving.kserve.io/autoscalerClass"
STANDARD_MODES = frozenset({"Standard", "RawDeployment"})
COMPONENTS = ("predictor", "transformer", "explainer")


@rule(
    id="IL501",
    name="min-replicas-zero-is-one",
    family="autoscaling",
    severity=Severity.WARNING,
    subject=Document,
    summary="minReplicas 0 where the autoscaler never goes below 1",
    why="In KServe's Standard mode (RawDeployment before) the default autoscaler is a HorizontalPodAutoscaler, whose "
    "least is one replica: KServe reads minReplicas 0 as 1. The GPUs that the manifest gives back at night stay taken "
    "and billed. Knative mode or the autoscaler class keda goes to zero; external leaves the number to another.",
    bad="""\
apiVersion: serving.kserve.io/v1beta1
kind: InferenceService
metadata:
  name: llama
  annotations:
    serving.kserve.io/deploymentMode: Standard
spec:
  predictor:
    minReplicas: 0
    model:
      modelFormat:
        name: huggingface
      storageUri: hf://meta-llama/Llama-3.1-8B-Instruct
""",
    good="""\
apiVersion: serving.kserve.io/v1beta1
kind: InferenceService
metadata:
  name: llama
  annotations:
    serving.kserve.io/deploymentMode: Standard
    serving.kserve.io/autoscalerClass: keda
spec:
  predictor:
    minReplicas: 0
    model:
      modelFormat:
        name: huggingface
      storageUri: hf://meta-llama/Llama-3.1-8B-Instruct
""",
    sources=(
        Source("https://github.com/kserve/kserve/issues/3514", "minReplicas 0 in RawDeployment keeps one replica"),
    ),
)
def min_replicas_zero_is_one(document: Document, _context: Context) -> Iterator[Problem]:
    if document.kind != "InferenceService" or look.annotation(document, MODE) not in STANDARD_MODES:
        return
    if look.annotation(document, AUTOSCALER) not in {"", "hpa"}:
        return
    for component in COMPONENTS:
        path = ("spec", component, "minReplicas")
        if look.integer(document.obj, path) == 0:
            yield problem(
                document,
                path,
                f"minReplicas 0 of the {component} means 1: a HorizontalPodAutoscaler has at least one replica",
                help=f"annotate the object with {AUTOSCALER}: keda, or use Knative mode",
            )
