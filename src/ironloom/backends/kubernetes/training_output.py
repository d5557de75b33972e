"""Where a run in a cluster writes: the volume that holds its output folder, and the place in it. Pure."""

from __future__ import annotations

import posixpath
from collections.abc import Mapping, Sequence
from typing import Any

from ironloom.backends.kubernetes.training_pods import RunPods
from ironloom.errors import UsageError
from ironloom.workload import look


def lasting_mount(run: RunPods) -> tuple[Mapping[str, Any], Mapping[str, Any]] | None:
    """The volume that outlives the pod and holds the output folder, and its mount: the one nearest to it. None where
    the folder is the pod's own, or is not known."""
    if not run.output or "://" in run.output:
        return None
    volumes = {look.text(one, "name"): one for _, one in look.mappings(run.template["spec"], "volumes")}
    holding = [
        mount
        for _, mount in look.mappings(run.trainer, "volumeMounts")
        if look.text(mount, "name") in volumes and _is_inside(run.output, look.text(mount, "mountPath"))
    ]
    if not holding:
        return None
    mount = max(holding, key=lambda one: len(posixpath.normpath(look.text(one, "mountPath"))))
    volume = volumes[look.text(mount, "name")]
    return None if "emptyDir" in volume else (volume, mount)


def claim_and_path(run: RunPods) -> tuple[str, str] | None:
    """The PersistentVolumeClaim that the output lies on, and its path there from the claim's root; None where it lies
    on none, or where the pod's own variables say which part of it is mounted (`subPathExpr`)."""
    found = lasting_mount(run)
    if found is None:
        return None
    volume, mount = found
    claim = look.text(volume, "persistentVolumeClaim", "claimName")
    if not claim or look.text(mount, "subPathExpr"):
        return None
    inside = posixpath.relpath(posixpath.normpath(run.output), posixpath.normpath(look.text(mount, "mountPath")))
    return claim, posixpath.normpath(posixpath.join("/", look.text(mount, "subPath"), inside))


def refuse_one_output(runs: Sequence[tuple[str, RunPods]]) -> None:
    """Of runs, each with its namespace: raises UsageError for two that would write to the same path of a claim."""
    seen: dict[tuple[str, str, str], str] = {}
    for namespace, run in runs:
        place = None if run.is_suspended else claim_and_path(run)
        if place is None:
            continue
        claim, path = place
        if (other := seen.setdefault((namespace, claim, path), run.name)) != run.name:
            raise UsageError(
                f"The runs {other!r} and {run.name!r} would both train into {path} of the claim {claim!r}, and one run "
                "at a time can.",
                hint="`output` names another folder for one of them",
            )


def _is_inside(path: str, mount: str) -> bool:
    path, mount = posixpath.normpath(path), posixpath.normpath(mount)
    return mount.startswith("/") and mount != "/" and (path == mount or path.startswith(f"{mount}/"))
