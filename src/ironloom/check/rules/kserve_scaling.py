"""KServe's settings of scale, in the mode and shape that they are for."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ironloom.check import look, pods
from ironloom.check.finding import Confidence, Severity
from ironloom.check.rule import Context, Problem, Source, problem, rule
from ironloom.check.rules.autoscaling import AUTOSCALER, COMPONENTS, MODE, STANDARD_MODES
from ironloom.check.rules.scaling_signals import LLM_SERVERS
from ironloom.workload.manifests.document import Document
from ironloom.workload.manifests.schema import Path

KNATIVE_MODES = frozenset({"Knative", "Serverless"})
_ISVC = """\
apiVersion: serving.kserve.io/v1beta1
kind: InferenceService
metadata:
  name: llama
  annotations:
    serving.kserve.io/deploymentMode: {mode}
spec:
  predictor:
{lines}    model:
      modelFormat:
        name: huggingface
      storageUri: hf://Qwen/Qwen3-8B
"""
_STRATEGY = "    deploymentStrategy:\n      type: Recreate\n"


@rule(
    id="IL515",
    name="knative-setting-in-standard-mode",
    family="autoscaling",
    severity=Severity.WARNING,
    subject=Document,
    summary="a setting of Knative's autoscaler where Knative does not run the service",
    why="In KServe's Standard mode a Deployment runs the predictor. containerConcurrency, the metrics concurrency and "
    "rps, and annotations of autoscaling.knative.dev are Knative's, and are passed over.",
    bad="""\
apiVersion: serving.kserve.io/v1beta1
kind: InferenceService
metadata:
  name: llama
  annotations:
    serving.kserve.io/deploymentMode: Standard
    autoscaling.knative.dev/target: "10"
spec:
  predictor:
    model:
      modelFormat:
        name: huggingface
      storageUri: hf://Qwen/Qwen3-8B
""",
    good="""\
apiVersion: serving.kserve.io/v1beta1
kind: InferenceService
metadata:
  name: llama
  annotations:
    serving.kserve.io/deploymentMode: Knative
    autoscaling.knative.dev/target: "10"
spec:
  predictor:
    model:
      modelFormat:
        name: huggingface
      storageUri: hf://Qwen/Qwen3-8B
""",
    sources=(
        Source(
            "https://github.com/kserve/kserve/blob/v0.20.0/pkg/apis/serving/v1beta1/component.go",
            "concurrency and rps are supported by the Knative autoscaler",
        ),
    ),
)
def knative_setting_in_standard_mode(document: Document, _context: Context) -> Iterator[Problem]:
    mode = look.annotation(document, MODE)
    if document.kind != "InferenceService" or mode not in STANDARD_MODES:
        return
    for component in ("", *COMPONENTS):
        path: Path = ("spec", component) if component else ("metadata",)
        for key in look.mapping(document.obj, (*path, "annotations")):
            if key.startswith("autoscaling.knative.dev/") and not key.endswith("/class"):
                message = f"{key} is Knative's and is passed over in {mode} mode"
                yield problem(document, (*path, "annotations", key), message, at_key=True)
        if not component:
            continue
        if look.integer(document.obj, (*path, "containerConcurrency")):
            message = f"containerConcurrency is Knative's and limits nothing in {mode} mode"
            yield problem(document, (*path, "containerConcurrency"), message, at_key=True)
        metric = look.text(document.obj, (*path, "scaleMetric"))
        if metric in {"concurrency", "rps"}:
            message = (
                f"scaleMetric {metric} is Knative's: in {mode} mode it is cpu or memory, or what autoScaling names"
            )
            yield problem(document, (*path, "scaleMetric"), message)


@rule(
    id="IL516",
    name="concurrency-below-batch",
    family="autoscaling",
    severity=Severity.WARNING,
    subject=Document,
    summary="a hard limit of a few requests on an engine that batches hundreds",
    why="An engine such as vLLM decodes many sequences in one pass for little more than the cost of one. "
    "containerConcurrency is the most requests that Knative lets into a pod: with 1 each GPU serves one sequence, and "
    "costs many times as much a token.",
    bad="""\
apiVersion: serving.kserve.io/v1beta1
kind: InferenceService
metadata:
  name: llama
spec:
  predictor:
    containerConcurrency: 1
    model:
      modelFormat:
        name: huggingface
      storageUri: hf://Qwen/Qwen3-8B
      resources:
        limits:
          nvidia.com/gpu: 1
""",
    good="""\
apiVersion: serving.kserve.io/v1beta1
kind: InferenceService
metadata:
  name: llama
spec:
  predictor:
    containerConcurrency: 64
    model:
      modelFormat:
        name: huggingface
      storageUri: hf://Qwen/Qwen3-8B
      resources:
        limits:
          nvidia.com/gpu: 1
""",
    sources=(
        Source(
            "https://knative.dev/docs/serving/autoscaling/concurrency/", "the hard limit, enforced for each replica"
        ),
        Source("https://docs.vllm.ai/en/latest/configuration/optimization/", "max_num_seqs, the sequences of a batch"),
    ),
)
def concurrency_below_batch(document: Document, context: Context) -> Iterator[Problem]:
    mode = look.annotation(document, MODE)
    path: Path = ("spec", "predictor", "containerConcurrency")
    limit = look.integer(document.obj, path)
    if document.kind != "InferenceService" or mode in STANDARD_MODES or limit is None or not 0 < limit < 8:
        return
    for workload in context.made_by(document):
        for pod_set in workload.pod_sets:
            if pod_set.name == "predictor" and pod_set.gpus()[1] and _is_llm(pod_set.containers):
                message = f"at most {limit} request{'s' if limit > 1 else ''} at once reach an engine that batches them"
                yield problem(document, path, message, confidence=Confidence.LIKELY)
                return


def _is_llm(containers: tuple[Any, ...]) -> bool:
    return any(pods.programs(container) & LLM_SERVERS for container in containers)


@rule(
    id="IL517",
    name="autoscaler-of-several-nodes",
    family="autoscaling",
    severity=Severity.ERROR,
    subject=Document,
    summary="an autoscaler for a predictor over several nodes",
    why="KServe scales no predictor with a workerSpec: its webhook refuses every autoscaler class but none (external, "
    "in versions before 0.16).",
    bad="""\
