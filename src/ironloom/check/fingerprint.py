"""What makes a finding the same one after the file was edited elsewhere."""

from __future__ import annotations

from pathlib import Path

from ironloom.check.finding import Finding
from ironloom.check.lines import lines_of


def fingerprint(finding: Finding, text: str) -> str:
    """16 hexadecimal digits that survive lines moving: of the rule, the file, the object, the path in it, and the
    marked line without its blanks. `text` is the whole file's.

    Not of the message, whose counts change with the fleet. Two findings of one fingerprint are told apart by counting.
    """
    from hashlib import sha256  # it brings OpenSSL, which a report for people does without

    lines = lines_of(finding.file, text)
    marked = lines[finding.line - 1].strip() if 0 < finding.line <= len(lines) else ""
    file = Path(finding.file).as_posix()
    parts = (finding.rule, file, finding.subject, finding.path, marked)
    return sha256("\0".join(parts).encode("utf-8", "surrogatepass")).hexdigest()[:16]
