"""Whatever a document says, the check ends soon, in findings: a share of what bench/check/fuzz.py does at length."""

from __future__ import annotations

import random
import time
from itertools import islice

import pytest
from bench.check.mutate import is_script, mutated, seeds

from ironloom.check import patches, registry, reports
from ironloom.check.engine import Result, Setting, check
from ironloom.check.inputs import read_texts

RULES = tuple(registry.load().values())
FLEETS = [rule.example_fleet() for rule in RULES if rule.example_fleet is not None]
SETTINGS = (Setting(), Setting(fleet=max(FLEETS, key=lambda fleet: len(fleet.nodes))))


def look(text: str, setting: Setting, file: str = "") -> Result:
    return check(read_texts({file or ("a.py" if is_script(text) else "a.yaml"): text}), RULES, setting)


@pytest.mark.parametrize("seed", range(4))
def test_documents_changed_at_random_end_in_findings(seed: int) -> None:
    for number, text in enumerate(islice(mutated(seeds(), random.Random(seed)), 150)):
        start_s = time.process_time()
        result = look(text, SETTINGS[number % 2])
        for output in reports.FORMATS:
            reports.render(result, output)
        for one in patches.fix(result.findings, result.texts, unsafe=True):
            assert one.after or not one.before.strip()
        assert time.process_time() - start_s < 2.0, text
        assert result.faults == (), text


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (
            "a0: &a0 [x,x,x]\n" + "".join(f"a{i}: &a{i} [{','.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 12)),
            "nodes",
        ),
        ("a: " + "[" * 100_000, "deep"),
        ("".join(" " * i + "a:\n" for i in range(500)), "deep"),
        ("k: v\n" * 50, "stands twice"),
    ],
    ids=["aliases of aliases", "brackets", "levels", "a doubled key"],
)
def test_what_would_take_for_ever_is_refused_with_a_sentence(text: str, says: str) -> None:
    result = look(text, SETTINGS[0], "a.yaml")
    assert result.is_unreadable
    assert says in result.findings[0].message


def test_variables_that_multiply_are_written_out_no_further_than_a_text() -> None:
    env = "".join(f"    - {{name: A{i}, value: $(A{i - 1})$(A{i - 1})}}\n" for i in range(1, 3000))
    pod = (
        "apiVersion: v1\nkind: Pod\nmetadata: {name: a}\nspec:\n  containers:\n  - name: a\n    image: a:1\n    env:\n"
    )
    start_s = time.process_time()
    result = look(pod + "    - {name: A0, value: long}\n" + env, SETTINGS[0], "a.yaml")
    assert result.faults == ()
    assert time.process_time() - start_s < 3.0


def test_many_objects_of_one_name_cost_no_more_each_than_few() -> None:
    examples = [rule.good for rule in RULES if rule.family in {"autoscaling", "engine"} and not is_script(rule.good)]
    taken_s = []
    for copies in (1, 8):
        inputs = read_texts(
            {f"{copy}-{number}.yaml": text for copy in range(copies) for number, text in enumerate(examples)}
        )
        start_s = time.process_time()
        check(inputs, RULES, SETTINGS[0])
        taken_s.append((time.process_time() - start_s) / copies)
    assert taken_s[1] < 3 * taken_s[0]
