"""The Deployment of a published article: what is wrong with it is found on its line, and nothing else is said."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pytest

from ironloom.check import registry
from ironloom.check.engine import Result, Setting, check
from ironloom.check.finding import Finding
from ironloom.check.inputs import read_texts
from ironloom.check.rules.examples import fleet, leaf_groups

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
