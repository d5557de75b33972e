"""A service in kinds that every cluster has: a Deployment, a Service, and a PodDisruptionBudget where it has replicas
to spare. Nothing here says how many replicas there are: the scale has a writer of its own.

    manifest                         Deployment
    Deployment                       its own, as written
    InferenceService, containers     the predictor's PodSpec, as written
    InferenceService, model          a container of vLLM's image with the model's name and the manifest's arguments;
                                     of its image for CPUs where no GPU is asked for
    LLMInferenceService              the same, or its own template's container
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any

import msgspec

from ironloom.backends.kubernetes.names import GENERATION_LABEL, MANAGED_BY, SERVICE_LABEL
from ironloom.backends.kubernetes.render import containers, cpu, model_cache
from ironloom.backends.kubernetes.render.fabric import Fabric
from ironloom.errors import EngineUnavailable
from ironloom.units import format_duration
from ironloom.workload import look
from ironloom.workload.manifests.applied import MANIFEST
from ironloom.workload.manifests.kserve_words import MAIN, OTHER_FRAMEWORKS
from ironloom.workload.serving import Serving

Object = dict[str, Any]

VLLM_IMAGE = "vllm/vllm-openai:v0.26.0"
VLLM_PORT = 8000
"""vLLM's own default."""
HUGGING_FACE_PORT = 8080
"""KServe's containers answer there: https://kserve.github.io/website/docs/model-serving/predictive-inference/frameworks/"""
HEALTH = "/health"
LEAVE_S = 5
"""Before a pod is told to end it goes on answering this long, so that who forwards to it has heard."""
STARTS_ALLOWED = 3
PROBE_PERIOD_S = 2
HF_SECRET = "hf-token"
HF_SECRET_KEY = "token"


@dataclass(frozen=True, kw_only=True, slots=True)
class Setting:
    """What the cluster adds to a manifest."""

    generation: int = 1
    vllm_image: str = VLLM_IMAGE
    has_hf_secret: bool = False
    """Whether the namespace has a Secret `hf-token`."""
    tolerations: tuple[Mapping[str, Any], ...] = ()
    """For the taints of the nodes that have the GPUs it asks for."""
    has_spare_gpus: bool = True
    """Whether a rollout finds GPUs for the new replica beside the old one's."""
    why_no_spare: str = "no spare GPU"
    seen_start_s: float | None = None
    """The longest start that was seen of its replicas."""
    predicted_start_s: float | None = None
    """What the plan says of a first one; None where the model is not known by its name."""
    fabric: Fabric | None = None
    """What the nodes of a replica over several of them reach each other by."""
    may_lock_memory: bool = True
    """False where the namespace's pod security forbids the capability."""
    has_kueue: bool = False
    topology_key: str = ""
    """Node label of the finest level above the host of its queue's topology; empty where none is known."""
    notes: list[str] = field(default_factory=list)
    """What was added or left out, in sentences for the user."""


def objects(serving: Serving, setting: Setting) -> list[Object]:
    """The service's objects, the Deployment first. Raises EngineUnavailable where the manifest names no image and no
    image of ours runs its engine."""
    labels = {**serving.labels, **MANAGED_BY, SERVICE_LABEL: serving.name}
    template, own = _template(serving, setting)
    selector = own or {SERVICE_LABEL: serving.name}
    template["metadata"]["labels"] = {
        **template["metadata"].get("labels", {}),
        **selector,
        SERVICE_LABEL: serving.name,
        GENERATION_LABEL: str(setting.generation),
    }
    metadata: Object = {"name": serving.name, "namespace": serving.namespace, "labels": labels}
    metadata["annotations"] = {**serving.annotations, MANIFEST: msgspec.json.encode(serving.manifest).decode()}
    tell_surge(setting)
    deployment: Object = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": metadata,
        "spec": {
            "selector": {"matchLabels": selector},
            "progressDeadlineSeconds": _progress_s(serving, setting, template["spec"]["containers"][0]),
            "strategy": {"type": "RollingUpdate", "rollingUpdate": surge(setting)},
            "template": template,
        },
    }
    made = [deployment, service_object(serving, labels, template), *claims(serving)]
    if serving.scaling.min_replicas > 1:
        made.append(budget(serving, labels))
    return made


