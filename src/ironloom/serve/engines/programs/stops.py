"""Stop strings: found across tokens, with text held back that may become one."""

from __future__ import annotations

from collections.abc import Sequence


class StopStrings:
    """Watches one sequence's text. What `feed` returns can be sent: no later text makes it part of a stop string."""

    __slots__ = ("_held", "_include", "_longest", "_stops", "matched")

    def __init__(self, stops: Sequence[str], *, include: bool) -> None:
        """`include` keeps the stop string at the text's end."""
        self._stops = tuple(stops)
        self._include = include
        self._longest = max(map(len, self._stops), default=0)
        self._held = ""
        self.matched: str | None = None
        """The stop string that ended the text."""

    def feed(self, text: str) -> str:
        """Text to send. Once a stop string was found, `matched` is set and nothing more comes."""
        if not self._stops:
            return text
        if self.matched is not None:
            return ""
        held = self._held + text
        found = min(
            ((at, -len(stop), stop) for stop in self._stops if (at := held.find(stop)) >= 0),
            default=None,
        )
        if found is not None:
            at, _, self.matched = found
            self._held = ""
            return held[: at + len(self.matched)] if self._include else held[:at]
        keep = self._num_held(held)
        self._held = held[len(held) - keep :]
        return held[: len(held) - keep]

    def flush(self) -> str:
        """The text still held back, at the sequence's end."""
        held, self._held = self._held, ""
        return held

    def _num_held(self, text: str) -> int:
        """Length of the longest end of `text` that begins a stop string."""
        for length in range(min(len(text), self._longest - 1), 0, -1):
            tail = text[-length:]
            if any(stop.startswith(tail) for stop in self._stops):
                return length
        return 0
