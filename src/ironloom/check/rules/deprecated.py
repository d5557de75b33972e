"""Versions, names and annotations that were taken away, or that are on their way out."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from ironloom.check import edits, look
from ironloom.check.fields import is_served
from ironloom.check.finding import Confidence, Patch, Severity
from ironloom.check.removed import Removal, removal
from ironloom.check.rule import Context, Problem, Source, problem, rule
from ironloom.workload.manifests import schema
from ironloom.workload.manifests.document import Document
from ironloom.workload.manifests.schema import Path

GUIDE = Source("https://kubernetes.io/docs/reference/using-api/deprecation-guide/", "which version went when")


@rule(
    id="IL901",
    name="api-version-gone",
    family="deprecated",
    severity=Severity.ERROR,
    subject=Document,
    summary="an apiVersion that was taken away",
    why="The API server answers `no matches for kind`, and nothing is made. Kubernetes takes beta versions away three "
    "releases after it deprecates them, controllers sooner. The fields often changed with the version: the patch is "
    "offered as safe only where all that is written there is right in the new one too.",
    bad="""\
apiVersion: autoscaling/v2beta2
kind: HorizontalPodAutoscaler
metadata:
  name: llama
spec:
  scaleTargetRef:
    apiVersion: apps/v1
    kind: Deployment
    name: llama
  maxReplicas: 4
""",
    good="""\
apiVersion: autoscaling/v2
kind: HorizontalPodAutoscaler
metadata:
  name: llama
spec:
  scaleTargetRef:
    apiVersion: apps/v1
    kind: Deployment
    name: llama
  maxReplicas: 4
""",
    sources=(
        GUIDE,
        Source("https://keda.sh/docs/latest/migration/", "KEDA 2 has another API group"),
        Source("https://karpenter.sh/docs/upgrading/v1-migration/", "Karpenter's v1beta1 is gone in 1.1"),
        Source(
            "https://kubeflow.org/docs/external-add-ons/kserve/migration/",
            "KFServing's API group became KServe's in 0.7",
        ),
    ),
)
def api_version_gone(document: Document, context: Context) -> Iterator[Problem]:
    gone = removal(document)
    if gone is None or not gone.gone_in or is_served(document, context):
        return
    version, minor = context.kubernetes_version, gone.gone_minor
    is_there_yet = minor is not None and version is not None and version < (1, minor)
    instead = f": {gone.instead} is in its place" if gone.instead else ", and nothing is in its place"
    said = "will be" if is_there_yet else "is"
    yield problem(
        document,
        ("apiVersion",),
        f"{document.kind} of {document.api_version} {said} gone in {gone.project} {gone.gone_in}{instead}",
        severity=Severity.WARNING if is_there_yet else None,
        confidence=Confidence.CERTAIN if minor is not None else Confidence.LIKELY,
        evidence=_changed(document, gone),
        patch=_move(document, gone),
    )


def _changed(document: Document, gone: Removal) -> tuple[str, ...]:
    """What the document says that the version in place of its own does not take: a change of the word is not enough."""
    kind, table = f"{gone.instead}/{document.kind}", schema.load_all()
    if gone.instead_kind or kind not in table.kinds:
        return ()
    old = document.type_name
    before = {one.path for one in schema.mistakes(document.positions.root, old, table)} if old in table.kinds else set()
    after = [one for one in schema.mistakes(document.positions.root, kind, table) if one.path not in before]
    return tuple(f"in {gone.instead} {one.message}" for one in after[:3])


def _move(document: Document, gone: Removal) -> Patch | None:
    """Another apiVersion, safe where the document is as right in it as it was."""
    if not gone.instead or gone.instead_kind:
        return None
    edit = edits.replace(document, ("apiVersion",), gone.instead)
    kind, table = f"{gone.instead}/{document.kind}", schema.load_all()
    if edit is None or kind not in table.kinds:
        return None
    wrong = len(schema.mistakes(document.positions.root, kind, table))
    old = document.type_name
    before = len(schema.mistakes(document.positions.root, old, table)) if old in table.kinds else 0
    return Patch(title=f"write {gone.instead}", edits=(edit,), is_safe=wrong <= before)


@rule(
    id="IL902",
    name="api-version-deprecated",
    family="deprecated",
    severity=Severity.WARNING,
    subject=Document,
    summary="an apiVersion that will be taken away",
    why="It works today, and an upgrade of its controller will end that. Kueue's v1beta1 is deprecated since 0.16 and "
    "not served by 0.20; KubeRay's v1alpha1 is deprecated in 1.7. Where another kind takes over (TrainJob for "
    "PyTorchJob), or the old version is served with no date for its end, this is a note.",
    bad="""\
apiVersion: kueue.x-k8s.io/v1beta1
kind: LocalQueue
metadata:
  name: team
  namespace: ml
