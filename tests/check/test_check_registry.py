"""Modules of rules that a run does not import are those that have nothing to say of it."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from ironloom.check import registry
from ironloom.check.engine import Setting, check
from ironloom.check.inputs import read_texts
from ironloom.workload.scripts.model import Script

EVERY = tuple(registry.load().values())
BY_MODULE = {name: [rule for rule in EVERY if rule.check.__module__.endswith(f".{name}")] for name in registry.NEEDS}
OTHERS = {registry.SCRIPTS, registry.FLEET}
KINDS = {name: needs - OTHERS for name, needs in registry.NEEDS.items() if needs - OTHERS}
TEXTS = sorted({text for rule in EVERY for text in (rule.bad, rule.good) if re.search(r"^apiVersion:", text, re.M)})


@pytest.mark.parametrize("module", registry.NEEDS)
def test_a_module_that_waits_for_scripts_or_a_fleet_has_no_rule_without(module: str) -> None:
    rules, needs = BY_MODULE[module], registry.NEEDS[module]
    assert rules, f"check/rules has no module {module} with rules"
    if registry.SCRIPTS in needs:
        assert {rule.subject for rule in rules} == {Script}
    if needs == {registry.FLEET}:
        assert all(rule.needs_fleet for rule in rules)


@pytest.mark.parametrize("module", KINDS)
def test_a_module_that_waits_for_kinds_passes_over_all_others(module: str) -> None:
    for text in TEXTS:
        inputs = read_texts({"a.yaml": text})
        if not KINDS[module] & {document.kind for document in inputs.documents}:
            names = {rule.id for rule in BY_MODULE[module]}
            assert not names & {one.rule for one in check(inputs, BY_MODULE[module], Setting()).findings}, text


def test_a_run_without_scripts_and_a_fleet_imports_no_rules_for_them(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("apiVersion: v1\nkind: Service\nmetadata:\n  name: a\n")
    program = (
        "import sys; from ironloom.check.engine import run; run(sys.argv[1:]); "
        "print(*(name for name in sys.modules if name.startswith('ironloom.check.rules.')))"
    )
    done = subprocess.run([sys.executable, "-c", program, str(tmp_path)], check=True, capture_output=True, text=True)
    loaded = {name.rpartition(".")[2] for name in done.stdout.split()}
    assert loaded
    assert not loaded & set(registry.NEEDS)
