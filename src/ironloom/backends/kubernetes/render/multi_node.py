"""A service whose replica spans nodes, as a LeaderWorkerSet: each replica is a group, its leader answers.

    manifest                                     group
    LeaderWorkerSet                              its own, as written
    InferenceService with a workerSpec           predictor and workerSpec
    LLMInferenceService with a worker            template and worker

What the containers run is the manifest's. Where it leaves that open vLLM's image runs on all nodes with vLLM's own
launcher over several of them: the leader serves, the workers are `--headless`.

Source: https://docs.vllm.ai/en/stable/serving/parallelism_scaling/ (multiprocessing) and
https://lws.sigs.k8s.io/docs/reference/labels-annotations-and-environment-variables/
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from ironloom.backends.kubernetes.names import (
    GENERATION_LABEL,
    MANAGED_BY,
    PODSET_GROUP,
    PREFERRED,
    QUEUE,
    REQUIRED,
    SERVICE_LABEL,
    WORKER_INDEX,
)
from ironloom.backends.kubernetes.render import containers, model_cache, plain
from ironloom.backends.kubernetes.render.fabric import wire
from ironloom.backends.kubernetes.render.plain import Object, Setting
from ironloom.errors import EngineUnavailable
from ironloom.workload import look
from ironloom.workload.manifests.applied import MANIFEST
from ironloom.workload.serving import Serving

API_VERSION: Final = "leaderworkerset.x-k8s.io/v1"
KIND: Final = "LeaderWorkerSet"
OVER_NODES: Final = (
    *("--nnodes", "$(LWS_GROUP_SIZE)", "--node-rank", "$(LWS_WORKER_INDEX)"),
    *("--master-addr", "$(LWS_LEADER_ADDRESS)"),
)
"""Arguments of vLLM on each node; the values are the environment of a group's pods, written in by the kubelet."""
HEADLESS: Final = "--headless"
HOST_IP: Final = "VLLM_HOST_IP"
EXCLUSIVE: Final = "leaderworkerset.sigs.k8s.io/exclusive-topology"
"""Annotation of a set: each of its groups has one domain of this level to itself.

Source: https://lws.sigs.k8s.io/docs/concepts/#exclusive-placement"""
PODSET: Final = "kueue.x-k8s.io/podset-"
_OF_WORKERS: Final = frozenset({"tensorParallelSize", "pipelineParallelSize"})
"""Of a workerSpec: what is no field of a PodSpec."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Span:
    """How one replica lies over nodes."""

    num_nodes: int
    """The leader's included."""
    field: str
    """Of the manifest, by which it asks for that."""
    parallel: tuple[str, ...] = ()
    """Engine arguments that the manifest's fields stand for."""


def span_of(serving: Serving) -> Span | None:
    """Of a replica over several nodes; None of one that a node holds. Raises EngineUnavailable for parallelism that
    does not fill its nodes, or that no arguments of the engine are known for here."""
    spec = look.mapping(serving.manifest, "spec")
    if serving.kind == KIND:
        size = look.count(spec, "leaderWorkerTemplate", "size")
        return Span(num_nodes=size, field=f"size {size}")
    if serving.kind == "InferenceService":
        worker = look.at(spec, "predictor", "workerSpec")
        if not isinstance(worker, Mapping):
            return None
        tensor = look.count(worker, "tensorParallelSize")
        pipeline = look.count(worker, "pipelineParallelSize")
        return _span(serving, "workerSpec", tensor, pipeline, own_container=look.mapping(spec, "predictor"))
    if serving.kind == "LLMInferenceService" and isinstance(spec.get("worker"), Mapping):
        asked = look.mapping(spec, "parallelism")
        if look.count(asked, "data", default=0) or look.count(asked, "dataLocal", default=0):
            raise EngineUnavailable(
                f"{serving.name} asks for data parallelism over several nodes (parallelism.data)",
                hint="KServe's controller of LLMInferenceServices runs it; here tensor and pipeline span nodes",
            )
        return _span(
            serving, "worker", look.count(asked, "tensor"), look.count(asked, "pipeline"),
            own_container=look.mapping(spec, "template"),
        )  # fmt: skip
    return None