def surge(setting: Setting) -> dict[str, int]:
    """How a rollout takes turns: the new replica first where there are GPUs for it."""
    return {"maxSurge": 1, "maxUnavailable": 0} if setting.has_spare_gpus else {"maxSurge": 0, "maxUnavailable": 1}


def tell_surge(setting: Setting) -> None:
    """Why a rollout takes a replica away first."""
    if not setting.has_spare_gpus:
        setting.notes.append(f"{setting.why_no_spare}: at a rollout the old replica ends before the new one starts")


def start_within_s(serving: Serving, setting: Setting) -> float:
    """How long a start may take: what the manifest says, and no less than three times what was seen, or what is
    predicted of a first one. A node with a cold disk or a slow registry takes longer than the last one did, and a probe
    that gives up begins the start anew."""
    known_s = setting.seen_start_s if setting.seen_start_s is not None else setting.predicted_start_s
    return max(serving.start_deadline_s, STARTS_ALLOWED * (known_s or 0.0))


def _progress_s(serving: Serving, setting: Setting, container: Mapping[str, Any]) -> int:
    """When a rollout without progress counts as failed: not before the startup probe gives the replica up."""
    return max(1, math.ceil(start_within_s(serving, setting)), start_allowed_s(container["startupProbe"]))


def start_allowed_s(probe: Mapping[str, Any]) -> int:
    """Seconds from a container's start until its startup probe gives it up; Kubernetes' defaults where it names none.

    Source: https://kubernetes.io/docs/concepts/workloads/pods/probes/
    """
    delay_s = look.count(probe, "initialDelaySeconds", default=0)
    tries = look.count(probe, "failureThreshold", default=0) or 3
    return delay_s + tries * (look.count(probe, "periodSeconds", default=0) or 10)


def _tries(serving: Serving, setting: Setting) -> int:
    """Of the startup probe."""
    return max(1, math.ceil(start_within_s(serving, setting) / PROBE_PERIOD_S))


def _tell_start(serving: Serving, setting: Setting) -> None:
    """Why a start may take longer than the manifest says."""
    if start_within_s(serving, setting) <= serving.start_deadline_s:
        return
    why = f"a first start of its model is predicted to take {format_duration(setting.predicted_start_s or 0)}"
    if setting.seen_start_s is not None:
        why = f"its starts took up to {format_duration(setting.seen_start_s)}"
    setting.notes.append(f"{why}: the startup probe allows {PROBE_PERIOD_S * _tries(serving, setting)} s")


def port_of(made: Mapping[str, Any]) -> int:
    """Where the first container of a rendered Deployment answers, or that of a LeaderWorkerSet's leader."""
    spec = made["spec"]
    template = spec.get("template") or spec["leaderWorkerTemplate"]["leaderTemplate"]
    container = template["spec"]["containers"][0]
    return int(container["ports"][0]["containerPort"])


def _template(serving: Serving, setting: Setting) -> tuple[Object, dict[str, str]]:
    """The pod template, and the selector that the manifest itself fixes (a Deployment's own)."""
    spec = deepcopy(serving.manifest.get("spec") or {})
    selector: dict[str, str] = {}
    metadata: Object = {}
    if serving.kind == "Deployment":
        template = spec["template"]
        metadata, pod = dict(template.get("metadata") or {}), template["spec"]
        selector = dict((spec.get("selector") or {}).get("matchLabels") or {})
    elif serving.kind == "InferenceService":
        pod = spec["predictor"]
        metadata = {key: dict(pod.pop(key)) for key in ("labels", "annotations") if pod.get(key)}
    else:
        pod = (spec.get("template") or {}) if isinstance(spec.get("template"), dict) else {}
    pod = {key: value for key, value in pod.items() if key not in COMPONENT_FIELDS}
    pod["containers"] = containers_of(serving, setting, pod)
    complete(serving, setting, pod)
    return {"metadata": metadata, "spec": pod}, selector


