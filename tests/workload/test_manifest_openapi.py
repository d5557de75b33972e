"""Tables of fields from OpenAPI documents and custom resource definitions, and several of them as one."""

from __future__ import annotations

import time
from typing import Any

import pytest

from ironloom.workload.manifests import nodes, openapi, schema
from ironloom.workload.manifests.schema import Schema, Wrong

GVK = "x-kubernetes-group-version-kind"
META = {openapi.OBJECT_META: {"properties": {"name": {"type": "string"}}}}


def described(properties: dict[str, Any], **words: Any) -> dict[str, Any]:
    """A document of /openapi/v3 with one kind, example.org/v1/Thing."""
    made = {
        "properties": {"metadata": {"$ref": f"#/components/schemas/{openapi.OBJECT_META}"}, **properties},
        GVK: [{"group": "example.org", "version": "v1", "kind": "Thing"}],
        **words,
    }
    return {"components": {"schemas": {"org.example.v1.Thing": made, **META}}}


def said(table: Schema, text: str, *, minor: int | None = None, kind: str = "example.org/v1/Thing") -> list[str]:
    (node,) = nodes.parse(text, "f.yaml")
    return [mistake.message for mistake in schema.mistakes(node, kind, table, minor=minor)]


def test_a_cluster_s_description_is_a_table_of_its_kinds() -> None:
    table = openapi.from_openapi([described({"size": {"type": "integer", "format": "int32"}}, required=["size"])])
    assert table.known == {"example.org/v1/Thing"}
    assert said(table, "size: 3") == []
    assert said(table, "size: 3000000000") == ["size = 3000000000, must be at most 2147483647"]
    assert said(table, "size: x") == ["size = 'x', must be an integer"]
    assert said(table, "sizes: 3") == ["Thing has no field 'sizes'; did you mean 'size'?"]
    assert said(table, "metadata: {name: a}") == ["Thing must have the field 'size'"]
    assert table.source("example.org/v1/Thing") == "this cluster"


def test_version_2_of_openapi_is_read_as_well() -> None:
    document = described({"names": {"type": "array", "items": {"type": "string"}}})["components"]["schemas"]
    document["org.example.v1.Thing"]["properties"]["metadata"]["$ref"] = f"#/definitions/{openapi.OBJECT_META}"
    table = openapi.from_openapi([{"definitions": document}])
    assert said(table, "names: [a, 1]") == ["names[1] = 1, must be a string: write it in quotes"]


def test_a_reference_in_an_all_of_and_a_type_that_has_itself_inside_are_read() -> None:
    parts = {
        "tree": {"allOf": [{"$ref": "#/components/schemas/Tree"}], "default": {}},
        "size": {"$ref": "#/components/schemas/io.k8s.apimachinery.pkg.api.resource.Quantity"},
    }
    document = described(parts)
    document["components"]["schemas"]["Tree"] = {
        "properties": {"leaf": {"type": "string"}, "below": {"$ref": "#/components/schemas/Tree"}}
    }
    table = openapi.from_openapi([document])
    assert said(table, "{tree: {leaf: a, below: {anything: 1}}, size: 16Gi}") == []
    assert said(table, "tree: {leafs: a}") == ["tree has no field 'leafs'; did you mean 'leaf'?"]
    assert said(table, "size: much") == ["size = 'much', must be a quantity such as 500m, 2 or 16Gi"]


@pytest.mark.parametrize(
    "document", [{}, {"components": []}, {"definitions": 3}, {"components": {"schemas": {"A": 1}}}]
)
def test_what_describes_nothing_is_passed_over(document: dict[str, Any]) -> None:
    assert openapi.from_openapi([document]).kinds == {}


def test_what_a_schema_allows_is_held_against_the_value() -> None:
    table = openapi.from_openapi(
        [
            described(
                {
                    "mode": {"type": "string", "enum": ["Fast", "Slow"]},
                    "name": {"type": "string", "pattern": "^[a-z]+$", "maxLength": 4},
                    "share": {"type": "integer", "minimum": 1, "maximum": 100},
                    "rules": {"type": "array", "items": {"type": "string"}, "minItems": 1, "maxItems": 2},
                    "any": {"type": "object", "x-kubernetes-preserve-unknown-fields": True, "properties": {}},
                    "port": {"x-kubernetes-int-or-string": True},
                }
            )
        ]
    )
    assert said(table, "{mode: Fast, name: abc, share: 5, rules: [a], any: {x: 1}, port: http}") == []
    assert said(table, "mode: fast") == ["mode = 'fast', must be one of Fast, Slow"]
    assert said(table, "name: ABC") == ["name = 'ABC', must match ^[a-z]+$"]
    assert said(table, "name: abcde") == ["name = 'abcde', must have at most 4 characters"]
    assert said(table, "share: 101") == ["share = 101, must be at most 100"]
    assert said(table, "rules: []") == ["rules has 0 entries, must have at least 1"]
    assert said(table, "rules: [a, b, c]") == ["rules has 3 entries, must have at most 2"]


