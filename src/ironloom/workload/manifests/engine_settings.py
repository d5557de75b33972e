"""From an engine's command line, environment and annotations to the settings of a Serving: the same for every kind."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ironloom.workload.manifests.annotations import Annotated
from ironloom.workload.manifests.document import Document, strings
from ironloom.workload.manifests.engine_args import EngineCommand
from ironloom.workload.manifests.kserve_words import is_storage_mount
from ironloom.workload.manifests.pods import ENV_NOT_PASSED, Environment, locate
from ironloom.workload.manifests.schema import Path
from ironloom.workload.serving import ON_ONE_MACHINE, WITHOUT_KSERVE, FieldNote, Scaling, Serving


def command_settings(
    made: Document,
    path: Path,
    command: EngineCommand,
    env: Environment,
    *,
    storage_uri: str | None,
    container: Mapping[str, Any],
    pod: Mapping[str, Any],
) -> tuple[dict[str, Any], list[FieldNote], str | None]:
    """Settings of Serving, notes, and the volume that holds the model. `path` is where the arguments stand.

    Raises ManifestError when nothing names a model.
    """
    # A container of the manifest's own runs as it is written where there are containers.
    grounds = ON_ONE_MACHINE if container.get("image") else WITHOUT_KSERVE
    notes = [made.note(path, f"{option}: {why}", grounds) for option, why in command.dropped]
    others = [name for name in command.served_names if name != made.name]
    if others:
        notes.append(made.note(path, f"served name {', '.join(others)}: clients send the model id {made.name!r}"))
    uri, volume = storage_uri or "", None
    notes += [
        made.note(path, f"env {name}: {ENV_NOT_PASSED[name]}", ON_ONE_MACHINE)
        for name, _ in command.env
        if name in ENV_NOT_PASSED
    ]
    if uri:
        if command.revision:
            notes.append(made.note(path, f"revision {command.revision}: it belongs to the model's URI, {uri}"))
        if command.model and not is_storage_mount(command.model):
            notes.append(
                made.note(path, f"model {command.model}: the one of the manifest's own field is served, {uri}")
            )
    elif command.model:
        location = locate(command.model, command.revision, container, pod)
        uri, volume = location.uri, location.volume
    else:
        raise made.error(
            path[:-1],
            "nothing names a model",
            hint="give storageUri, or --model in the server's arguments",
            at_key=True,
        )
    tokenizer = command.tokenizer
    settings: dict[str, Any] = {
        "model_uri": uri,
        "tokenizer_uri": locate(tokenizer, "", container, pod).uri if tokenizer else "",
        "engine_args": command.args,
        "env": env.values | {name: value for name, value in command.env if name not in ENV_NOT_PASSED},
        "max_model_len": command.max_model_len,
    }
    return settings, notes, volume


def scaling_of(made: Document, said: Annotated, own: dict[str, Any], paths: dict[str, Path]) -> Scaling:
    """Scaling from annotations and the kind's own fields, which count first. `paths` says where the own ones stand.

    Raises ManifestError where min, activation and max contradict each other.
    """
    scaling = replace(Scaling(), **(said.scaling | own))
    where = said.paths | paths
    high = scaling.max_replicas
    if high and high < scaling.min_replicas:
        raise made.error(
            where.get("max_replicas", ()),
            f"max replicas = {high}, must be at least min replicas, which is {scaling.min_replicas}",
        )
    activation = scaling.activation_scale
    if activation > 1 and (activation < scaling.min_replicas or (high and activation > high)):
        raise made.error(
            where.get("activation_scale", ()),
            f"activation scale = {activation}, must be between min replicas ({scaling.min_replicas}) "
            f"and max replicas ({high or 'none'})",
        )
    return scaling


def declared(made: Document, said: Annotated, *, notes: list[FieldNote], **fields: Any) -> Serving:
    """The Serving of a manifest that was read: `fields` are its own settings, and what annotations say of them counts
    first."""
    metadata = made.obj.get("metadata") or {}
    found = Serving(
        kind=made.kind,
        namespace=metadata.get("namespace") or "default",
        labels=strings(metadata.get("labels")),
        annotations=strings(metadata.get("annotations")),
        not_honoured=distinct(notes),
        manifest=made.obj,
        **fields,
    )
    return replace(found, **said.serving)


def distinct(notes: list[FieldNote]) -> tuple[FieldNote, ...]:
    """Each note once, in the order of the text."""
    once = {(note.path, note.message): note for note in notes}
    return tuple(sorted(once.values(), key=lambda note: (note.line, note.column)))
