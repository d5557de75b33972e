"""Findings that were there before: a file of fingerprints, so that a check speaks of what is new alone.

{"version": 1, "findings": [{"fingerprint": "…", "rule": "IL301", "file": "a.yaml", "message": "…"}, …]}

A finding that stands twice is in it twice; each entry takes out one. What the file names in words is for its reader:
the fingerprint alone counts.
"""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

from msgspec.structs import replace

from ironloom.check.engine import Result
from ironloom.check.finding import Finding
from ironloom.check.fingerprint import fingerprint
from ironloom.check.inputs import UNREADABLE
from ironloom.errors import UsageError

VERSION = 1


def dump(result: Result) -> str:
    """The baseline of these findings. What cannot be read is never in it."""
    rows = [
        {
            "fingerprint": _of(finding, result),
            "rule": finding.rule,
            "file": finding.file,
            "subject": finding.subject,
            "message": finding.message,
        }
        for finding in result.findings
        if finding.rule != UNREADABLE
    ]
    return json.dumps({"version": VERSION, "findings": rows}, indent=1, ensure_ascii=False) + "\n"


def load(path: Path) -> Counter[str]:
    """How often each fingerprint stands in a file. Raises UsageError for one that is none."""
    try:
        whole: Any = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(
            f"{path}: the baseline cannot be read: {error.strerror or error}",
            hint="`ironloom check … --write-baseline FILE` makes one",
        ) from None
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{path}: it is no baseline: it is not JSON: {error}") from None
    version = whole.get("version") if isinstance(whole, dict) else None
    if version != VERSION:
        raise UsageError(f"{path}: it is no baseline of version {VERSION}: version is {version!r}")
    rows = whole.get("findings")
    marks = [row.get("fingerprint") for row in rows if isinstance(row, dict)] if isinstance(rows, list) else []
    named = [mark for mark in marks if isinstance(mark, str)]
    if not isinstance(rows, list) or len(named) != len(rows):
        raise UsageError(f"{path}: it is no baseline: each of its findings must have a fingerprint")
    return Counter(named)


def subtract(result: Result, known: Counter[str]) -> Result:
    """The result without what the baseline knows; that is told apart from what the files themselves ignore."""
    left = known.copy()
    kept: list[Finding] = []
    taken: list[Finding] = []
    for finding in result.findings:
        mark = _of(finding, result)
        if finding.rule != UNREADABLE and left[mark] > 0:
            left[mark] -= 1
            taken.append(finding)
        else:
            kept.append(finding)
    return replace(result, findings=tuple(kept), known=(*result.known, *taken))


def _of(finding: Finding, result: Result) -> str:
    return fingerprint(finding, result.texts.get(finding.file, ""))
