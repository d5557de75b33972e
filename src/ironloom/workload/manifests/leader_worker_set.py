"""A LeaderWorkerSet whose leader runs vLLM or KServe's Hugging Face server: each of its groups is a replica.

Source of names and defaults: https://github.com/kubernetes-sigs/lws/blob/v0.9.0/api/leaderworkerset/v1/leaderworkerset_types.go
"""

from __future__ import annotations

from dataclasses import replace

from ironloom.workload.manifests import pods
from ironloom.workload.manifests.annotations import read_annotations, waiver
from ironloom.workload.manifests.deployment import engine_of, fixed_scaling
from ironloom.workload.manifests.document import Document, checked_name, strings
from ironloom.workload.manifests.engine_settings import command_settings, distinct, scaling_of
from ironloom.workload.manifests.problems import raise_all
from ironloom.workload.manifests.schema import Path
from ironloom.workload.serving import ON_ONE_MACHINE, WITHOUT_KSERVE, Serving

GROUP: Path = ("spec", "leaderWorkerTemplate")
NOT_HONOURED = {"rolloutStrategy": "the new replica is ready before the old one drains"}
"""Fields of `spec`."""


def serving(made: Document) -> Serving | None:
    """The Serving of a LeaderWorkerSet whose fields have been checked; None where its leader runs no engine.

    Raises ManifestError.
    """
    name = made.name
    with made.gather():
        name = checked_name(made)
    metadata = made.obj.get("metadata") or {}
    spec = made.obj.get("spec") or {}
    group = spec.get("leaderWorkerTemplate") or {}
    role = "leaderTemplate" if group.get("leaderTemplate") else "workerTemplate"
    template = group.get(role) or {}
    annotations = (template.get("metadata") or {}).get("annotations")
    pod, base = template.get("spec") or {}, (*GROUP, role, "spec")
    found = engine_of(made, pod, base, waiver(metadata.get("annotations"), annotations))
    if found is None:
        raise_all(made.found)
        return None
    number, command, env = found
    path: Path = (*base, "containers", number)
    container = pod["containers"][number]
    said = read_annotations(
        made,
        [
            (("metadata", "annotations"), metadata.get("annotations")),
            ((*GROUP, role, "metadata", "annotations"), annotations),
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
    notes += pods.field_notes(made, base, pod, path)
    notes += pods.sidecar_notes(made, base, pod, number)
    notes += pods.volume_notes(made, base, pod, volume)
    notes += [
        made.note(("spec", key), f"{key}: {why}", WITHOUT_KSERVE) for key, why in NOT_HONOURED.items() if spec.get(key)
    ]
    size = group.get("size") or 1
    if size > 1:
        said_of_size = f"size {size}: the whole replica runs on this machine"
        notes.append(made.note((*GROUP, "size"), said_of_size, ON_ONE_MACHINE))
    made_serving = Serving(
        name=name,
        kind=made.kind,
        namespace=metadata.get("namespace") or "default",
        labels=strings(metadata.get("labels")),
        annotations=strings(metadata.get("annotations")),
        resources=asked,
        scaling=scaling,
        not_honoured=distinct(notes),
        manifest=made.obj,
        **settings,
    )
    return replace(made_serving, **said.serving)
