"""The lines of a text, as what reads it counts them: str.splitlines knows more ends of lines than any of these."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache

from ironloom.check.inputs import SCRIPT_SUFFIX

_PYTHON = re.compile(r"\r\n|[\r\n]")
_YAML = re.compile("\r\n|[\r\n\x85\u2028\u2029]")
"""Source: https://yaml.org/spec/1.1/#b-char"""
_ODD = re.compile("[\x0b\x0c\x1c-\x1e\x85\u2028\u2029]")
"""What splitlines takes for the end of a line, and not every reader."""
_FEED = re.compile(r"[^\n]*\n|[^\n]+")


@lru_cache(maxsize=2)  # the findings of a file come one after another
def lines_of(file: str, text: str) -> Sequence[str]:
    """The lines by which a finding of this file is placed, without their ends."""
    if not _ODD.search(text):
        return text.splitlines()
    return (_PYTHON if file.lower().endswith(SCRIPT_SUFFIX) else _YAML).split(text)


def with_ends(text: str) -> list[str]:
    """The lines as `diff` and `patch` count them, each with its end."""
    return _FEED.findall(text)
