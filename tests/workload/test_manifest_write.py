"""Objects out and in again."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ironloom.workload.manifests import dump_yaml, nodes, parse_object, read_text, serving_manifest, to_serving


def test_the_shorthand_writes_a_manifest_that_reads_as_it_was_meant() -> None:
    manifest = serving_manifest(
        "smol",
        "hf://HuggingFaceTB/SmolLM2-135M-Instruct",
        max_replicas=3,
        engine="openvino",
        args=["--max-model-len=2048"],
        env={"A": "1"},
        num_gpus=1,
        memory="2Gi",
        scale_target=8,
        timeout_s=60,
        namespace="team",
    )
    (document,) = read_text(dump_yaml(manifest))
    assert document.obj == manifest
    serving = to_serving(document)
    assert serving.model_uri == "hf://HuggingFaceTB/SmolLM2-135M-Instruct"
    assert serving.runtime == "openvino"
    assert serving.env == {"A": "1"}
    assert serving.max_model_len == 2048
    assert serving.namespace == "team"
    assert serving.timeout_s == 60
    assert (serving.scaling.min_replicas, serving.scaling.max_replicas, serving.scaling.target) == (0, 3, 8)
    assert (serving.resources.num_gpus, serving.resources.memory_bytes) == (1, 2 * 1024**3)
    assert serving.not_honoured == ()
    assert parse_object(manifest) == serving


def test_the_least_the_shorthand_writes() -> None:
    assert dump_yaml(serving_manifest("smol", "/models/smol")) == (
        "apiVersion: serving.kserve.io/v1beta1\n"
        "kind: InferenceService\n"
        "metadata:\n"
        "  name: smol\n"
        "spec:\n"
        "  predictor:\n"
        "    minReplicas: 0\n"
        "    model:\n"
        "      modelFormat:\n"
        "        name: huggingface\n"
        "      storageUri: /models/smol\n"
    )


@pytest.mark.parametrize(
    "text", ["7", "1e3", "yes", "on", "y", "N", "null", "~", "0x10", "1_0", "2001-01-01", "1:30", ""]
)
def test_text_that_looks_like_something_else_is_quoted(text: str) -> None:
    assert dump_yaml({"a": text}) in (f"a: '{text}'\n", f'a: "{text}"\n')


def test_lists_stand_indented_and_aliases_are_written_out() -> None:
    shared = {"x": 1}
    assert dump_yaml({"a": [shared, shared]}) == "a:\n  - x: 1\n  - x: 1\n"
    assert dump_yaml([{"a": 1}, {"b": 2}]) == "a: 1\n---\nb: 2\n"
    assert dump_yaml({"script": "one\ntwo\n"}) == "script: |\n  one\n  two\n"


texts = st.text(st.characters(codec="utf-8", exclude_categories=("Cs",)), max_size=40)
objects = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**62), 2**62) | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=20,
)


@given(st.dictionaries(texts, objects, min_size=1, max_size=5))
def test_what_is_written_reads_the_same(value: dict[str, object]) -> None:
    text = dump_yaml(value)
    assert dump_yaml(value) == text
    (node,) = nodes.parse(text, "f.yaml")
    assert node.value == value


def test_a_dumped_manifest_can_be_a_file(tmp_path: Path) -> None:
    path = tmp_path / "m.yaml"
    path.write_text(dump_yaml([serving_manifest("a", "/m"), serving_manifest("b", "/m")]))
    assert [document.name for document in read_text(path.read_text())] == ["a", "b"]