spec:
  clusterQueue: gpus
""",
    good="""\
apiVersion: kueue.x-k8s.io/v1beta2
kind: LocalQueue
metadata:
  name: team
  namespace: ml
spec:
  clusterQueue: gpus
""",
    sources=(
        Source("https://github.com/kubernetes-sigs/kueue/issues/13957", "v1beta1 is not served by Kueue 0.20"),
        Source("https://kubeflow.org/docs/components/trainer/operator-guides/migration", "PyTorchJob became TrainJob"),
        Source(
            "https://github.com/ray-project/kuberay/blob/v1.7.0/ray-operator/config/crd/bases/ray.io_rayclusters.yaml",
            "v1alpha1 is marked as deprecated",
        ),
        Source(
            "https://github.com/kserve/kserve/blob/v0.17.0/config/crd/full/llmisvc/serving.kserve.io_llminferenceservices.yaml",
            "v1alpha2 is what is stored",
        ),
    ),
)
def api_version_deprecated(document: Document, _context: Context) -> Iterator[Problem]:
    old = removal(document)
    if old is None or old.gone_in:
        return
    is_note = bool(old.instead_kind) or old.project == "KServe"
    since = f"since {old.project} {old.deprecated_in}"
    if old.instead_kind:
        message = f"{document.kind} has a successor {since}: {old.instead_kind} of {old.instead.partition(' ')[0]}"
    elif is_note:
        message = f"{document.kind} is stored as {old.instead} {since}, and {document.api_version} is the older one"
    else:
        message = f"{document.kind} of {document.api_version} is deprecated {since}: write {old.instead}"
    yield problem(
        document,
        ("apiVersion",),
        message,
        severity=Severity.NOTE if is_note else None,
        evidence=() if is_note else _changed(document, old),
        patch=None if is_note else _move(document, old),
    )


MODES: Mapping[str, str] = {"RawDeployment": "Standard", "Serverless": "Knative"}


@rule(
    id="IL903",
    name="deployment-mode-renamed",
    family="deprecated",
    severity=Severity.NOTE,
    subject=Document,
    summary="KServe's RawDeployment and Serverless, which are Standard and Knative now",
    why="KServe renamed its deployment modes in 0.16. The old names are still read and mapped to the new ones, and "
    "tools beside KServe look for one or the other. Older versions know the old names alone.",
    bad="""\
apiVersion: serving.kserve.io/v1beta1
kind: InferenceService
metadata:
  name: llama
  annotations:
    serving.kserve.io/deploymentMode: RawDeployment
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
    serving.kserve.io/deploymentMode: Standard
spec:
  predictor:
    model:
      modelFormat:
        name: huggingface
      storageUri: hf://Qwen/Qwen3-8B
""",
    sources=(
        Source("https://github.com/kserve/kserve/pull/4608", "the rename, and the mapping of the old names"),
        Source("https://github.com/kserve/models-web-app/pull/148", "a tool that looked for one name alone"),
    ),
)
def deployment_mode_renamed(document: Document, _context: Context) -> Iterator[Problem]:
    path: Path = ("metadata", "annotations", "serving.kserve.io/deploymentMode")
    old = look.text(document.obj, path)
    if look.group(document) == "serving.kserve.io" and old in MODES:
        edit = edits.replace(document, path, MODES[old])
        yield problem(
            document,
            path,
            f"the deployment mode {old} is called {MODES[old]} since KServe 0.16",
            patch=Patch(title=f"write {MODES[old]}", edits=(edit,), is_safe=False) if edit else None,
        )


class Renamed(msgspec.Struct, frozen=True):
    """A metric that a server does not emit any more."""

    new: str
    """Empty where none took its place."""
    hidden_in: tuple[int, int]
    """The first version that does not emit it by default."""


_POLICY = "https://docs.vllm.ai/en/latest/usage/metrics/"
VLLM_METRICS: Mapping[str, Renamed] = {
    "gpu_cache_usage_perc": Renamed("kv_cache_usage_perc", (0, 11)),
    "gpu_prefix_cache_queries": Renamed("prefix_cache_queries", (0, 11)),
    "gpu_prefix_cache_hits": Renamed("prefix_cache_hits", (0, 11)),
    "time_per_output_token_seconds": Renamed("inter_token_latency_seconds", (0, 12)),
    "time_in_queue_requests": Renamed("request_queue_time_seconds", (0, 9)),
    "num_requests_swapped": Renamed("", (0, 9)),
    "cpu_cache_usage_perc": Renamed("", (0, 9)),
    "cpu_prefix_cache_hit_rate": Renamed("", (0, 9)),
    "gpu_prefix_cache_hit_rate": Renamed("", (0, 9)),
    "model_forward_time_milliseconds": Renamed("", (0, 9)),
    "model_execute_time_milliseconds": Renamed("", (0, 9)),
}
"""https://github.com/vllm-project/vllm/pull/15458, /18354 and /29330, with the policy of deprecation."""
_VLLM_NAME = re.compile(rf"\bvllm[:_]+({'|'.join(VLLM_METRICS)})(?=$|[^a-z_]|_bucket|_sum|_count|_total)")
_TAG = re.compile(r"v?(\d+)\.(\d+)")
METRIC_KINDS = frozenset({"HorizontalPodAutoscaler", "ScaledObject", "ScaledJob", "PrometheusRule", "InferenceService"})


