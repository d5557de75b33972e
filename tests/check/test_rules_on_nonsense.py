"""Rules of manifests look at anything: examples with values where they do not belong, and no rule fails."""

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
from ironloom.check.rules import examples

FAMILIES = ("schema", "autoscaling", "rollout", "deprecated")
RULES = registry.select(FAMILIES)
NUM_DOCUMENTS = 150
"""Of each family."""
VALUES: tuple[Any, ...] = (
    None, True, 0, -1, 1.5, "", "x", "0", "9" * 50, 10**20, [], {}, [None], [[]], ["a"], {"a": None}, {"a": []},
)  # fmt: skip


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    below = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, child in below:
        yield (*path, key)
        yield from places(child, (*path, key))


def spoilt(documents: list[Any], chance: random.Random) -> list[Any]:
    """The documents with up to five values or keys that are something else."""
    made = copy.deepcopy(documents)
    for _ in range(chance.randint(1, 5)):
        found = list(places(made))
        if not found:
            break
        *above, key = chance.choice(found)
        holder: Any = made
        for step in above:
            holder = holder[step]
        if isinstance(holder, dict) and chance.random() < 0.2:
            holder[chance.choice(["name", "spec", "kind", "metadata", "x"])] = holder.pop(key)
        else:
            holder[key] = copy.deepcopy(chance.choice(VALUES))
    return made


@pytest.mark.parametrize("family", FAMILIES)
def test_no_rule_fails_on_a_document_that_is_nonsense(family: str) -> None:
    chance = random.Random(family)
    texts = [text for rule in registry.select([family]) for text in (rule.bad, rule.good)]
    whole = [list(yaml.safe_load_all(text)) for text in texts]
    fleet = examples.fleet(*(examples.node(f"x{index}") for index in range(3)))
    for number in range(NUM_DOCUMENTS):
        made = spoilt(chance.choice(whole), chance)
        text = "---\n".join(f"{json.dumps(document)}\n" for document in made)
        setting = Setting(fleet=fleet if number % 2 else None, kubernetes_version=(1, 33))
        assert check(read_texts({"a.yaml": text}), RULES, setting).faults == (), text
