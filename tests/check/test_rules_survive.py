"""Whatever is written in a manifest, a rule of scheduling says something or nothing, and never raises."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from ironloom.check import registry
from ironloom.check.engine import Setting, check
from ironloom.check.inputs import read_texts
from ironloom.check.rules.examples import fleet, leaf_groups, queues

RULES = [rule for rule in registry.load().values() if rule.id.startswith(("IL1", "IL2", "IL3", "IL6"))]
EXAMPLES = [list(yaml.safe_load_all(text)) for rule in RULES for text in (rule.bad, rule.good)]
JUNK = (None, "", 0, -1, True, 1.5, "x", [], {}, [None], {"a": None}, "1", "-", 2**70, "9" * 400, {"": ""}, "٣", "²")
FLEET = fleet(*leaf_groups(a=3, b=2), **queues(gpus=16, cohort="c"))


def paths(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    if path and path[-1] not in ("kind", "apiVersion"):
        yield path
    below = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inside in below:
        yield from paths(inside, (*path, key))


def mutated(value: Any, chance: random.Random) -> Any:
    """The object with one to three of its parts taken out or made into something else."""
    value = copy.deepcopy(value)
    for _ in range(chance.randint(1, 3)):
        there = list(paths(value))
        if not there:
            break
        *above, last = chance.choice(there)
        inside = value
        for step in above:
            inside = inside[step]
        if chance.random() < 0.2:
            del inside[last]
        else:
            inside[last] = copy.deepcopy(chance.choice(JUNK))
    return value


@pytest.mark.parametrize("seed", range(4))
def test_rules_survive_what_is_written(seed: int) -> None:
    chance = random.Random(seed)
    for _ in range(150):
        objects = [mutated(one, chance) for one in chance.choice(EXAMPLES)]
        text = "\n---\n".join(json.dumps(one) for one in objects)
        result = check(read_texts({"a.yaml": text}), RULES, Setting(fleet=FLEET if chance.random() < 0.7 else None))
        assert [str(fault) for fault in result.faults] == [], text
