"""One small HTTP request to an engine on loopback: health, sleep, wake.

Not the gateway's client: it asks a few times a second at most, closes its connection, and must tell "nobody listens"
from "answers late" from "answers no HTTP".
"""

from __future__ import annotations

import asyncio
import contextlib

MAX_ANSWER_BYTES = 1 << 20


async def ask(port: int, method: str, path: str, *, timeout_s: float, host: str = "127.0.0.1") -> tuple[int, bytes]:
    """(status, body). Raises OSError when nobody listens or the connection breaks, TimeoutError when it is late,
    ValueError when what came back is no HTTP."""
    async with asyncio.timeout(timeout_s):
        reader, writer = await asyncio.open_connection(host, port)
        try:
            head = f"{method} {path} HTTP/1.1\r\nHost: {host}:{port}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
            writer.write(head.encode())
            answer = await reader.read(MAX_ANSWER_BYTES)
            while len(answer) < MAX_ANSWER_BYTES and (more := await reader.read(MAX_ANSWER_BYTES - len(answer))):
                answer += more
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()
    first, _, rest = answer.partition(b"\r\n")
    words = first.split(b" ", 2)
    if len(words) < 2 or not words[0].startswith(b"HTTP/1.") or not words[1].isdigit():
        raise ValueError(f"the answer to {method} {path} is no HTTP: {answer[:60]!r}")
    return int(words[1]), rest.partition(b"\r\n\r\n")[2]


def poll_interval_s(elapsed_s: float) -> float:
    """How long to wait between two looks at a starting engine: a twentieth of what it took so far, 10 ms to 0.5 s.

    So the look that finds it ready comes at most 5 % of its start late, and a start of minutes costs few looks.
    """
    return min(0.5, max(0.01, elapsed_s / 20))
