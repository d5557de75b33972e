"""Who decides the number of replicas, and whether it can go where it is told to."""

from __future__ import annotations

import posixpath
from collections.abc import Iterator

from ironloom.check import look
from ironloom.check.finding import Confidence, Severity
from ironloom.check.rule import Context, Problem, Source, problem, rule
from ironloom.check.scalers import Scaler, same_namespace, scaler, scaler_of, scalers
from ironloom.workload.manifests.document import Document
from ironloom.workload.manifests.schema import Path
from ironloom.workload.workload import Workload

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


_HPA = """\
apiVersion: autoscaling/v2
kind: HorizontalPodAutoscaler
metadata:
  name: llama
spec:
  scaleTargetRef:
    apiVersion: apps/v1
    kind: Deployment
    name: llama
  minReplicas: 1
  maxReplicas: 4
"""
_KEDA = """\
apiVersion: keda.sh/v1alpha1
kind: ScaledObject
metadata:
  name: llama
spec:
  scaleTargetRef:
    name: llama
  minReplicaCount: 1
  maxReplicaCount: 4
  triggers:
  - type: prometheus
    metadata:
      serverAddress: http://prometheus:9090
      query: sum(vllm:num_requests_waiting)
      threshold: "5"
"""


@rule(
    id="IL502",
    name="two-autoscalers-one-target",
    family="autoscaling",
    severity=Severity.ERROR,
    subject=Document,
    summary="two autoscalers that write one number of replicas",
    why="Each reads its own signal and writes what it thinks right; the number flaps between the two, and on GPUs "
    "every swing is a model load. KEDA makes a HorizontalPodAutoscaler of its own, and refuses a target that has one.",
    bad=f"{_HPA}---\n{_KEDA}",
    good=_KEDA,
    sources=(
        Source("https://github.com/kedacore/keda/issues/3755", "two ScaledObjects on one Deployment flap"),
        Source("https://github.com/fluxcd/flagger/issues/1646", "KEDA refuses a workload that an HPA manages"),
        Source("https://github.com/kedacore/http-add-on/issues/1273", "an HPA beside KEDA takes over"),
    ),
)
def two_autoscalers_one_target(document: Document, context: Context) -> Iterator[Problem]:
    own = scaler(document)
    if own is None:
        return
    for other in scalers(context):
        if other.document is document:
            break  # the later one of two is told
        if _one_target(own, other):
            is_one_file = other.document.file == document.file
            yield problem(
                document,
                own.target_path,
                f"{own.kind} {own.name} is scaled by {other.said} already",
                at_key=True,
                # Files beside each other may be meant for different clusters, or as one in place of the other.
                severity=None if is_one_file else Severity.NOTE,
                confidence=Confidence.CERTAIN if is_one_file else Confidence.POSSIBLE,
                evidence=(f"{other.said}: {other.document.file}",),
                help="keep one; a ScaledObject can have cpu and memory triggers beside others",
            )
            return
    service = _kserve_scaler(own, context)
    if service is not None:
        yield problem(
            document,
            own.target_path,
            f"{own.kind} {own.name} is KServe's, which makes an autoscaler for it itself",
            at_key=True,
            confidence=Confidence.LIKELY,
            help=f"annotate the InferenceService {service.name} with {AUTOSCALER}: external",
        )


def _one_target(one: Scaler, other: Scaler) -> bool:
    if (one.group, one.kind, one.name) != (other.group, other.kind, other.name):
        return False
    if one.document.name == other.document.name and one.is_keda == other.is_keda:
        return False  # two files of one object
    if posixpath.dirname(one.document.file) != posixpath.dirname(other.document.file):
        return False
    return same_namespace(one.document, other.document)


def _kserve_scaler(one: Scaler, context: Context) -> Document | None:
    """The InferenceService whose controller makes the target and an autoscaler for it."""
    name, _, component = one.name.rpartition("-")
    if one.kind != "Deployment" or component not in COMPONENTS:
        return None
    found = context.named("InferenceService", name, look.text(one.document.obj, ("metadata", "namespace")))
    if found is None or look.annotation(found, MODE) not in STANDARD_MODES:
        return None
    return found if look.annotation(found, AUTOSCALER) in {"", "hpa", "keda"} else None


@rule(
    id="IL503",
    name="min-above-max",
    family="autoscaling",
    severity=Severity.ERROR,
    subject=Document,
    summary="a least number of replicas above the most",
    why="The API server, KEDA's webhook or KServe's refuses it. One of the two was raised and the other forgotten.",
    bad=_HPA.replace("minReplicas: 1", "minReplicas: 8"),
    good=_HPA,
    sources=(
        Source(
            "https://github.com/kserve/kserve/blob/v0.20.0/pkg/apis/serving/v1beta1/component.go",
            "'MinReplicas' cannot be greater than MaxReplicas",
        ),
        Source(
            "https://github.com/kedacore/keda/blob/v2.20.2/apis/keda/v1alpha1/scaledobject_types.go",
            "MinReplicaCount must be less than MaxReplicaCount",
        ),
        Source("https://kubernetes.io/docs/tasks/run-application/horizontal-pod-autoscale/", "the bounds of an HPA"),
    ),
)
def min_above_max(document: Document, _context: Context) -> Iterator[Problem]:
    for low_path, high_path in _bounds(document):
        low, high = _count(document, low_path), _count(document, high_path)
        if low is not None and high is not None and low > high > 0:
            yield problem(document, low_path, f"{low_path[-1]} {low} is above {high_path[-1]} {high}")


