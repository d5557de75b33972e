"""Tokens of an answer, read with as little parsing as accounting needs."""

from __future__ import annotations

import re
from collections.abc import Callable

import msgspec

TAIL_BYTES = 2048
"""Engines write `usage` at the end of a JSON answer; this much of it is looked at."""

_PROMPT = re.compile(rb'"prompt_tokens"\s*:\s*(\d{1,12})')
_COMPLETION = re.compile(rb'"completion_tokens"\s*:\s*(\d{1,12})')


class Usage(msgspec.Struct):
    """Tokens as the engine counted them."""

    prompt_tokens: int = 0
    completion_tokens: int | None = None


class _Event(msgspec.Struct):
    """The parts of a stream's event that tell a usage report from a piece of the answer."""

    usage: Usage | None = None
    choices: list[msgspec.Raw] | None = None


_decode_usage = msgspec.json.Decoder(Usage).decode
_decode_event = msgspec.json.Decoder(_Event).decode


def usage_in_tail(tail: bytes) -> Usage | None:
    """The usage in the last bytes of a JSON answer; None when there is none.

    A quoted `"usage"` in the model's own text has backslashes before its quotes and does not match.
    """
    at = tail.rfind(b'"usage":')
    if at < 0:
        return None
    try:
        return _decode_usage(tail[at + 8 : -1])  # as it is when usage is the answer's last member
    except msgspec.DecodeError:
        pass
    prompt, completion = _PROMPT.search(tail, at), _COMPLETION.search(tail, at)
    if prompt is None and completion is None:
        return None
    return Usage(int(prompt[1]) if prompt else 0, int(completion[1]) if completion else 0)


class EventStream:
    """Passes server-sent events through, whole events only, and counts.

    `feed` gives back what may be sent on: everything up to the last event's end. An event that is not whole is kept
    back, so that an error event can follow whatever the client has when the engine dies. `data` lines are not parsed,
    but for the events with a usage report; with `hide_usage` the report that only the gateway asked for is taken out.
    """

    MAX_EVENT_BYTES = 1 << 20
    """An event longer than this is passed on in pieces, as it comes."""

    __slots__ = ("_hide_usage", "_last", "_num_events", "_rest", "_write", "usage")

    def __init__(self, *, hide_usage: bool) -> None:
        self._hide_usage = hide_usage
        self._rest = b""
        self._last = b""
        """What was fed last: the place where `[DONE]` would be."""
        self._num_events = 0
        self.usage: Usage | None = None

    def feed(self, data: bytes) -> bytes:
        if self._rest:
            data = self._rest + data
            self._rest = b""
        if not data.endswith(b"\n\n"):
            data = self._whole_events(data)
        self._last = data
        self._num_events += data.count(b"\n\n") or data.count(b"\r\n\r\n")
        if b'"usage"' in data and (b'"usage":{' in data or b'"usage": {' in data):
            return self._read_usage(data)
        return data

    def relay_to(self, write: Callable[[bytes], None]) -> Callable[[bytes], bool]:
        """What takes chunks of the body as they came, for `Connection.relay`, and writes them: those of whole events,
        none a usage report. The others are for `feed`."""
        self._write = write
        return self._relay

    _write: Callable[[bytes], None]

    def _relay(self, chunks: bytes) -> bool:
        if self._rest or b'"usage"' in chunks or not chunks.endswith(b"\n\n\r\n"):
            return False
        self._last = chunks
        self._num_events += chunks.count(b"\n\n", 3)
        self._write(chunks)
        return True

    def rest(self) -> bytes:
        """What was kept back, at the end of a stream that ended well."""
        rest, self._rest = self._rest, b""
        return rest

    def _whole_events(self, data: bytes) -> bytes:
        lf, crlf = data.rfind(b"\n\n"), data.rfind(b"\r\n\r\n")
        end = max(lf + 2 if lf >= 0 else 0, crlf + 4 if crlf >= 0 else 0)
        if len(data) - end > self.MAX_EVENT_BYTES:
            return data
        self._rest = data[end:]
        return data[:end]

    def _read_usage(self, data: bytes) -> bytes:
        end = b"\r\n\r\n" if b"\r\n\r\n" in data else b"\n\n"
        kept = []
        for event in data.split(end):
            if b'"usage"' in event:
                try:
                    report = _decode_event(event.partition(b":")[2])
                except (msgspec.DecodeError, UnicodeDecodeError):
                    report = _Event()  # not ours to judge: it goes to the client as it is
                if report.usage is not None:
                    self.usage = report.usage
                    if self._hide_usage and not report.choices:
                        continue
            kept.append(event)
        return end.join(kept)

    @property
    def completion_tokens(self) -> int:
        """As the engine reported, else one for each event so far: what a stream that was cut has cost."""
        if self.usage is not None and self.usage.completion_tokens is not None:
            return self.usage.completion_tokens
        return self._num_events - self.is_done

    @property
    def is_done(self) -> bool:
        """True once `[DONE]` came: of the answer nothing is left, though the engine may not have ended it yet."""
        return self._last.rstrip().endswith(b"data: [DONE]")
