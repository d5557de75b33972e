"""Python files are read, never run; what is no Python is told in one sentence with its place."""

from __future__ import annotations

import ast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ironloom.errors import ManifestError
from ironloom.workload.scripts.read import MAX_CHARACTERS, read_script


def refusal(text: str) -> ManifestError:
    with pytest.raises(ManifestError) as caught:
        read_script(text, "train.py")
    assert caught.value.file == "train.py"
    assert "\n" not in caught.value.message
    return caught.value


def test_a_script_is_not_run() -> None:
    script = read_script("raise SystemExit('it ran')\n", "train.py")
    assert isinstance(script.tree.body[0], ast.Raise)


def test_a_syntax_error_has_its_line_and_column() -> None:
    error = refusal("import torch\nmodel = (\nloss.backward(\n")
    assert error.line == 3
    assert error.column == 14
    assert "never closed" in error.message


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("import torch\nprint 'loss', loss\n", 2),
        ("try:\n    pass\nexcept ValueError, e:\n    pass\n", 3),
        ("mode = 0777\n", 1),
    ],
)
def test_python_2_is_recognised(text: str, line: int) -> None:
    error = refusal(text)
    assert error.line == line
    assert "Python 2" in (error.hint or "")


def test_a_null_byte_is_refused_on_its_line() -> None:
    error = refusal("import torch\nx = '\0'\n")
    assert (error.line, error.column) == (2, 6)
    assert "null byte" in error.message


@pytest.mark.parametrize(
    "text",
    [
        "x = " + "(" * 5000 + ")" * 5000,
        "x = " + "-" * 200_000 + "1",
        "x = " + "[" * 150 + "]" * 150 + "\n" + "if x:\n",
        "\n".join(" " * depth + "if x:" for depth in range(150)),
    ],
    ids=["parentheses", "signs", "unfinished", "indents"],
)
def test_what_nests_too_deep_is_refused(text: str) -> None:
    refusal(text)


def test_a_file_that_is_too_large_is_refused() -> None:
    assert "characters" in refusal("#" * (MAX_CHARACTERS + 1)).message


def test_half_a_surrogate_is_refused() -> None:
    assert "Unicode" in refusal("x = '\ud800'\n").message


def test_a_scope_that_cannot_be_is_a_syntax_error() -> None:
    assert refusal("nonlocal x\n").line == 1


def test_a_bad_escape_is_read_without_a_word() -> None:
    read_script("pattern = '\\d+'\n", "train.py")


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("start", ["", "\ufeff"])
def test_places_count_characters_and_not_bytes(start: str, end: str) -> None:
    text = f"{start}# é{end}x = 'äöü'; model = load(){end}"
    script = read_script(text, "train.py")
    call = next(node for node in script.nodes if isinstance(node, ast.Call))
    place = script.place(call)
    assert (place.line, place.column) == (2, 20)
    assert text[place.start : place.end] == "load()"
    assert script.source(call) == "load()"


def test_a_node_of_many_lines_has_its_end() -> None:
    text = "x = f(\n    1,\n    2,\n)\n"
    script = read_script(text, "train.py")
    call = next(node for node in script.nodes if isinstance(node, ast.Call))
    assert script.source(call) == "f(\n    1,\n    2,\n)"


@given(st.text(max_size=200))
@settings(max_examples=200, deadline=None)
def test_any_text_is_read_or_refused_in_a_sentence(text: str) -> None:
    said = ""
    try:
        script = read_script(text, "train.py")
    except ManifestError as error:
        said = error.message
    else:
        for node in script.nodes:
            assert 0 <= script.place(node).start <= script.place(node).end <= len(text)
    assert "\n" not in said