apiVersion: serving.kserve.io/v1beta1
kind: InferenceService
metadata:
  name: llama
  annotations:
    serving.kserve.io/deploymentMode: Standard
    serving.kserve.io/autoscalerClass: hpa
spec:
  predictor:
    model:
      modelFormat:
        name: huggingface
      storageUri: pvc://models/llama
    workerSpec:
      pipelineParallelSize: 2
""",
    good="""\
apiVersion: serving.kserve.io/v1beta1
kind: InferenceService
metadata:
  name: llama
  annotations:
    serving.kserve.io/deploymentMode: Standard
    serving.kserve.io/autoscalerClass: none
spec:
  predictor:
    model:
      modelFormat:
        name: huggingface
      storageUri: pvc://models/llama
    workerSpec:
      pipelineParallelSize: 2
""",
    sources=(
        Source(
            "https://github.com/kserve/kserve/blob/v0.20.0/pkg/apis/serving/v1beta1/inference_service_validation.go",
            "InvalidAutoScalerError: a workerSpec wants the class none",
        ),
        Source("https://github.com/kserve/website/pull/402", "several nodes: the autoscaler must be external, before"),
    ),
)
def autoscaler_of_several_nodes(document: Document, _context: Context) -> Iterator[Problem]:
    if document.kind != "InferenceService" or not look.mapping(document.obj, ("spec", "predictor", "model")):
        return
    if look.at(document.obj, ("spec", "predictor", "workerSpec")) is None:
        return
    path: Path = ("metadata", "annotations", AUTOSCALER)
    written = look.text(document.obj, path)
    if written in {"hpa", "keda"}:
        yield problem(document, path, f"the autoscaler {written} is refused for a predictor over several nodes")


@rule(
    id="IL518",
    name="standard-setting-in-knative-mode",
    family="autoscaling",
    severity=Severity.WARNING,
    subject=Document,
    summary="a setting of a Deployment or its autoscaler where Knative runs the service",
    why="In Knative mode there is no Deployment of KServe's own, and Knative scales it: deploymentStrategy, "
    "autoScaling (which is for a HorizontalPodAutoscaler or KEDA) and the autoscaler class are passed over.",
    bad=_ISVC.format(mode="Knative", lines=_STRATEGY),
    good=_ISVC.format(mode="Standard", lines=_STRATEGY),
    sources=(
        Source(
            "https://github.com/kserve/kserve/blob/v0.20.0/pkg/apis/serving/v1beta1/component.go",
            "deploymentStrategy is for raw deployments alone; autoScaling is backed by HPA or KEDA",
        ),
    ),
)
def standard_setting_in_knative_mode(document: Document, _context: Context) -> Iterator[Problem]:
    mode = look.annotation(document, MODE)
    if document.kind != "InferenceService" or mode not in KNATIVE_MODES:
        return
    for component in COMPONENTS:
        path: Path = ("spec", component)
        for field in ("deploymentStrategy", "autoScaling"):
            if look.mapping(document.obj, (*path, field)):
                message = f"{field} is for a Deployment and its autoscaler, and is passed over in {mode} mode"
                yield problem(document, (*path, field), message, at_key=True)
    scaler = look.annotation(document, AUTOSCALER)
    if scaler in {"hpa", "keda"}:
        path = ("metadata", "annotations", AUTOSCALER)
        message = f"the autoscaler class {scaler} is passed over in {mode} mode: Knative scales the service"
        yield problem(document, path, message, confidence=Confidence.LIKELY)


@rule(
    id="IL519",
    name="target-above-limit",
    family="autoscaling",
    severity=Severity.WARNING,
    subject=Document,
    summary="a target of concurrency above the hard limit",
    why="Knative lets no more than containerConcurrency requests into a pod, and cannot see more than that: with a "
    "target above, the average never comes to it by itself. Knative takes the limit for the target then, so that the "
    "number that is written is not the one that scales.",
    bad=_ISVC.format(mode="Knative", lines="    containerConcurrency: 16\n    scaleTarget: 64\n"),
    good=_ISVC.format(mode="Knative", lines="    containerConcurrency: 64\n    scaleTarget: 48\n"),
    sources=(
        Source("https://knative.dev/docs/serving/autoscaling/concurrency/", "soft and hard limits; the smaller counts"),
    ),
)
def target_above_limit(document: Document, _context: Context) -> Iterator[Problem]:
    if document.kind != "InferenceService" or look.annotation(document, MODE) in STANDARD_MODES:
        return
    for component in COMPONENTS:
        spec = look.mapping(document.obj, ("spec", component))
        limit, target = look.integer(spec, ("containerConcurrency",)), look.integer(spec, ("scaleTarget",))
        metric = look.text(spec, ("scaleMetric",)) or "concurrency"
        if limit and target is not None and target > limit and metric == "concurrency":
            message = f"scaleTarget {target} is above containerConcurrency {limit}, which is what counts then"
            yield problem(document, ("spec", component, "scaleTarget"), message)
