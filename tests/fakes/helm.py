"""Helm's templates, as far as Ironloom's own chart uses them: values by path, `if` and `with` on lines of their own,
`not`, `quote`, `toJson`, and a `default` that is printed. What it does not know is an error.

Source: https://helm.sh/docs/chart_template_guide/
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

import yaml

_BEGIN = re.compile(r"\s*{{- (if|with) (.+) }}")
_EXPRESSION = re.compile(r"{{ (.+?) }}")
_DEFAULT = re.compile(r'(\S+) \| default \(print "([^"]*)" (\S+) "([^"]*)"\)')
_MORE_THAN = re.compile(r"gt \(int (\S+)\) (\d+)")


def render(files: Mapping[str, str], *, namespace: str, values: Mapping[str, Any] | None = None) -> list[Any]:
    """The objects of a chart's files. `values` are laid over its own, nested ones key by key."""
    known = {
        "Values": _merged(yaml.safe_load(files["values.yaml"]), values or {}),
        "Release": {"Namespace": namespace},
    }
    templates = [text for name, text in files.items() if name.startswith("templates/") and name.endswith(".yaml")]
    return [one for text in templates if (one := yaml.safe_load(_rendered(text.splitlines(), known))) is not None]


def notes(files: Mapping[str, str], *, namespace: str) -> str:
    """What is said after an installation."""
    return _rendered(files["templates/NOTES.txt"].splitlines(), {"Release": {"Namespace": namespace}})


def _merged(one: Any, other: Any) -> Any:
    if isinstance(one, dict) and isinstance(other, Mapping):
        return {**one, **{key: _merged(one.get(key), value) for key, value in other.items()}}
    return other


def _rendered(lines: list[str], known: Mapping[str, Any]) -> str:
    made: list[str] = []
    open_blocks: list[tuple[bool, Any]] = []
    for line in lines:
        dot = next((value for _, value in reversed(open_blocks) if value is not None), None)
        if begin := _BEGIN.fullmatch(line):
            value = _value(begin[2], known, dot)
            open_blocks.append((bool(value), value if begin[1] == "with" else None))
        elif line.strip() == "{{- end }}":
            open_blocks.pop()
        elif all(is_shown for is_shown, _ in open_blocks):
            made.append(_filled(line, known, dot))
    assert not open_blocks, "a block has no end"
    assert "{{-" not in "\n".join(made)
    return "\n".join(made)


def _filled(line: str, known: Mapping[str, Any], dot: Any) -> str:
    return _EXPRESSION.sub(lambda found: _text(found[1], known, dot), line)


def _text(expression: str, known: Mapping[str, Any], dot: Any) -> str:
    if expression.endswith(" | quote"):
        return json.dumps(str(_value(expression.removesuffix(" | quote"), known, dot)))
    if expression.startswith("toJson "):
        return json.dumps(_value(expression.removeprefix("toJson "), known, dot))
    return str(_value(expression, known, dot))


def _value(expression: str, known: Mapping[str, Any], dot: Any) -> Any:
    if found := _DEFAULT.fullmatch(expression):
        return _value(found[1], known, dot) or f"{found[2]}{_value(found[3], known, dot)}{found[4]}"
    if found := _MORE_THAN.fullmatch(expression):
        return int(_value(found[1], known, dot)) > int(found[2])
    if expression.startswith("not "):
        return not _value(expression.removeprefix("not "), known, dot)
    if expression == ".":
        return dot
    value: Any = known
    for name in expression.removeprefix(".").split("."):
        value = value[name]
    return value
