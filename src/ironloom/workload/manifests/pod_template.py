"""What a Deployment and a LeaderWorkerSet say alike: a pod template with an engine's container in it, and a count."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from ironloom.workload.manifests import pods
from ironloom.workload.manifests.annotations import Annotated, read_annotations, waiver
from ironloom.workload.manifests.argument_places import unreadable
from ironloom.workload.manifests.arguments import Waiver
from ironloom.workload.manifests.document import Document, checked_name
from ironloom.workload.manifests.engine_args import EngineCommand, understand
from ironloom.workload.manifests.engine_settings import command_settings, declared, scaling_of
from ironloom.workload.manifests.problems import each, raise_all
from ironloom.workload.manifests.schema import Path
from ironloom.workload.serving import FieldNote, Serving

SPEC: Path = ("spec",)


def serving_of(
    made: Document,
    at: Path,
    template: Mapping[str, Any],
    *,
    own_notes: Callable[[], Iterable[FieldNote]],
    **fields: Any,
) -> Serving | None:
    """The Serving of the pod template that stands at `at`; None where no container of it runs an engine.

    `own_notes` checks what the kind alone has and says what is not honoured of it, once there is an engine; `fields`
    are of the Serving. Raises ManifestError.
    """
    name = made.name
    with made.gather():
        name = checked_name(made)
    metadata = made.obj.get("metadata") or {}
    pod = template.get("spec") or {}
    annotations = (template.get("metadata") or {}).get("annotations")
    base: Path = (*at, "spec")
    found = _engine(made, pod, base, waiver(metadata.get("annotations"), annotations))
    if found is None:
        raise_all(made.found)
        return None
    number, command, env = found
    path: Path = (*base, "containers", number)
    container = pod["containers"][number]
    more = list(own_notes())
    said = read_annotations(
        made,
        [
            (("metadata", "annotations"), metadata.get("annotations")),
            ((*at, "metadata", "annotations"), annotations),
        ],
    )
    own, paths = _fixed_scaling(made, said)
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
    notes += pods.field_notes(made, base, pod, path)
    notes += pods.sidecar_notes(made, base, pod, number)
    notes += pods.volume_notes(made, base, pod, volume)
    return declared(
        made, said, name=name, resources=asked, scaling=scaling, notes=[*notes, *more], **fields, **settings
    )


def _engine(
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


def _fixed_scaling(made: Document, said: Annotated) -> tuple[dict[str, Any], dict[str, Path]]:
    """`replicas` is a fixed count, 1 where it is not said; with min-scale or max-scale the autoscaler has it."""
    if said.scaling.keys() & {"min_replicas", "max_replicas"}:
        return {}, {}
    replicas = (made.obj.get("spec") or {}).get("replicas")
    replicas = 1 if replicas is None else replicas
    path: Path = (*SPEC, "replicas")
    if not 0 <= replicas < 2**31:
        made.complain(path, f"replicas = {replicas}, must be a whole number of at least 0")
        return {}, {}
    # 0 is a service at zero, which a request wakes here: nothing would be served otherwise.
    own = {"min_replicas": replicas, "max_replicas": max(1, replicas), "initial_scale": min(1, replicas)}
    return own, dict.fromkeys(own, path)
