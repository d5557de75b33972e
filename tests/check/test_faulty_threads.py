"""Manifests with faults that cost people their GPU time, each told in a public thread: every one of them is found.

A file of faulty/ is complete and good but for what the thread tells of. Its head:

    # https://github.com/…/issues/1     the thread
    # what went wrong there
    # finds: IL301                      the rules that must speak, each on the line that says `# <-- IL301`
    # fleet: two-nodes.json             optional: a fleet of faulty/fleets to check it against
    # accelerator: H100-80GB            optional: the GPU to judge fits by
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

from ironloom.catalog import accelerators
from ironloom.check import registry
from ironloom.check.engine import Result, Setting, check
from ironloom.check.finding import Severity
from ironloom.check.inputs import read_texts
from ironloom.fleet.model import Fleet
from ironloom.fleet.snapshot import read_snapshot

FOLDER = Path(__file__).parent / "faulty"
GUIDE = Path(__file__).parents[2] / "docs" / "guides" / "check-evidence.md"
FILES = sorted(path for path in FOLDER.iterdir() if path.suffix in {".yaml", ".py"})
THREAD = re.compile(r"https://(github\.com/[\w.-]+/[\w.-]+/(issues|pull)/\d+|discuss\.pytorch\.org/t/\S+)")
MARKER = re.compile(r"# <-- (IL\d{3}(?:, IL\d{3})*)\s*$")


@dataclass(frozen=True, kw_only=True)
class Case:
    """One file of faulty/, its head read."""

    name: str
    text: str
    thread: str
    story: str
    rules: tuple[str, ...]
    fleet: str
    accelerator: str

    @property
    def marked(self) -> set[tuple[str, int]]:
        """The rules with the lines on which they must speak."""
        return {
            (rule, number)
            for number, line in enumerate(self.text.splitlines(), start=1)
            if (marker := MARKER.search(line))
            for rule in marker.group(1).split(", ")
        }


def read(path: Path) -> Case:
    text = path.read_text()
    thread, story = (line.removeprefix("# ") for line in text.splitlines()[:2])
    head = dict(re.findall(r"^# (finds|fleet|accelerator): (.+)$", text, re.M))
    rules = tuple(head.get("finds", "").split(", "))
    return Case(
        name=path.name,
        text=text,
        thread=thread,
        story=story,
        rules=rules,
        fleet=head.get("fleet", ""),
        accelerator=head.get("accelerator", ""),
    )


CASES = [read(path) for path in FILES]


@cache
def fleet_of(name: str) -> Fleet:
    return read_snapshot([FOLDER / "fleets" / name])


@cache
def checked(case: Case) -> Result:
    setting = Setting(
        fleet=fleet_of(case.fleet) if case.fleet else None,
        accelerator=accelerators.find(case.accelerator) if case.accelerator else None,
    )
    return check(read_texts({case.name: case.text}), list(registry.load().values()), setting)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_file_has_its_thread_its_story_and_its_rules(case: Case) -> None:
    assert THREAD.fullmatch(case.thread)
    assert len(case.story) > 40
    assert {rule for rule, _ in case.marked} == set(case.rules), "the head and the markers name the same rules"
    if case.accelerator:
        assert accelerators.find(case.accelerator) is not None


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_fault_is_found_on_its_line(case: Case) -> None:
    result = checked(case)
    assert result.faults == ()
    spoken = {(finding.rule, finding.line) for finding in result.findings}
    assert case.marked - spoken == set()


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_nothing_else_is_wrong_with_it(case: Case) -> None:
    others = [
        f"{finding.line}: {finding.rule} {finding.message}"
        for finding in checked(case).findings
        if finding.severity is not Severity.NOTE and (finding.rule, finding.line) not in case.marked
    ]
    assert others == []


def test_no_thread_is_told_twice() -> None:
    threads = [case.thread for case in CASES]
    assert sorted(threads) == sorted(set(threads))


def test_there_are_forty_and_four_of_them_are_scripts() -> None:
    assert len(CASES) >= 40
    assert len([case for case in CASES if case.name.endswith(".py")]) >= 4


def test_they_spread_over_the_families() -> None:
    families = {registry.find(rule).family for case in CASES for rule in case.rules}
    assert families >= {
        "schema", "selection", "topology", "gang", "network", "engine", "memory", "autoscaling", "rollout", "queue",
        "training-script", "serving-script", "security", "cost", "deprecated",
    }  # fmt: skip


def test_the_guide_lists_each_with_its_thread_and_rules() -> None:
    rows = re.findall(r"^\| \[([\w.-]+)\]\(\S+\) \| (.+?) \| \[.+?\]\((\S+)\) \| (.+?) \|$", GUIDE.read_text(), re.M)
    told = {name: (thread, tuple(re.findall(r"\[(IL\d{3})\]", rules))) for name, _, thread, rules in rows}
    assert told == {case.name: (case.thread, case.rules) for case in CASES}
