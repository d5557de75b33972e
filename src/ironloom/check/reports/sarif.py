"""SARIF 2.1.0, as GitHub's code scanning and most editors read it: one run, its rules, one result a finding.

Source: https://docs.oasis-open.org/sarif/sarif/v2.1.0/sarif-v2.1.0.html and what GitHub uses of it,
https://docs.github.com/en/code-security/code-scanning/integrating-with-code-scanning/sarif-support-for-code-scanning.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import PurePath
from typing import Any
from urllib.parse import quote

from ironloom import __version__
from ironloom.check import registry
from ironloom.check.engine import Result
from ironloom.check.finding import Finding, Patch, Severity
from ironloom.check.fingerprint import fingerprint
from ironloom.check.rule import Rule

SCHEMA = "https://docs.oasis-open.org/sarif/sarif/v2.1.0/os/schemas/sarif-schema-2.1.0.json"
_LEVELS = {Severity.ERROR: "error", Severity.WARNING: "warning", Severity.NOTE: "note"}


def render(result: Result) -> str:
    """The log, indented. Columns count characters (`unicodeCodePoints`).

    Every result has its suppressions, none too, as the standard wants where one has (3.27.23): what the files ignore
    is suppressed in source, what the baseline knows outside of it (3.35.2). No `baselineState`: that compares with
    another run's log, and the baseline is none.
    """
    used = sorted({finding.rule for finding in (*result.findings, *result.ignored, *result.known)})
    rules = registry.load()
    index = {rule_id: place for place, rule_id in enumerate(used)}
    groups: tuple[tuple[Iterable[Finding], list[dict[str, str]]], ...] = (
        (result.findings, []),
        (result.ignored, [{"kind": "inSource"}]),
        (result.known, [{"kind": "external", "justification": "it is in the baseline"}]),
    )
    results = [
        _result(finding, result, index) | {"suppressions": suppressions}
        for findings, suppressions in groups
        for finding in findings
    ]
    driver = {
        "name": "ironloom",
        "version": __version__,
        "semanticVersion": __version__,
        "rules": [_rule(rules[rule_id]) for rule_id in used],
    }
    notifications = [
        {"level": "error", "message": {"text": str(fault)}, "descriptor": {"id": fault.rule}} for fault in result.faults
    ]
    run: dict[str, Any] = {
        "tool": {"driver": driver},
        "columnKind": "unicodeCodePoints",
        "results": results,
        "invocations": [
            {"executionSuccessful": not result.faults, "toolExecutionNotifications": notifications},
        ],
    }
    return json.dumps({"$schema": SCHEMA, "version": "2.1.0", "runs": [run]}, indent=2, ensure_ascii=False)


def _rule(rule: Rule) -> dict[str, Any]:
    sources = "\n".join(f"- [{source.shows}]({source.url})" for source in rule.sources)
    why = " ".join(rule.why.split())
    return {
        "id": rule.id,
        "name": "".join(word.capitalize() for word in rule.name.split("-")),
        "shortDescription": {"text": _sentence(rule.summary)},
        "fullDescription": {"text": why},
        "help": {"text": why, "markdown": f"{why}\n\n{sources}"},
        "helpUri": rule.sources[0].url,
        "defaultConfiguration": {"level": _LEVELS[rule.severity]},
        "properties": {"tags": [rule.family]},
    }


def _sentence(text: str) -> str:
    """A capital at its beginning, where that is a word and no name of something."""
    first = text.split(maxsplit=1)[0]
    return text[:1].upper() + text[1:] if first.isalpha() and first.islower() else text


def _result(finding: Finding, result: Result, index: dict[str, int]) -> dict[str, Any]:
    text = result.texts.get(finding.file, "")
    location: dict[str, Any] = {"artifactLocation": {"uri": _uri(finding.file)}}
    if finding.line:
        location["region"] = _region(finding)
    logical = [{"fullyQualifiedName": f"{finding.subject} {finding.path}".strip()}] if finding.path else []
    told: dict[str, Any] = {
        "ruleId": finding.rule,
        "ruleIndex": index[finding.rule],
        "level": _LEVELS[finding.severity],
        "message": {"text": _message(finding)},
        "locations": [{"physicalLocation": location, **({"logicalLocations": logical} if logical else {})}],
        "partialFingerprints": {"ironloom/v1": fingerprint(finding, text)},
        "properties": {"confidence": finding.confidence.value},
    }
    if finding.patch is not None and finding.patch.is_safe:
        told["fixes"] = [_fix(finding.patch, finding.file, text)]
    return told


def _message(finding: Finding) -> str:
    parts = [finding.message, *finding.evidence]
    if finding.help:
        parts.append(f"Help: {finding.help}")
    return "\n".join(parts)


def _region(finding: Finding) -> dict[str, int]:
    region = {"startLine": finding.line, "startColumn": max(1, finding.column)}
    if finding.end_line:
        region |= {"endLine": finding.end_line, "endColumn": finding.end_column}
    return region


def _fix(patch: Patch, file: str, text: str) -> dict[str, Any]:
    replacements = []
    for edit in patch.edits:
        (line, column), (end_line, end_column) = _place(text, edit.start), _place(text, edit.end)
        region = {"startLine": line, "startColumn": column, "endLine": end_line, "endColumn": end_column}
        replacements.append({"deletedRegion": region, "insertedContent": {"text": edit.text}})
    return {
        "description": {"text": patch.title},
        "artifactChanges": [{"artifactLocation": {"uri": _uri(file)}, "replacements": replacements}],
    }


def _place(text: str, offset: int) -> tuple[int, int]:
    return text.count("\n", 0, offset) + 1, offset - text.rfind("\n", 0, offset)


def _uri(file: str) -> str:
    path = PurePath(file)
    return path.as_uri() if path.is_absolute() else quote(path.as_posix())
