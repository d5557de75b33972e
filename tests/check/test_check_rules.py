"""Every rule keeps its word: its bad example fires it, its good one does not, and its words are all there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from ironloom.check import registry
from ironloom.check.engine import Result, Setting, check
from ironloom.check.inputs import read_texts
from ironloom.check.rule import Rule

ROOT = Path(__file__).parents[2]
RULES = list(registry.load().values())
FAMILIES_BY_START = {
    0: {"input", "schema"},
    100: {"selection"},
    200: {"topology", "gang"},
    300: {"network"},
    400: {"engine", "memory"},
    500: {"autoscaling", "rollout"},
    600: {"queue"},
    700: {"training-script", "serving-script"},
    800: {"security", "cost"},
    900: {"deprecated"},
}


def run_example(rule: Rule, text: str) -> Result:
    """The example checked by every rule, as `ironloom check` would, with the fleet that the rule brings."""
    file = "example.py" if _is_python(text) else "example.yaml"
    fleet = rule.example_fleet() if rule.example_fleet is not None else None
    return check(read_texts({file: text}), RULES, Setting(fleet=fleet, **rule.options))


def _is_python(text: str) -> bool:
    return re.search(r"^(apiVersion|kind):", text, re.M) is None


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.id)
def test_the_bad_example_fires_its_rule(rule: Rule) -> None:
    result = run_example(rule, rule.bad)
    assert result.faults == ()
    assert rule.id in {finding.rule for finding in result.findings}, f"{rule.id} is silent about its bad example"


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.id)
def test_the_good_example_does_not_fire_it(rule: Rule) -> None:
    result = run_example(rule, rule.good)
    assert result.faults == ()
    fired = [finding.message for finding in result.findings if finding.rule == rule.id]
    assert fired == []
    unread = [finding.message for finding in result.findings if finding.rule == "IL000"]
    assert unread == [], "a good example can be read"


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.id)
def test_every_finding_of_an_example_has_its_words_and_its_place(rule: Rule) -> None:
    for finding in run_example(rule, rule.bad).findings:
        assert finding.message.strip() == finding.message
        assert finding.message
        assert not finding.message.endswith("."), "messages are sentences without a full stop"
        assert "\n" not in finding.message
        if finding.rule == rule.id:
            assert finding.line >= 1, "a finding stands on a line"


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.id)
def test_a_rule_has_its_words(rule: Rule) -> None:
    assert re.fullmatch(r"IL\d{3}", rule.id)
    assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", rule.name)
    assert rule.family in FAMILIES_BY_START[int(rule.id[2:]) // 100 * 100]
    assert len(rule.why) > 60
    assert not rule.summary.endswith(".")
    assert rule.sources, "a rule names what justifies it"
    for source in rule.sources:
        assert source.url.startswith("https://")
        assert source.shows


def test_names_are_unique() -> None:
    names = [rule.name for rule in RULES]
    assert sorted(names) == sorted(set(names))


def test_the_fleet_of_a_rule_that_needs_one_is_there() -> None:
    assert [rule.id for rule in RULES if rule.needs_fleet and rule.example_fleet is None] == []
