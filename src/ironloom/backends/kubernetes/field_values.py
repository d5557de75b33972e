"""Every field of every kind that is a workload, with a value to try it with: those of the tables that manifests are
checked by, level by level, so that a field that is new in a table is tried as well.

A level is an object whose fields are told one by one; what is below a field that is no level is tried as a whole.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Final

from ironloom.backends.kubernetes.names import QUEUE
from ironloom.workload.manifests.arguments import UNCHECKED
from ironloom.workload.manifests.kserve_words import OTHER_FRAMEWORKS
from ironloom.workload.manifests.read import KINDS, TRAINING_KINDS
from ironloom.workload.manifests.schema import Path, Schema, load, load_all, path_text

Object = dict[str, Any]

MAX_DEPTH: Final = 12
"""Of a value that is made of its type alone; no table's required fields go deeper."""
_DEPLOYMENT: Final = "apps/v1/Deployment"
_POD: Final[Path] = ("spec", "template", "spec")
_GPU = {"limits": {"nvidia.com/gpu": "1"}}
_CLAIM = {"name": "data", "persistentVolumeClaim": {"claimName": "data"}}
_MODEL = {"modelFormat": {"name": "huggingface"}, "storageUri": "hf://owner/name", "resources": _GPU}
_CONTAINER = {
    "name": "kserve-container",
    "image": "vllm/vllm-openai:v0.26.0",
    "args": ["--model", "owner/name"],
    "resources": _GPU,
}
_RUN = {
    "name": "node",
    "image": "example.com/train:1",
    "command": ["torchrun", "-m", "ironloom.train.run"],
    "args": ["--model=hf://owner/name", "--output=/out", "--data.sources=/data"],
    "resources": {"limits": {"nvidia.com/gpu": 2}},
}
_RUN_POD = {"containers": [_RUN], "restartPolicy": "Never"}
_SIDECAR = {"name": "side", "image": "busybox"}

