"""Annotations of GitHub Actions: one workflow command a finding, shown at its line in a pull request.

Source: https://docs.github.com/en/actions/reference/workflow-commands-for-github-actions
"""

from __future__ import annotations

from pathlib import PurePath

from ironloom.check import registry
from ironloom.check.engine import Result
from ironloom.check.finding import Finding, Severity
from ironloom.check.inputs import why_skipped
from ironloom.check.reports.text import summary

_COMMANDS = {Severity.ERROR: "error", Severity.WARNING: "warning", Severity.NOTE: "notice"}


def render(result: Result) -> str:
    """A line a finding, and the line that counts them, which GitHub's log shows as it is. Files of a folder that hold
    something else are counted alone."""
    told = [finding for finding in result.findings if not why_skipped(finding)]
    return "\n".join([*map(_line, told), summary(result)])


def _line(finding: Finding) -> str:
    rule = registry.of(finding.rule)
    properties = {"file": PurePath(finding.file).as_posix()}
    if finding.line:
        properties |= {"line": str(finding.line), "col": str(finding.column)}
        if finding.end_line:
            properties |= {"endLine": str(finding.end_line), "endColumn": str(finding.end_column)}
    properties["title"] = f"{finding.rule} {rule.name}"
    named = ",".join(f"{name}={_property(value)}" for name, value in properties.items())
    parts = [finding.message, *finding.evidence, *([f"help: {finding.help}"] if finding.help else [])]
    return f"::{_COMMANDS[finding.severity]} {named}::{_data(chr(10).join(parts))}"


def _data(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")
