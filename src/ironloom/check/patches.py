"""Findings' patches put into the text: edits of places, so that comments, order and blanks stay as they are."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import msgspec

from ironloom.check.finding import Edit, Finding, Patch
from ironloom.check.inputs import read_texts
from ironloom.check.lines import with_ends
from ironloom.errors import UsageError


class Fixed(msgspec.Struct, frozen=True, kw_only=True):
    """A file's text before and after, and which findings the patches mend."""

    file: str
    before: str
    after: str
    mended: tuple[Finding, ...]


def fix(findings: Iterable[Finding], texts: Mapping[str, str], *, unsafe: bool = False) -> tuple[Fixed, ...]:
    """The texts with every patch that can be put in; files without one are left out.

    A patch goes in whole or not at all. Those that change what is written come before those that add: a key that is
    mended may be the one that is missing. One that touches what an earlier one changes, or with which the text can no
    longer be read, waits: checked again, its finding is there with a patch of the new text, or is gone. `unsafe` takes
    those a person must choose too.
    """
    by_file: dict[str, list[Finding]] = {}
    for finding in findings:
        if finding.patch is not None and (unsafe or finding.patch.is_safe):
            by_file.setdefault(finding.file, []).append(finding)
    return tuple(_fix(file, texts[file], found) for file, found in by_file.items() if file in texts)


def _fix(file: str, text: str, findings: list[Finding]) -> Fixed:
    taken, mended = _taken(text, findings)
    after = apply(text, taken)
    known = _read(file, text)
    if _read(file, after) != known:
        taken, mended = _taken(text, findings, lambda edits: _read(file, apply(text, edits)) == known)
        after = apply(text, taken)
    return Fixed(file=file, before=text, after=after, mended=tuple(one for one in findings if one in mended))


def _taken(
    text: str, findings: list[Finding], is_good: Callable[[list[Edit]], bool] = lambda _edits: True
) -> tuple[list[Edit], list[Finding]]:
    """The edits that go in together, and the findings that they mend."""
    taken: list[Edit] = []
    mended: list[Finding] = []
    for finding in sorted(findings, key=_adds):
        assert finding.patch is not None
        fresh = [edit for edit in finding.patch.edits if edit not in taken]
        does_touch = any(_touch(edit, other) for edit in fresh for other in taken)
        if _fits(finding.patch, text) and not does_touch and is_good(taken + fresh):
            taken += fresh
            mended.append(finding)
    return taken, mended


def _adds(finding: Finding) -> bool:
    """Whether the patch puts something in where nothing is."""
    return finding.patch is not None and any(edit.start == edit.end for edit in finding.patch.edits)


def _read(file: str, text: str) -> tuple[int, int, int]:
    """What there is to read in a text: documents, scripts, and faults of reading."""
    inputs = read_texts({file: text})
    return len(inputs.documents), len(inputs.scripts), len(inputs.findings)


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
    from difflib import unified_diff

    parts: list[str] = []
    for one in fixed:
        before, after = with_ends(one.before), with_ends(one.after)
        lines = unified_diff(before, after, one.file, one.file)
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
