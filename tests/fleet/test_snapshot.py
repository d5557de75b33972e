"""Files of objects become one fleet, however they are laid out."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from tests.fleet.kube import listed, named, node, pod, typed_list

from ironloom.errors import ManifestError
from ironloom.fleet import split
from ironloom.fleet.model import Fleet
from ironloom.fleet.snapshot import read_snapshot

NODES = [node(f"n{index}", labels={"example.com/rack": f"r{index // 2}"}) for index in range(4)]
PODS = [pod("a", on="n0", gpu=4), pod("b", on="n3", gpu=8), pod("waits", phase="Pending", gpu=8)]
OBJECTS = [*NODES, *PODS]
LAYOUTS: dict[str, Callable[[], str]] = {
    "kubectl get -o json": lambda: json.dumps(listed(*OBJECTS), indent=4),
    "compact JSON": lambda: json.dumps(listed(*OBJECTS), separators=(",", ":")),
    "JSON on one line with blanks": lambda: json.dumps(listed(*OBJECTS)),
    "JSON indented by tabs": lambda: json.dumps(listed(*OBJECTS), indent="\t"),
    "JSON indented by nothing": lambda: json.dumps(listed(*OBJECTS), indent=0),
    "JSON with sorted keys": lambda: json.dumps(listed(*OBJECTS), sort_keys=True),
    "one object a line": lambda: "\n".join(map(json.dumps, OBJECTS)),
    "objects one after another": lambda: "".join(json.dumps(one, indent=2) for one in OBJECTS),
    "an array": lambda: json.dumps(OBJECTS),
    "an array, one item a line": lambda: "[\n" + ",\n".join(map(json.dumps, OBJECTS)) + "\n]\n",
    "two lists one after another": lambda: json.dumps(listed(*NODES), indent=4) + json.dumps(listed(*PODS)),
    "lists as the API server sends them": lambda: (
        json.dumps(typed_list("Node", *NODES)) + json.dumps(typed_list("Pod", *PODS))
    ),
    "a list of lists": lambda: json.dumps(listed(typed_list("Node", *NODES), listed(*PODS))),
    "items whose keys stand in another order": lambda: json.dumps(
        listed(*(dict(sorted(one.items(), reverse=index % 2 == 0)) for index, one in enumerate(OBJECTS)))
    ),
    "kubectl get -o yaml": lambda: yaml.safe_dump(listed(*OBJECTS)),
    "YAML documents": lambda: yaml.safe_dump_all(OBJECTS, explicit_start=True),
    "YAML lists as the API server's": lambda: yaml.safe_dump_all(
        [typed_list("Node", *NODES), typed_list("Pod", *PODS)], sort_keys=False
    ),
}


def read(tmp_path: Path, text: str | bytes, name: str = "fleet.json", **options: object) -> Fleet:
    path = tmp_path / name
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return read_snapshot([path], **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_layout_of_a_file_changes_nothing(tmp_path: Path, layout: str) -> None:
    fleet = read(tmp_path, LAYOUTS[layout]())
    assert [one.name for one in fleet.nodes] == ["n0", "n1", "n2", "n3"]
    assert {one.name: one.node for one in fleet.pods} == {"a": "n0", "b": "n3", "waits": ""}
    assert [one.num_free_gpus for one in fleet.nodes] == [4, 8, 8, 0]


@pytest.mark.parametrize("layout", ["kubectl get -o json", "kubectl get -o yaml"])
def test_gzip_is_read_by_its_first_bytes_not_its_name(tmp_path: Path, layout: str) -> None:
    fleet = read(tmp_path, gzip.compress(LAYOUTS[layout]().encode()), "fleet")
    assert len(fleet.nodes) == 4


def test_a_byte_order_mark_is_passed_over(tmp_path: Path) -> None:
    assert len(read(tmp_path, b"\xef\xbb\xbf" + json.dumps(listed(*OBJECTS)).encode()).nodes) == 4


def test_several_files_are_one_fleet_and_an_object_in_two_of_them_counts_once(tmp_path: Path) -> None:
    first, second = tmp_path / "nodes.json", tmp_path / "all.json"
    first.write_text(json.dumps(listed(*NODES)))
    second.write_text(json.dumps(listed(*OBJECTS)))
    fleet = read_snapshot([first, second])
    assert len(fleet.nodes) == 4
    assert fleet.nodes[3].allocated["nvidia.com/gpu"] == 8
    assert fleet.name == "nodes"


def test_a_kind_that_was_listed_and_had_none_is_known_to_have_none(tmp_path: Path) -> None:
    fleet = read(tmp_path, json.dumps(listed(*NODES)) + json.dumps(typed_list("Secret")))
    assert fleet.has("/Secret", "token", "team-a") is False
    assert fleet.has("/ConfigMap", "settings", "team-a") is None


def test_objects_of_kinds_nobody_here_knows_are_known_by_name(tmp_path: Path) -> None:
    secret = named("v1", "Secret", "token", "team-a", data={"key": "czNjcjN0"})
    runtime = named("serving.kserve.io/v1alpha1", "ClusterServingRuntime", "vllm")
    fleet = read(tmp_path, json.dumps(listed(*NODES, secret, runtime)))
    assert fleet.has("/Secret", "token", "team-a") is True
    assert fleet.has("serving.kserve.io/ClusterServingRuntime", "vllm") is True


FAULTS = {
    "empty": ("", "is empty"),
    "blank": ("  \n", "is empty"),
    "prose": ("hello: [", "neither JSON nor YAML"),
    "a number": ("42", "no Kubernetes object"),
    "another kind of JSON": ('{"name": "x", "version": 2}', "no Node"),
    "JSON cut off in an object": (json.dumps(listed(*OBJECTS))[:-400], "ends in the middle"),
    "JSON cut off between items": (json.dumps(listed(*NODES)).rpartition("]")[0], "middle of a list"),
    "a comma too few": (json.dumps(listed(*OBJECTS)).replace('}, {"apiVersion"', '} {"apiVersion"'), "after an item"),
    "no node": (json.dumps(listed(*PODS)), "no Node"),
    "a Node without metadata": ('{"apiVersion": "v1", "kind": "Node"}', "metadata"),
    "labels that are numbers": (
        '{"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n1", "labels": ["a"]}}',
        "Node n1 is not as the Kubernetes API writes it",
    ),
    "an amount that is none": (
        json.dumps(listed(*NODES, pod("x", on="n0", gpu="many"))),
        "Pod team-a/x is not as the Kubernetes API writes it",
    ),
    "a negative amount": (json.dumps(listed(node("n1", gpus=-8))), "negative"),
    "nesting": ('{"apiVersion": "v1", "kind": "X", "metadata": {"name": "x"}, "a": ' + "[" * 99_999, "nested too deep"),
    "YAML nesting": ("a: " + "[" * 100_000, "nested more than 100 deep"),
    "YAML aliases": ("a: &x [1]\nb: *x\n", "anchor"),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_a_file_that_is_no_snapshot_ends_in_a_sentence_that_names_it(tmp_path: Path, fault: str) -> None:
    text, said = FAULTS[fault]
    with pytest.raises(ManifestError) as caught:
        read(tmp_path, text, "bad.json")
    assert said in caught.value.render()
    assert "bad.json" in caught.value.render()
    assert caught.value.hint


@pytest.mark.parametrize("chunk_bytes", [64, 1000])
def test_an_object_that_is_wrong_is_told_by_kind_name_and_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chunk_bytes: int
) -> None:
    monkeypatch.setattr(split, "CHUNK_BYTES", chunk_bytes)
    good = json.dumps(node("n1"))
    for bad, said in (
        ('{"apiVersion": "v1", "kind": "Node", "metadata": {"name": 5}}', ":4: Node 5 is not as"),
        ('{"apiVersion": "v1", "kind": "Node"}', ":4: a Node is not as"),
        ('{"kind": "Ingress", "apiVersion": "v1", "metadata": []}', ":4: an Ingress is not as"),
        ('{"apiVersion": "v1", "kind": "Node", "metadata": {', ":4: it is no JSON of Kubernetes objects: it ends"),
    ):
        text = f'{{"apiVersion": "v1", "kind": "List", "items": [\n{good},\n{good},\n{bad}'
        with pytest.raises(ManifestError) as caught:
            read(tmp_path, text, "bad.json")
        assert f"bad.json{said}" in caught.value.render()


def test_what_yaml_may_not_have_is_told_with_line_and_column(tmp_path: Path) -> None:
    with pytest.raises(ManifestError) as caught:
        read(tmp_path, "a: 1\nb: &x [1]\n", "bad.yaml")
    assert "bad.yaml:2:4: it has an anchor" in caught.value.render()


def test_gzip_that_is_cut_off_is_said(tmp_path: Path) -> None:
    packed = gzip.compress(json.dumps(listed(*OBJECTS)).encode())
    with pytest.raises(ManifestError, match="gzip is cut off or damaged"):
        read(tmp_path, packed[:-40], "cut.json.gz")
    with pytest.raises(ManifestError, match="gzip is cut off or damaged"):
        read(tmp_path, packed[:60] + b"\xff\xff\xff" + packed[63:], "cut.json.gz")


def test_utf16_is_told_with_the_way_out(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="UTF-16") as caught:
        read(tmp_path, json.dumps(listed(*OBJECTS)).encode("utf-16"))
    assert "Out-File" in str(caught.value.hint)


def test_a_file_that_is_not_there_is_told_by_name(tmp_path: Path) -> None:
    with pytest.raises(ManifestError) as caught:
        read_snapshot([tmp_path / "none.json"])
    assert caught.value.file.endswith("none.json")
    with pytest.raises(ManifestError, match="cannot be read"):
        read_snapshot([tmp_path])


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("chunk_bytes", [1, 7, 64, 1000])
def test_where_a_read_ends_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, layout: str, chunk_bytes: int
) -> None:
    monkeypatch.setattr(split, "CHUNK_BYTES", chunk_bytes)
    fleet = read(tmp_path, LAYOUTS[layout]())
    assert [one.num_free_gpus for one in fleet.nodes] == [4, 8, 8, 0]
