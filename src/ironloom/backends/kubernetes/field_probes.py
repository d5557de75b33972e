"""What each ground does with a field of a manifest, found by doing it: the manifest is read and rendered with the field
and without. docs/reference/grounds.md is written from this, so that it says what the code does.
"""

from __future__ import annotations

from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass, fields
from typing import Any

from ironloom.backends.kubernetes.pods import NOT_PARKED
from ironloom.backends.kubernetes.render import kserve, llm, multi_node, plain
from ironloom.workload.manifests.applied import MANIFEST
from ironloom.workload.manifests.read import parse_object
from ironloom.workload.manifests.schema import path_text
from ironloom.workload.serving import Ground, Scaling, Serving

Object = dict[str, Any]

_GPU = {"limits": {"nvidia.com/gpu": "1"}}
_MODEL = {"modelFormat": {"name": "huggingface"}, "storageUri": "hf://owner/name", "resources": _GPU}
_CONTAINER = {
    "name": "kserve-container",
    "image": "vllm/vllm-openai:v0.26.0",
    "args": ["--model", "owner/name"],
    "resources": _GPU,
}
_NOT_COMPARED = frozenset({"manifest", "not_honoured", "annotations", "labels", "model_place", "extra_manifests"})
"""Of a Serving: what a field may be in without doing anything."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Base:
    """A manifest that fields are tried in."""

    title: str
    manifest: Object
    tried: tuple[tuple[tuple[str | int, ...], Any], ...]
    """(path of the field, what it is set to)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Found:
    """What is done with one field."""

    field: str
    local: str
    plain: str
    kserve: str


def _base(kind: str, version: str, spec: Object) -> Object:
    return {"apiVersion": version, "kind": kind, "metadata": {"name": "a"}, "spec": spec}


def _annotated(name: str, value: str) -> tuple[tuple[str, ...], str]:
    return (("metadata", "annotations", name), value)


