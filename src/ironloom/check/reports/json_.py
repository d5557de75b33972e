"""JSON: a list of findings, each with everything that is known of it."""

from __future__ import annotations

import json
from typing import Any

import msgspec

from ironloom.check import registry
from ironloom.check.engine import Result
from ironloom.check.finding import Finding, Patch
from ironloom.check.fingerprint import fingerprint


def render(result: Result) -> str:
    """An indented list, one object a finding; `[]` where there is none."""
    rows = [as_object(finding, result.texts.get(finding.file, "")) for finding in result.findings]
    try:
        return msgspec.json.format(msgspec.json.encode(rows), indent=2).decode()
    except UnicodeEncodeError:  # half of a surrogate pair, in a name of a file or written as an escape
        return json.dumps(rows, indent=2, ensure_ascii=False)


def as_object(finding: Finding, text: str) -> dict[str, Any]:
    """A finding as JSON has it. `text` is its file's: patches count characters, and programs want lines."""
    rule = registry.of(finding.rule)
    return {
        "rule": finding.rule,
        "name": rule.name,
        "family": rule.family,
        "severity": finding.severity.value,
        "confidence": finding.confidence.value,
        "file": finding.file,
        "line": finding.line,
        "column": finding.column,
        "end_line": finding.end_line,
        "end_column": finding.end_column,
        "path": finding.path,
        "subject": finding.subject,
        "message": finding.message,
        "evidence": list(finding.evidence),
        "help": finding.help,
        "patch": _patch(finding.patch, text) if finding.patch else None,
        "fingerprint": fingerprint(finding, text),
    }


def _patch(patch: Patch, text: str) -> dict[str, Any]:
    return {
        "title": patch.title,
        "is_safe": patch.is_safe,
        "edits": [
            {
                "start": {"offset": edit.start, **_place(text, edit.start)},
                "end": {"offset": edit.end, **_place(text, edit.end)},
                "text": edit.text,
            }
            for edit in patch.edits
        ],
    }


def _place(text: str, offset: int) -> dict[str, int]:
    line_start = text.rfind("\n", 0, offset) + 1
    return {"line": text.count("\n", 0, offset) + 1, "column": offset - line_start + 1}