VALUES: Mapping[str, tuple[Any, ...]] = {
    # Of a pod.
    "nodeSelector": ({"gpu": "h100"},),
    "tolerations": ([{"key": "gpu", "operator": "Exists"}],),
    "affinity": ({"nodeAffinity": {}},),
    "topologySpreadConstraints": (
        [{"maxSkew": 1, "topologyKey": "kubernetes.io/hostname", "whenUnsatisfiable": "ScheduleAnyway"}],
    ),
    "imagePullSecrets": ([{"name": "registry"}],),
    "initContainers": ([{"name": "first", "image": "busybox"}],),
    "volumes": ([_CLAIM], [{"name": "scratch", "emptyDir": {}}]),
    "restartPolicy": ("OnFailure",),
    "hostAliases": ([{"ip": "10.0.0.1", "hostnames": ["hub"]}],),
    # Of a container.
    "image": ("vllm/vllm-openai:v0.25.0",),
    "args": (["--model", "owner/name", "--max-num-seqs", "8"],),
    "command": (["python3", "-m", "vllm.entrypoints.openai.api_server"],),
    "env": (
        [{"name": "VLLM_LOGGING_LEVEL", "value": "DEBUG"}],
        [{"name": "KEY", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}],
    ),
    "envFrom": ([{"secretRef": {"name": "s"}}],),
    "ports": ([{"name": "http1", "containerPort": 8080}],),
    "resources": ({"limits": {"nvidia.com/gpu": "2", "memory": "64Gi"}},),
    "volumeMounts": ([{"name": "data", "mountPath": "/data"}],),
    "readinessProbe": ({"httpGet": {"path": "/mine", "port": 8000}},),
    "livenessProbe": ({"httpGet": {"path": "/mine", "port": 8000}},),
    "startupProbe": ({"httpGet": {"path": "/mine", "port": 8000}, "failureThreshold": 60},),
    "lifecycle": ({"preStop": {"exec": {"command": ["leave"]}}},),
    "securityContext": ({"runAsUser": 1000},),
}
"""By a field's name, where its type alone gives no value that says anything."""
_MODELS: Mapping[str, tuple[Any, ...]] = {
    "args": (["--max-num-seqs", "8"],),
    "command": (["vllm", "serve", "owner/name"],),
    "modelFormat": ({"name": "safetensors"}, {"name": "sklearn"}),
    "protocolVersion": ("v2",),
    "storageUri": ("hf://owner/other:main",),
    "storage": ({"path": "m", "parameters": {"type": "s3", "bucket": "b"}},),
}
_PREDICTORS: Mapping[str, tuple[Any, ...]] = {
    "minReplicas": (0,),
    "maxReplicas": (3,),
    "scaleMetric": ("rps", "cpu"),
    "scaleTarget": (8,),
    "annotations": ({"autoscaling.knative.dev/target": "8"},),
    "storageUris": ([{"uri": "hf://owner/other"}],),
    "workerSpec": ({"pipelineParallelSize": 2},),
}
_LLMS: Mapping[str, tuple[Any, ...]] = {
    "replicas": (2,),
    "scaling": ({"minReplicas": 1, "maxReplicas": 4},),
    "annotations": ({"autoscaling.knative.dev/target": "8"},),
    "worker": ({"containers": []},),
    "prefill": ({"replicas": 1},),
    "router": ({"route": {}},),
    "lora": ({"adapters": [{"name": "x", "uri": "hf://owner/x"}]},),
    "uri": ("hf://owner/other",),
    "expert": (True,),
    "args": (["--max-num-seqs", "8"],),
    "command": (["vllm", "serve", "owner/name"],),
}
_RUNS: Mapping[str, tuple[Any, ...]] = {
    "image": ("example.com/train:2",),
    "args": (["--model=hf://owner/name", "--output=/out", "--data.sources=/data", "--max_restarts=2"],),
    "command": (["python3", "-m", "ironloom.train.run"],),
    "replicas": (2,),
    "numNodes": (2,),
    "numProcPerNode": (2,),
    "nprocPerNode": ("2",),
    "resourcesPerNode": ({"limits": {"nvidia.com/gpu": 4}},),
    "resources": ({"limits": {"nvidia.com/gpu": 4, "memory": "64Gi"}},),
    "elasticPolicy": ({"minReplicas": 1, "maxRestarts": 2},),
    "maxRestarts": (2,),
    "minReplicas": (1,),
    "parallelism": (2,),
    "completions": (2,),
    "name": ("trainer",),
}
ANNOTATIONS: Mapping[str, str] = {
    "autoscaling.knative.dev/min-scale": "0",
    "autoscaling.knative.dev/max-scale": "3",
    "autoscaling.knative.dev/initial-scale": "0",
    "autoscaling.knative.dev/activation-scale": "2",
    "autoscaling.knative.dev/metric": "rps",
    "autoscaling.knative.dev/target": "8",
    "autoscaling.knative.dev/target-utilization-percentage": "80",
    "autoscaling.knative.dev/window": "30s",
    "autoscaling.knative.dev/panic-window-percentage": "20",
    "autoscaling.knative.dev/panic-threshold-percentage": "300",
    "autoscaling.knative.dev/scale-down-delay": "1m",
    "autoscaling.knative.dev/scale-to-zero-pod-retention-period": "1m",
    "autoscaling.knative.dev/class": "hpa.autoscaling.knative.dev",
    "autoscaling.knative.dev/target-burst-capacity": "100",
    "autoscaling.knative.dev/metric-aggregation-algorithm": "weighted-exponential",
    "serving.knative.dev/progress-deadline": "1200s",
    "serving.kserve.io/deploymentMode": "Standard",
    "serving.kserve.io/autoscalerClass": "external",
    "serving.kserve.io/targetUtilizationPercentage": "80",
    "serving.kserve.io/stop": "true",
    "ironloom.dev/park-for": "10m",
    "ironloom.dev/model-cache": "100Gi",
    UNCHECKED: "--new-option",
    "ironloom.dev/engine": "vllm",
}
"""Of all that mean something, by name."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Probe:
    """A field, and what it is set to."""

    path: Path
    value: Any
    instead_of: Path = ()
    """What is taken out, where two exclude each other."""

    def set_in(self, manifest: Object) -> Object:
        """A manifest with the field set; at the place after the last of a list it is one more."""
        made = deepcopy(manifest)
        if self.instead_of:
            _above(made, self.instead_of).pop(self.instead_of[-1], None)
        above = _above(made, self.path)
        if isinstance(above, list) and self.path[-1] == len(above):
            above.append(deepcopy(self.value))
        else:
            above[self.path[-1]] = deepcopy(self.value)
        return made


@dataclass(frozen=True, kw_only=True)
class Base:
    """A manifest that fields are tried in."""

    title: str
    kind: str
    """`group/version/Kind`."""
    spec: Object
    levels: tuple[Path, ...] = ()
    values: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    """By a field's path or its name, before VALUES."""
    more: tuple[Probe, ...] = ()
    left_out: frozenset[str] = frozenset()
    """Fields that stand in the place of others here; they are tried in `more`, or in another base."""
    like: str = ""
    """Title of the base whose rows are not told again here."""

    @property
    def manifest(self) -> Object:
        group, version, kind = self.kind.split("/")
        return {"apiVersion": f"{group}/{version}", "kind": kind, "metadata": {"name": "a"}, "spec": self.spec}

    @cached_property
    def tried(self) -> tuple[Probe, ...]:
        """All its fields, level by level."""
        return (*(probe for level in self.levels for probe in self._of_level(level)), *self.more)

    def _of_level(self, level: Path) -> Iterator[Probe]:
        table = table_of(self.kind)
        known = fields_at(table, self.kind, level)
        for name, index in known.items():
            path = (*level, name)
            if path_text(path) in self.left_out or any(one[: len(path)] == path for one in self.levels):
                continue
            values = self.values.get(path_text(path)) or self.values.get(name) or VALUES.get(name)
            values = values or (_of_kubernetes(name, known) or _value_of(table, index),)
            yield from (Probe(path=path, value=value) for value in values)