def _span(serving: Serving, field: str, tensor: int, pipeline: int, *, own_container: Mapping[str, Any]) -> Span | None:
    """tensor x pipeline GPUs over nodes of so many as one pod asks for."""
    num_gpus, per_node = tensor * pipeline, serving.resources.num_gpus
    if not per_node or num_gpus % per_node:
        raise EngineUnavailable(
            f"{serving.name} is to run on {tensor} x {pipeline} GPUs (tensor x pipeline parallelism), which pods of "
            f"{per_node} do not fill",
            hint="let resources.limits ask for the GPUs of one node, and tensor x pipeline be a multiple of them",
        )
    num_nodes = num_gpus // per_node
    if num_nodes < 2:
        return None
    said = () if own_container.get("containers") else _parallel(serving, tensor, pipeline)
    return Span(num_nodes=num_nodes, field=field, parallel=said)


def _parallel(serving: Serving, tensor: int, pipeline: int) -> tuple[str, ...]:
    words: list[str] = []
    for option, value in (("--tensor-parallel-size", tensor), ("--pipeline-parallel-size", pipeline)):
        if option not in serving.engine_args:
            words += [option, str(value)]
    return tuple(words)


def objects(serving: Serving, setting: Setting, span: Span) -> list[Object]:
    """The service's objects, the LeaderWorkerSet first. Raises as `plain.objects` does."""
    labels = {**serving.labels, **MANAGED_BY, SERVICE_LABEL: serving.name}
    annotations = {**serving.annotations, MANIFEST: msgspec.json.encode(serving.manifest).decode()}
    leader, worker, more = _templates(serving, setting, span)
    own = {SERVICE_LABEL: serving.name, GENERATION_LABEL: str(setting.generation)}
    for template in (leader, worker):
        metadata = template.setdefault("metadata", {})
        metadata["labels"] = {**(metadata.get("labels") or {}), **own}
    plain.complete(serving, setting, leader["spec"])
    _complete_worker(serving, setting, worker["spec"])
    if setting.fabric is not None:
        for template in (leader, worker):
            wire(template["spec"]["containers"][0], setting.fabric, may_lock_memory=setting.may_lock_memory)
    _keep_together(serving, setting, annotations, (leader, worker))
    plain.tell_surge(setting)
    setting.notes.append(f"a replica is a group of {span.num_nodes} pods of a LeaderWorkerSet; its leader answers")
    made: Object = {
        "apiVersion": API_VERSION,
        "kind": KIND,
        "metadata": {
            "name": serving.name,
            "namespace": serving.namespace,
            "labels": labels,
            "annotations": annotations,
        },
        "spec": {
            "startupPolicy": "LeaderCreated",
            **{key: value for key, value in more.items() if key not in {"replicas", "rolloutStrategy"}},
            "rolloutStrategy": {"type": "RollingUpdate", "rollingUpdateConfiguration": plain.surge(setting)},
            "leaderWorkerTemplate": {
                "restartPolicy": "RecreateGroupOnPodRestart",
                **look.mapping(more, "leaderWorkerTemplate"),
                "size": span.num_nodes,
                "leaderTemplate": leader,
                "workerTemplate": worker,
            },
        },
    }
    service = plain.service_object(serving, labels, leader)
    service["metadata"]["name"] = service_name(serving.name)
    service["spec"]["selector"] = {SERVICE_LABEL: serving.name, WORKER_INDEX: "0"}
    out = [made, service, *plain.claims(serving)]
    if serving.scaling.min_replicas > 1:
        out.append(plain.budget(serving, labels))
    return out


def _keep_together(
    serving: Serving, setting: Setting, annotations: dict[str, str], templates: Sequence[Object]
) -> None:
    """Have the pods of a group near each other, by what the cluster has, and say by what.

    Of the manifest's wishes in Kueue's words, `podset-required-topology` and `podset-preferred-topology`, Kueue has
    those of a service in a queue. Without one the required one is LeaderWorkerSet's own: a domain for each group alone.
    """
    own = look.mapping(templates[-1], "metadata", "annotations")
    said = {key: own.get(key) or serving.annotations.get(key, "") for key in (REQUIRED, PREFERRED)}
    if setting.has_kueue and (queue := serving.labels.get(QUEUE, "")):
        wish = {REQUIRED: said[REQUIRED]} if said[REQUIRED] else {PREFERRED: said[PREFERRED] or setting.topology_key}
        wish = {key: level for key, level in wish.items() if level}
        written = [_podset(template) for template in templates]
        if wish and all(one in ({}, wish) for one in written):  # others know more of their groups than is known here
            for template in templates:
                known = template["metadata"].get("annotations") or {}
                template["metadata"]["annotations"] = {**known, **wish, PODSET_GROUP: serving.name}
        where = "".join(f", in one {level}" for level in wish.values())
        where += " where there is room" if PREFERRED in wish else ""
        setting.notes.append(f"queue {queue} admits each group whole{where}")
        return
    if said[REQUIRED]:
        annotations.setdefault(EXCLUSIVE, said[REQUIRED])
    if level := annotations.get(EXCLUSIVE):
        setting.notes.append(f"LeaderWorkerSet gives each group one {level} to itself; its pods are placed one by one")
    else:
        setting.notes.append(
            "no gang: the pods of a group are placed one by one, wherever there is room; the annotation "
            f"{REQUIRED}: LABEL has them share a domain"
        )


