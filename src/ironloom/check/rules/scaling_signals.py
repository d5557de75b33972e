"""What an autoscaler looks at, and whether that says anything of a server on GPUs."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from ironloom.check import look, pods
from ironloom.check.finding import Confidence, Severity
from ironloom.check.rule import Context, Problem, Source, problem, rule
from ironloom.check.rules.deprecated import metric_texts
from ironloom.check.scalers import gpu_servers, metrics, scaler, target_of, triggers
from ironloom.workload.manifests.document import Document
from ironloom.workload.manifests.schema import Path
from ironloom.workload.workload import Workload

LLM_SERVERS = frozenset({"vllm", "sglang", "trtllm", "tgi", "huggingfaceserver"})
RESOURCES = frozenset({"cpu", "memory"})
KNATIVE_MODES = frozenset({"Knative", "Serverless"})
_ENGINE_METRIC = re.compile(
    r"\b(?:vllm|sglang)[:_](?:num_requests_(?:waiting|running)|kv_cache_usage_perc|gpu_cache_usage_perc|num_queue_reqs|"
    r"num_running_reqs|token_usage|(?:time_to_first_token|e2e_request_latency|inter_token_latency)_seconds)"
)
_GPU_UTILIZATION = re.compile(
    r"\bDCGM_FI_DEV_GPU_UTIL\b|\bDCGM_FI_PROF_(?:SM_ACTIVE|GR_ENGINE_ACTIVE)\b|\bduty_cycle\b"
)
_EXPRESSION = re.compile(r"or\s+vector\s*\(|absent\s*\(", re.I)

_SERVER = """\
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
        args: [--model, Qwen/Qwen3-8B]
        resources:
          requests:
            cpu: "8"
          limits:
            nvidia.com/gpu: 1
---
"""
_WITHOUT_CPU = _SERVER.replace('          requests:\n            cpu: "8"\n', "")
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
  metrics:
"""
_BY_CPU = """\
  - type: Resource
    resource:
      name: cpu
      target:
        type: Utilization
        averageUtilization: 60
"""
_BY_QUEUE = """\
  - type: Pods
    pods:
      metric:
        name: vllm_num_requests_waiting
      target:
        type: AverageValue
        averageValue: "5"
"""


def _keda(low: int, query: str, threshold: str = "5") -> str:
    return f"""\
apiVersion: keda.sh/v1alpha1
kind: ScaledObject
metadata:
  name: llama
spec:
  scaleTargetRef:
    name: llama
  minReplicaCount: {low}
  maxReplicaCount: 4
  triggers:
  - type: prometheus
    metadata:
      serverAddress: http://prometheus:9090
      query: {query}
      threshold: "{threshold}"
"""


@rule(
    id="IL510",
    name="gpu-server-scaled-by-cpu",
    family="autoscaling",
    severity=Severity.WARNING,
    subject=Document,
    summary="a server on GPUs that is scaled by its CPU or memory",
    why="What fills up on such a server is the GPU's KV cache and the queue before it. Its processes use a core or two "
    "whether one request runs or a hundred, and its memory is taken at the start: the autoscaler sees nothing, and "
    "requests wait. Scale by requests that wait or run, or by the use of the KV cache.",
    bad=f"{_SERVER}{_HPA}{_BY_CPU}",
    good=f"{_SERVER}{_HPA}{_BY_QUEUE}",
    sources=(
        Source("https://github.com/pmady/keda-gpu-scaler/issues/12", "the queue is the signal, not utilisation"),
        Source(
            "https://docs.vllm.ai/projects/production-stack/en/latest/use_cases/autoscaling-keda.html",
            "vLLM scaled by requests that wait",
        ),
    ),
)
def gpu_server_scaled_by_cpu(document: Document, context: Context) -> Iterator[Problem]:
    own = scaler(document)
    workload = target_of(own, context) if own is not None else None
    if own is not None and workload is not None and any(gpu_servers(workload)):
        seen = _resources(document, is_keda=own.is_keda)
        if seen is not None:
            path, said = seen
            yield _by_cpu(document, path, f"{own.kind} {own.name}", said)
    if document.kind == "InferenceService":
        for one in context.made_by(document):
            if one.replicas.decider == "kserve-hpa" and any(gpu_servers(one)):
                yield from _kserve_by_cpu(document, one)


def _resources(document: Document, *, is_keda: bool) -> tuple[Path, str] | None:
    """Where an autoscaler says that it looks at cpu or memory and at nothing else, and in what words."""
    if is_keda:
        kinds = [(path, look.text(trigger, ("type",))) for path, trigger in triggers(document)]
    elif document.api_version == "autoscaling/v1":
        return ("spec", "targetCPUUtilizationPercentage"), "cpu"
    else:
        kinds = [(path, _resource(metric)) for path, metric in metrics(document)]
        if not kinds:
            return ("spec",), "cpu, the default"
    if kinds and all(kind in RESOURCES for _, kind in kinds):
        return kinds[0][0], " and ".join(dict.fromkeys(kind for _, kind in kinds))
    return None