def table_of(kind: str) -> Schema:
    """The table that manifests of a kind are checked by."""
    return load() if kind in load().kinds else load_all()


def fields_at(table: Schema, kind: str, path: Path) -> Mapping[str, int]:
    """Field to type of the object at a path."""
    made = table.types[table.kinds[kind]]
    for step in path:
        made = table.types[made["list"] if "list" in made else made["map"] if "map" in made else made["object"][step]]
    found: Mapping[str, int] = made["object"]
    return found


def _value_of(table: Schema, index: int, depth: int = 0) -> Any:
    """Some value of a type: what it requires, or the first of its fields."""
    made = table.types[index]
    if isinstance(made, str):
        return {
            "string": "x", "integer": 7, "number": 0.5, "boolean": True, "quantity": "1", "int-or-string": 1,
        }.get(made, {"a": "b"})  # fmt: skip
    if "enum" in made:
        return next(one for one in reversed(made["enum"]) if one)
    if "integer" in made:
        low, high = made["integer"]
        return min(max(7, low or 0), 7 if high is None else high)
    if "text" in made:
        return "a" * max(1, made["text"][1] or 1)
    if depth == MAX_DEPTH:
        return {}
    if "list" in made:
        return [_value_of(table, made["list"], depth + 1)] * max(1, made.get("min", 1))
    if "map" in made:
        return {"a": _value_of(table, made["map"], depth + 1)}
    names = made.get("required") or list(made["object"])[:1]
    return {name: _value_of(table, made["object"][name], depth + 1) for name in names}


