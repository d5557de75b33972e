"""Objects out of a stream of YAML, one at a time, as `kubectl -o yaml` prints them.

libyaml parses the text into events, and the values are built in a loop: no recursion, so depth is a number and not a
crash. Anchors and aliases are refused: kubectl writes none, and they multiply.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import IO, Any

import yaml

from ironloom.errors import ManifestError

MAX_DEPTH = 100
_HINT = "Take the objects with `kubectl get nodes,pods,… -A -o json`, or with `ironloom snapshot`"
_INT = re.compile(r"[-+]?(?:0|[1-9][0-9]{0,18})")
_FLOAT = re.compile(r"[-+]?(?:[0-9]{1,18}\.[0-9]{0,18}|\.[0-9]{1,18}|[0-9]{1,18}(?:\.[0-9]{1,18})?[eE][-+]?[0-9]{1,3})")
_WORDS = {"": None, "~": None, "null": None, "Null": None, "NULL": None,
          "true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}  # fmt: skip


def read_yaml(stream: IO[bytes], *, file: str) -> Iterator[dict[str, Any]]:
    """Each object of each document; the items of a list come one by one, as they are read.

    Raises ManifestError where it is no YAML, or none of objects.
    """
    parser = yaml.CSafeLoader(stream)
    try:
        while not parser.check_event(yaml.StreamEndEvent):
            event = parser.get_event()
            if isinstance(event, yaml.DocumentStartEvent):
                yield from _document(parser, file)
    except yaml.YAMLError as error:
        raise _broken(error, file) from error
    except UnicodeDecodeError as error:
        raise ManifestError("it is no text", hint=_HINT, file=file) from error


def _document(parser: Any, file: str) -> Iterator[dict[str, Any]]:
    root: Any = None
    head: dict[str, Any] = {}
    open_parts: list[Any] = []
    keys: list[Any] = []
    while True:
        event = parser.get_event()
        if isinstance(event, yaml.DocumentEndEvent):
            break
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None) is not None:
            raise _refused("it has an anchor or an alias, which no snapshot has", event, file)
        if isinstance(event, yaml.MappingStartEvent | yaml.SequenceStartEvent):
            if len(open_parts) == MAX_DEPTH:
                raise _refused(f"it is nested more than {MAX_DEPTH} deep", event, file)
            open_parts.append({} if isinstance(event, yaml.MappingStartEvent) else [])
            keys.append(_NO_KEY)
            continue
        if isinstance(event, yaml.ScalarEvent):
            value: Any = _scalar(event)
        else:
            value = open_parts.pop()
            keys.pop()
        if not open_parts:
            root = value
            continue
        above = open_parts[-1]
        if isinstance(above, list):
            if len(open_parts) == 2 and keys[0] == "items" and isinstance(value, dict):
                # An item of a list: given away, not kept.
                head = open_parts[0]
                yield _with_kind(value, head)
            else:
                above.append(value)
        elif keys[-1] is _NO_KEY:
            keys[-1] = value if isinstance(value, str) else str(value)
        else:
            above[keys[-1]] = value
            keys[-1] = _NO_KEY
    if root is None:
        return
    if not isinstance(root, dict):
        raise ManifestError("it is no Kubernetes object, nor a list of any", hint=_HINT, file=file)
    if "items" not in root:
        yield root


_NO_KEY = object()


def _with_kind(item: dict[str, Any], head: dict[str, Any]) -> dict[str, Any]:
    """An item of a `PodList` is a Pod, and does not say so itself."""
    kind = head.get("kind")
    if "kind" in item or not isinstance(kind, str) or kind == "List":
        return item
    return {"apiVersion": head.get("apiVersion", ""), "kind": kind.removesuffix("List"), **item}


def _scalar(event: Any) -> Any:
    """A plain scalar as kubectl means it: what could be read as something else than text stands in quotes."""
    text = event.value
    if not event.implicit[0]:
        return text
    if text in _WORDS:
        return _WORDS[text]
    if _INT.fullmatch(text):
        return int(text)
    if _FLOAT.fullmatch(text):
        return float(text)
    return text


def _refused(why: str, event: Any, file: str) -> ManifestError:
    mark = event.start_mark
    return ManifestError(why, hint=_HINT, file=file, line=mark.line + 1, column=mark.column + 1)


def _broken(error: yaml.YAMLError, file: str) -> ManifestError:
    mark = getattr(error, "problem_mark", None)
    problem = getattr(error, "problem", None) or getattr(error, "reason", None) or "it cannot be read"
    line, column = (mark.line + 1, mark.column + 1) if mark is not None else (0, 0)
    return ManifestError(f"it is neither JSON nor YAML: {problem}", hint=_HINT, file=file, line=line, column=column)
