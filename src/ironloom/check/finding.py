"""What a check says: one finding, with where it stands, what proves it, and the edit that would mend it."""

from __future__ import annotations

from enum import StrEnum

import msgspec


class Severity(StrEnum):
    """How bad it is."""

    ERROR = "error"
    """It cannot work."""
    WARNING = "warning"
    """It works, and will cost you."""
    NOTE = "note"


class Confidence(StrEnum):
    """How sure the rule is that this holds here."""

    CERTAIN = "certain"
    LIKELY = "likely"
    POSSIBLE = "possible"


class Edit(msgspec.Struct, frozen=True, kw_only=True):
    """Replace the characters `start`..`end` (offsets into the file's text) by `text`."""

    start: int
    end: int
    text: str


class Patch(msgspec.Struct, frozen=True, kw_only=True):
    """Edits of one file that mend a finding; applied together or not at all."""

    title: str
    """What it does, in a few words: `add runtime label app`."""
    edits: tuple[Edit, ...]
    is_safe: bool = True
    """False where a person must choose: shown, and not applied by --fix."""


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that is wrong, at one place."""

    rule: str
    """`IL204`."""
    severity: Severity
    confidence: Confidence
    file: str
    line: int
    """From 1; 0 where the file as a whole is meant."""
    column: int
    path: str
    """The object's path: `spec.template.spec.nodeSelector`; a name in Python."""
    subject: str
    """`Deployment default/llama`, or the file."""
    message: str
    """One sentence: what is wrong and what follows."""
    evidence: tuple[str, ...] = ()
    """What proves it, a line each: counts, arithmetic, the value that would match."""
    help: str = ""
    """What to do; empty where the patch says it all."""
    patch: Patch | None = None
    end_line: int = 0
    end_column: int = 0
    """Where the marked text ends; 0 where only its start is known."""