def _of_kubernetes(name: str, known: Mapping[str, int]) -> Any:
    """A value for a field of a pod or a container, by Kubernetes' own table, which knows what it may be where others
    say that it is a text; None for others."""
    for path, mark in ((_POD, "containers"), ((*_POD, "containers", 0), "terminationMessagePath")):
        own = fields_at(load(), _DEPLOYMENT, path) if mark in known else {}
        if name in own:
            return _value_of(load(), own[name])
    return None


def _above(made: Object, path: Path) -> Any:
    found: Any = made
    for step in path[:-1]:
        found = found.setdefault(step, {}) if isinstance(step, str) else found[step]
    return found


_SPEC: Path = ("spec",)
_PREDICTOR: Path = ("spec", "predictor")
_TEMPLATE: Path = ("spec", "template")
_GROUP: Path = ("spec", "leaderWorkerTemplate")
_JOB: Path = ("spec", "replicatedJobs", 0)
_REPLICAS: Path = ("spec", "pytorchReplicaSpecs")
_PLACES = frozenset({"spec.predictor.model", "spec.predictor.containers"})


def _pod(at: Path) -> tuple[Path, ...]:
    """The levels of a PodSpec."""
    return (at, (*at, "containers", 0))


def _beside(at: Path) -> Probe:
    return Probe(path=(*at, "containers", 1), value=_SIDECAR)