def _podset(template: Object) -> dict[str, str]:
    """What a template says to Kueue of where its pods go."""
    return {
        key: text for key, text in look.mapping(template, "metadata", "annotations").items() if key.startswith(PODSET)
    }


def service_name(service: str) -> str:
    """Of the Service of the leaders: the controller makes one of the set's own name, for the names of its pods."""
    return f"{service}-leaders"


def _templates(serving: Serving, setting: Setting, span: Span) -> tuple[Object, Object, Object]:
    """The templates of leader and worker, and what else the spec of a LeaderWorkerSet says."""
    spec = deepcopy(serving.manifest["spec"])
    if serving.kind == KIND:
        group = spec["leaderWorkerTemplate"]
        worker = group["workerTemplate"]
        return deepcopy(group.get("leaderTemplate") or worker), worker, spec
    if serving.kind == "InferenceService":
        predictor = spec["predictor"]
        metadata = {key: dict(predictor[key]) for key in ("labels", "annotations") if predictor.get(key)}
        head, tail = predictor, predictor["workerSpec"]
    else:
        metadata = {key: dict(spec[key]) for key in ("labels", "annotations") if spec.get(key)}
        head, tail = spec.get("template") or {}, spec["worker"]
    leader = {key: value for key, value in head.items() if key not in plain.COMPONENT_FIELDS}
    worker = {key: value for key, value in tail.items() if key not in _OF_WORKERS}
    written = leader.get("containers") or []
    leader["containers"] = plain.containers_of(serving, setting, leader, parallel=span.parallel)
    is_ours = leader["containers"] != written
    if is_ours:
        engine = leader["containers"][0]
        engine["args"] += OVER_NODES
        engine["env"] = [*(engine.get("env") or []), *_own_address(engine)]
    if not any(one.get("command") or one.get("args") for one in worker.get("containers") or ()):
        if not is_ours:
            raise EngineUnavailable(
                f"{serving.name} names what its leader runs and not what its workers run ({span.field})",
                hint="give the workers' container a command or arguments, or leave the leader's to Ironloom",
            )
        worker["containers"] = [_headless(leader["containers"][0], (worker.get("containers") or [{}])[0])]
    # What a worker leaves out of its pod is as on the leader: both need the same nodes.
    for key in ("nodeSelector", "affinity", "volumes", "tolerations", "imagePullSecrets"):
        if key in leader and key not in worker:
            worker[key] = deepcopy(leader[key])
    return {"metadata": deepcopy(metadata), "spec": leader}, {"metadata": metadata, "spec": worker}, {}


def _own_address(engine: Object) -> list[Object]:
    """Where the other nodes reach this one: a pod has one address that counts, and vLLM would have to guess it.

    Source: https://docs.vllm.ai/en/stable/configuration/env_vars/ (VLLM_HOST_IP)
    """
    if any(one.get("name") == HOST_IP for one in engine.get("env") or ()):
        return []
    return [{"name": HOST_IP, "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}]


def _headless(engine: Object, written: Object) -> Object:
    """A worker's container: the leader's, that serves nobody, with what the manifest says of it."""
    made = {key: value for key, value in deepcopy(engine).items() if key not in _OF_LEADER}
    if HEADLESS not in made.get("args", ()):
        made["args"] = [*made.get("args", ()), HEADLESS]
    return {**made, "name": "worker", **{key: value for key, value in written.items() if value}}


_OF_LEADER: Final = frozenset({"ports", "readinessProbe", "startupProbe", "livenessProbe", "lifecycle"})


def _complete_worker(serving: Serving, setting: Setting, pod: Object) -> None:
    """What GPU pods need and manifests forget; no probes, as nothing listens there."""
    container = pod["containers"][0]
    containers.share_memory(pod, container)
    plain.tolerate(serving, setting, pod)
    model_cache.mount(serving, pod, container)
    plain.give_token(setting, container)