@pytest.mark.parametrize(
    ("pattern", "value", "is_right"),
    [
        (r"^\p{L}+$", "x", True),  # Python cannot read it
        ("^[[:alpha:]]+$", "x", True),  # Python reads it otherwise
        ("^(?i)[a-z]+$", "Abc", True),
        ("^(?i)[a-z]+$", "a1", False),
    ],
)
def test_a_pattern_is_read_as_go_reads_it_or_not_at_all(pattern: str, value: str, is_right: bool) -> None:
    table = openapi.from_openapi([described({"name": {"type": "string", "pattern": pattern}})])
    assert (said(table, f"name: {value}") == []) is is_right


def test_no_pattern_of_the_tables_takes_long_whatever_the_text() -> None:
    patterns = {made["text"][0] for made in schema.load_all().types if isinstance(made, dict) and "text" in made}
    texts = ("a" * 999 + "!", "a." * 499 + "!", "a-" * 500, "1" * 999 + "x", "a/" * 499 + "!!")
    for pattern in patterns - {None}:
        table = openapi.from_openapi([described({"name": {"type": "string", "pattern": pattern}})])
        for text in texts:
            begin = time.process_time()
            said(table, f"name: '{text}'")
            assert time.process_time() - begin < 0.5, pattern


def test_a_field_with_a_default_is_not_missed() -> None:
    properties = {"size": {"type": "integer", "default": 1}, "name": {"type": "string"}}
    table = openapi.from_openapi([described(properties, required=["size", "name"])])
    assert said(table, "metadata: {}") == ["Thing must have the field 'name'"]


PORTS = {
    "ports": {
        "type": "array",
        "x-kubernetes-list-type": "map",
        "x-kubernetes-list-map-keys": ["port", "protocol"],
        "items": {"properties": {"port": {"type": "integer"}, "protocol": {"type": "string", "default": "TCP"}}},
    }
}


def test_two_entries_with_one_key_are_told_and_a_default_counts_as_written() -> None:
    table = openapi.from_openapi([described(PORTS)])
    assert said(table, "ports: [{port: 80}, {port: 80, protocol: UDP}]") == []
    assert said(table, "ports: [{port: 80}, {port: 80, protocol: TCP}]") == [
        "ports has port 80, protocol TCP twice: first in line 1"
    ]


def definition(versions: list[dict[str, Any]]) -> dict[str, Any]:
    return {"spec": {"group": "example.org", "names": {"kind": "Thing"}, "versions": versions}}


def version(name: str, properties: dict[str, Any], *, served: bool = True) -> dict[str, Any]:
    below = {"metadata": {"type": "object"}, "spec": {"type": "object", "properties": properties}}
    return {"name": name, "served": served, "schema": {"openAPIV3Schema": {"type": "object", "properties": below}}}


def test_a_custom_resource_definition_is_a_table_of_the_versions_that_are_served() -> None:
    crd = definition([version("v1", {"size": {"type": "integer"}}), version("v0", {}, served=False)])
    table = openapi.from_crds([crd], META, source="Things 1.2")
    assert list(table.kinds) == ["example.org/v1/Thing"]
    assert said(table, "{apiVersion: example.org/v1, kind: Thing, metadata: {name: a}, spec: {size: 1}}") == []
    assert said(table, "metadata: {nmae: a}") == ["metadata has no field 'nmae'; did you mean 'name'?"]
    assert table.source("example.org/v1/Thing") == "Things 1.2"


def merged() -> Schema:
    """Three versions: 1.1 has old and both, 1.2 both and mid, 1.3 both, mid and new, which it requires."""

    def one(*fields: str, required: list[str]) -> Schema:
        spec = {"properties": {field: {"type": "string"} for field in fields}, "required": required}
        return openapi.from_openapi([described({"spec": spec})])

    return openapi.merge(
        [
            (1, one("old", "both", required=["both"])),
            (2, one("both", "mid", required=["both"])),
            (3, one("both", "mid", "new", required=["both", "new"])),
        ]
    )