def containers_of(serving: Serving, setting: Setting, pod: Object, *, parallel: Sequence[str] = ()) -> list[Object]:
    """The manifest's containers; vLLM's where it names none. The one of an LLMInferenceService says what it leaves open
    to the controller's own template, and here to vLLM's image. Raises as `engine_container` does."""
    written: list[Object] = pod.get("containers") or []
    if serving.kind != "LLMInferenceService":
        return written or [
            _over(serving, setting, engine_container(serving, setting, parallel=parallel), _written(serving))
        ]
    main = next((one for one in written if one.get("name") == MAIN), {})
    if main.get("command"):
        return written
    base = engine_container(serving, setting, parallel=parallel)
    given = {key: value for key, value in main.items() if key != "args"}
    return [_over(serving, setting, base, given), *(one for one in written if one is not main)]


def _over(serving: Serving, setting: Setting, base: Object, given: Object) -> Object:
    """The engine's container with what the manifest says of it; of its variables both, the manifest's own first."""
    env = {"env": containers.with_variables(given["env"], base["env"])} if given.get("env") else {}
    if not serving.resources.num_gpus and not given.get("image"):
        setting.notes.append(cpu.note(serving))
    return {**base, **given, **env}


def _written(serving: Serving) -> Object:
    """What a manifest's `model` says of its container, which KServe would merge with a runtime's."""
    predictor = (serving.manifest.get("spec") or {}).get("predictor") or {}
    model = predictor.get("model") or predictor.get("huggingface") or {}
    return {key: deepcopy(value) for key, value in model.items() if key in _OF_CONTAINER and value}


_OF_CONTAINER = frozenset(
    {
        "image", "imagePullPolicy", "env", "envFrom", "resources", "volumeMounts", "securityContext", "workingDir",
        "readinessProbe", "startupProbe", "livenessProbe", "lifecycle", "volumeDevices", "resizePolicy",
        "terminationMessagePath", "terminationMessagePolicy",
    }
)  # fmt: skip
COMPONENT_FIELDS = frozenset(
    {
        "model", "huggingface", "minReplicas", "maxReplicas", "scaleTarget", "scaleMetric", "scaleMetricType",
        "containerConcurrency", "timeout", "canaryTrafficPercent", "logger", "batcher", "deploymentStrategy",
        "autoScaling", "workerSpec", "name", "labels", "annotations", "storageUris", "storageContainerName",
        *OTHER_FRAMEWORKS,
    }
)  # fmt: skip
"""Of a KServe component: what is no field of a PodSpec."""


def engine_container(serving: Serving, setting: Setting, *, model: str = "", parallel: Sequence[str] = ()) -> Object:
    """vLLM's. `model` is where it lies; without it the engine fetches what the manifest names. `parallel` is how it
    uses its GPUs, all of the pod's without it. Raises EngineUnavailable where another engine is asked for."""
    if serving.runtime not in {None, "vllm"}:
        raise EngineUnavailable(
            f"{serving.name} asks for the engine {serving.runtime}, and there is no image of it to run in a cluster",
            hint="name an image in spec.predictor.containers, or leave the engine open: vLLM's image is used then",
        )
    num_gpus = serving.resources.num_gpus
    image, env, limits = setting.vllm_image, dict(serving.env), {serving.resources.gpu_resource: str(num_gpus)}
    if not num_gpus:
        image, limits = cpu.IMAGE, {}
        env |= cpu.variables(serving)
    args = ["--model", model or serving.model_uri.removeprefix("hf://"), "--served-model-name", serving.name]
    owner, colon, revision = args[1].rpartition(":")
    if colon:
        args[1:2] = [owner, "--revision", revision]
    if serving.max_model_len is not None and "--max-model-len" not in serving.engine_args:
        args += ["--max-model-len", str(serving.max_model_len)]
    args += parallel
    if not parallel and num_gpus > 1 and "--tensor-parallel-size" not in serving.engine_args:
        args += ["--tensor-parallel-size", str(num_gpus)]
    requests: Object = {}
    if serving.resources.cpu:
        requests["cpu"] = f"{round(serving.resources.cpu * 1000)}m"
    if serving.resources.memory_bytes:
        requests["memory"] = str(serving.resources.memory_bytes)
    return {
        "name": "engine",
        "image": image,
        "args": [*args, *serving.engine_args],
        "env": [{"name": name, "value": value} for name, value in env.items()],
        "ports": [{"name": "http", "containerPort": VLLM_PORT}],
        "resources": {"requests": requests, "limits": limits},
    }


