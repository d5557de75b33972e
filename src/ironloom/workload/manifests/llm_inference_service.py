"""KServe's LLMInferenceService, serving.kserve.io/v1alpha1 and v1alpha2.

Source of names and defaults: kserve/kserve config/crd/full/llmisvc and docs/samples/llmisvc. What both versions mean
here is the same; the table of fields knows where they differ.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from typing import Any

import msgspec

from ironloom.workload.manifests import pods
from ironloom.workload.manifests.annotations import read_annotations, waiver
from ironloom.workload.manifests.argument_places import unreadable
from ironloom.workload.manifests.arguments import Waiver
from ironloom.workload.manifests.document import Document, checked_name
from ironloom.workload.manifests.engine_args import EngineCommand, Server, parse, understand
from ironloom.workload.manifests.engine_settings import command_settings, declared, scaling_of
from ironloom.workload.manifests.kserve_words import ADDITIONAL_ARGS, MAIN
from ironloom.workload.manifests.problems import raise_all
from ironloom.workload.manifests.schema import Path
from ironloom.workload.manifests.shell import expand
from ironloom.workload.serving import ON_ONE_MACHINE, WITHOUT_KSERVE, FieldNote, Serving

NAME = re.compile(r"[a-z0-9](?:[-a-z0-9]*[a-z0-9])?")
SPEC: Path = ("spec",)
TEMPLATE: Path = ("spec", "template")
KEDA_COOLDOWN_S = 300.0
"""Source: KEDA's default cooldownPeriod."""
NOT_HONOURED = {
    "baseRefs": "LLMInferenceServiceConfigs are not read",
    "prefill": "prefill and decode run in one engine here",
    "worker": "the whole replica runs on this machine",
    "router": "Ironloom's gateway routes to the replicas",
    "kvCacheOffloading": "pass the engine's own options in args",
    "rolloutStrategy": "the new replica is ready before the old one drains",
    "tracing": "no traces are exported",
    "storageInitializer": "Ironloom or the engine fetches the model",
}


def serving(made: Document) -> Serving:
    """The Serving of an LLMInferenceService whose fields have been checked. Raises ManifestError."""
    name = made.name
    with made.gather():
        name = checked_name(made, NAME, "lower-case letters, digits and '-'")
    metadata = made.obj.get("metadata") or {}
    spec = made.obj.get("spec") or {}
    said = read_annotations(
        made,
        [
            (("metadata", "annotations"), metadata.get("annotations")),
            ((*SPEC, "annotations"), spec.get("annotations")),
        ],
    )
    waived = waiver(metadata.get("annotations"), spec.get("annotations"))
    model = spec.get("model") or {}
    uri = model.get("uri")
    if not uri:
        made.complain(SPEC, "spec.model.uri names no model", hint="for example `uri: hf://Qwen/Qwen3-0.6B`")
    with made.gather():
        own, paths, scale_notes = _scaling(made, spec)
        scaling = scaling_of(made, said, own, paths)
    template = spec.get("template") or {}
    number, container = _main(made, template)
    path: Path = (*TEMPLATE, "containers", number) if number is not None else TEMPLATE
    env = pods.environment(made, path, container)
    asked, gpu_notes = pods.resources(made, path, container)
    with made.gather():
        command = _command(made, path, container, env, waived)
    raise_all(made.found)
    settings, notes, volume = command_settings(
        made, (*path, "args"), command, env, storage_uri=uri, container=container, pod=template
    )
    settings["engine_args"] = (*settings["engine_args"], *_parallelism(spec, command))
    notes += [*said.notes, *env.notes, *gpu_notes, *_own_notes(made, spec, model)]
    if number is not None:
        notes += pods.field_notes(made, TEMPLATE, template, path)
        notes += pods.sidecar_notes(made, TEMPLATE, template, number)
    notes += pods.volume_notes(made, TEMPLATE, template, volume)
    return declared(made, said, name=name, resources=asked, scaling=scaling, notes=notes + scale_notes, **settings)


def _main(made: Document, template: Mapping[str, Any]) -> tuple[int | None, Mapping[str, Any]]:
    containers = template.get("containers") or ()
    for number, container in enumerate(containers):
        if container.get("name") == MAIN:
            return number, container
    if containers:
        raise made.error(
            (*TEMPLATE, "containers"),
            f"no container of spec.template is named {MAIN!r}, which is the engine's",
            at_key=True,
        )
    return None, {}


def _command(
    made: Document, path: Path, container: Mapping[str, Any], env: pods.Environment, waived: Waiver
) -> EngineCommand:
    command = container.get("command") or []
    args = container.get("args") or []
    try:
        additional = shlex.split(env.values.pop(ADDITIONAL_ARGS, ""))
        if not command:
            words = [expand(word, env.values) for word in args]
            return parse(words + additional, server=Server.VLLM, waived=waived)
        found = understand(command, args, env.values, waived=waived)
        if found is None:
            raise made.error((*path, "command"), "the command does not run vLLM", at_key=True)
        more = parse(additional, server=Server.VLLM, waived=waived)
    except ValueError as error:
        raise unreadable(made, path, error) from None
    return msgspec.structs.replace(
        found,
        args=found.args + more.args,
        max_model_len=more.max_model_len or found.max_model_len,
        dropped=found.dropped + more.dropped,
    )


