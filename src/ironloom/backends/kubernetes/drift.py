"""What others did to an object that is applied here. Pure functions of objects as an API server gives them.

    is_as     live holds what is wanted, and Ironloom owns nothing beside it: there is nothing to write
    by_hand   all that stands against an apply was written by a person: it may be taken back
    told      what an apply took back, in sentences: by whom, and which fields

Who owns a field is in `metadata.managedFields`. A field that a person changed is the person's from then on; one that
was removed is nobody's. A declared field of another manager (operation Apply) and that of a controller are never taken.

Source: https://kubernetes.io/docs/reference/using-api/server-side-apply/ and, for the paths in fieldsV1,
https://github.com/kubernetes-sigs/structured-merge-diff/blob/master/fieldpath/serialize-pe.go
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from ironloom.backends.kubernetes.names import MANAGER, SCALE_MANAGER

HAND: Final = "kubectl"
"""How the field managers of `kubectl edit`, `patch`, `set`, `label` and `scale` begin."""
DECLARED: Final = "kubectl-client-side-apply"
"""The one of `kubectl apply` without --server-side: what it writes is declared in a file elsewhere."""
MAX_FIELDS: Final = 4
"""Named in one sentence."""
_KEYS: Final = ("uid", "mountPath", "containerPort", "port", "name", "key", "topologyKey")
"""By which an item of a list is found again, the first that it has."""
_OURS: Final = ("labels", "annotations", "ownerReferences")
"""Parts of metadata that are applied."""


@dataclass(frozen=True, slots=True)
class Item:
    """A step of a path: an item of a list."""

    index: int
    value: Any

    def __str__(self) -> str:
        name = self.value.get("name") if isinstance(self.value, Mapping) else None
        return f"[{name if isinstance(name, str) else self.index}]"


Path = tuple[str | Item, ...]


def is_as(live: Mapping[str, Any], wanted: Mapping[str, Any]) -> bool:
    """Whether an apply of `wanted` would change nothing, as far as the two objects show it: a quantity in other words
    counts as a difference."""
    mine = _fields_of(live, MANAGER, operation="Apply")
    return mine is not None and not any(_differences(applied(wanted), live)) and _is_within(mine, applied(wanted))


def by_hand(live: Mapping[str, Any], wanted: Mapping[str, Any]) -> bool:
    """Whether every other owner of a field that stands against an apply is a person's kubectl, and there is one."""
    owners = [owner for path in _differences(applied(wanted), live) for owner in _owners(live, path)]
    others = [owner for owner in owners if owner[0] not in {MANAGER, SCALE_MANAGER}]
    return bool(others) and all(_is_hand(*owner) for owner in others)


def told(
    before: Mapping[str, Any] | None, after: Mapping[str, Any], *, was_whole: bool, is_trial: bool = False
) -> tuple[str, ...]:
    """What an apply that led from `before` to `after` took back: of what differs, the fields that are Ironloom's
    afterwards, as controllers write between the look and the apply. An `after` without managed fields is what an apply
    would send. `was_whole` says that the very same was applied before: then what lacked was taken away by somebody."""
    what = f"{str(after['kind']).lower()}/{after['metadata']['name']}"
    if before is None:
        gone = "is gone: an apply makes it again" if is_trial else "was gone: made again"
        return (f"{what} {gone}",) if was_whole else ()
    mine = _fields_of(after, MANAGER, operation="Apply")
    by_owner: dict[str, list[str]] = {}
    for path in _differences(applied(after), before):
        owners = [manager for manager, _ in _owners(before, path)]
        if MANAGER in owners or not (mine is None or _is_in(mine, path)):
            continue
        if owners or was_whole:
            by_owner.setdefault(owners[0] if owners else "", []).append(text(path))
    return tuple(_sentence(what, owner, fields, is_trial=is_trial) for owner, fields in by_owner.items())


def applied(one: Mapping[str, Any]) -> dict[str, Any]:
    """What of an object an apply writes: no status, and of its metadata what is not the API server's own."""
    body = {key: value for key, value in one.items() if key not in {"apiVersion", "kind", "metadata", "status"}}
    return {"metadata": {key: one["metadata"][key] for key in _OURS if one["metadata"].get(key)}, **body}


def text(path: Path) -> str:
    """`spec.template.spec.containers[engine].image`."""
    words = [f"[{step}]" if isinstance(step, str) and {*"./"} & {*step} else str(step) for step in path]
    return "".join(word if word.startswith("[") else f".{word}" for word in words).removeprefix(".")


