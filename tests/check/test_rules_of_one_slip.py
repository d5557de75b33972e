"""One slip is told once, by the release that the image has; a kind that is a letter off a known one, and a file with
nothing in it, are told too."""

from __future__ import annotations

from pathlib import Path

import pytest

from ironloom.check import registry
from ironloom.check.engine import Setting, check
from ironloom.check.finding import Finding, Severity
from ironloom.check.inputs import read_paths, read_texts, why_skipped
from ironloom.check.rules.serving_examples import serving
from ironloom.workload.manifests.suggest import within_one

LLAMA = "--model=meta-llama/Llama-3.1-405B-Instruct"
H100 = "nvidia.com/gpu.product: NVIDIA-H100-80GB-HBM3"
SIZED = frozenset({"IL402", "IL407", "IL451"})


def findings(text: str, *rules: str) -> list[Finding]:
    result = check(read_texts({"a.yaml": text}), registry.select(rules or sorted(SIZED)), Setting())
    assert result.faults == ()
    return list(result.findings)


def sized(*options: str) -> set[str]:
    return {one.rule for one in findings(serving(LLAMA, *options, gpus=8, selector=H100))} & SIZED


def test_what_follows_from_a_misspelt_size_is_not_told_beside_it() -> None:
    assert sized() == {"IL407", "IL451"}
    assert sized("--tensor-paralel-size=8") == {"IL402"}
    assert sized("--enable-prefx-caching") == {"IL402", "IL407", "IL451"}
    assert sized("--gpu-memory-utilisation=0.95") == {"IL402", "IL407", "IL451"}


@pytest.mark.parametrize(
    ("tag", "said"), [("v0.11.0", "vLLM 0.11.0 has no option"), ("latest", "`vllm serve`"), ("v0.9.2", "vLLM 0.9.2")]
)
def test_the_release_of_the_image_is_the_one_that_is_named(tag: str, said: str) -> None:
    text = serving(LLAMA, "--tensor-paralel-size=8", gpus=8).replace("v0.11.0", tag)
    (finding,) = findings(text, "IL402")
    assert finding.message.startswith(said)


@pytest.mark.parametrize(
    ("kind", "meant"),
    [("MPIJobb", "MPIJob"), ("PytorchJob", "PyTorchJob"), ("TFJobs", "TFJob"), ("Notebook", ""), ("XDLJob", "")],
)
def test_a_kind_that_is_a_letter_off_is_told_where_other_projects_share_the_group(kind: str, meant: str) -> None:
    found = findings(f"apiVersion: kubeflow.org/v1\nkind: {kind}\nmetadata: {{name: a}}\n", "IL005")
    assert [(one.severity, f"did you mean {meant!r}?" in one.message) for one in found] == (
        [(Severity.WARNING, True)] if meant else []
    )


@pytest.mark.parametrize(
    ("word", "name"), [("tfjob", "TFJob"), ("TFJo", "TFJob"), ("FTJob", "TFJob"), ("TFJobXY", None), ("", None)]
)
def test_one_edit_is_near(word: str, name: str | None) -> None:
    assert within_one(word, ["TFJob", "XGBoostJob"]) == name


POD = "apiVersion: v1\nkind: Pod\nmetadata: {name: a}\nspec: {containers: [{name: a, image: 'busybox:1.36'}]}\n"


def test_a_file_with_nothing_in_it_is_named_beside_others_and_not_one_of_a_folder(tmp_path: Path) -> None:
    pod, empty = tmp_path / "pod.yaml", tmp_path / "empty.yaml"
    pod.write_text(POD)
    empty.write_text("# nothing yet\n")
    named = read_paths([pod, empty])
    assert [(one.file, one.severity, why_skipped(one)) for one in named.findings] == [
        (str(empty), Severity.NOTE, "there is no Kubernetes object in it")
    ]
    assert read_paths([tmp_path]).findings == []
    assert read_paths([pod]).findings == []
    assert [one.severity for one in read_paths([empty]).findings] == [Severity.ERROR]
