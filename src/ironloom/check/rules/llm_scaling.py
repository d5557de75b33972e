"""Who decides the number of replicas of an LLMInferenceService.

These are expressions of KServe's definition (x-kubernetes-validations), which the API server evaluates beside types and
required fields.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ironloom.check import look
from ironloom.check.fields import is_part
from ironloom.check.finding import Severity
from ironloom.check.rule import Context, Problem, Source, problem, rule
from ironloom.workload.manifests.document import Document
from ironloom.workload.manifests.schema import Path

_LLM = """\
apiVersion: serving.kserve.io/v1alpha2
kind: LLMInferenceService
metadata:
  name: qwen
spec:
  model:
    uri: hf://Qwen/Qwen3-8B
{lines}"""
_KEDA = """\
  scaling:
    minReplicas: 1
    maxReplicas: 4
    keda:
      triggers:
      - type: prometheus
        metadata:
          serverAddress: http://prometheus:9090
          query: sum(vllm:num_requests_waiting)
          threshold: "5"
"""


@rule(
    id="IL027",
    name="llm-scaling-contradicts-itself",
    family="schema",
    severity=Severity.ERROR,
    subject=Document,
    summary="an LLMInferenceService whose scaling has two deciders, or none",
    why="The number of replicas is either written (replicas) or decided (scaling), and scaling names one decider: KEDA "
    "by triggers of its own, or the workload variant autoscaler, which in turn acts through an HPA or through KEDA. "
    "The API server refuses both of two and neither.",
    bad=_LLM.format(lines="  replicas: 2\n" + _KEDA),
    good=_LLM.format(lines=_KEDA),
    sources=(
        Source(
            "https://github.com/kserve/kserve/blob/v0.20.0/pkg/apis/serving/v1alpha2/llm_inference_service_types.go",
            "replicas and scaling are mutually exclusive, and the rules of ScalingSpec",
        ),
    ),
)
def llm_scaling_contradicts_itself(document: Document, context: Context) -> Iterator[Problem]:
    if document.kind not in {"LLMInferenceService", "LLMInferenceServiceConfig"} or is_part(document, context):
        return
    for part in (("spec",), ("spec", "prefill")):
        spec = look.mapping(document.obj, part)
        if not isinstance(spec.get("scaling"), Mapping):
            continue
        path: Path = (*part, "scaling")
        if spec.get("replicas") is not None:
            yield problem(
                document,
                (*part, "replicas"),
                "replicas beside scaling: the number is either written or decided",
                at_key=True,
                help="leave replicas out, and say minReplicas in scaling",
            )
        yield from _deciders(document, path, spec["scaling"])


def _deciders(document: Document, path: Path, scaling: Mapping[str, Any]) -> Iterator[Problem]:
    wva, keda = scaling.get("wva"), scaling.get("keda")
    if wva is not None and keda is not None:
        yield problem(document, (*path, "keda"), "scaling has wva and keda: it can have one", at_key=True)
    elif wva is None and keda is None:
        yield problem(document, path, "scaling names no decider: neither wva nor keda", at_key=True)
    if isinstance(wva, Mapping):
        acting = [name for name in ("hpa", "keda") if wva.get(name) is not None]
        if len(acting) != 1:
            said = "has hpa and keda: it acts through one" if acting else "acts through nothing: name hpa or keda"
            yield problem(document, (*path, "wva"), f"wva {said}", at_key=True)
        yield from _keda(document, (*path, "wva", "keda"), wva.get("keda"), scaling)
        modifiers = look.mapping(wva, ("keda", "advanced", "scalingModifiers"))
        for name in ("formula", "target", "activationTarget", "metricType"):
            if modifiers.get(name):
                where = (*path, "wva", "keda", "advanced", "scalingModifiers", name)
                yield problem(document, where, f"{name} must not be set: wva decides by a formula of its own")
    yield from _keda(document, (*path, "keda"), keda, scaling)
    if isinstance(keda, Mapping) and "triggers" in keda and not keda["triggers"]:
        yield problem(document, (*path, "keda", "triggers"), "keda without wva needs a trigger")


def _keda(document: Document, path: Path, keda: object, scaling: Mapping[str, Any]) -> Iterator[Problem]:
    idle = look.integer(keda, ("idleReplicaCount",))
    least = look.integer(scaling, ("minReplicas",))
    least = 1 if least is None else least  # the definition's default
    if idle is not None and idle >= least:
        message = f"idleReplicaCount {idle} must be below minReplicas {least}"
        yield problem(document, (*path, "idleReplicaCount"), message)
    if look.text(keda, ("advanced", "horizontalPodAutoscalerConfig", "name")):
        where = (*path, "advanced", "horizontalPodAutoscalerConfig", "name")
        yield problem(document, where, "the name of the HPA must not be set: KServe's controller names it")
