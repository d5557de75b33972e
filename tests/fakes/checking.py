"""A check of one text, as tests of rules want it."""

from __future__ import annotations

from typing import Any

from ironloom.check import patches, registry
from ironloom.check.engine import Setting, check
from ironloom.check.finding import Finding, Patch
from ironloom.check.inputs import read_texts
from ironloom.fleet.model import Fleet


def findings(text: str, *only: str, fleet: Fleet | None = None, **setting: Any) -> list[Finding]:
    """What the rules `only` (all where none is named) say of a manifest. A rule that raises fails the test."""
    rules = [rule for rule in registry.load().values() if not only or rule.id in only]
    result = check(read_texts({"file.yaml": text}), rules, Setting(fleet=fleet, **setting))
    assert result.faults == ()
    assert not result.is_unreadable
    return [finding for finding in result.findings if not only or finding.rule in only]


def patched(text: str, patch: Patch | None) -> str:
    """The text with a patch applied."""
    assert patch is not None
    return patches.apply(text, patch.edits)
