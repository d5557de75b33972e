"""What the parsers of tool calls share: their Protocol, text held back, and a call that is being read."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

from ironloom.serve.engines.programs.json_scan import CallScanner


@dataclass(slots=True)
class CallDelta:
    """A piece of one call: its name when it becomes known, then its arguments' text as it grows."""

    index: int
    name: str | None = None
    arguments: str = ""


@dataclass(slots=True)
class Parsed:
    """What a piece of text turned out to be."""

    content: str = ""
    calls: list[CallDelta] = field(default_factory=list)


class ToolParser(Protocol):
    """One sequence's text, parted into content and calls."""

    def feed(self, text: str) -> Parsed:
        """What is certain now."""
        ...

    def flush(self) -> Parsed:
        """What was held back, at the text's end."""
        ...


class Held:
    """Text that was read and not yet given."""

    __slots__ = ("text",)

    def __init__(self) -> None:
        self.text = ""

    def until(self, marker: str) -> tuple[str, bool]:
        """Text before the marker, which is taken away, and True; or what is certainly before it, and False.

        Whitespace right before a marker belongs to nobody and is dropped.
        """
        at = self.text.find(marker)
        if at >= 0:
            before, self.text = self.text[:at], self.text[at + len(marker) :]
            return before.rstrip(), True
        begun = (n for n in range(min(len(self.text), len(marker) - 1), 0, -1) if marker.startswith(self.text[-n:]))
        body = self.text[: len(self.text) - next(begun, 0)].rstrip()
        before, self.text = body, self.text[len(body) :]
        return before, False


class CallStream:
    """The call that is being read: turns a scanner's progress into deltas."""

    __slots__ = ("index", "named", "raw", "scanner", "sent")

    def __init__(self, index: int) -> None:
        self.index = index
        self.scanner = CallScanner()
        self.raw = ""
        self.named = False
        self.sent = 0

    def feed(self, text: str) -> list[CallDelta]:
        """Raises Malformed."""
        self.raw += text
        self.scanner.feed(text)
        return self.deltas()

    def deltas(self) -> list[CallDelta]:
        scanner, out = self.scanner, []
        if not self.named and scanner.name is not None:
            self.named = True
            out.append(CallDelta(self.index, name=scanner.name))
        if self.named:
            arguments = scanner.arguments
            if scanner.done and not arguments:
                arguments = "{}"
            if len(arguments) > self.sent:
                out.append(CallDelta(self.index, arguments=arguments[self.sent :]))
                self.sent = len(arguments)
        return out
