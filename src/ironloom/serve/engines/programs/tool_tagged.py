"""Tool calls between tags or after a marker: the formats of Hermes, Qwen and Mistral."""

from __future__ import annotations

import json
import re

from ironloom.serve.engines.programs.json_scan import Malformed
from ironloom.serve.engines.programs.tool_json import JsonListParser
from ironloom.serve.engines.programs.tool_stream import CallStream, Held, Parsed


class HermesParser:
    """`<tool_call>` … `</tool_call>`, any number, with text before and between."""

    OPEN, CLOSE = "<tool_call>", "</tool_call>"

    def __init__(self) -> None:
        self._held = Held()
        self._call: CallStream | None = None
        self._closing = False
        self._num_calls = 0

    def feed(self, text: str) -> Parsed:
        out = Parsed()
        self._held.text += text
        while self._held.text:
            if self._call is not None:
                if not self._in_call(out):
                    break
            elif self._closing:
                before, found = self._held.until(self.CLOSE)
                out.content += before.lstrip()
                if not found:
                    break
                self._closing = False
            else:
                if self._num_calls:
                    self._held.text = self._held.text.lstrip()
                before, found = self._held.until(self.OPEN)
                out.content += before
                if not found:
                    break
                self._call = CallStream(self._num_calls)
        return out

    def _in_call(self, out: Parsed) -> bool:
        assert self._call is not None
        call, text, self._held.text = self._call, self._held.text, ""
        try:
            out.calls += call.feed(text)
        except Malformed:
            self._call = None
            if call.named:  # It was announced; what is left of it cannot be taken back, and is not told twice.
                self._num_calls += 1
                self._closing = True
                self._held.text = text
            else:
                out.content += self.OPEN + call.raw
            return True
        if not call.scanner.done:
            return False
        self._held.text = call.scanner.rest
        self._call, self._closing = None, True
        self._num_calls += 1
        return True

    def flush(self) -> Parsed:
        out = Parsed()
        if self._call is not None and not self._call.named:
            out.content = self.OPEN + self._call.raw
        elif self._call is None and not self._closing:
            out.content = self._held.text
        self._call, self._held.text = None, ""
        return out


class MistralParser:
    """`[TOOL_CALLS]` and then a list of call objects, or (from Mistral Small 3.2 on) `name{…}`, repeated.

    Before the object the newer ones may write `[CALL_ID]`, an id of their own, and `[ARGS]`. Calls get our ids.
    """

    MARKER = "[TOOL_CALLS]"
    _NAME = re.compile(r"\s*([A-Za-z0-9_.-]+)\s*(?:\[CALL_ID\]\s*[A-Za-z0-9_-]*\s*)?(?:\[ARGS\])?\s*(?=\{)")

    def __init__(self) -> None:
        self._held = Held()
        self._list: JsonListParser | None = None
        self._named: CallStream | None = None
        self._seen = False
        self._num_calls = 0

    def feed(self, text: str) -> Parsed:
        if self._list is not None:
            return self._list.feed(text)
        out = Parsed()
        self._held.text += text
        while self._held.text:
            if self._named is not None:
                if not self._in_arguments(out):
                    break
            elif not self._seen:
                before, self._seen = self._held.until(self.MARKER)
                out.content += before
                if not self._seen:
                    break
            else:
                stripped = self._held.text.lstrip()
                if not stripped:
                    break
                if stripped[0] in "[{":
                    self._list = JsonListParser()
                    parsed = self._list.feed(stripped)
                    return Parsed(out.content + parsed.content, out.calls + parsed.calls)
                match = self._NAME.match(stripped)
                if match is None:
                    if len(stripped) > 256:
                        out.content += stripped
                        self._held.text, self._seen = "", False
                    break
                self._named = CallStream(self._num_calls)
                # The object is read by the same scanner, as the value of its `arguments`.
                out.calls += self._named.feed(json.dumps({"name": match[1]})[:-1] + ', "arguments": ')
                self._held.text = stripped[match.end() :]
        return out

    def _in_arguments(self, out: Parsed) -> bool:
        assert self._named is not None
        call, text, self._held.text = self._named, self._held.text, ""
        for at, char in enumerate(text):
            call.scanner.feed(char)
            if call.scanner.value_ended:
                out.calls += call.deltas()
                self._held.text = text[at + 1 :]
                self._named, self._seen = None, False
                self._num_calls += 1
                return True
        out.calls += call.deltas()
        return False

    def flush(self) -> Parsed:
        if self._list is not None:
            return self._list.flush()
        out = Parsed()
        if self._named is None:
            out.content = (self.MARKER if self._seen else "") + self._held.text
        self._held.text = ""
        return out
