"""Containers and pods out of a PodSpec as written, whatever is in it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ironloom.units import parse_quantity
from ironloom.workload import look
from ironloom.workload.launch import launch_of
from ironloom.workload.manifests.schema import Path
from ironloom.workload.manifests.shell import MAX_EXPANDED, expand
from ironloom.workload.workload import NONE, Container

MAX_AMOUNT = 2**63


def containers_of(spec: Mapping[str, Any], path: Path) -> tuple[Container, ...]:
    """The init containers and containers of the PodSpec at `path`, in that order."""
    init = [
        container(one, (*path, "initContainers", n), is_init=True) for n, one in look.mappings(spec, "initContainers")
    ]
    main = [container(one, (*path, "containers", n)) for n, one in look.mappings(spec, "containers")]
    return (*init, *main)


def container(written: Mapping[str, Any], path: Path, *, is_init: bool = False, num_env_before: int = 0) -> Container:
    """One container as written at `path`; so many of its first variables stand elsewhere (a platform's template)."""
    env, env_paths = environment(written, path, num_env_before)
    return Container(
        name=look.text(written, "name"),
        path=path,
        image=look.text(written, "image"),
        is_init=is_init,
        is_sidecar=is_init and look.text(written, "restartPolicy") == "Always",
        requests=requested(written),
        limits=amounts(look.mapping(written, "resources", "limits")),
        env=env,
        env_paths=env_paths,
        launch=launch_of(written, path, env, env_paths),
        spec=written,
    )


def environment(
    written: Mapping[str, Any], path: Path, num_before: int = 0
) -> tuple[Mapping[str, str | None], Mapping[str, Path]]:
    """Variables with `$(NAME)` of earlier ones written out, and where each stands; the last of a name counts."""
    listed = look.mappings(written, "env")
    if not listed:
        return NONE, NONE
    values: dict[str, str | None] = {}
    paths: dict[str, Path] = {}
    known: dict[str, str] = {}
    length = 0
    for number, entry in listed:
        name = look.text(entry, "name")
        if not name:
            continue
        paths[name] = (*path, "env", number - num_before) if number >= num_before else path
        if entry.get("valueFrom") is not None:
            values[name] = None
            known.pop(name, None)
            continue
        value = entry.get("value")
        text = value if isinstance(value, str) else _said(value)
        # What multiplies from variable to variable is written out as far as all of it together is a text.
        values[name] = known[name] = expand(text, known) if length < MAX_EXPANDED else text
        length += len(known[name])
    return values, paths


def requested(written: Mapping[str, Any]) -> dict[str, int]:
    """What the `resources` of a container or a pod ask for: a limit alone is a request too.

    Source: https://kubernetes.io/docs/concepts/configuration/manage-resources-containers/#requests-and-limits
    """
    limits = amounts(look.mapping(written, "resources", "limits"))
    return {**limits, **amounts(look.mapping(written, "resources", "requests"))}


def amounts(written: Mapping[str, Any]) -> dict[str, int]:
    """A resource list in whole numbers: cpu in thousandths, everything else in ones; what is no quantity left out."""
    found: dict[str, int] = {}
    for name, quantity in written.items():
        if quantity is None:
            continue
        try:
            value = parse_quantity(quantity) * (1000 if name == "cpu" else 1)
        except ValueError:
            continue
        if 0 <= value < MAX_AMOUNT:
            found[name] = int(value.to_integral_value(rounding="ROUND_CEILING"))
    return found


def _said(value: object) -> str:
    """What is not text but was meant as a value: an unquoted number or boolean."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value) if isinstance(value, int | float) else ""
