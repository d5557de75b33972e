"""The Deployment of a published article: what is wrong with it is found on its line, and nothing else is said; mended,
it is valid and has room.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pytest

from ironloom.check import registry
from ironloom.check.engine import Result, Setting, check
from ironloom.check.finding import Finding, Severity
from ironloom.check.inputs import read_texts
from ironloom.check.rules.examples import fleet, leaf_groups
from ironloom.place.fit import fit
from ironloom.workload.kinds import workloads_of

FILE = Path(__file__).parents[3] / "shared" / "data" / "article_listings" / "deployment.yaml"
pytestmark = pytest.mark.skipif(not FILE.is_file(), reason="the article's listings are not beside the repository")


@cache
def result(*, with_fleet: bool = False) -> Result:
    setting = Setting(fleet=fleet(*leaf_groups(a=4, b=8)) if with_fleet else None)
    return check(read_texts({"deployment.yaml": FILE.read_text()}), list(registry.load().values()), setting)


def found(rule: str, *, with_fleet: bool = False) -> Finding:
    [only] = [one for one in result(with_fleet=with_fleet).findings if one.rule == rule]
    return only


@pytest.mark.parametrize(
    ("rule", "line", "text"),
    [
        ("IL201", 29, "labelSelector:"),
        ("IL102", 11, "gpu.nvidia.com/model: H100_NVL"),
        ("IL202", 35, 'topologyKey: "topology.kubernetes.io/zone"'),
        ("IL203", 28, "requiredDuringSchedulingIgnoredDuringExecution:"),
        ("IL301", 13, "name: inference-server"),
        ("IL401", 13, "name: inference-server"),
    ],
)
def test_a_fault_is_found_on_its_line(rule: str, line: int, text: str) -> None:
    assert found(rule).line == line
    assert text in FILE.read_text().splitlines()[line - 1]


def test_the_affinity_is_told_with_what_it_looks_for_and_what_is_there() -> None:
    assert found("IL201").evidence == ("it looks for app=llama3-inference", "the pods have no labels")


def test_the_gpu_label_is_told_with_what_the_cloud_has() -> None:
    assert found("IL102").evidence == ("its instance types with H100: gd-8xh100ib-i128 has 8 H100-SXM5-80GB",)


def test_with_a_fleet_the_gpu_label_is_told_with_the_counts_of_its_nodes() -> None:
    finding = found("IL101", with_fleet=True)
    assert finding.line == 11
    assert finding.evidence == (
        "0/12 nodes have gpu.nvidia.com/model=H100_NVL",
        "gpu.nvidia.com/model is there as H100_NVLINK_80GB (12)",
    )
    assert "IL102" not in {one.rule for one in result(with_fleet=True).findings}


@pytest.mark.parametrize("with_fleet", [False, True])
def test_four_replicas_that_do_not_talk_to_each_other_need_no_infiniband(with_fleet: bool) -> None:
    assert {"IL304", "IL305", "IL220"}.isdisjoint({one.rule for one in result(with_fleet=with_fleet).findings})


def test_the_shared_memory_is_mended_where_it_is_missing() -> None:
    patch = found("IL301").patch
    assert patch is not None
    text = FILE.read_text()
    for edit in sorted(patch.edits, key=lambda one: one.start, reverse=True):
        text = text[: edit.start] + edit.text + text[edit.end :]
    again = check(read_texts({"deployment.yaml": text}), list(registry.load().values()), Setting())
    assert "IL301" not in {one.rule for one in again.findings}
    assert not again.is_unreadable
    assert "# Ensure the pod only lands on nodes with H100 GPUs" in text


LINES = {
    "IL003": 5, "IL102": 11, "IL201": 29, "IL202": 35, "IL203": 28, "IL301": 13, "IL401": 13, "IL530": 13, "IL810": 14
}  # fmt: skip
"""Every rule that finds something, and the line."""


def test_nothing_else_is_said() -> None:
    assert {(one.rule, one.line) for one in result().findings} == set(LINES.items())
    assert len(result().findings) == len(LINES)
    with_fleet = {(one.rule, one.line) for one in result(with_fleet=True).findings}
    assert with_fleet == {*LINES.items(), ("IL101", 11), ("IL204", 35)} - {("IL102", 11)}


def test_the_image_that_moves_is_a_note_and_the_missing_probe_a_warning_of_the_container() -> None:
    assert (found("IL810").severity, found("IL810").line) == (Severity.NOTE, 14)
    assert "latest" in found("IL810").message
    assert (found("IL530").severity, found("IL530").line) == (Severity.WARNING, 13)
    assert "readinessProbe" in found("IL530").message


def mended() -> str:
    """The listing with its faults mended: the fixes of `--fix`, and what only its writer can say."""
    text = FILE.read_text()
    edits = {
        (one.start, one.end, one.text)
        for finding in result().findings
        if finding.patch is not None and finding.patch.is_safe
        for one in finding.patch.edits
    }
    for start, end, new in sorted(edits, reverse=True):
        text = text[:start] + new + text[end:]
    text = text[: text.index("      # Critical for multi-node")]  # replicas that do not talk may stand anywhere
    for old, new in {
        "  replicas: 4\n": "  replicas: 4\n  selector:\n    matchLabels:\n      app: llama3-inference\n",
        "gpu.nvidia.com/model: H100_NVL": "gpu.nvidia.com/model: H100_NVLINK_80GB",
        "vllm/vllm-openai:latest": "vllm/vllm-openai:v0.11.0\n"
        "        args: [--model=meta-llama/Llama-3.1-70B-Instruct, --tensor-parallel-size=2, --max-model-len=4096]\n"
        "        env:\n        - name: HF_TOKEN\n          valueFrom: {secretKeyRef: {name: hub, key: token}}\n"
        "        readinessProbe: {httpGet: {path: /health, port: 8000}}",
    }.items():
        if "selector:\n" in new and "  selector:\n    matchLabels" in text:
            continue  # the fix wrote it
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    if "labels:" not in text:
        text = text.replace(
            "  template:\n    spec:",
            "  template:\n    metadata:\n      labels:\n        app: llama3-inference\n    spec:",
        )
    return text


def test_mended_it_is_valid_by_the_tables_and_fits_a_fleet_with_its_gpus() -> None:
    there = fleet(*leaf_groups(a=4, b=8))
    inputs = read_texts({"deployment.yaml": mended()})
    again = check(inputs, list(registry.load().values()), Setting(fleet=there, kubernetes_version=(1, 35)))
    assert not again.is_unreadable
    assert [one for one in again.findings if one.severity is not Severity.NOTE] == []
    (barely,) = [one for one in again.findings if one.rule == "IL453"]
    assert "fits, barely" in barely.message
    (workload,) = workloads_of(inputs.documents).workloads
    (pods,) = workload.pod_sets
    assert inputs.documents[0].obj["spec"]["replicas"] == 4
    assert fit(pods, there).num_pods >= 4


def test_the_mended_form_keeps_the_writer_s_comments() -> None:
    assert "# Ensure the pod only lands on nodes with H100 GPUs" in mended()
    assert "# Requesting 2 GPUs for tensor parallelism" in mended()