_PREDICTOR = ("spec", "predictor")
_POD = ("spec", "template", "spec")
_OWN = (*_PREDICTOR, "containers", 0)
_ISVC = "serving.kserve.io/v1beta1"
_SHARED: tuple[tuple[str, Any], ...] = (
    ("nodeSelector", {"gpu": "h100"}),
    ("tolerations", [{"key": "gpu", "operator": "Exists"}]),
    ("affinity", {"nodeAffinity": {}}),
    ("priorityClassName", "high"),
    ("schedulerName", "other"),
    ("serviceAccountName", "models"),
    ("imagePullSecrets", [{"name": "registry"}]),
    ("initContainers", [{"name": "first", "image": "busybox"}]),
    ("volumes", [{"name": "data", "persistentVolumeClaim": {"claimName": "data"}}]),
    ("runtimeClassName", "nvidia"),
    ("terminationGracePeriodSeconds", 7),
)
_OF_CONTAINER: tuple[tuple[str, Any], ...] = (
    ("image", "vllm/vllm-openai:v0.25.0"),
    ("args", ["--model", "owner/name", "--max-num-seqs", "8"]),
    ("env", [{"name": "VLLM_LOGGING_LEVEL", "value": "DEBUG"}]),
    ("env", [{"name": "KEY", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}]),
    ("envFrom", [{"secretRef": {"name": "s"}}]),
    ("resources", {"limits": {"nvidia.com/gpu": "2", "memory": "64Gi"}}),
    ("readinessProbe", {"httpGet": {"path": "/mine", "port": 8000}}),
    ("securityContext", {"runAsUser": 1000}),
    ("workingDir", "/work"),
)
BASES: tuple[Base, ...] = (
    Base(
        title="InferenceService",
        manifest=_base("InferenceService", _ISVC, {"predictor": {"model": _MODEL}}),
        tried=(
            *(((*_PREDICTOR, name), value) for name, value in (
                ("minReplicas", 0), ("maxReplicas", 3), ("scaleMetric", "rps"), ("scaleTarget", 8),
                ("containerConcurrency", 4), ("timeout", 30), ("canaryTrafficPercent", 10),
                ("logger", {"mode": "all"}), ("batcher", {"maxBatchSize": 2}),
                ("deploymentStrategy", {"type": "Recreate"}), ("scaleMetricType", "Utilization"),
                ("workerSpec", {"pipelineParallelSize": 2}),
            )),
            *(((*_PREDICTOR, "model", name), value) for name, value in (
                ("storageUri", "hf://owner/other:main"), ("runtime", "theirs"), ("protocolVersion", "v2"),
                ("args", ["--max-num-seqs", "8"]), *_OF_CONTAINER[2:],
            )),
            (("spec", "transformer"), {"containers": [{"name": "x", "image": "y"}]}),
        ),
    ),
    Base(
        title="InferenceService with containers of its own",
        manifest=_base("InferenceService", _ISVC, {"predictor": {"containers": [_CONTAINER]}}),
        tried=(
            *(((*_PREDICTOR, name), value) for name, value in _SHARED),
            *(((*_OWN, name), value) for name, value in _OF_CONTAINER),
            ((*_PREDICTOR, "containers", 1), {"name": "side", "image": "busybox"}),
        ),
    ),
    Base(
        title="LLMInferenceService",
        manifest=_base(
            "LLMInferenceService", "serving.kserve.io/v1alpha2",
            {
                "model": {"uri": "hf://owner/name"},
                "template": {"containers": [{"name": "main", "resources": _GPU}]},
                "parallelism": {"pipeline": 2},
            },
        ),
        tried=(
            (("spec", "replicas"), 2),
            (("spec", "scaling"), {"minReplicas": 1, "maxReplicas": 4}),
            (("spec", "parallelism"), {"expert": True, "pipeline": 2}),
            (("spec", "worker"), {"containers": []}),
            (("spec", "prefill"), {"replicas": 1}),
            (("spec", "router"), {"route": {}}),
            (("spec", "baseRefs"), [{"name": "x"}]),
            (("spec", "model", "lora"), {"adapters": [{"name": "x", "uri": "hf://owner/x"}]}),
            (("spec", "model", "name"), "owner/name"),
            *((("spec", "template", name), value) for name, value in _SHARED[:4]),
        ),
    ),
    Base(
        title="Deployment",
        manifest=_base(
            "Deployment", "apps/v1",
            {
                "selector": {"matchLabels": {"app": "a"}},
                "template": {"metadata": {"labels": {"app": "a"}}, "spec": {"containers": [_CONTAINER]}},
            },
        ),
        tried=(
            (("spec", "replicas"), 2),
            (("spec", "strategy"), {"type": "Recreate"}),
            (("spec", "paused"), True),
            (("spec", "progressDeadlineSeconds"), 1200),
            *(((*_POD, name), value) for name, value in _SHARED),
        ),
    ),
    Base(
        title="LeaderWorkerSet",
        manifest=_base(
            "LeaderWorkerSet", "leaderworkerset.x-k8s.io/v1",
            {"leaderWorkerTemplate": {"workerTemplate": {"spec": {"containers": [_CONTAINER]}}}},
        ),
        tried=(
            (("spec", "replicas"), 2),
            (("spec", "leaderWorkerTemplate", "size"), 2),
            (("spec", "startupPolicy"), "LeaderReady"),
            (("spec", "rolloutStrategy"), {"type": "RollingUpdate"}),
        ),
    ),
    Base(
        title="Annotations, of any of them",
        manifest=_base("InferenceService", _ISVC, {"predictor": {"model": _MODEL}}),
        tried=(
            _annotated("autoscaling.knative.dev/min-scale", "0"),
            _annotated("autoscaling.knative.dev/max-scale", "3"),
            _annotated("autoscaling.knative.dev/initial-scale", "0"),
            _annotated("autoscaling.knative.dev/target", "8"),
            _annotated("autoscaling.knative.dev/window", "30s"),
            _annotated("autoscaling.knative.dev/class", "hpa.autoscaling.knative.dev"),
            _annotated("serving.knative.dev/progress-deadline", "1200s"),
            _annotated("serving.kserve.io/deploymentMode", "Standard"),
            _annotated("serving.kserve.io/autoscalerClass", "external"),
            _annotated("serving.kserve.io/stop", "true"),
            _annotated("ironloom.dev/park-for", "10m"),
            _annotated("ironloom.dev/model-cache", "100Gi"),
            _annotated("ironloom.dev/engine", "vllm"),
        ),
    ),
)  # fmt: skip
GATEWAYS = frozenset(f"scaling.{one.name}" for one in fields(Scaling)) | {"timeout_s"}
"""Settings that gateway and autoscaler follow, wherever replicas run."""
NOTHING = "nothing to do"


def found(base: Base) -> Iterator[Found]:
    """What is done with each field that is tried in a manifest."""
    before = parse_object(base.manifest)
    for path, value in base.tried:
        after = parse_object(with_field(base.manifest, path, value))
        changed = _changed(before, after)
        own = [one for one in changed if one in GATEWAYS and one != "scaling.park_for_s"]
        followed = f"the gateway: {_settings(own)}" if own else ""
        told = {ground: _told(after, before, path, ground) for ground in Ground}
        yield Found(
            field=_name(path, value),
            local=_joined(_settings(changed), told[Ground.LOCAL]),
            plain=_joined(_in_objects(before, after), followed, told[Ground.PLAIN]),
            kserve=_of_kserve(after, followed, told[Ground.KSERVE]),
        )


