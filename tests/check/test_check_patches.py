"""Fixes go into the text as edits of places: whole or not at all, with everything else as it was."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ironloom.check import patches
from ironloom.check.finding import Confidence, Edit, Finding, Patch, Severity
from ironloom.errors import UsageError


def finding(*edits: tuple[int, int, str], file: str = "a.yaml", is_safe: bool = True) -> Finding:
    return Finding(
        rule="IL001",
        severity=Severity.ERROR,
        confidence=Confidence.CERTAIN,
        file=file,
        line=1,
        column=1,
        path="",
        subject=file,
        message="it is wrong",
        patch=Patch(title="mend it", edits=tuple(Edit(start=a, end=b, text=t) for a, b, t in edits), is_safe=is_safe),
    )


def fixed(text: str, *findings: Finding, unsafe: bool = False) -> tuple[str, int]:
    done = patches.fix(findings, {"a.yaml": text}, unsafe=unsafe)
    return (done[0].after, len(done[0].mended)) if done else (text, 0)


def test_edits_of_several_findings_go_in_together() -> None:
    assert fixed("one two three", finding((0, 3, "1")), finding((8, 13, "3"), (4, 7, "2"))) == ("1 2 3", 2)


def test_of_two_that_touch_the_first_goes_in_and_the_other_waits() -> None:
    assert fixed("one two", finding((0, 3, "1")), finding((2, 5, "x"))) == ("1 two", 1)


def test_a_patch_goes_in_whole_or_not_at_all() -> None:
    assert fixed("one two", finding((0, 3, "1")), finding((2, 3, "x"), (4, 7, "2"))) == ("1 two", 1)


def test_the_same_edit_of_two_findings_is_made_once() -> None:
    assert fixed("one", finding((3, 3, "!")), finding((3, 3, "!"))) == ("one!", 2)


def test_what_a_person_must_choose_waits_for_a_word() -> None:
    choice = finding((0, 3, "1"), is_safe=False)
    assert fixed("one", choice) == ("one", 0)
    assert fixed("one", choice, unsafe=True) == ("1", 1)


def test_new_lines_end_as_the_files_own() -> None:
    assert fixed("a: 1\r\nb: 2\r\n", finding((6, 6, "x: 3\n")))[0] == "a: 1\r\nx: 3\r\nb: 2\r\n"


def test_a_place_outside_of_the_text_changes_nothing() -> None:
    assert fixed("one", finding((2, 9, "x"))) == ("one", 0)


def test_what_is_written_is_mended_before_anything_is_added() -> None:
    """`spce` is misspelt, and so `spec` is missing: both fixes together would make the key stand twice."""
    rename, add = finding((23, 27, "spec")), finding((0, 0, "spec: {}\n"))
    assert fixed("apiVersion: v1\nkind: A\nspce: {}\n", add, rename) == ("apiVersion: v1\nkind: A\nspec: {}\n", 1)


def test_a_fix_with_which_the_text_cannot_be_read_any_more_waits() -> None:
    text = "apiVersion: v1\nkind: A\n"
    assert fixed(text, finding((0, 0, "kind: B\n")), finding((0, 0, "c: 1\n"))) == (f"c: 1\n{text}", 1)
    assert fixed(text, finding((15, 19, "apiVersion"))) == (text, 0)


def test_a_text_that_cannot_be_read_in_part_is_mended_elsewhere() -> None:
    text = "apiVersion: v1\nkind: A\n---\na: [\n---\napiVersion: v1\nkind: B\n"
    assert fixed(text, finding((21, 22, "C"))) == (text.replace("kind: A", "kind: C"), 1)


HEAD = "apiVersion: v1\nkind: A\n# "
comments = st.text("abc ", max_size=40)
drawn_edits = st.lists(
    st.tuples(st.integers(len(HEAD), len(HEAD) + 40), st.integers(0, 6), st.text("xyz", max_size=4)), max_size=6
)


@given(comments, drawn_edits)
def test_the_text_is_what_its_edits_make_it_from_the_end_to_the_start(comment: str, drawn: list[Any]) -> None:
    text = HEAD + comment
    findings = [finding((start, start + length, new)) for start, length, new in drawn]
    fitting = [one for one in findings if _edits(one)[0].end <= len(text)]
    fitting.sort(key=lambda one: _edits(one)[0].start == _edits(one)[0].end)
    done = patches.fix(findings, {"a.yaml": text})
    mended = done[0].mended if done else ()
    assert fitting[:1] == [] or fitting[0] in mended, "the first that fits goes in"
    expected = list(text)
    for edit in sorted({edit for one in mended for edit in _edits(one)}, key=lambda edit: edit.start, reverse=True):
        expected[edit.start : edit.end] = edit.text
    assert (done[0].after if done else text) == "".join(expected)


def _edits(one: Finding) -> tuple[Edit, ...]:
    assert one.patch is not None
    return one.patch.edits


@pytest.mark.parametrize(
    "raw",
    [b"a: one\nb: two\n", b"\xef\xbb\xbfa: one\nb: two", "a: one\r\nb: ü\r\n".encode(), "a: one\n".encode("utf-16")],
    ids=["plain", "a byte order mark, no last line end", "CRLF", "UTF-16"],
)
def test_a_files_encoding_and_mode_stay(raw: bytes, tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_bytes(raw)
    path.chmod(0o640)
    encoding = "utf-16" if raw[:1] == b"\xff" else "utf-8-sig"
    text = raw.decode(encoding)
    patches.write(patches.fix([finding((3, 6, "1"), file=str(path))], {str(path): text}))
    assert path.read_bytes().decode(encoding) == text.replace("one", "1")
    assert path.read_bytes()[:3] == (raw[:3] if raw[:1] in (b"\xef", b"\xff") else b"a: ")
    assert path.stat().st_mode & 0o777 == 0o640
    assert [found.name for found in tmp_path.iterdir()] == ["a.yaml"]


def test_a_link_stays_one_and_what_it_points_to_is_mended(tmp_path: Path) -> None:
    target, link = tmp_path / "real.yaml", tmp_path / "link.yaml"
    target.write_text("one")
    link.symlink_to(target)
    patches.write(patches.fix([finding((0, 3, "1"), file=str(link))], {str(link): "one"}))
    assert link.is_symlink()
    assert target.read_text() == "1"


def test_a_file_that_changed_meanwhile_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text("another")
    with pytest.raises(UsageError, match="changed while it was checked"):
        patches.write(patches.fix([finding((0, 3, "1"), file=str(path))], {str(path): "one"}))
    assert path.read_text() == "another"


@pytest.mark.parametrize("between", ["two", "t\x0cwo", "t\u2028wo", "t\x85wo"])
def test_the_diff_is_one_that_patch_takes(tmp_path: Path, between: str) -> None:
    path = tmp_path / "a.py"
    path.write_text(f"one\n{between}\nthree")
    end = len(path.read_text())
    done = patches.fix([finding((0, 3, "1"), (end - 5, end, "3"), file="a.py")], {"a.py": path.read_text()})
    subprocess.run(["patch", "-p0", "-s"], input=patches.diff(done), text=True, check=True, cwd=tmp_path)
    assert path.read_text() == f"1\n{between}\n3"
