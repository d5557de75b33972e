"""What is added to a manifest stands where a person would put it, and leaves every other line as it was."""

from __future__ import annotations

import pytest
import yaml

from ironloom.check import edits, patches
from ironloom.check.inputs import read_texts
from ironloom.workload.manifests.schema import Path

HEAD = "apiVersion: v1\nkind: Pod\nmetadata:\n  name: a\n"


def added(text: str, path: Path, *lines: str) -> str | None:
    (document,) = read_texts({"a.yaml": text}).documents
    edit = edits.add_first(document, path, lines)
    return patches.apply(text, [edit]) if edit is not None else None


@pytest.mark.parametrize(
    ("spec", "path", "expected"),
    [
        ("spec:\n  b: 1\n", ("spec",), "spec:\n  x:\n    y: 1\n  b: 1\n"),
        ("spec:\n  # of b\n  b: 1\n", ("spec",), "spec:\n  x:\n    y: 1\n  # of b\n  b: 1\n"),
        ("spec: # of spec\n\n  # two\n  # lines\n  b: 1\n", ("spec",),
         "spec: # of spec\n\n  x:\n    y: 1\n  # two\n  # lines\n  b: 1\n"),
        ("spec:\n  c:\n  - name: n\n    b: 1\n", ("spec", "c", 0),
         "spec:\n  c:\n  - name: n\n    x:\n      y: 1\n    b: 1\n"),
        ("spec:\n  c:\n  - name: n\n  - name: m\n", ("spec", "c", 0),
         "spec:\n  c:\n  - name: n\n    x:\n      y: 1\n  - name: m\n"),
        ("spec:\n  c:\n  - env:\n      - a: 1\n", ("spec", "c", 0),
         "spec:\n  c:\n  - x:\n      y: 1\n    env:\n      - a: 1\n"),
        ("spec:\n  c:\n  - args:\n    - a\n    b: 1\n", ("spec", "c", 0),
         "spec:\n  c:\n  - args:\n    - a\n    x:\n      y: 1\n    b: 1\n"),
        ("spec:\n  c:\n  - args:\n    - a\n    # of b\n    b: 1\n", ("spec", "c", 0),
         "spec:\n  c:\n  - args:\n    - a\n    x:\n      y: 1\n    # of b\n    b: 1\n"),
        ("spec:\n  c:\n  - env:\n\n    # of a\n      a: 1\n", ("spec", "c", 0),
         "spec:\n  c:\n  - x:\n      y: 1\n    env:\n\n    # of a\n      a: 1\n"),
        ("spec:\n  c:\n  - text: |\n      a\n      # a\n    b: 1\n", ("spec", "c", 0),
         "spec:\n  c:\n  - text: |\n      a\n      # a\n    x:\n      y: 1\n    b: 1\n"),
        ("spec:\n  c:\n  - text: 'a\n      b'\n    b: 1\n", ("spec", "c", 0),
         "spec:\n  c:\n  - text: 'a\n      b'\n    x:\n      y: 1\n    b: 1\n"),
        ("spec:\n  c:\n  - tty: # none\n    b: 1\n", ("spec", "c", 0),
         "spec:\n  c:\n  - tty: # none\n    x:\n      y: 1\n    b: 1\n"),
        ("spec:\n  c:\n  - name: n", ("spec", "c", 0), "spec:\n  c:\n  - x:\n      y: 1\n    name: n"),
    ],
    ids=["a mapping", "its comment", "two comments", "an entry", "the entry's end", "a value below",
         "a list below as far left as its key", "that and a comment", "a value below a comment", "a text below",
         "a text that goes on below", "no value", "no line end"],
)  # fmt: skip
def test_lines_stand_at_the_beginning_with_their_indentation(spec: str, path: Path, expected: str) -> None:
    result = added(HEAD + spec, path, "x:", "  y: 1")
    assert result == HEAD + expected
    assert result is not None
    found = yaml.safe_load(result)
    for step in path:
        found = found[step]
    assert found["x"] == {"y": 1}


def test_lines_in_an_entry_end_as_the_files_own() -> None:
    text = (HEAD + "spec:\n  c:\n  - name: n\n    b: 1\n").replace("\n", "\r\n")
    assert added(text, ("spec", "c", 0), "x: 1") == text.replace("    b", "    x: 1\r\n    b")


@pytest.mark.parametrize(
    "spec",
    ["spec: {b: 1}\n", "spec: &x\n  b: 1\n", "other: 1\n", "spec:\n", "spec: a\n", "spec:\n- a\n", "spec:\n  x:\n"],
)
def test_what_cannot_be_edited_safely_is_left_alone(spec: str) -> None:
    assert added(HEAD + spec, ("spec",), "x: 1") is None
