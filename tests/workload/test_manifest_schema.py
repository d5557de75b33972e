"""The table of fields: whole, and what the checks make of it."""

from __future__ import annotations

from typing import Any

import pytest

from ironloom.workload.manifests import nodes, schema
from ironloom.workload.manifests.read import KINDS, SERVICE
from ironloom.workload.manifests.schema import Schema, faults, path_text

TABLE = schema.load()
SMALL = Schema(
    sources={"": "Test 1"},
    kinds={"v1/Thing": 0},
    known=frozenset({"v1/Thing"}),
    types=[
        {
            "object": {
                "kind": 1,
                "count": 2,
                "share": 3,
                "on": 4,
                "names": 5,
                "labels": 6,
                "mode": 7,
                "size": 8,
                "port": 9,
            }
        },
        "string",
        {"integer": [1, 5]},
        "number",
        "boolean",
        {"list": 1},
        {"map": 1},
        {"enum": ["a", "b"]},
        "quantity",
        "int-or-string",
    ],
)


def test_every_type_that_is_named_is_there_and_every_required_field_is_a_field() -> None:
    places = range(len(TABLE.types))
    for made in TABLE.types:
        if isinstance(made, str):
            assert made in ("string", "integer", "number", "boolean", "quantity", "int-or-string", "any")
            continue
        below: list[Any] = [*made.get("object", {}).values(), made.get("map"), made.get("list")]
        assert all(place in places for place in below if place is not None)
        assert set(made.get("required", ())) <= set(made.get("object", ()))
        assert made.keys() & {"object", "map", "list", "enum", "integer", "text"}


def test_every_kind_that_is_read_is_in_a_table_and_known() -> None:
    rare = {"leaderworkerset.x-k8s.io/v1/LeaderWorkerSet"}
    for kind in {*KINDS, SERVICE} - rare:
        assert kind in TABLE.kinds
        assert kind in TABLE.known
    assert rare <= schema.load_all().kinds.keys()
    assert {"v1/ConfigMap", "v1/Secret", "v1/Namespace", "batch/v1/Job"} <= TABLE.known
    assert TABLE.source("serving.kserve.io/v1beta1").startswith("KServe ")
    assert TABLE.source("apps/v1").startswith("Kubernetes ")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("kind: 1", "kind = 1, must be a string: write it in quotes"),
        ("kind: [a]", "kind = […], must be a string"),
        ("count: 0", "count = 0, must be at least 1"),
        ("count: 6", "count = 6, must be at most 5"),
        ("count: 1.5", "count = 1.5, must be an integer"),
        ("count: true", "count = true, must be an integer"),
        ("share: x", "share = 'x', must be a number"),
        ("on: yes please", "on = 'yes please', must be true or false"),
        ("names: a", "names = 'a', must be a list"),
        ("names: [a, null]", "names[1] = null, must be a string"),
        ("labels: [a]", "labels = […], must be a mapping"),
        ("labels: {a: 1}", "labels.a = 1, must be a string"),
        ("mode: c", "mode = 'c', must be one of a, b"),
        ("size: 1 GB", "size = '1 GB', must be a quantity such as 500m, 2 or 16Gi"),
        ("port: 1.5", "port = 1.5, must be an integer or text"),
        ("cuont: 1", "Thing has no field 'cuont'; did you mean 'count'?"),
    ],
)
def test_each_type_says_what_it_wants(line: str, message: str) -> None:
    (node,) = nodes.parse(line, "f.yaml")
    ((_, problem),) = faults(node, "v1/Thing", "f.yaml", SMALL)
    assert message in problem.message
    assert (problem.file, problem.line) == ("f.yaml", 1)


def test_a_far_name_gets_the_list_of_what_there_is() -> None:
    (node,) = nodes.parse("zebra: 1", "f.yaml")
    ((_, problem),) = faults(node, "v1/Thing", "f.yaml", SMALL)
    assert problem.message == "Thing has no field 'zebra'"
    assert problem.hint == "Test 1 has here: count, kind, labels, mode, names, on, port, share, size"


def test_what_is_right_passes() -> None:
    text = "{kind: a, count: 5, share: 1, on: off, names: [], labels: {a: null}, mode: b, size: 0.5, port: http}"
    (node,) = nodes.parse(text, "f.yaml")
    assert faults(node, "v1/Thing", "f.yaml", SMALL) == []


def test_problems_are_counted_up_to_a_bound() -> None:
    (node,) = nodes.parse("".join(f"x{number}: 1\n" for number in range(1000)), "f.yaml")
    assert len(faults(node, "v1/Thing", "f.yaml", SMALL)) == schema.MAX_PROBLEMS


def test_a_path_as_kubectl_s_jsonpath_writes_it() -> None:
    assert (
        path_text(("spec", "containers", 0, "limits", "nvidia.com/gpu"))
        == "spec.containers[0].limits['nvidia.com/gpu']"
    )