def metric_texts(document: Document) -> Iterator[tuple[Path, str]]:
    """Texts of a document that name metrics: an autoscaler's queries and metric names, a rule's expressions."""
    if document.kind not in METRIC_KINDS:
        return
    stack: list[tuple[Path, Any]] = [(("spec",), document.obj.get("spec"))]
    while stack:
        path, value = stack.pop()
        if isinstance(value, Mapping):
            stack += [((*path, key), below) for key, below in reversed(list(value.items()))]
        elif isinstance(value, list):
            stack += [((*path, index), below) for index, below in reversed(list(enumerate(value)))]
        elif isinstance(value, str) and path[-1] in {"query", "expr", "metricName", "name"}:
            yield path, value


@rule(
    id="IL904",
    name="metric-gone",
    family="deprecated",
    severity=Severity.WARNING,
    subject=Document,
    summary="a query for a vLLM metric that vLLM does not emit any more",
    why="A query for a metric that is not there answers nothing, and an autoscaler that hears nothing does nothing: no "
    "error, no scaling. vLLM hides a deprecated metric after one minor version and drops it after two.",
    bad="""\
apiVersion: keda.sh/v1alpha1
kind: ScaledObject
metadata:
  name: llama
spec:
  scaleTargetRef:
    name: llama
  minReplicaCount: 1
  triggers:
  - type: prometheus
    metadata:
      serverAddress: http://prometheus:9090
      query: avg(vllm:gpu_cache_usage_perc)
      threshold: "0.8"
""",
    good="""\
apiVersion: keda.sh/v1alpha1
kind: ScaledObject
metadata:
  name: llama
spec:
  scaleTargetRef:
    name: llama
  minReplicaCount: 1
  triggers:
  - type: prometheus
    metadata:
      serverAddress: http://prometheus:9090
      query: avg(vllm:kv_cache_usage_perc)
      threshold: "0.8"
""",
    sources=(
        Source(_POLICY, "hidden one minor version after the deprecation, removed after two"),
        Source("https://github.com/vllm-project/vllm/pull/18354", "gpu_cache_usage_perc became kv_cache_usage_perc"),
        Source("https://github.com/vllm-project/vllm/pull/29330", "what was removed, and what is hidden"),
        Source(
            "https://github.com/vllm-project/vllm/pull/32661", "time_per_output_token: hidden in 0.12, then removed"
        ),
        Source("https://github.com/vllm-project/vllm/pull/15458", "the metrics of the first engine"),
    ),
)
def metric_gone(document: Document, context: Context) -> Iterator[Problem]:
    newest = _newest_vllm(context)
    for path, text in metric_texts(document):
        for match in _VLLM_NAME.finditer(text):
            gone = VLLM_METRICS[match[1]]
            if newest is not None and newest < gone.hidden_in:
                continue
            version = ".".join(map(str, gone.hidden_in))
            instead = f": it is {gone.new} now" if gone.new else ", and nothing took its place"
            yield problem(
                document,
                path,
                f"vLLM {version} and newer do not emit {match[1]}{instead}",
                patch=_rename_in(document, path, match[1], gone.new) if gone.new else None,
            )


def _newest_vllm(context: Context) -> tuple[int, int] | None:
    """The newest vLLM among the images of the run; None where no tag says one."""
    if "vllm" not in context.memo:
        tags = (
            _TAG.match(container.image.partition("@")[0].rpartition(":")[2])
            for workload in context.workloads
            for pod_set in workload.pod_sets
            for container in pod_set.containers
            if "vllm" in container.image
        )
        found = [(int(tag[1]), int(tag[2])) for tag in tags if tag]
        context.memo["vllm"] = max(found, default=None)
    newest: tuple[int, int] | None = context.memo["vllm"]
    return newest


def _rename_in(document: Document, path: Path, old: str, new: str) -> Patch | None:
    place = document.positions.value(path)
    written = document.text[place.start : place.end]
    if written.count(old) != 1:
        return None
    edit = edits.replace(document, path, written.replace(old, new))
    return Patch(title=f"query {new}", edits=(edit,)) if edit is not None else None


