"""What is found in the form that a cluster gets of a manifest, which is written out only where a place is told."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from ironloom.check.engine import Setting, check
from ironloom.check.inputs import Inputs, read_texts
from ironloom.check.registry import load
from ironloom.cli.cluster_findings import findings
from ironloom.fleet.model import Domain, Fleet
from ironloom.workload.manifests import dump_yaml

NO_NODES = Fleet(name="prod", source="context prod", root=Domain(value="prod", level=None))
UNREAD = "IL000"
"""What it is an example of cannot be read."""
EXAMPLES = {
    one.id: one.bad
    for one in load().values()
    if not one.needs_fleet and not one.options and one.id != UNREAD and one.bad.lstrip().startswith("apiVersion")
}


def objects(text: str) -> list[dict[str, Any]]:
    return [one for one in yaml.safe_load_all(text) if isinstance(one, dict) and "metadata" in one]


@pytest.mark.parametrize("rule", sorted(EXAMPLES))
def test_a_rules_example_is_found_in_objects_as_it_would_be_in_a_file(rule: str) -> None:
    made = objects(EXAMPLES[rule])
    found = findings(Inputs(), {"it": made}, NO_NODES)
    expected = check(read_texts({"it (as applied)": dump_yaml(made)}), None, Setting()).findings
    assert found == list(expected)


def test_of_what_is_written_that_is_told_which_the_clusters_form_has_too() -> None:
    everything = "---\n".join(text for _, text in sorted(EXAMPLES.items())[:40])
    written = read_texts({"all.yaml": everything})
    form = [one for _, text in sorted(EXAMPLES.items())[20:30] for one in objects(text)]
    whole = check(written, None, Setting())
    rules = {one.rule for one in check(read_texts({"form": dump_yaml(form)}), None, Setting()).findings}
    told = [one for one in findings(written, {"form": form}, NO_NODES) if one.file == "all.yaml"]
    assert told == [one for one in whole.findings if one.rule in rules]
    assert {one.rule for one in told} < {one.rule for one in whole.findings}


POD = """\
apiVersion: v1
kind: Pod
metadata: {name: %s%s}
spec: {containers: [{name: a, image: "vllm/vllm-openai:v0.26.0", resources: {limits: {nvidia.com/gpu: "1"}}}]}
"""


def test_an_ignored_rule_is_not_told_of_the_object_that_ignores_it_alone() -> None:
    ignoring = ', annotations: {ironloom.dev/ignore: "IL854 measured"}'
    made = {"loud": objects(POD % ("loud", "")), "quiet": objects(POD % ("quiet", ignoring))}
    told = [(one.rule, one.file) for one in findings(Inputs(), made, NO_NODES) if one.rule == "IL854"]
    assert told == [("IL854", "loud (as applied)")]


@pytest.mark.parametrize("is_in_form", [True, False])
def test_an_ignore_of_no_use_is_told_where_the_form_has_it_too(is_in_form: bool) -> None:
    useless = ', annotations: {ironloom.dev/ignore: "IL301 none"}'
    text = POD % ("pod", useless)
    made = objects(text if is_in_form else POD % ("pod", ""))
    told = {one.rule for one in findings(read_texts({"pod.yaml": text}), {"pod": made}, NO_NODES)}
    assert ("IL099" in told) == is_in_form