def _resource(metric: Mapping[str, Any]) -> str:
    for part in ("resource", "containerResource"):
        name = look.text(metric, (part, "name"))
        if name:
            return name
    return "other"


def _kserve_by_cpu(document: Document, workload: Workload) -> Iterator[Problem]:
    component = str(workload.pod_sets[0].path[1]) if len(workload.pod_sets[0].path) > 1 else "predictor"
    path: Path = ("spec", component)
    spec = look.mapping(document.obj, path)
    low, high = look.integer(spec, ("minReplicas",)), look.integer(spec, ("maxReplicas",)) or 0
    if high <= (1 if low is None else low) or look.entries(spec, ("autoScaling", "metrics")):
        return
    metric = look.text(spec, ("scaleMetric",)) or "cpu"
    if metric in RESOURCES:
        said = metric if "scaleMetric" in spec else "cpu, the default"
        at: Path = (*path, "scaleMetric") if "scaleMetric" in spec else (*path, "maxReplicas")
        yield _by_cpu(document, at, f"the {component}", said)


def _by_cpu(document: Document, path: Path, what: str, said: str) -> Problem:
    return problem(
        document,
        path,
        f"{what} serves on GPUs and is scaled by {said}, which says nothing of its load",
        confidence=Confidence.LIKELY,
        help="scale by vllm:num_requests_waiting or the engine's like",
    )


@rule(
    id="IL511",
    name="scaled-by-gpu-utilization",
    family="autoscaling",
    severity=Severity.WARNING,
    subject=Document,
    summary="a server that is scaled by the utilisation of its GPUs",
    why="DCGM's GPU_UTIL is the share of time in which any kernel runs. One request that decodes keeps it near 100 %, "
    "so the autoscaler grows to its most and stays there, whatever the load. Requests that wait, or the share of the "
    "KV cache in use, follow it.",
    bad=f"{_SERVER}{_keda(1, 'avg(DCGM_FI_DEV_GPU_UTIL)', '70')}",
    good=f"{_SERVER}{_keda(1, 'avg(vllm:num_requests_waiting)')}",
    sources=(
        Source("https://github.com/NVIDIA/dcgm-exporter/issues/301", "one request makes the utilisation high"),
        Source("https://github.com/pmady/keda-gpu-scaler/issues/28", "the queue tells more than the utilisation"),
    ),
)
def scaled_by_gpu_utilization(document: Document, context: Context) -> Iterator[Problem]:
    own = scaler(document)
    workload = target_of(own, context) if own is not None else None
    if workload is None or not any(gpu_servers(workload)):
        return
    found = [(path, match[0]) for path, text in metric_texts(document) if (match := _GPU_UTILIZATION.search(text))]
    others = [text for _, text in metric_texts(document) if _ENGINE_METRIC.search(text)]
    if found and not others:
        path, metric = found[0]
        message = f"{metric} is high as soon as one request runs: {workload.name} is scaled to its most and stays there"
        yield problem(document, path, message, confidence=Confidence.LIKELY)


@rule(
    id="IL512",
    name="no-signal-at-zero",
    family="autoscaling",
    severity=Severity.ERROR,
    subject=Document,
    summary="a scale to zero by metrics that only a running replica has",
    why="At zero replicas there is no engine, and its metrics are not there: the query is empty, KEDA takes that for "
    "nothing to do, and no request ever wakes the service. It needs a trigger that is there without a replica: the "
    "requests that a gateway or router holds, KEDA's http add-on, a queue's length. minReplicaCount is 0 by default.",
    bad=_keda(0, "sum(vllm:num_requests_waiting)"),
    good=_keda(1, "sum(vllm:num_requests_waiting)"),
    sources=(
        Source("https://github.com/vllm-project/production-stack/pull/679", "a router's metric to scale up from zero"),
        Source("https://github.com/volcano-sh/kthena/issues/1019", "metrics of running pods cannot scale from zero"),
        Source("https://keda.sh/docs/latest/reference/scaledobject-spec/#minreplicacount", "the default is 0"),
        Source(
            "https://github.com/kedacore/keda/blob/v2.20.2/apis/keda/v1alpha1/scaledobject_webhook.go",
            "cpu and memory alone cannot scale to zero, and KEDA refuses it",
        ),
    ),
)
def no_signal_at_zero(document: Document, _context: Context) -> Iterator[Problem]:
    own = scaler(document)
    if own is None or not own.is_keda:
        return
    idle = look.integer(document.obj, ("spec", "idleReplicaCount"))
    if own.min_replicas > 0 and idle != 0:
        return
    found = list(triggers(document))
    path = own.min_path if own.min_replicas == 0 else ("spec", "idleReplicaCount")
    kinds = [look.text(trigger, ("type",)) for _, trigger in found]
    where = f"{own.kind} {own.name}"
    is_said = look.at(document.obj, path) is not None
    if kinds and all(kind in RESOURCES for kind in kinds):
        said = f"{where} cannot come back from zero: {' and '.join(sorted(set(kinds)))} of no pods says nothing"
        yield problem(document, path, said, help="" if is_said else "minReplicaCount is 0 by default")
    elif found and all(_is_of_engine(trigger) for _, trigger in found):
        query = look.text(found[0][1], ("metadata", "query"))
        match = _ENGINE_METRIC.search(query)
        yield problem(
            document,
            path,
            f"{where} cannot come back from zero: {match[0] if match else query} is a metric of its own replicas",
            confidence=Confidence.LIKELY,
            help=("" if is_said else "minReplicaCount is 0 by default; ") + "add a trigger on held requests, or keep 1",
        )


