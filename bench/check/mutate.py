"""Manifests and scripts changed at random: bytes, lines, words, and values of the tree below them."""

from __future__ import annotations

import copy
import random
from collections.abc import Iterator, Sequence
from typing import Any

import yaml

from ironloom.check import registry

ODD_TEXTS = (
    "",
    " ",
    "\t",
    "null",
    "~",
    "yes",
    "0x10",
    "1e400",
    "-1",
    "9" * 40,
    "1_000",
    "2026-01-01",
    "!!python/object:os.system x",
    "&a [*a]",
    "*a",
    "{",
    "[",
    "]",
    "- -",
    "? :",
    "|",
    ">-",
    "%",
    "@",
    "`",
    "'",
    '"',
    "\\",
    "\x00",
    "\x85",
    "\ufeff",
    "é",
    "${X}",
    "$(X)",
    "{{ x }}",
    "<<: *x",
    "nvidia.com/gpu",
    "a" * 300,
    "../..",
    "hf://",
    "1.5Gi",
    "1Zi",
    "-0",
    ".inf",
    ".nan",
)
ODD_VALUES: tuple[Any, ...] = (
    None,
    True,
    False,
    0,
    -1,
    1,
    2**31,
    2**63,
    -(2**63),
    10**30,
    1.5,
    float("inf"),
    float("nan"),
    "",
    "a",
    "0",
    "1Gi",
    "x" * 2000,
    [],
    {},
    [None],
    [[]],
    {"": None},
    {"a": {"b": {"c": 1}}},
    [1, "a", None],
    {"name": "x", "value": 3},
    "é\u202e",
    "a\nb",
)


def seeds() -> list[str]:
    """The examples of all rules, mended ones too: every kind, every family of options, scripts."""
    return sorted({text for rule in registry.load().values() for text in (rule.bad, rule.good)})


def is_script(text: str) -> bool:
    return "apiVersion:" not in text


def mutated(seed_texts: Sequence[str], random_: random.Random) -> Iterator[str]:
    """Texts without end, each up to seven changes away from a seed."""
    while True:
        text = random_.choice(seed_texts)
        if not is_script(text) and random_.random() < 0.8:
            text = _tree(text, random_)
        for _ in range(random_.choice((0, 0, 1, 1, 1, 2, 4))):
            text = random_.choice(_CHANGES)(text, random_)
        if random_.random() < 0.05:
            text += "\n---\n" + random_.choice(seed_texts)
        yield text


def _tree(text: str, random_: random.Random) -> str:
    """The document with some of its values replaced, removed, doubled or wrapped."""
    try:
        documents = list(yaml.load_all(text, yaml.CSafeLoader))
    except yaml.YAMLError:
        return text
    changed = []
    for document in documents:
        document = copy.deepcopy(document)  # anchors make shared parts
        for _ in range(random_.randint(1, 3)):
            found = list(places(document))
            if found:
                change(*random_.choice(found), random_)
        changed.append(document)
    try:
        return str(yaml.dump_all(changed, Dumper=yaml.CSafeDumper, sort_keys=False, allow_unicode=True))
    except (yaml.YAMLError, RecursionError, ValueError):
        return text


def places(obj: Any, depth: int = 0) -> Iterator[tuple[Any, Any]]:
    """Each value below as the mapping or list that holds it, and its key or index there."""
    entries = obj.items() if isinstance(obj, dict) else enumerate(obj) if isinstance(obj, list) else ()
    for key, value in list(entries):
        yield obj, key
        if depth < 30:
            yield from places(value, depth + 1)


def change(parent: Any, key: Any, random_: random.Random) -> None:
    """One value removed, doubled, wrapped, renamed or replaced."""
    kind = random_.randrange(7)
    if kind == 0:
        del parent[key]
    elif kind == 1:
        parent[key] = [parent[key], copy.deepcopy(parent[key])]
    elif kind == 2:
        parent[key] = {"name": parent[key]}
    elif kind == 3 and isinstance(parent, dict):
        parent[random_.choice(ODD_TEXTS)] = parent.pop(key)
    elif kind == 4 and isinstance(parent, list):
        parent.extend(copy.deepcopy(parent[: random_.randint(1, 3)]))
    elif kind == 5:
        parent[key] = str(parent[key]) + random_.choice(ODD_TEXTS)
    else:
        parent[key] = copy.deepcopy(random_.choice(ODD_VALUES))


def _cut(text: str, random_: random.Random) -> str:
    a, b = sorted(random_.randrange(len(text) + 1) for _ in range(2))
    return text[:a] + text[min(b, a + random_.randint(1, 40)) :]


def _insert(text: str, random_: random.Random) -> str:
    at = random_.randrange(len(text) + 1)
    return text[:at] + random_.choice(ODD_TEXTS) + text[at:]


def _flip(text: str, random_: random.Random) -> str:
    if not text:
        return text
    at = random_.randrange(len(text))
    return text[:at] + chr(ord(text[at]) ^ (1 << random_.randrange(7))) + text[at + 1 :]


def _lines(text: str, random_: random.Random) -> str:
    lines = text.split("\n")
    at = random_.randrange(len(lines))
    kind = random_.randrange(4)
    if kind == 0:
        lines.insert(at, lines[random_.randrange(len(lines))])
    elif kind == 1:
        del lines[at]
    elif kind == 2:
        lines[at] = " " * random_.randint(0, 6) + lines[at].lstrip()
    else:
        lines[at], lines[-1] = lines[-1], lines[at]
    return "\n".join(lines)


def _value(text: str, random_: random.Random) -> str:
    lines = text.split("\n")
    at = random_.randrange(len(lines))
    head, colon, _ = lines[at].partition(": ")
    lines[at] = f"{head}: {random_.choice(ODD_TEXTS)}" if colon else lines[at] + random_.choice(ODD_TEXTS)
    return "\n".join(lines)


def _deep(text: str, random_: random.Random) -> str:
    at = random_.randrange(len(text) + 1)
    return text[:at] + random_.choice("[{(") * random_.choice((3, 30, 300)) + text[at:]


_CHANGES = (_cut, _insert, _flip, _lines, _lines, _value, _value, _deep)
