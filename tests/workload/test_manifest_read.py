"""Files, folders and standard input; what is skipped, and that every problem is told at once."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from ironloom.errors import ManifestError
from ironloom.workload.manifests import (
    ManifestProblems,
    dump_yaml,
    parse_object,
    read_manifests,
    read_text,
    serving_manifest,
    to_serving,
    to_workloads,
)
from ironloom.workload.manifests.suggest import nearest

GOOD = dump_yaml(serving_manifest("a", "hf://o/a"))


def test_folders_are_read_through_in_order_of_name(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    for name, service in (("b.yaml", "b"), ("a.yml", "a"), ("sub/c.json", "c"), ("z.txt", "z")):
        (tmp_path / name).write_text(dump_yaml(serving_manifest(service, "/m")))
    documents = read_manifests([tmp_path])
    assert [document.name for document in documents] == ["a", "b", "c"]
    assert documents[2].file == str(tmp_path / "sub" / "c.json")


def test_standard_input_and_a_list_as_kubectl_prints_it() -> None:
    items = "\n".join("  " + line for line in GOOD.splitlines())
    text = "apiVersion: v1\nkind: List\nitems:\n-" + items[1:] + "\n"
    (document,) = read_manifests(["-"], stdin=io.StringIO(text))
    assert (document.name, document.file) == ("a", "<stdin>")
    assert document.positions.value(("metadata", "name")).line == 7


def test_every_problem_of_every_file_is_told(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(GOOD.replace("minReplicas", "minReplica").replace("storageUri", "storageUrl"))
    (tmp_path / "b.yaml").write_text("a: [")
    (tmp_path / "c.yaml").write_text(GOOD)
    (tmp_path / "d.yaml").write_bytes(b"a: \xff")
    with pytest.raises(ManifestProblems) as caught:
        read_manifests([tmp_path, tmp_path / "none.yaml"])
    problems = caught.value.problems
    assert [Path(problem.file).name for problem in problems] == ["a.yaml", "a.yaml", "b.yaml", "d.yaml", "none.yaml"]
    assert [problem.line for problem in problems] == [7, 11, 2, 1, 0]
    text = caught.value.render()
    assert text.count("\n") == 4
    assert f"{tmp_path}/a.yaml:7:5: spec.predictor has no field 'minReplica'; did you mean 'minReplicas'?" in text
    assert "No such file or directory" in text


def test_one_problem_is_an_error_of_its_own() -> None:
    with pytest.raises(ManifestError) as caught:
        read_text(GOOD.replace("minReplicas", "minReplica"), "m.yaml")
    assert not isinstance(caught.value, ManifestProblems)
    assert caught.value.render() == "m.yaml:7:5: spec.predictor has no field 'minReplica'; did you mean 'minReplicas'?"
    assert caught.value.path == "spec.predictor.minReplica"


def test_known_kinds_that_are_no_workload_are_named_and_skipped() -> None:
    text = "".join(
        f"---\napiVersion: {version}\nkind: {kind}\nmetadata: {{name: x}}\n"
        for version, kind in (
            ("v1", "ConfigMap"),
            ("v1", "Secret"),
            ("v1", "Namespace"),
            ("networking.k8s.io/v1", "Ingress"),
            ("serving.kserve.io/v1alpha1", "ServingRuntime"),
            ("example.com/v1", "Anything"),
        )
    )
    found = to_workloads(read_text(f"{GOOD}{text}", "f.yaml"))
    assert len(found.servings) == 1
    assert [note.message for note in found.skipped] == [
        f"{kind} x is no workload of this machine: skipped"
        for kind in ("ConfigMap", "Secret", "Namespace", "Ingress", "ServingRuntime", "Anything")
    ]
    assert found.skipped[0].line == 14


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("apiVersion: v1\nkind: ConfgMap\n", "v1 has no kind 'ConfgMap'; did you mean 'ConfigMap'?"),
        ("apiVersion: serving.kserve.io/v1beta1\nkind: InferenceServise\n", "did you mean 'InferenceService'?"),
        (
            "apiVersion: serving.kserve.io/v1\nkind: InferenceService\n",
            "InferenceService is in serving.kserve.io/v1beta1",
        ),
        (
            "apiVersion: serving.kserve.io/v1beta1\nkind: LLMInferenceService\n",
            "v1alpha1 or serving.kserve.io/v1alpha2",
        ),
        ("kind: ConfigMap\n", "the object has no apiVersion"),
        ("apiversion: v1\nkind: ConfigMap\n", "the object has no apiVersion"),
        ("apiVersion: v1\n", "the object has no kind"),
        ("apiVersion: 1\nkind: X\n", "apiVersion = 1, must be a string"),
        ("- a\n", "a manifest must be a mapping"),
        ("just text\n", "a manifest must be a mapping"),
        ("apiVersion: v1\nkind: List\nitems: 3\n", "items of a List must be a list"),
        ("", "there is no Kubernetes object in it"),
    ],
)
def test_what_is_no_object_is_told(text: str, message: str) -> None:
    with pytest.raises(ManifestError) as caught:
        read_manifests(["-"], stdin=io.StringIO(text))
    assert message in caught.value.message


def test_two_services_of_one_name_are_refused() -> None:
    with pytest.raises(ManifestError, match=r"there is a service 'a' already, in f\.yaml:4"):
        to_workloads(read_text(f"{GOOD}---\n{GOOD}", "f.yaml"))


def test_an_empty_folder_is_told(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match=r"there is no \.yaml, \.yml or \.json file in the folder"):
        read_manifests([tmp_path])


def test_a_byte_order_mark_and_utf_16_are_read(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_bytes(b"\xef\xbb\xbf" + GOOD.encode())
    (tmp_path / "b.yaml").write_bytes(GOOD.encode("utf-16"))
    assert [document.name for document in read_manifests([tmp_path])] == ["a", "a"]


def test_an_object_without_a_text_is_checked_as_one_with() -> None:
    manifest = serving_manifest("a", "hf://o/a")
    assert parse_object(manifest).manifest == manifest
    manifest["spec"]["predictor"]["minReplica"] = 1
    with pytest.raises(ManifestError, match="did you mean 'minReplicas'") as caught:
        parse_object(manifest)
    assert caught.value.render().startswith("<object>: ")
    with pytest.raises(ManifestError, match="is no serving workload"):
        parse_object({"apiVersion": "v1", "kind": "ConfigMap"})


def test_positions_lead_to_keys_and_values() -> None:
    (document,) = read_text(GOOD, "f.yaml")
    path = ("spec", "predictor", "model", "storageUri")
    key, value = document.positions.key(path), document.positions.value(path)
    assert (key.line, value.line) == (11, 11)
    assert document.text[key.start : key.end] == "storageUri"
    assert document.text[value.start : value.end] == "hf://o/a"
    assert document.positions.value(("spec", "nowhere", "x")).line == 6
    assert to_serving(document).model_uri == "hf://o/a"


@pytest.mark.parametrize(
    ("word", "known", "expected"),
    [
        ("minReplica", ["minReplicas", "maxReplicas"], "minReplicas"),
        ("min_replicas", ["minReplicas", "maxReplicas"], "minReplicas"),
        ("MINREPLICAS", ["minReplicas"], "minReplicas"),
        ("storgaeUri", ["storageUri", "storage"], "storageUri"),
        ("evn", ["env", "args"], "env"),
        ("workload", ["worker", "model"], None),
        ("x", ["y"], "y"),
        ("zebra", ["model", "worker"], None),
        ("a" * 10_000, ["b" * 10_000], None),
    ],
)
def test_the_nearest_name(word: str, known: list[str], expected: str | None) -> None:
    assert nearest(word, known) == expected
