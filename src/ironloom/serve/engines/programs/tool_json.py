"""Tool calls as bare JSON objects: Llama 3's format, Mistral's list, and the list of tool_choice "required"."""

from __future__ import annotations

from ironloom.serve.engines.programs.json_scan import Malformed
from ironloom.serve.engines.programs.tool_stream import CallDelta, CallStream, Held, Parsed


class JsonListParser:
    """Call objects that follow each other, alone or in a list, from the text's beginning (or after a marker).

    Llama 3's JSON, Mistral's list, and the list that tool_choice "required" makes.
    """

    def __init__(self, marker: str = "", *, optional_marker: bool = True) -> None:
        """`marker` begins the calls; unless it is optional, text before it is content."""
        self._marker = marker
        self._optional = optional_marker
        self._held = Held()
        self._state = "before"
        self._raw = ""
        self._call: CallStream | None = None
        self._num_calls = 0

    def feed(self, text: str) -> Parsed:
        out = Parsed()
        if self._state == "content":
            out.content = text
            return out
        self._held.text += text
        if self._state == "before" and not self._begin(out):
            return out
        while self._held.text:
            if self._call is None and not self._next_call(out):
                break
            if not self._in_call(out):
                break
        return out

    def _begin(self, out: Parsed) -> bool:
        if not self._optional:
            before, found = self._held.until(self._marker)
            out.content += before
            if not found:
                return False
            self._raw = self._marker
        else:
            stripped = self._held.text.lstrip()
            if not stripped or (self._marker and self._marker != stripped and self._marker.startswith(stripped)):
                return False
            if self._marker and stripped.startswith(self._marker):
                self._raw = self._marker
                self._held.text = stripped[len(self._marker) :]
            elif stripped[0] in "{[":
                self._held.text = stripped
            else:
                return self._give_up(out)
        self._state = "calls"
        return True

    def _next_call(self, out: Parsed) -> bool:
        """Skip what stands between calls; True at the beginning of one."""
        text = self._held.text.lstrip(" \t\r\n,;[]")
        self._raw += self._held.text[: len(self._held.text) - len(text)]
        self._held.text = text
        if not text:
            return False
        if text[0] != "{":
            if self._num_calls:  # Chatter after the calls helps nobody, and clients expect none.
                self._held.text = ""
                return False
            return self._give_up(out)
        self._call = CallStream(self._num_calls)
        return True

    def _in_call(self, out: Parsed) -> bool:
        assert self._call is not None
        call, text, self._held.text = self._call, self._held.text, ""
        try:
            out.calls += call.feed(text)
        except Malformed:
            self._call = None
            if call.named:
                self._num_calls += 1
                return False
            self._held.text = call.raw
            return self._give_up(out)
        if not call.scanner.done:
            return False
        self._held.text = call.scanner.rest
        self._call = None
        self._num_calls += 1
        return True

    def _give_up(self, out: Parsed) -> bool:
        out.content += self._raw + self._held.text
        self._raw = self._held.text = ""
        self._state = "content"
        return False

    def flush(self) -> Parsed:
        out = Parsed()
        if self._state == "before":
            out.content = self._held.text
        elif self._state == "calls" and self._num_calls == 0 and not (self._call and self._call.named):
            out.content = self._raw + (self._call.raw if self._call else self._held.text)
        self._held.text, self._call, self._state = "", None, "content"
        return out


class NamedParser:
    """The arguments of a function that tool_choice named: the whole text is the one call's arguments."""

    def __init__(self, name: str) -> None:
        self._name: str | None = name

    def feed(self, text: str) -> Parsed:
        if not text:
            return Parsed()
        calls = [CallDelta(0, name=self._name)] if self._name is not None else []
        self._name = None
        return Parsed(calls=[*calls, CallDelta(0, arguments=text)])

    def flush(self) -> Parsed:
        return Parsed()
