"""Why something failed, told in full and in one line.

A reason may end in the last lines that a program printed: `the engine ended with status 1; its last lines:`, and then
those. Logs, events and JSON keep all of it; a table, a state or an error has room for one line.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

MAX_LINE = 240
"""Characters that one line has at most; what is cut off ends in `…`."""
NOT_AGAIN = "it is not tried again until it is applied again"
"""Told with a failed start that another would end as."""
_LINES_FOLLOW = "; its last lines:"
_ESCAPE = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|.)?")
"""What a terminal would obey: colours, titles, the cursor. Source: ECMA-48, 5.4 (CSI) and 5.6 (OSC)."""
_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f-\x9f]")


def with_last_lines(text: str, lines: Sequence[str]) -> str:
    """A reason and what the program printed last, each line below it as it came."""
    return "\n".join((text + _LINES_FOLLOW, *lines))


def told_with(reason: str, more: str) -> str:
    """A reason with more of ours, which comes before a program's last lines."""
    first, newline, rest = reason.partition("\n")
    ending = _LINES_FOLLOW if first.endswith(_LINES_FOLLOW) else ""
    return f"{first.removesuffix(_LINES_FOLLOW)}; {more}{ending}{newline}{rest}"


def one_line(reason: str) -> str:
    """The reason in one line: what happened, and the last line that was printed, where most programs say why."""
    lines = printable_lines(reason)
    if len(lines) < 2:
        text = lines[0] if lines else ""
    elif lines[0].endswith(_LINES_FOLLOW):
        text = f"{lines[0].removesuffix(_LINES_FOLLOW)}: {lines[-1].strip()}"
    else:
        text = " ".join(line.strip() for line in lines)
    return text if len(text) <= MAX_LINE else f"{text[: MAX_LINE - 1].rstrip()}…"


def printable_lines(reason: str) -> list[str]:
    """The reason's lines that are not blank, without what a terminal would obey: an engine may print anything."""
    lines = [_CONTROL.sub("", _ESCAPE.sub("", line)).rstrip() for line in re.split(r"\r\n|[\r\n]", reason)]
    return [line for line in lines if line.strip()]
