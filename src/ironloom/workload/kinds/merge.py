"""A pod that a controller makes of two: a template of the platform's, and what the manifest says over it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ironloom.workload import look

NAMED = frozenset({"env", "volumes", "volumeMounts", "initContainers", "ports", "imagePullSecrets"})
"""Lists whose entries are merged by name, or by what a mount or a port is known by."""
_KEYS = {"volumeMounts": "mountPath", "ports": "containerPort"}
MAX_ENTRIES = 10_000


def merged_container(base: Mapping[str, Any], written: Mapping[str, Any]) -> dict[str, Any]:
    """A container with what is written over it; resources by name, lists by their entries' names.

    `args` of both follow each other, as in KServe.
    Source: MergeRuntimeContainers in
    https://github.com/kserve/kserve/blob/master/pkg/controller/v1beta1/inferenceservice/utils/utils.go
    """
    made = merged_spec(base, written)
    if "resources" in base and "resources" in written:
        made["resources"] = {
            name: {**look.mapping(base, "resources", name), **look.mapping(written, "resources", name)}
            for name in ("requests", "limits")
        }
    if "args" in base and "args" in written:
        made["args"] = [*look.entries(base, "args"), *look.entries(written, "args")]
    return made


def merged_spec(base: Mapping[str, Any], written: Mapping[str, Any]) -> dict[str, Any]:
    """A pod's or a container's fields with what is written over them."""
    if not base:
        return dict(written)
    made = {**base, **{key: value for key, value in written.items() if value is not None}}
    for name in NAMED & base.keys() & written.keys():
        made[name] = _by_name(look.entries(base, name), look.entries(written, name), _KEYS.get(name, "name"))
    if isinstance(base.get("nodeSelector"), Mapping) and isinstance(written.get("nodeSelector"), Mapping):
        made["nodeSelector"] = {**base["nodeSelector"], **written["nodeSelector"]}
    return made


def patched_spec(base: Mapping[str, Any], patch: Mapping[str, Any]) -> dict[str, Any]:
    """A pod's fields with a patch over them, which names of its containers what it changes alone."""
    made = merged_spec(base, patch)
    for key in ("containers", "initContainers"):
        over = {look.text(one, "name"): one for _, one in look.mappings(patch, key)}
        own = [one for _, one in look.mappings(base, key)]
        if over and own:
            names = {look.text(one, "name") for one in own}
            made[key] = [merged_spec(one, over.get(look.text(one, "name"), {})) for one in own]
            made[key] += [one for name, one in over.items() if name not in names]
    return made


def _by_name(base: list[Any], written: list[Any], key: str) -> list[Any]:
    over = {str(look.at(entry, key)) for entry in written[:MAX_ENTRIES]}
    return [*(entry for entry in base if str(look.at(entry, key)) not in over), *written]
