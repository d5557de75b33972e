"""The lines of a text, as what reads it counts them: str.splitlines knows more ends of lines than any of these."""

from __future__ import annotations

import re

from ironloom.check.inputs import SCRIPT_SUFFIX

_PYTHON = re.compile(r"\r\n|[\r\n]")
_YAML = re.compile("\r\n|[\r\n\x85\u2028\u2029]")
"""Source: https://yaml.org/spec/1.1/#b-char"""
_FEED = re.compile(r"[^\n]*\n|[^\n]+")


def lines_of(file: str, text: str) -> list[str]:
    """The lines by which a finding of this file is placed, without their ends."""
    return (_PYTHON if file.lower().endswith(SCRIPT_SUFFIX) else _YAML).split(text)


def with_ends(text: str) -> list[str]:
    """The lines as `diff` and `patch` count them, each with its end."""
    return _FEED.findall(text)
