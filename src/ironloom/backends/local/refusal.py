"""What a rank said on stderr as it refused its work before it could write records: a folder that another process took
meanwhile, a variable that is none, a module that is not there."""

from __future__ import annotations

from pathlib import Path

from ironloom.backends.local.logfile import TAIL_BYTES

_MARK = "hint: "


def said_since(log: Path, position: int) -> tuple[str, str]:
    """The sentence at the end of a log, and its hint; empty where there is none. `position`: where the attempt began;
    a log that is shorter was rotated."""
    try:
        with log.open("rb") as file:
            size = file.seek(0, 2)
            file.seek(max(position if position <= size else 0, size - TAIL_BYTES))
            return sentence_of(file.read().decode(errors="replace"))
    except OSError:
        return "", ""


def sentence_of(text: str) -> tuple[str, str]:
    """The last paragraph's last line and, where the text ends in one, the hint; neither with its full stop."""
    paragraphs = [part.strip() for part in text.strip().split("\n\n") if part.strip()]
    hint = ""
    if paragraphs and paragraphs[-1].startswith(_MARK):
        hint = paragraphs.pop().removeprefix(_MARK)
    message = paragraphs[-1].splitlines()[-1] if paragraphs else ""
    return message.removesuffix("."), hint.removesuffix(".")
