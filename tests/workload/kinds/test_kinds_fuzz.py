"""Manifests of every kind, changed at random: whatever comes, it is read or told, and nothing is raised."""

from __future__ import annotations

import copy
import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.workload.kinds.manifests import ALL, TRAINING_RUNTIME, documents
from tests.workload.kinds.test_kinds_kserve import RUNTIME

from ironloom.errors import ManifestError
from ironloom.workload.kinds import workloads_of
from ironloom.workload.launch import place_of
from ironloom.workload.manifests import nodes
from ironloom.workload.manifests.document import document

AROUND = [*documents(TRAINING_RUNTIME), *documents(RUNTIME)]
OBJECTS: list[dict[str, Any]] = [made.obj for text in ALL.values() for made in documents(text)]
ODD: list[Any] = [
    None, True, -1, 0, 10**30, 1.5, "", "x", "$(A) ${B} '", "-1", "8Gi", "\x00", [], {}, [None], [[]], [{}], {"": None},
    {"name": []}, {"a": {"b": [{"c": 1}]}}, ["--model", None, {}, 7],
]  # fmt: skip


def steps(value: Any, path: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    found = [path]
    if isinstance(value, dict):
        for key, child in value.items():
            found += steps(child, (*path, key))
    elif isinstance(value, list):
        for number, child in enumerate(value):
            found += steps(child, (*path, number))
    return found


@st.composite
def changed(draw: st.DrawFn) -> dict[str, Any]:
    """One of the objects with some of its values replaced, taken out or doubled."""
    obj = copy.deepcopy(draw(st.sampled_from(OBJECTS)))
    for _ in range(draw(st.integers(1, 4))):
        path = draw(st.sampled_from(steps(obj)))
        if path[:1] in ((), ("apiVersion",), ("kind",)):
            continue
        above = obj
        for step in path[:-1]:
            above = above[step]
        match draw(st.sampled_from(["odd", "gone", "other", "twice"])):
            case "odd":
                above[path[-1]] = copy.deepcopy(draw(st.sampled_from(ODD)))
            case "gone":
                del above[path[-1]]
            case "other":
                other = draw(st.sampled_from(OBJECTS))
                value: Any = other
                for step in draw(st.sampled_from(steps(other))):
                    value = value[step]
                above[path[-1]] = copy.deepcopy(value)
            case _ if isinstance(above, list):
                above.append(copy.deepcopy(above[path[-1]]))
    return obj


@given(changed())
@settings(max_examples=400, deadline=None)
def test_any_change_is_read(obj: dict[str, Any]) -> None:
    made = document(nodes.from_object(obj), "<object>")
    read = workloads_of([made, *AROUND])
    for one in read.workloads:
        assert one.kind
        assert one.num_pods >= 0
        for pods in one.pod_sets:
            assert all(isinstance(amount, int) for amount in pods.requests.values())
            for container in pods.containers:
                for option in container.launch.options if container.launch is not None else ():
                    made.positions.value(option.path)
                    place_of(one.document, option)
        made.positions.value(one.replicas.path)


@given(st.sampled_from(list(ALL.values())), st.data())
@settings(max_examples=150, deadline=None)
def test_any_change_of_the_text_is_read_or_told(text: str, data: st.DataObject) -> None:
    lines = text.splitlines(keepends=True)
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(lines) - 1))
        lines[at] = data.draw(
            st.sampled_from(["", "  " + lines[at], lines[at] * 2, lines[at].lstrip(), "- x\n", lines[0]])
        )
    try:
        made = documents("".join(lines))
    except ManifestError:
        return
    workloads_of([*made, *AROUND])


@pytest.mark.parametrize("kind", ["Pod", "Deployment"])
def test_values_that_multiply_end_soon(kind: str) -> None:
    env = [{"name": "A", "value": "x" * 100}] + [{"name": "A", "value": "$(A)$(A)"}] * 100
    container = {"name": "c", "image": "vllm/vllm-openai", "env": env, "args": ["$(A)"] * 1000}
    spec = {"containers": [container]}
    obj = {"apiVersion": "v1" if kind == "Pod" else "apps/v1", "kind": kind}
    obj |= {"spec": spec if kind == "Pod" else {"template": {"spec": spec}}}  # type: ignore[dict-item]
    begin = time.monotonic()
    assert workloads_of([document(nodes.from_object(obj), "<object>")]).workloads
    assert time.monotonic() - begin < 2