@pytest.mark.parametrize(
    ("minor", "text", "messages"),
    [
        (None, "{old: a, both: a, mid: a, new: a}", []),
        (1, "{old: a, both: a}", []),
        (1, "{both: a, mid: a}", ["spec.mid is a field of Kubernetes 1.2 and newer, not of 1.1"]),
        (2, "{both: a, old: a}", ["spec.old is a field of Kubernetes 1.1 and older, not of 1.2"]),
        (3, "{both: a}", ["spec must have the field 'new'"]),
        (2, "{both: a}", []),
        (None, "{both: a}", []),
        (None, "{other: a, both: a}", ["spec has no field 'other'"]),
    ],
)
def test_of_several_versions_each_is_judged_by_its_own_fields(
    minor: int | None, text: str, messages: list[str]
) -> None:
    assert said(merged(), f"spec: {text}", minor=minor) == messages


def test_a_field_that_takes_anything_in_one_version_takes_anything() -> None:
    tables = [
        openapi.from_openapi([described({"torch": made})])
        for made in ({"properties": {"procs": {"type": "integer"}}}, {"type": "object"})
    ]
    assert said(openapi.merge([(1, tables[0]), (2, tables[1])]), "torch: {other: 1}") == []


def test_a_kind_of_some_versions_knows_which() -> None:
    first = openapi.from_openapi([described({})])
    second = openapi.from_crds([definition([version("v2", {})])], META, source="x")
    table = openapi.merge([(1, first), (2, second)])
    assert (table.since, table.until) == ({"example.org/v2/Thing": 2}, {"example.org/v1/Thing": 1})


def test_tables_that_are_joined_or_cut_judge_as_they_did() -> None:
    other = openapi.from_crds([definition([version("v2", {"size": {"type": "integer"}})])], META, source="x")
    whole = openapi.join([merged(), other])
    cut = openapi.subset(whole, ["example.org/v2/Thing"])
    assert said(cut, "spec: {size: a}", kind="example.org/v2/Thing") == ["spec.size = 'a', must be an integer"]
    assert said(whole, "spec: {both: 1}") == ["spec.both = 1, must be a string: write it in quotes"]
    assert len(cut.types) < len(whole.types)


def test_a_table_survives_its_json() -> None:
    import msgspec

    table = merged()
    again = schema.decode(msgspec.json.encode(openapi.as_object(table)))
    assert again == table


def test_the_values_of_go_s_source_are_found_by_definition_and_field() -> None:
    text = (
        "func schema_k8sio_api_core_v1_PodSpec(ref common.ReferenceCallback) common.OpenAPIDefinition {\n"
        '\t\t\t\t\t"restartPolicy": {\n'
        "\t\t\t\t\t\tSchemaProps: spec.SchemaProps{\n"
        '\t\t\t\t\t\t\tEnum:        []interface{}{"Always", "Never"},\n'
    )
    assert dict(openapi.enums_of_go(text)) == {("io.k8s.api.core.v1.PodSpec", "restartPolicy"): ["Always", "Never"]}


def test_the_tables_that_come_with_the_package_know_the_kinds_of_gpu_clusters() -> None:
    table = schema.load_all()
    assert {
        "batch/v1/Job",
        "jobset.x-k8s.io/v1alpha2/JobSet",
        "leaderworkerset.x-k8s.io/v1/LeaderWorkerSet",
        "kueue.x-k8s.io/v1beta2/ClusterQueue",
        "trainer.kubeflow.org/v1alpha1/TrainJob",
        "kubeflow.org/v1/PyTorchJob",
        "kubeflow.org/v2beta1/MPIJob",
        "keda.sh/v1alpha1/ScaledObject",
        "ray.io/v1/RayCluster",
        "karpenter.sh/v1/NodePool",
        "batch.volcano.sh/v1alpha1/Job",
        "inference.networking.k8s.io/v1/InferencePool",
        "serving.knative.dev/v1/Service",
        "serving.kserve.io/v1alpha1/ClusterServingRuntime",
    } <= table.kinds.keys()
    assert table.kinds.keys() <= table.known


def test_a_mistake_says_what_it_is() -> None:
    table = openapi.from_openapi([described({"size": {"type": "integer"}, "name": {"type": "string"}})])
    (node,) = nodes.parse("{size: '3', nmae: a, name: 1}", "f.yaml")
    found = schema.mistakes(node, "example.org/v1/Thing", table)
    assert [(mistake.wrong, mistake.wants) for mistake in found] == [
        (Wrong.TYPE, "integer"),
        (Wrong.UNKNOWN, ""),
        (Wrong.TYPE, "string"),
    ]
    assert found[1].meant == "", "the name is there already"