def complete(serving: Serving, setting: Setting, pod: Object) -> None:
    """What an engine's container needs and manifests forget; what is written stays as it is written."""
    container = pod["containers"][0]
    if not container.get("startupProbe"):
        _tell_start(serving, setting)
    if not container.get("ports"):
        container["ports"] = [{"name": "http", "containerPort": port_of_container(container)}]
    port = container["ports"][0]["containerPort"]
    if not container.get("readinessProbe"):
        container["readinessProbe"] = {"httpGet": {"path": HEALTH, "port": port}, "periodSeconds": PROBE_PERIOD_S}
    if not container.get("startupProbe"):
        container["startupProbe"] = {
            "httpGet": {"path": HEALTH, "port": port},
            "periodSeconds": PROBE_PERIOD_S,
            "failureThreshold": _tries(serving, setting),
        }
    if not container.get("lifecycle"):
        container["lifecycle"] = {"preStop": {"sleep": {"seconds": LEAVE_S}}}
    setting.notes.extend(model_cache.mount(serving, pod, container))
    pod.setdefault("terminationGracePeriodSeconds", int(serving.timeout_s) + LEAVE_S)
    if serving.resources.num_gpus or container.get("image") == cpu.IMAGE:
        containers.share_memory(pod, container)
    tolerate(serving, setting, pod)
    give_token(setting, container)


def tolerate(serving: Serving, setting: Setting, pod: Object) -> None:
    """The taints of the nodes that have its GPUs."""
    if serving.resources.num_gpus and (missing := containers.tolerate(pod, setting.tolerations)):
        setting.notes.append(f"tolerates {', '.join(str(one['key']) for one in missing)}, as the GPU nodes want")


def give_token(setting: Setting, container: Object) -> None:
    """The hub's token from the namespace's Secret, where it has one and the container none."""
    if setting.has_hf_secret:
        source = {"secretKeyRef": {"name": HF_SECRET, "key": HF_SECRET_KEY, "optional": True}}
        variables = [{"name": "HF_TOKEN", "valueFrom": source}]
        container["env"] = containers.with_variables(container.get("env") or [], variables)


def port_of_container(container: Mapping[str, Any]) -> int:
    """Where a container answers that names no port: its argument's, else its engine's own."""
    words = [*(container.get("command") or []), *(container.get("args") or [])]
    for at, word in enumerate(words):
        name, equals, value = str(word).partition("=")
        if name in {"--port", "--http_port", "--http-port"}:
            value = value if equals else str(words[at + 1]) if at + 1 < len(words) else ""
            if value.isdigit():
                return int(value)
    return HUGGING_FACE_PORT if "huggingfaceserver" in str(container.get("image")) else VLLM_PORT


def service_object(serving: Serving, labels: Mapping[str, str], template: Mapping[str, Any]) -> Object:
    """For clients that go around the gateway."""
    port = template["spec"]["containers"][0]["ports"][0]["containerPort"]
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": serving.name, "namespace": serving.namespace, "labels": dict(labels)},
        "spec": {
            "selector": {SERVICE_LABEL: serving.name},
            "ports": [{"name": "http", "port": 80, "targetPort": port}],
        },
    }


def claims(serving: Serving) -> list[Object]:
    """For what its engines fetch, where the manifest asks for room of its own."""
    made = model_cache.claim(serving)
    return [] if made is None else [made]


def budget(serving: Serving, labels: Mapping[str, str]) -> Object:
    """One replica at a time may be taken by who drains a node."""
    return {
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": {"name": serving.name, "namespace": serving.namespace, "labels": dict(labels)},
        "spec": {"maxUnavailable": 1, "selector": {"matchLabels": {SERVICE_LABEL: serving.name}}},
    }
