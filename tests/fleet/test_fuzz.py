"""Mutated snapshots end in a fleet or in a sentence, never in anything else."""

from __future__ import annotations

import contextlib
import gzip
import json
import tempfile
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.fleet.kube import listed, node
from tests.fleet.test_nodes import CABLES, claim, resource_slice
from tests.fleet.test_show import OBJECTS

from ironloom.errors import IronloomError
from ironloom.fleet import picture, table
from ironloom.fleet.build import build_fleet
from ironloom.fleet.snapshot import read_snapshot
from ironloom.fleet.strip import strip
from ironloom.fleet.view import view

WHOLE = listed(
    *OBJECTS,
    node("cw", labels=CABLES, taints=("a=b:NoSchedule",)),
    resource_slice("s", "n1", 2),
    claim("c", "n1", 1, "a"),
    {"apiVersion": "kueue.x-k8s.io/v1beta2", "kind": "ClusterQueue", "metadata": {"name": "q"},
     "spec": {"resourceGroups": [{"flavors": [{"name": "f", "resources": [{"name": "cpu", "nominalQuota": "4"}]}]}]}},
    {"apiVersion": "kueue.x-k8s.io/v1beta2", "kind": "Topology", "metadata": {"name": "t"},
     "spec": {"levels": [{"nodeLabel": "example.com/rack"}]}},
    {"apiVersion": "karpenter.sh/v1", "kind": "NodePool", "metadata": {"name": "k"},
     "spec": {"limits": {"cpu": "10"}, "template": {"spec": {"requirements": [{"key": "a", "values": ["b"]}]}}}},
    {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "cluster-autoscaler-status"},
     "data": {"status": "nodeGroups:\n- name: g\n  health: {maxSize: 2}\n"}},
)  # fmt: skip
TEXT = json.dumps(WHOLE, indent=4).encode()
ODD = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.text(max_size=8), st.just([]), st.just({}),
    st.just([{}]), st.just({"a": 1}), st.just("-1"), st.just("1e9999"), st.just("9" * 400), st.just("Node"),
)  # fmt: skip


def paths(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    below = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(one for key, child in below for one in paths(child, (*path, key)))]


PATHS = paths(WHOLE)[1:]


def with_change(path: tuple[Any, ...], value: Any) -> Any:
    changed = json.loads(json.dumps(WHOLE))
    part = changed
    for step in path[:-1]:
        part = part[step]
    part[path[-1]] = value
    return changed


def try_file(data: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "fleet"
        path.write_bytes(data)
        try:
            fleet = read_snapshot([path])
        except IronloomError:
            return
    table.render(fleet, wide=True)
    picture.render(fleet)
    json.dumps(view(fleet))


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.sampled_from(PATHS), ODD, st.booleans())
def test_any_value_anywhere(path: tuple[Any, ...], value: Any, indented: bool) -> None:
    try_file(json.dumps(with_change(path, value), indent=4 if indented else None).encode())


@settings(max_examples=100, deadline=None)
@given(st.sampled_from(PATHS), ODD)
def test_any_value_anywhere_in_objects_in_hand(path: tuple[Any, ...], value: Any) -> None:
    items = with_change(path, value).get("items")
    for one in items if isinstance(items, list) else ():
        if isinstance(one, dict):
            strip(one)
    objects = [one for one in items if isinstance(one, dict)] if isinstance(items, list) else []
    with contextlib.suppress(IronloomError):
        build_fleet(objects, name="x", source="y")


@settings(max_examples=150, deadline=None)
@given(st.integers(0, len(TEXT)), st.integers(0, 300), st.binary(max_size=6))
def test_bytes_cut_out_and_put_in(start: int, length: int, put: bytes) -> None:
    try_file(TEXT[:start] + put + TEXT[start + length :])


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_gzip_with_a_byte_changed_or_cut(data: st.DataObject) -> None:
    packed = bytearray(gzip.compress(TEXT))
    place = data.draw(st.integers(0, len(packed) - 1))
    if data.draw(st.booleans()):
        del packed[place:]
    else:
        packed[place] ^= data.draw(st.integers(1, 255))
    try_file(bytes(packed))


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes(data: bytes) -> None:
    try_file(data)