def _is_of_engine(trigger: Mapping[str, Any]) -> bool:
    query = look.text(trigger, ("metadata", "query"))
    names = set(re.findall(r"\b(?:vllm|sglang)[:_][a-z0-9_]+", query))
    return (
        look.text(trigger, ("type",)) == "prometheus"
        and bool(names)
        and all(_ENGINE_METRIC.match(name) for name in names)
        and not _EXPRESSION.search(query)
    )


@rule(
    id="IL513",
    name="target-zero",
    family="autoscaling",
    severity=Severity.ERROR,
    subject=Document,
    summary="an autoscaler's target of zero",
    why="The number of replicas is the metric divided by the target: by zero there is none. The API server refuses it "
    "in a HorizontalPodAutoscaler, KEDA in a trigger.",
    bad=_keda(1, "avg(vllm:num_requests_waiting)", "0"),
    good=_keda(1, "avg(vllm:num_requests_waiting)", "1"),
    sources=(
        Source(
            "https://kubernetes.io/docs/tasks/run-application/horizontal-pod-autoscale/#algorithm-details",
            "the metric divided by what is desired",
        ),
        Source(
            "https://github.com/kubernetes/kubernetes/blob/master/pkg/apis/autoscaling/validation/validation.go",
            "targets must be positive",
        ),
    ),
)
def target_zero(document: Document, _context: Context) -> Iterator[Problem]:
    for path, metric in metrics(document) if document.kind == "HorizontalPodAutoscaler" else ():
        for part, source in metric.items():
            for field, value in look.mapping(source, ("target",)).items():
                if field != "type" and str(value) in {"0", "0m", "0.0"}:
                    yield problem(document, (*path, part, "target", field), f"the target {field} is {value}")
    for path, trigger in triggers(document) if document.kind == "ScaledObject" else ():
        for field in ("threshold", "value", "targetValue", "targetQueueLength", "queueLength"):
            if look.text(trigger, ("metadata", field)) in {"0", "0.0"}:
                yield problem(document, (*path, "metadata", field), f"the trigger's {field} is 0")


@rule(
    id="IL514",
    name="cpu-target-without-request",
    family="autoscaling",
    severity=Severity.WARNING,
    subject=Document,
    summary="a target in per cent of a request that a container does not have",
    why="Utilisation is per cent of what a pod requests. Where one of its containers requests none, the autoscaler "
    "says `missing request for cpu` and does nothing. (A LimitRange of the namespace may fill it in.)",
    bad=f"{_WITHOUT_CPU}{_HPA}{_BY_CPU}{_BY_QUEUE}",
    good=f"{_SERVER}{_HPA}{_BY_CPU}{_BY_QUEUE}",
    sources=(
        Source(
            "https://kubernetes.io/docs/tasks/run-application/horizontal-pod-autoscale/#how-does-a-horizontalpodautoscaler-work",
            "without the request the utilisation is not defined, and the autoscaler takes no action",
        ),
    ),
)
def cpu_target_without_request(document: Document, context: Context) -> Iterator[Problem]:
    own = scaler(document)
    workload = target_of(own, context) if own is not None and not own.is_keda else None
    if workload is None or own is None:
        return
    for path, metric in metrics(document):
        name = look.text(metric, ("resource", "name"))
        if name not in RESOURCES or look.integer(metric, ("resource", "target", "averageUtilization")) is None:
            continue
        for pod_set in workload.pod_sets:
            bare = [one for one in pods.main_containers(pod_set) if not one.requests.get(name)]
            if bare:
                yield problem(
                    document,
                    (*path, "resource", "target", "averageUtilization"),
                    f"the container {bare[0].name!r} of {workload.kind} {workload.name} requests no {name}, and "
                    "per cent of nothing is not defined",
                    confidence=Confidence.LIKELY,
                )
