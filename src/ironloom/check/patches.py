"""Findings' patches put into the text: edits of places, so that comments, order and blanks stay as they are."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from ironloom.check.finding import Edit, Finding, Patch
from ironloom.errors import UsageError


@dataclass(frozen=True, kw_only=True, slots=True)
class Fixed:
    """A file's text before and after, and which findings the patches mend."""

    file: str
    before: str
    after: str
    mended: tuple[Finding, ...]


def fix(findings: Iterable[Finding], texts: Mapping[str, str], *, unsafe: bool = False) -> tuple[Fixed, ...]:
    """The texts with every patch that can be put in; files without one are left out.

    A patch goes in whole or not at all. One that touches what an earlier one (in the order of findings) changes waits:
    checked again, its finding is there with a patch of the new text. `unsafe` takes those a person must choose too.
    """
    by_file: dict[str, list[Finding]] = {}
    for finding in findings:
        if finding.patch is not None and (unsafe or finding.patch.is_safe):
            by_file.setdefault(finding.file, []).append(finding)
    return tuple(_fix(file, texts[file], found) for file, found in by_file.items() if file in texts)


def _fix(file: str, text: str, findings: list[Finding]) -> Fixed:
    taken: list[Edit] = []
    mended: list[Finding] = []
    for finding in findings:
        assert finding.patch is not None
        fresh = [edit for edit in finding.patch.edits if edit not in taken]
        if _fits(finding.patch, text) and not any(_touch(edit, other) for edit in fresh for other in taken):
            taken += fresh
            mended.append(finding)
    return Fixed(file=file, before=text, after=apply(text, taken), mended=tuple(mended))


def apply(text: str, edits: Iterable[Edit]) -> str:
    """The text with edits that do not touch each other; new lines end as the text's own do."""
    parts, end = [], 0
    for edit in sorted(edits, key=lambda edit: (edit.start, edit.end)):
        new = edit.text.replace("\r\n", "\n").replace("\n", "\r\n") if "\r\n" in text else edit.text
        parts += [text[end : edit.start], new]
        end = edit.end
    return "".join([*parts, text[end:]])


def _fits(patch: Patch, text: str) -> bool:
    return all(0 <= edit.start <= edit.end <= len(text) for edit in patch.edits)


def _touch(a: Edit, b: Edit) -> bool:
    # Two insertions at one place touch: which of them is to stand first, nobody knows.
    return a.start <= b.end and b.start <= a.end


def diff(fixed: Iterable[Fixed]) -> str:
    """What `patch -p0` and a reader understand; empty where nothing changes."""
    parts: list[str] = []
    for one in fixed:
        before, after = one.before.splitlines(keepends=True), one.after.splitlines(keepends=True)
        lines = difflib.unified_diff(before, after, one.file, one.file)
        parts += [line if line.endswith("\n") else f"{line}\n\\ No newline at end of file\n" for line in lines]
    return "".join(parts)


def write(fixed: Iterable[Fixed]) -> None:
    """Put the texts into their files, each whole or not at all, in the encoding that each has.

    Raises UsageError for a file that cannot be written, or that is not what was read.
    """
    for one in fixed:
        path = Path(one.file)
        try:
            raw = path.read_bytes()
            encoding = _encoding(raw)
            if raw.decode(encoding) != one.before:
                raise UsageError(
                    f"{path} changed while it was checked, so nothing was written to it", hint="check it again"
                )
            beside = path.with_name(f".{path.name}.ironloom")
            beside.write_bytes(one.after.encode(encoding))
            beside.chmod(path.stat().st_mode & 0o7777)
            beside.replace(path.resolve())
        except OSError as error:
            raise UsageError(f"{path} cannot be written: {error.strerror or error}") from error


def _encoding(raw: bytes) -> str:
    if raw.startswith((b"\xff\xfe", b"\xfe\xff")):
        return "utf-16"
    return "utf-8-sig" if raw.startswith(b"\xef\xbb\xbf") else "utf-8"
