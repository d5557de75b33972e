"""Selectors match as Kubernetes matches them."""

from __future__ import annotations

from typing import Any

import pytest

from ironloom.fleet.model import Taint
from ironloom.place.selectors import matches_labels, matches_node, tolerates

LABELS = {"gpu": "h100", "generation": "9", "pool": "train"}


def term(*expressions: dict[str, Any]) -> list[dict[str, Any]]:
    return [{"matchExpressions": list(expressions)}]


@pytest.mark.parametrize(
    ("operator", "key", "values", "is_match"),
    [
        ("In", "gpu", ["a100", "h100"], True),
        ("In", "gpu", ["a100"], False),
        ("In", "absent", ["h100"], False),
        ("NotIn", "gpu", ["h100"], False),
        ("NotIn", "absent", ["h100"], True),
        ("Exists", "gpu", [], True),
        ("Exists", "absent", [], False),
        ("DoesNotExist", "absent", [], True),
        ("DoesNotExist", "gpu", [], False),
        ("Gt", "generation", ["8"], True),
        ("Gt", "generation", ["9"], False),
        ("Lt", "generation", ["10"], True),
        ("Lt", "gpu", ["10"], False),
        ("Gt", "absent", ["1"], False),
        ("Like", "gpu", ["h100"], False),
    ],
)
def test_an_expression_matches_by_its_operator(operator: str, key: str, values: list[str], is_match: bool) -> None:
    expression = {"key": key, "operator": operator, "values": values}
    assert matches_node(term(expression), LABELS, "n1") is is_match


def test_terms_are_alternatives_and_expressions_of_one_all_count() -> None:
    no, yes = {"key": "gpu", "operator": "In", "values": ["l4"]}, {"key": "pool", "operator": "Exists"}
    assert matches_node([*term(no), *term(yes)], LABELS, "n1")
    assert not matches_node(term(no, yes), LABELS, "n1")


@pytest.mark.parametrize("terms", [None, [], [{}], [None], "x"])
def test_no_term_and_an_empty_term_take_no_node(terms: object) -> None:
    assert not matches_node(terms, LABELS, "n1")


def test_a_field_names_the_node() -> None:
    terms = [{"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["n1"]}]}]
    assert matches_node(terms, {}, "n1")
    assert not matches_node(terms, {}, "n2")


@pytest.mark.parametrize(
    ("selector", "is_match"),
    [
        ({}, True),
        (None, False),
        ({"matchLabels": {"gpu": "h100"}}, True),
        ({"matchLabels": {"gpu": "a100"}}, False),
        ({"matchExpressions": [{"key": "pool", "operator": "In", "values": ["train"]}]}, True),
        ({"matchLabels": {"gpu": "h100"}, "matchExpressions": [{"key": "pool", "operator": "DoesNotExist"}]}, False),
    ],
)
def test_a_label_selector_takes_all_when_empty_and_none_when_absent(selector: object, is_match: bool) -> None:
    assert matches_labels(selector, LABELS) is is_match


@pytest.mark.parametrize(
    ("toleration", "is_covered"),
    [
        ({"operator": "Exists"}, True),
        ({"key": "gpu", "operator": "Exists"}, True),
        ({"key": "gpu", "operator": "Exists", "effect": "NoExecute"}, False),
        ({"key": "gpu", "value": "yes", "effect": "NoSchedule"}, True),
        ({"key": "gpu", "operator": "Equal", "value": "no"}, False),
        ({"key": "other", "operator": "Exists"}, False),
        ({}, False),
        ("Exists", False),
    ],
)
def test_a_toleration_covers_a_taint(toleration: object, is_covered: bool) -> None:
    assert tolerates([toleration], Taint(key="gpu", value="yes", effect="NoSchedule")) is is_covered