def _bounds(document: Document) -> Iterator[tuple[Path, Path]]:
    """Pairs of a least and a most number of replicas."""
    match document.kind:
        case "HorizontalPodAutoscaler":
            yield ("spec", "minReplicas"), ("spec", "maxReplicas")
        case "ScaledObject" | "ScaledJob":
            yield ("spec", "minReplicaCount"), ("spec", "maxReplicaCount")
        case "InferenceService":
            for component in COMPONENTS:
                yield ("spec", component, "minReplicas"), ("spec", component, "maxReplicas")
        case "LLMInferenceService":
            for part in (("spec",), ("spec", "prefill")):
                yield (*part, "scaling", "minReplicas"), (*part, "scaling", "maxReplicas")
        case "RayCluster":
            for index, _ in enumerate(look.entries(document.obj, ("spec", "workerGroupSpecs"))):
                group: Path = ("spec", "workerGroupSpecs", index)
                yield (*group, "minReplicas"), (*group, "maxReplicas")
    for place in (("metadata", "annotations"), ("spec", "template", "metadata", "annotations")):
        for low, high in (("min-scale", "max-scale"), ("minScale", "maxScale")):
            yield (*place, f"autoscaling.knative.dev/{low}"), (*place, f"autoscaling.knative.dev/{high}")


def _count(document: Document, path: Path) -> int | None:
    text = look.text(document.obj, path)
    return int(text) if text.isdecimal() and len(text) < 10 else look.integer(document.obj, path)


@rule(
    id="IL504",
    name="idle-replicas-not-below-min",
    family="autoscaling",
    severity=Severity.ERROR,
    subject=Document,
    summary="KEDA's idleReplicaCount that is not 0, or not below minReplicaCount",
    why="idleReplicaCount is what KEDA goes to while no trigger is active. It must be below minReplicaCount, and for "
    "the limits of the HorizontalPodAutoscaler that KEDA makes, 0 is the one value that works.",
    bad=_KEDA.replace("minReplicaCount: 1", "minReplicaCount: 1\n  idleReplicaCount: 1"),
    good=_KEDA.replace("minReplicaCount: 1", "minReplicaCount: 1\n  idleReplicaCount: 0"),
    sources=(
        Source("https://keda.sh/docs/latest/reference/scaledobject-spec/#idlereplicacount", "0 is what is supported"),
        Source(
            "https://github.com/kedacore/keda/blob/v2.20.2/apis/keda/v1alpha1/scaledobject_types.go",
            "IdleReplicaCount must be less than MinReplicaCount",
        ),
    ),
)
def idle_replicas_not_below_min(document: Document, _context: Context) -> Iterator[Problem]:
    if document.kind != "ScaledObject":
        return
    path: Path = ("spec", "idleReplicaCount")
    idle = look.integer(document.obj, path)
    low = look.integer(document.obj, ("spec", "minReplicaCount")) or 0
    if idle is None:
        return
    if idle >= low:
        yield problem(document, path, f"idleReplicaCount {idle} must be below minReplicaCount {low}: KEDA refuses it")
    elif idle > 0:
        yield problem(document, path, f"idleReplicaCount {idle} does not work: 0 is the value that KEDA supports")


@rule(
    id="IL505",
    name="replicas-beside-autoscaler",
    family="autoscaling",
    severity=Severity.NOTE,
    subject=Workload,
    summary="a number of replicas in a workload that an autoscaler scales",
    why="Each apply of the manifest sets the number anew: what the autoscaler had grown to is cut down and grown "
    "again, with a model load for each replica. Leave the field out, and the autoscaler alone writes it.",
    bad=f"""\
apiVersion: apps/v1
kind: Deployment
metadata:
  name: llama
spec:
  replicas: 2
  selector:
    matchLabels:
      app: llama
  template:
    metadata:
      labels:
        app: llama
    spec:
      containers:
      - name: main
        image: vllm/vllm-openai:v0.11.0
---
{_KEDA}""",
    good=f"""\
apiVersion: apps/v1
kind: Deployment
metadata:
  name: llama
spec:
  selector:
    matchLabels:
      app: llama
  template:
    metadata:
      labels:
        app: llama
    spec:
      containers:
      - name: main
        image: vllm/vllm-openai:v0.11.0
---
{_KEDA}""",
    sources=(
        Source(
            "https://kubernetes.io/docs/concepts/workloads/autoscaling/horizontal-pod-autoscale/",
            "remove spec.replicas from what an autoscaler scales",
        ),
        Source("https://github.com/cortexproject/cortex-helm-chart/issues/472", "an outage by a reset of replicas"),
    ),
)
def replicas_beside_autoscaler(workload: Workload, context: Context) -> Iterator[Problem]:
    path: Path = ("spec", "replicas")
    number = look.integer(workload.document.obj, path)
    if number is None:
        return
    one = scaler_of(workload, context)
    if one is None:
        return
    high = one.max_replicas
    is_outside = number > 0 and (number < one.min_replicas or (high is not None and number > high))
    yield problem(
        workload.document,
        path,
        f"replicas {number} is set anew at each apply, and {one.said} scales this {workload.kind}"
        + (f" between {one.min_replicas} and {high}" if is_outside else ""),
        severity=Severity.WARNING if is_outside else None,
        help="leave replicas out",
    )