def with_field(manifest: Object, path: tuple[str | int, ...], value: Any) -> Object:
    """A manifest with a field set; at the place after the last of a list it is one more."""
    made = deepcopy(manifest)
    above: Any = made
    for step in path[:-1]:
        above = above.setdefault(step, {}) if isinstance(step, str) else above[step]
    if isinstance(above, list):
        above.append(value)
    else:
        above[path[-1]] = value
    return made


def _name(path: tuple[str | int, ...], value: Any) -> str:
    inner = " with `valueFrom`" if path[-1] == "env" and "valueFrom" in value[0] else ""
    text = str(path[-1]) if path[:2] == ("metadata", "annotations") else path_text(path)
    return f"`{text}`{inner}"


def _joined(*parts: str) -> str:
    return "; ".join(part for part in parts if part) or NOTHING


def _changed(before: Serving, after: Serving) -> list[str]:
    """Settings that the field is, by their names."""
    names = []
    for one in fields(Serving):
        old, new = getattr(before, one.name), getattr(after, one.name)
        if one.name == "scaling":
            names += [
                f"scaling.{two.name}" for two in fields(Scaling) if getattr(old, two.name) != getattr(new, two.name)
            ]
        elif old != new and one.name not in _NOT_COMPARED:
            names.append(one.name)
    return names


def _settings(changed: list[str]) -> str:
    return ", ".join(f"`{name}`" for name in changed)


def _told(after: Serving, before: Serving, path: tuple[str | int, ...], ground: Ground) -> str:
    """What is said of the field there, without its name, which stands beside it."""
    known = {note.message for note in before.notes_on(ground)}
    notes = after.notes_on(ground)
    told = [one.message for one in notes if one.message not in known or one.path.startswith(path_text(path))]
    told = [one.partition(": ")[2] or one for one in told]
    told += [one for one in _rendered(after, ground)[1] if one not in _rendered(before, ground)[1]]
    told = [one.removeprefix(f"{path[-1]}: ").removeprefix(f"{str(path[-1]).rpartition('/')[2]} ") for one in told]
    return f"*{'; '.join(told)}*" if told else ""


def _rendered(serving: Serving, ground: Ground) -> tuple[list[Object], list[str]]:
    """Its objects on a ground, and what is said of how they were made; none of replicas that are processes."""
    setting = plain.Setting()
    if ground is Ground.LOCAL:
        return [], []
    told = [NOT_PARKED] if serving.scaling.park_for_s else []
    if ground is Ground.KSERVE and serving.kind == "InferenceService":
        theirs = kserve.Runtime(name="theirs", formats=frozenset({"huggingface"}))
        return kserve.objects(serving, setting, kserve.Found(runtimes=(theirs,))), [*setting.notes, *told]
    if ground is Ground.KSERVE and serving.kind == llm.KIND:
        return llm.objects(serving, setting), [*setting.notes, *told]
    span = multi_node.span_of(serving)
    made = multi_node.objects(serving, setting, span) if span else plain.objects(serving, setting)
    for one in made:
        one["metadata"].pop("annotations", None)
    return made, [*setting.notes, *told]


def _in_objects(before: Serving, after: Serving) -> str:
    return "" if _rendered(before, Ground.PLAIN)[0] == _rendered(after, Ground.PLAIN)[0] else "the objects"


def _of_kserve(after: Serving, followed: str, told: str) -> str:
    if after.kind not in {"InferenceService", llm.KIND}:
        return "as in a cluster"
    return _joined("as written", followed if after.kind == "InferenceService" else "", told)


_INTRODUCTION = """# What is done with each field, by where a service runs

*One machine*: replicas are processes; names of settings are those of `Serving`. *A cluster*: Ironloom makes the
objects, a Deployment or a LeaderWorkerSet with a Service. *KServe*: the manifest goes to the cluster as it is written,
and KServe makes its pods. What the gateway follows, it follows wherever replicas run. What is said of a field
at an apply stands in italics.

The manifest itself stays whole: objects that Ironloom makes carry it in the annotation `{manifest}`, and `ironloom
apply -f` of such an object, from `kubectl get -o yaml`, is an apply of that manifest.

This page is made by reading and rendering a manifest with each field and without.
"""


def reference_page() -> str:
    """docs/reference/grounds.md."""
    rows = [_INTRODUCTION.format(manifest=MANIFEST)]
    for base in BASES:
        rows += [f"## {base.title}", "", "| field | one machine | a cluster | KServe |", "|---|---|---|---|"]
        rows += [f"| {one.field} | {one.local} | {one.plain} | {one.kserve} |" for one in found(base)]
        rows.append("")
    return "\n".join(rows).rstrip("\n") + "\n"