def _sentence(what: str, owner: str, fields: Sequence[str], *, is_trial: bool) -> str:
    more = f" and {len(fields) - MAX_FIELDS} more" if len(fields) > MAX_FIELDS else ""
    named = ", ".join(fields[:MAX_FIELDS]) + more
    if not owner:
        return f"{what} lacks {named}: an apply puts it back" if is_trial else f"{what} lacked {named}: put back"
    if is_trial:
        return f"{what} is changed by {owner} ({named}): an apply puts it back"
    return f"{what} had been changed by {owner} ({named}): put back"


def _is_hand(manager: str, operation: str) -> bool:
    return operation == "Update" and manager.startswith(HAND) and manager != DECLARED


def _fields_of(live: Mapping[str, Any], manager: str, *, operation: str) -> Mapping[str, Any] | None:
    for one in live["metadata"].get("managedFields") or ():
        if (one.get("manager"), one.get("operation"), one.get("subresource", "")) == (manager, operation, ""):
            return one.get("fieldsV1") or {}
    return None


def _owners(live: Mapping[str, Any], path: Path) -> list[tuple[str, str]]:
    """(manager, operation) of each that owns a field."""
    entries = live["metadata"].get("managedFields") or ()
    return [
        (str(one.get("manager")), str(one.get("operation")))
        for one in entries
        if _is_in(one.get("fieldsV1") or {}, path)
    ]


def _is_in(fields: Mapping[str, Any], path: Path) -> bool:
    """Whether a set of fields has this one; a map or a list that is owned whole has all that is in it."""
    node = fields
    for number, step in enumerate(path):
        if number and not node:
            return True
        found = node.get(f"f:{step}") if isinstance(step, str) else _item_in(node, step.value)
        if found is None:
            return False
        node = found
    return True


def _item_in(node: Mapping[str, Any], value: Any) -> Mapping[str, Any] | None:
    for key, below in node.items():
        if key.startswith("k:") and _has_keys(value, key):
            found: Mapping[str, Any] = below
            return found
    return None


def _has_keys(item: Any, key: str) -> bool:
    """Whether an item of a list is the one of `k:{…}`. A key that it does not name has its default."""
    wanted = msgspec.json.decode(key.removeprefix("k:"))
    return isinstance(item, Mapping) and all(item.get(name, value) == value for name, value in wanted.items())


def _is_within(fields: Mapping[str, Any], wanted: Any) -> bool:
    """Whether a set of fields names nothing beside what is wanted."""
    for key, below in fields.items():
        kind, _, name = key.partition(":")
        if kind == "f":
            if not isinstance(wanted, Mapping) or name not in wanted or not _is_within(below, wanted[name]):
                return False
        elif kind == "k":
            twin = next((item for item in wanted if _has_keys(item, key)), None) if isinstance(wanted, list) else None
            if twin is None or not _is_within(below, twin):
                return False
        elif kind == "v" and (not isinstance(wanted, list) or msgspec.json.decode(name) not in wanted):
            return False
    return True


def _differences(wanted: Any, live: Any, path: Path = ()) -> Iterator[Path]:
    """Where `live` does not hold what is wanted. What is empty need not be there: an API server leaves it out."""
    if isinstance(wanted, Mapping) and isinstance(live, Mapping):
        for key, value in wanted.items():
            if key in live:
                yield from _differences(value, live[key], (*path, key))
            elif value not in ({}, [], None):
                yield (*path, key)
    elif isinstance(wanted, list) and isinstance(live, list) and all(isinstance(one, Mapping) for one in wanted):
        for index, item in enumerate(wanted):
            step = (*path, Item(index, item))
            twin = _twin(item, index, live)
            if twin is None:
                yield step
            else:
                yield from _differences(item, twin, step)
    elif wanted != live:
        yield path


def _twin(item: Mapping[str, Any], index: int, live: Sequence[Any]) -> Any:
    """The item of a list that stands for this one: one that holds it all, else the one of its key or place."""
    if whole := next((one for one in live if not any(_differences(item, one))), None):
        return whole
    key = next((key for key in _KEYS if key in item), None)
    if key is None:
        return live[index] if index < len(live) else None
    return next((one for one in live if isinstance(one, Mapping) and one.get(key) == item[key]), None)
