"""Splits a model's thinking (`<think>…</think>`) from its answer, as text comes in."""

from __future__ import annotations

from typing import NamedTuple

OPEN = "<think>"
CLOSE = "</think>"


class Split(NamedTuple):
    """A piece of text, parted."""

    reasoning: str
    content: str


class ReasoningSplitter:
    """One sequence's text, parted into reasoning and content.

    Reasoning is what stands in `<think>…</think>` at the text's beginning. Where the chat template itself wrote
    `<think>` into the prompt, the text begins inside (`inside=True`), as with DeepSeek-R1 and QwQ.
    The newlines next to the tags belong to neither part.
    """

    __slots__ = ("_held", "_state", "_trim")

    def __init__(self, *, inside: bool) -> None:
        self._state = "inside" if inside else "before"
        self._held = ""
        self._trim = inside

    def feed(self, text: str) -> Split:
        """What is certain now of both parts."""
        if self._state == "after" and not self._trim:
            return Split("", text)
        self._held += text
        reasoning = content = ""
        if self._state == "before":
            stripped = self._held.lstrip()
            if stripped.startswith(OPEN):
                self._state, self._trim = "inside", True
                self._held = stripped[len(OPEN) :]
            elif OPEN.startswith(stripped):
                return Split("", "")
            else:
                self._state, self._trim = "after", False
        if self._state == "inside":
            if self._trim:
                self._held = self._held.lstrip("\n")
                self._trim = not self._held
            end = self._held.find(CLOSE)
            if end >= 0:
                reasoning = self._held[:end].rstrip("\n")
                self._held = self._held[end + len(CLOSE) :]
                self._state, self._trim = "after", True
            else:
                keep = _num_held(self._held)
                reasoning = self._held[: len(self._held) - keep]
                self._held = self._held[len(self._held) - keep :]
        if self._state == "after":
            if self._trim:
                self._held = self._held.lstrip("\n")
                self._trim = not self._held
            content, self._held = self._held, ""
        return Split(reasoning, content)

    def flush(self) -> Split:
        """What was held back, at the text's end."""
        held, self._held = self._held, ""
        if self._state == "inside":
            return Split(held.rstrip("\n"), "")
        return Split("", held)


def _num_held(text: str) -> int:
    """Length of the end of `text` that may belong to the closing tag: newlines, and the tag's own beginning."""
    for length in range(min(len(text), len(CLOSE) - 1), 0, -1):
        if CLOSE.startswith(text[-length:]):
            break
    else:
        length = 0
    body = text[: len(text) - length]
    return length + len(body) - len(body.rstrip("\n"))