_DCGM_OLD = re.compile(r"\bdcgm_(?:gpu|mem|enc|dec|fb|sm|power|total|xid|nvlink|pcie)_[a-z_]+")


@rule(
    id="IL905",
    name="dcgm-metric-gone",
    family="deprecated",
    severity=Severity.WARNING,
    subject=Document,
    summary="a query for a metric of dcgm-exporter 1, which later ones call otherwise",
    why="dcgm-exporter 2 and later emit the names of DCGM's fields: `dcgm_gpu_utilization` became "
    "`DCGM_FI_DEV_GPU_UTIL`. A query for the old name answers nothing, and an autoscaler on it never acts.",
    bad="""\
apiVersion: keda.sh/v1alpha1
kind: ScaledObject
metadata:
  name: batch
spec:
  scaleTargetRef:
    name: batch
  minReplicaCount: 1
  triggers:
  - type: prometheus
    metadata:
      serverAddress: http://prometheus:9090
      query: avg(dcgm_gpu_utilization)
      threshold: "80"
""",
    good="""\
apiVersion: keda.sh/v1alpha1
kind: ScaledObject
metadata:
  name: batch
spec:
  scaleTargetRef:
    name: batch
  minReplicaCount: 1
  triggers:
  - type: prometheus
    metadata:
      serverAddress: http://prometheus:9090
      query: avg(DCGM_FI_PROF_GR_ENGINE_ACTIVE)
      threshold: "0.8"
""",
    sources=(
        Source("https://github.com/NVIDIA/gpu-monitoring-tools/issues/143", "metrics that an upgrade took away"),
        Source(
            "https://docs.nvidia.com/datacenter/dcgm/latest/reference/dcgm-exporter-metrics.html",
            "the names that there are",
        ),
    ),
)
def dcgm_metric_gone(document: Document, _context: Context) -> Iterator[Problem]:
    for path, text in metric_texts(document):
        for match in _DCGM_OLD.finditer(text):
            yield problem(
                document,
                path,
                f"dcgm-exporter does not emit {match[0]} since its version 2",
                confidence=Confidence.LIKELY,
                help="its metrics are named as DCGM's fields: DCGM_FI_DEV_GPU_UTIL, DCGM_FI_PROF_GR_ENGINE_ACTIVE",
            )


IGNORED_ANNOTATIONS: tuple[tuple[re.Pattern[str], str, str], ...] = (
    (
        re.compile(r"(?:container\.)?seccomp\.security\.alpha\.kubernetes\.io/.+"),
        "1.27",
        "write securityContext.seccompProfile",
    ),
    (re.compile(r"scheduler\.alpha\.kubernetes\.io/critical-pod"), "1.16", "name a priorityClassName"),
    (re.compile(r"pod\.(?:alpha|beta)\.kubernetes\.io/init-containers"), "1.8", "write spec.initContainers"),
    (re.compile(r"scheduler\.alpha\.kubernetes\.io/(?:affinity|tolerations)"), "1.6", "write it into the pod's spec"),
)


@rule(
    id="IL906",
    name="annotation-ignored",
    family="deprecated",
    severity=Severity.WARNING,
    subject=Document,
    summary="an annotation that Kubernetes does not read any more",
    why="What was tried out as an annotation became a field, and the annotation is read by nobody: a seccomp profile "
    "that is set by one alone is not applied since Kubernetes 1.27, and nothing says so.",
    bad="""\
apiVersion: v1
kind: Pod
metadata:
  name: llama
  annotations:
    seccomp.security.alpha.kubernetes.io/pod: runtime/default
spec:
  containers:
  - name: main
    image: vllm/vllm-openai:v0.11.0
""",
    good="""\
apiVersion: v1
kind: Pod
metadata:
  name: llama
spec:
  securityContext:
    seccompProfile:
      type: RuntimeDefault
  containers:
  - name: main
    image: vllm/vllm-openai:v0.11.0
""",
    sources=(
        Source(
            "https://kubernetes.io/docs/reference/labels-annotations-taints/#seccomp-security-alpha-kubernetes-io-pod",
            "deprecated since 1.19, without effect since 1.27",
        ),
    ),
)
def annotation_ignored(document: Document, context: Context) -> Iterator[Problem]:
    places: list[Path] = [("metadata", "annotations")]
    for workload in context.made_by(document):
        places += [(*pod_set.metadata_path, "annotations") for pod_set in workload.pod_sets]
    for path in dict.fromkeys(places):
        for key in look.mapping(document.obj, path):
            for pattern, version, instead in IGNORED_ANNOTATIONS:
                if pattern.fullmatch(key):
                    message = f"the annotation {key} has no effect since Kubernetes {version}"
                    yield problem(document, (*path, key), message, at_key=True, help=instead)