def _parallelism(spec: Mapping[str, Any], command: EngineCommand) -> tuple[str, ...]:
    """Engine options that spec.parallelism stands for, where the arguments do not say it themselves."""
    asked = spec.get("parallelism") or {}
    words: list[str] = []
    for key, option, own in (
        ("tensor", "--tensor-parallel-size", command.tensor_parallel_size),
        ("pipeline", "--pipeline-parallel-size", command.pipeline_parallel_size),
    ):
        if (asked.get(key) or 1) > 1 and own == 1:
            words += [option, str(asked[key])]
    if asked.get("expert") and "--enable-expert-parallel" not in command.args:
        words.append("--enable-expert-parallel")
    return tuple(words)


def _own_notes(made: Document, spec: Mapping[str, Any], model: Mapping[str, Any]) -> list[FieldNote]:
    notes = [
        made.note((*SPEC, key), f"{key}: {why}", ON_ONE_MACHINE if key == "worker" else WITHOUT_KSERVE)
        for key, why in NOT_HONOURED.items()
        if spec.get(key) not in (None, {}, [])
    ]
    base: Path = (*SPEC, "model")
    if model.get("name") and model["name"] != made.name:
        notes.append(made.note((*base, "name"), f"model name {model['name']}: clients send the model id {made.name!r}"))
    if model.get("lora"):
        notes.append(made.note((*base, "lora"), "lora: adapters are not loaded here", WITHOUT_KSERVE))
    if model.get("criticality"):
        notes.append(
            made.note((*base, "criticality"), "criticality: requests are served in the order they came", WITHOUT_KSERVE)
        )
    if model.get("confidential"):
        notes.append(
            made.note((*base, "confidential"), "confidential: the model is not decrypted here", WITHOUT_KSERVE)
        )
    asked = spec.get("parallelism") or {}
    notes += [
        made.note(
            (*SPEC, "parallelism", key), f"parallelism.{key}: replicas are scaled one by one here", WITHOUT_KSERVE
        )
        for key in ("data", "dataLocal", "dataRPCPort")
        if asked.get(key)
    ]
    return notes


def _scaling(made: Document, spec: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Path], list[FieldNote]]:
    """replicas is a fixed count; scaling has bounds, and KEDA's idleReplicaCount 0 lets it go to zero."""
    own: dict[str, Any] = {}
    paths: dict[str, Path] = {}
    notes: list[FieldNote] = []
    replicas, scaling = spec.get("replicas"), spec.get("scaling") or {}
    if replicas is not None and scaling:
        raise made.error((*SPEC, "replicas"), "spec has both replicas and scaling; give one of them", at_key=True)
    if not scaling:
        if replicas is not None:
            # 0 is a service at zero, which a request wakes here: nothing would be served otherwise.
            own = {"min_replicas": replicas, "max_replicas": max(1, replicas), "initial_scale": min(1, replicas)}
            paths = dict.fromkeys(own, (*SPEC, "replicas"))
        return own, paths, notes
    base: Path = (*SPEC, "scaling")
    own = {"min_replicas": scaling.get("minReplicas") or 1, "max_replicas": scaling.get("maxReplicas") or 0}
    paths = {"min_replicas": (*base, "minReplicas"), "max_replicas": (*base, "maxReplicas")}
    wva = scaling.get("wva") or {}
    if wva:
        notes.append(made.note((*base, "wva"), "wva: requests in flight are counted here", WITHOUT_KSERVE))
    keda, keda_path = scaling.get("keda"), (*base, "keda")
    if not keda and wva.get("keda"):
        keda, keda_path = wva["keda"], (*base, "wva", "keda")
    if keda:
        notes += [
            made.note((*keda_path, key), f"keda.{key}: requests in flight are counted here", WITHOUT_KSERVE)
            for key in ("triggers", "advanced", "fallback", "pollingInterval", "initialCooldownPeriod")
            if keda.get(key) is not None
        ]
        idle = keda.get("idleReplicaCount")
        if idle is not None:
            if idle != 0:
                raise made.error((*keda_path, "idleReplicaCount"), f"idleReplicaCount = {idle}, KEDA allows 0 only")
            cooldown = keda.get("cooldownPeriod")
            own["min_replicas"] = 0
            own["retention_s"] = KEDA_COOLDOWN_S if cooldown is None else float(cooldown)
            paths["min_replicas"] = (*keda_path, "idleReplicaCount")
    return own, paths, notes
