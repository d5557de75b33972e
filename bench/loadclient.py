"""A small HTTP/1.1 client for load and fault scripts: one request a connection or kept alive, streams read by line.

It trusts nothing: an answer counts as whole only if its framing says so.
"""

from __future__ import annotations

import asyncio
import json
import re
import time
from dataclasses import dataclass, field
from typing import Any

_TEXT = re.compile(r'"(?:content|text)": ?"[^"]')
"""Of an event that brings text."""


@dataclass
class Answer:
    """What came back to one request."""

    status: int = 0
    """0 when there was no answer at all."""
    whole: bool = False
    """The body ended as its framing says."""
    body: bytes = b""
    events: list[str] = field(default_factory=list)
    """Data of each server-sent event, in order."""
    started_s: float = 0.0
    first_token_s: float | None = None
    """Seconds from the request to the first event with content, or to the end of a plain answer."""
    ended_s: float = 0.0
    error: str = ""
    num_extra_bytes: int = 0
    """That came after the end of the answer, on a connection that was to be closed."""

    @property
    def done(self) -> bool:
        """A stream that ended in [DONE], or a whole plain answer with 200."""
        return self.status == 200 and self.whole and (not self.events or self.events[-1] == "[DONE]")

    @property
    def told(self) -> bool:
        """The client was told of a failure: an error status, or an error event in the stream."""
        if self.status >= 400:
            return True
        return any(event.startswith('{"error"') for event in self.events)

    @property
    def usage(self) -> dict[str, int] | None:
        for text in [*reversed(self.events), self.body.decode(errors="replace")]:
            if '"usage"' in text:
                try:
                    usage = json.loads(text).get("usage")
                except ValueError:
                    continue
                if usage:
                    return dict(usage)
        return None


async def send(
    host: str,
    port: int,
    path: str,
    body: dict[str, Any],
    *,
    headers: dict[str, str] | None = None,
    timeout_s: float = 120.0,
) -> Answer:
    """POST a JSON body on a connection of its own and read the answer to its end."""
    answer = Answer(started_s=time.monotonic())
    try:
        async with asyncio.timeout(timeout_s):
            reader, writer = await asyncio.open_connection(host, port, limit=1 << 20)
            try:
                payload = json.dumps(body).encode()
                head = f"POST {path} HTTP/1.1\r\nHost: {host}:{port}\r\nContent-Type: application/json\r\n"
                head += f"Content-Length: {len(payload)}\r\nConnection: close\r\n"
                head += "".join(f"{name}: {value}\r\n" for name, value in (headers or {}).items())
                writer.write(head.encode() + b"\r\n" + payload)
                await _read(reader, answer)
                answer.num_extra_bytes = len(await reader.read())
            finally:
                writer.close()
    except (OSError, asyncio.IncompleteReadError, TimeoutError, ValueError) as error:
        answer.error = f"{type(error).__name__}: {error}"
    answer.ended_s = time.monotonic() - answer.started_s
    return answer


async def _read(reader: asyncio.StreamReader, answer: Answer) -> None:
    head = await reader.readuntil(b"\r\n\r\n")
    lines = head.decode("latin-1").split("\r\n")
    answer.status = int(lines[0].split()[1])
    fields = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:] if line)}
    streaming = fields.get("content-type", "").startswith("text/event-stream")
    if fields.get("transfer-encoding", "").lower() == "chunked":
        pending = b""
        while True:
            size = int((await reader.readline()).split(b";")[0], 16)
            if size == 0:
                await reader.readline()
                break
            piece = await reader.readexactly(size)
            await reader.readexactly(2)
            if streaming:
                pending = _events(pending + piece, answer)
            else:
                answer.body += piece
        answer.whole = True
    elif "content-length" in fields:
        answer.body = await reader.readexactly(int(fields["content-length"]))
        answer.whole = True
    else:
        answer.body = await reader.read()
        answer.whole = False
    if answer.first_token_s is None and not streaming:
        answer.first_token_s = time.monotonic() - answer.started_s


def _events(data: bytes, answer: Answer) -> bytes:
    *whole, rest = data.split(b"\n\n")
    for block in whole:
        for line in block.split(b"\n"):
            if line.startswith(b"data: "):
                text = line[6:].decode()
                answer.events.append(text)
                if answer.first_token_s is None and _TEXT.search(text):
                    answer.first_token_s = time.monotonic() - answer.started_s
    return rest