BASES: tuple[Base, ...] = (
    Base(
        title="InferenceService",
        kind="serving.kserve.io/v1beta1/InferenceService",
        spec={"predictor": {"model": _MODEL}},
        levels=(_SPEC, _PREDICTOR, (*_PREDICTOR, "model")),
        values={**_MODELS, **_PREDICTORS},
        left_out=_PLACES | {f"spec.predictor.{name}" for name in (*OTHER_FRAMEWORKS, "huggingface")},
        more=tuple(
            Probe(path=(*_PREDICTOR, name), value={"storageUri": "hf://owner/name"}, instead_of=(*_PREDICTOR, "model"))
            for name in ("huggingface", *OTHER_FRAMEWORKS)
        ),
    ),
    Base(
        title="InferenceService with containers of its own",
        kind="serving.kserve.io/v1beta1/InferenceService",
        spec={"predictor": {"containers": [_CONTAINER]}},
        levels=_pod(_PREDICTOR),
        values=_PREDICTORS,
        left_out=_PLACES | {f"spec.predictor.{name}" for name in (*OTHER_FRAMEWORKS, "huggingface")},
        more=(_beside(_PREDICTOR),),
    ),
    *(
        Base(
            title=f"LLMInferenceService, {version}",
            kind=f"serving.kserve.io/{version}/LLMInferenceService",
            spec={
                "model": {"uri": "hf://owner/name"},
                "template": {"containers": [{"name": "main", "resources": _GPU}]},
                "parallelism": {"pipeline": 2},
            },
            levels=(_SPEC, ("spec", "model"), ("spec", "parallelism"), *_pod(_TEMPLATE)),
            values=_LLMS,
            like="" if version == "v1alpha2" else "LLMInferenceService, v1alpha2",
            more=(
                _beside(_TEMPLATE),
                *(
                    Probe(path=("spec", "scaling"), value={"maxReplicas": 4, **more})
                    for more in (
                        {
                            "keda": {
                                "idleReplicaCount": 0,
                                "triggers": [{"type": "cron", "metadata": {"timezone": "UTC"}}],
                            }
                        },
                        {"wva": {"variantCost": "1.0"}},
                    )
                ),
            ),
        )
        for version in ("v1alpha2", "v1alpha1")
    ),
    Base(
        title="Deployment",
        kind="apps/v1/Deployment",
        spec={
            "selector": {"matchLabels": {"app": "a"}},
            "template": {"metadata": {"labels": {"app": "a"}}, "spec": {"containers": [_CONTAINER]}},
        },
        levels=(_SPEC, _TEMPLATE, *_pod((*_TEMPLATE, "spec"))),
        values={
            "replicas": (2,),
            "selector": ({"matchLabels": {"app": "a"}, "matchExpressions": []}, {"matchLabels": {"app": "b"}}),
            "metadata": ({"labels": {"app": "a", "team": "x"}},),
        },
        more=(_beside((*_TEMPLATE, "spec")),),
    ),
    Base(
        title="LeaderWorkerSet",
        kind="leaderworkerset.x-k8s.io/v1/LeaderWorkerSet",
        spec={"leaderWorkerTemplate": {"workerTemplate": {"spec": {"containers": [_CONTAINER]}}}},
        levels=(_SPEC, _GROUP, (*_GROUP, "workerTemplate"), *_pod((*_GROUP, "workerTemplate", "spec"))),
        values={
            "replicas": (2,),
            "size": (2,),
            "spec.leaderWorkerTemplate.restartPolicy": ("RecreateGroupOnPodRestart",),
            "leaderTemplate": ({"spec": {"containers": [_CONTAINER]}},),
            "metadata": ({"labels": {"team": "x"}},),
        },
        more=(_beside((*_GROUP, "workerTemplate", "spec")),),
    ),
    Base(
        title="Annotations and labels, of any of them",
        kind="serving.kserve.io/v1beta1/InferenceService",
        spec={"predictor": {"model": _MODEL}},
        more=(
            *(Probe(path=("metadata", "annotations", name), value=value) for name, value in ANNOTATIONS.items()),
            Probe(path=("metadata", "labels", QUEUE), value="team-a"),
        ),
    ),
)
"""Of services."""
TRAINING_BASES: tuple[Base, ...] = (
    Base(
        title="TrainJob",
        kind="trainer.kubeflow.org/v1alpha1/TrainJob",
        spec={
            "runtimeRef": {"name": "torch-distributed"},
            "trainer": {
                **{key: _RUN[key] for key in ("image", "command", "args")},
                "numNodes": 1,
                "resourcesPerNode": _RUN["resources"],
            },
        },
        levels=(_SPEC, ("spec", "trainer")),
        values={**_RUNS, "runtimeRef": ({"name": "other"},)},
    ),
    Base(
        title="JobSet",
        kind="jobset.x-k8s.io/v1alpha2/JobSet",
        spec={"replicatedJobs": [{"name": "node", "template": {"spec": {"template": {"spec": _RUN_POD}}}}]},
        levels=(
            _SPEC,
            _JOB,
            (*_JOB, "template"),
            (*_JOB, "template", "spec"),
            (*_JOB, "template", "spec", "template"),
            *_pod((*_JOB, "template", "spec", "template", "spec")),
        ),
        values={**_RUNS, "failurePolicy": ({"maxRestarts": 5},), "metadata": ({"labels": {"team": "x"}},)},
        more=(
            _beside((*_JOB, "template", "spec", "template", "spec")),
            Probe(
                path=("spec", "replicatedJobs", 1),
                value={"name": "data", "template": {"spec": {"template": {"spec": {"containers": [_SIDECAR]}}}}},
            ),
        ),
    ),
    Base(
        title="PyTorchJob",
        kind="kubeflow.org/v1/PyTorchJob",
        spec={"pytorchReplicaSpecs": {"Worker": {"replicas": 1, "template": {"spec": _RUN_POD}}}},
        levels=(
            _SPEC,
            ("spec", "runPolicy"),
            ("spec", "elasticPolicy"),
            (*_REPLICAS, "Worker"),
            (*_REPLICAS, "Worker", "template"),
            *_pod((*_REPLICAS, "Worker", "template", "spec")),
        ),
        values={**_RUNS, "metadata": ({"labels": {"team": "x"}},)},
        more=(
            _beside((*_REPLICAS, "Worker", "template", "spec")),
            Probe(path=(*_REPLICAS, "Master"), value={"replicas": 1, "template": {"spec": _RUN_POD}}),
        ),
    ),
)
ALL_KINDS = (*KINDS, *TRAINING_KINDS)
"""Of which each has a base."""
