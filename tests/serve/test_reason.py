from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ironloom.serve.reason import MAX_LINE, one_line, printable_lines, told_with, with_last_lines

TRACEBACK = ["Traceback (most recent call last):", '  File "x.py", line 1', "", "ValueError: no such layer"]


@pytest.mark.parametrize(
    ("reason", "told"),
    [
        ("", ""),
        ("no load", "no load"),
        ("no load\n", "no load"),
        (
            with_last_lines("the engine ended with status 1", TRACEBACK),
            "the engine ended with status 1: ValueError: no such layer",
        ),
        (
            with_last_lines("the engine hangs", ["\x1b[31mred\x1b[0m\x1b]0;title\x07 text\r"]),
            "the engine hangs: red text",
        ),
        (with_last_lines("the engine ended", []), "the engine ended; its last lines:"),
        ("a reason\n  of two lines", "a reason of two lines"),
        ("a\x00b\x07c\x9b2J", "abc2J"),
    ],
)
def test_a_reason_in_one_line_is_what_happened_and_what_was_printed_last(reason: str, told: str) -> None:
    assert one_line(reason) == told


def test_more_of_a_reason_comes_before_the_last_lines() -> None:
    assert told_with("no load", "not again") == "no load; not again"
    told = told_with(with_last_lines("the engine ended", TRACEBACK), "not again")
    assert told == with_last_lines("the engine ended; not again", TRACEBACK)


def test_a_line_that_is_too_long_is_cut_and_says_so() -> None:
    told = one_line(with_last_lines("the engine ended", ["x" * 1000]))
    assert len(told) == MAX_LINE
    assert told.startswith("the engine ended: xxx")
    assert told.endswith("…")


def test_all_lines_of_a_reason_are_there_without_the_blank_ones() -> None:
    assert printable_lines(with_last_lines("the engine ended", TRACEBACK)) == [
        "the engine ended; its last lines:", TRACEBACK[0], TRACEBACK[1], TRACEBACK[3],
    ]  # fmt: skip


@given(st.text(max_size=400))
def test_one_line_is_one_line_that_a_terminal_only_shows(reason: str) -> None:
    told = one_line(reason)
    assert len(told) <= MAX_LINE
    assert not any((ord(char) < 32 and char != "\t") or 127 <= ord(char) < 160 for char in told)
