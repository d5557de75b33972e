"""A Deployment whose container runs vLLM or KServe's Hugging Face server, and the Service that selects it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from ironloom.workload.manifests import pods
from ironloom.workload.manifests.annotations import Annotated, read_annotations, waiver
from ironloom.workload.manifests.argument_places import unreadable
from ironloom.workload.manifests.arguments import Waiver
from ironloom.workload.manifests.document import Document, checked_name, strings
from ironloom.workload.manifests.engine_args import EngineCommand, understand
from ironloom.workload.manifests.engine_settings import command_settings, distinct, scaling_of
from ironloom.workload.manifests.problems import each, raise_all
from ironloom.workload.manifests.schema import Path
from ironloom.workload.serving import Serving

SPEC: Path = ("spec",)
TEMPLATE: Path = ("spec", "template")
POD: Path = ("spec", "template", "spec")
NOT_HONOURED = {
    "strategy": "the new replica is ready before the old one drains",
    "paused": "an apply takes effect at once",
}


def serving(made: Document) -> Serving | None:
    """The Serving of a Deployment whose fields have been checked; None where no container of it runs an engine.

    Raises ManifestError.
    """
    name = made.name
    with made.gather():
        name = checked_name(made)
    metadata = made.obj.get("metadata") or {}
    spec = made.obj.get("spec") or {}
    template = spec.get("template") or {}
    pod = template.get("spec") or {}
    template_metadata = template.get("metadata") or {}
    waived = waiver(metadata.get("annotations"), template_metadata.get("annotations"))
    found = engine_of(made, pod, POD, waived)
    if found is None:
        raise_all(made.found)
        return None
    number, command, env = found
    path: Path = (*POD, "containers", number)
    container = pod["containers"][number]
    _check_selector(made, spec, template_metadata)
    said = read_annotations(
        made,
        [
            (("metadata", "annotations"), metadata.get("annotations")),
            ((*TEMPLATE, "metadata", "annotations"), template_metadata.get("annotations")),
        ],
    )
    own, paths = fixed_scaling(made, spec, said)
    with made.gather():
        scaling = scaling_of(made, said, own, paths)
    asked, gpu_notes = pods.resources(made, path, container)
    if command is not None:
        with made.gather():
            settings, notes, volume = command_settings(
                made, (*path, "args"), command, env, storage_uri=None, container=container, pod=pod
            )
    raise_all(made.found)
    notes += [*said.notes, *env.notes, *gpu_notes]
    notes += pods.field_notes(made, POD, pod, path)
    notes += pods.sidecar_notes(made, POD, pod, number)
    notes += pods.volume_notes(made, POD, pod, volume)
    notes += [made.note((*SPEC, key), f"{key}: {why}") for key, why in NOT_HONOURED.items() if spec.get(key)]
    deadline = spec.get("progressDeadlineSeconds")
    made_serving = Serving(
        name=name,
        kind=made.kind,
        namespace=metadata.get("namespace") or "default",
        labels=strings(metadata.get("labels")),
        annotations=strings(metadata.get("annotations")),
        resources=asked,
        scaling=scaling,
        start_deadline_s=600.0 if deadline is None else float(max(1, deadline)),
        not_honoured=distinct(notes),
        manifest=made.obj,
        **settings,
    )
    return replace(made_serving, **said.serving)


def selects(service: Mapping[str, Any], deployment: Mapping[str, Any]) -> bool:
    """Whether a Service sends requests to a Deployment's pods."""
    selector = (service.get("spec") or {}).get("selector") or {}
    template = (deployment.get("spec") or {}).get("template") or {}
    labels = (template.get("metadata") or {}).get("labels") or {}
    same_namespace = _namespace(service) == _namespace(deployment)
    return bool(selector) and same_namespace and all(labels.get(key) == value for key, value in selector.items())


def with_services(made: Serving, services: Iterable[Mapping[str, Any]]) -> Serving:
    """A Deployment's Serving together with the Services that select it."""
    own = tuple(dict(service) for service in services if selects(service, made.manifest))
    return replace(made, extra_manifests=own) if own else made


def engine_of(
    made: Document, pod: Mapping[str, Any], base: Path, waived: Waiver
) -> tuple[int, EngineCommand | None, pods.Environment] | None:
    """The engine's container in the PodSpec at `base`, its command (None for one that cannot be read, which is a
    complaint) and environment."""
    for number, container in enumerate(pod.get("containers") or ()):
        path: Path = (*base, "containers", number)
        env = pods.environment(made, path, container)
        command = container.get("command") or []
        args = container.get("args") or []
        try:
            found = understand(command, args, env.values, image=str(container.get("image") or ""), waived=waived)
        except ValueError as error:
            made.found.extend(each(unreadable(made, path, error)))
            return number, None, env
        if found is not None:
            return number, found, env
    return None


def _check_selector(made: Document, spec: Mapping[str, Any], template_metadata: Mapping[str, Any]) -> None:
    """Kubernetes refuses a Deployment that does not select its own pods."""
    labels = template_metadata.get("labels") or {}
    for key, value in ((spec.get("selector") or {}).get("matchLabels") or {}).items():
        if labels.get(key) != value:
            made.complain(
                (*SPEC, "selector", "matchLabels", key),
                f"the selector wants {key}={value}, and spec.template.metadata.labels has "
                + (f"{key}={labels[key]}" if key in labels else f"no {key}"),
            )


def fixed_scaling(made: Document, spec: Mapping[str, Any], said: Annotated) -> tuple[dict[str, Any], dict[str, Path]]:
    """`replicas` is a fixed count, 1 where it is not said; with min-scale or max-scale the autoscaler has it."""
    if said.scaling.keys() & {"min_replicas", "max_replicas"}:
        return {}, {}
    replicas = spec.get("replicas")
    replicas = 1 if replicas is None else replicas
    path: Path = (*SPEC, "replicas")
    if not 0 <= replicas < 2**31:
        made.complain(path, f"replicas = {replicas}, must be a whole number of at least 0")
        return {}, {}
    # 0 is a service at zero, which a request wakes here: nothing would be served otherwise.
    own = {"min_replicas": replicas, "max_replicas": max(1, replicas), "initial_scale": min(1, replicas)}
    return own, dict.fromkeys(own, path)


def _namespace(manifest: Mapping[str, Any]) -> str:
    return str((manifest.get("metadata") or {}).get("namespace") or "default")
