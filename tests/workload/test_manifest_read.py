"""Files, folders and standard input; what is skipped, and that every problem is told at once."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from ironloom.errors import ManifestError
from ironloom.workload.manifests import (
    Document,
    ManifestProblems,
    dump_yaml,
    nodes,
    parse_object,
    read_manifests,
    read_text,
    read_workloads,
    serving_manifest,
    to_serving,
    to_workloads,
)
from ironloom.workload.manifests.document import document
from ironloom.workload.manifests.problems import each
from ironloom.workload.manifests.suggest import nearest

GOOD = dump_yaml(serving_manifest("a", "hf://o/a"))


def documents_of(text: str) -> list[Document]:
    """The documents of a text, not yet checked."""
    return [document(node, "m.yaml", text) for node in nodes.parse(text, "m.yaml")]


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
    assert [problem.line for problem in problems] == [7, 11, 1, 1, 0]
    text = caught.value.render()
    assert text.count("\n") == 4
    assert f"{tmp_path}/a.yaml:7:5: spec.predictor has no field 'minReplica'; did you mean 'minReplicas'?" in text
    assert "No such file or directory" in text


EVERY_KIND_OF_PROBLEM = """\
apiVersion: serving.kserve.io/v1beta1
kind: InferenceService
metadata:
  name: A_b
  annotations:
    autoscaling.knative.dev/window: 2s
    ironloom.dev/parkfor: 5m
spec:
  predictor:
    minReplicas: "1"
    maxReplicas: -1
    timeout: 0
    scaleTarget: 0
    nodeSelectr: {a: b}
    model:
      modelFormat: {name: sklearn}
      args: [--max-model-len, lots, --port, none, --tensor-parallel-size, x]
      resources: {limits: {nvidia.com/gpu: 0.5, memory: -1Gi}}
"""


def test_everything_that_is_wrong_with_a_document_is_told_at_once_in_the_order_of_the_text() -> None:
    with pytest.raises(ManifestProblems) as caught:
        to_workloads(documents_of(EVERY_KIND_OF_PROBLEM))
    assert [(problem.line, problem.path) for problem in caught.value.problems] == [
        (4, "metadata.name"),
        (6, "metadata.annotations['autoscaling.knative.dev/window']"),
        (7, "metadata.annotations['ironloom.dev/parkfor']"),
        (10, "spec.predictor.minReplicas"),
        (11, "spec.predictor.maxReplicas"),
        (12, "spec.predictor.timeout"),
        (13, "spec.predictor.scaleTarget"),
        (14, "spec.predictor.nodeSelectr"),
        (16, "spec.predictor.model.modelFormat.name"),
        (17, "spec.predictor.model.args[0]"),
        (17, "spec.predictor.model.args[2]"),
        (17, "spec.predictor.model.args[4]"),
        (18, "spec.predictor.model.resources"),
        (18, "spec.predictor.model.resources.limits['nvidia.com/gpu']"),
    ]


@pytest.mark.parametrize(
    ("right", "wrong", "line", "told"),
    [
        ("model:", "modle:", 8, "spec.predictor has no field 'modle'; did you mean 'model'?"),
        (
            "storageUri:",
            "storageUrl:",
            11,
            "spec.predictor.model has no field 'storageUrl'; did you mean 'storageUri'?",
        ),
        ("metadata:", "metadaat:", 3, "InferenceService has no field 'metadaat'; did you mean 'metadata'?"),
        ("  predictor:", "  predictr:", 6, "spec has no field 'predictr'; did you mean 'predictor'?"),
    ],
)
def test_what_a_slip_makes_missing_is_not_told_as_missing_too(right: str, wrong: str, line: int, told: str) -> None:
    with pytest.raises(ManifestError) as caught:
        to_workloads(documents_of(GOOD.replace(right, wrong)))
    assert [(problem.line, problem.message) for problem in each(caught.value)] == [(line, told)]


def test_problems_of_several_files_come_file_by_file_whatever_kind_they_are(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(GOOD.replace("name: a", "name: A"))
    (tmp_path / "b.yaml").write_text("a: [")
    (tmp_path / "c.yaml").write_text(GOOD.replace("minReplicas", "minReplica"))
    with pytest.raises(ManifestProblems) as caught:
        read_workloads([tmp_path / "c.yaml", tmp_path])
    assert [Path(problem.file).name for problem in caught.value.problems] == ["c.yaml", "c.yaml", "a.yaml", "b.yaml"]
    assert [made.name for made in read_workloads(["-"], stdin=io.StringIO(GOOD)).servings] == ["a"]
    with pytest.raises(ManifestError, match="there is no Kubernetes object in it"):
        read_workloads(["-"], stdin=io.StringIO(""))


def test_a_deployment_and_an_llm_inference_service_tell_everything_too() -> None:
    deployment = {
        "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {"name": "d", "annotations": {"autoscaling.knative.dev/window": "2s"}},
        "spec": {
            "replicas": -1,
            "selector": {"matchLabels": {"app": "x"}},
            "template": {
                "metadata": {"labels": {"app": "y"}},
                "spec": {"containers": [{
                    "name": "v", "image": "vllm/vllm-openai", "args": ["--model", "m/m", "--port", "x"],
                    "resources": {"limits": {"nvidia.com/gpu": 0.5}},
                }]},
            },
        },
    }  # fmt: skip
    llm = {
        "apiVersion": "serving.kserve.io/v1alpha2", "kind": "LLMInferenceService",
        "metadata": {"name": "L", "annotations": {"ironloom.dev/park-for": "never"}},
        "spec": {
            "replicas": 1, "scaling": {"maxReplicas": 2}, "model": {"uri": ""},
            "template": {"containers": [{"name": "main", "args": ["--max-model-len", "x"]}]},
        },
    }  # fmt: skip
    for obj, paths in (
        (deployment, {
            "metadata.annotations['autoscaling.knative.dev/window']", "spec.replicas",
            "spec.selector.matchLabels.app", "spec.template.spec.containers[0].args[2]",
            "spec.template.spec.containers[0].resources.limits['nvidia.com/gpu']",
        }),
        (llm, {
            "metadata.name", "metadata.annotations['ironloom.dev/park-for']", "spec.replicas", "spec",
            "spec.template.containers[0].args[0]",
        }),
    ):  # fmt: skip
        with pytest.raises(ManifestProblems) as caught:
            parse_object(obj)
        assert {problem.path for problem in caught.value.problems} == paths


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
