"""Tokenises long texts in a process of its own, so that nothing else waits for it.

    python -m ironloom.serve.engines.programs.aside FOLDER

openvino-genai holds Python's lock while it tokenises, up to a second for each megabyte: in the engine's own process
every stream would stop for that long. The process is started by the first long text and ends when none came for a
while, or with the engine: its standard input ends then.

What goes in: the text's length and whether special tokens are added (`<QB`), the text in UTF-8. What comes out: the
number of token ids (`<Q`), and they, 4 bytes each.
"""

from __future__ import annotations

import array
import asyncio
import contextlib
import os
import struct
import sys
from asyncio.subprocess import PIPE, Process
from pathlib import Path

from ironloom.errors import RequestError

IDLE_S = 60.0
"""It holds a vocabulary, some 100 MiB, and starts in half a second."""
_QUESTION = struct.Struct("<QB")
_ANSWER = struct.Struct("<Q")


class Aside:
    """The other process, from the loop that asks it. One text at a time."""

    def __init__(self, folder: Path, *, idle_s: float = IDLE_S) -> None:
        self._folder = folder
        self._idle_s = idle_s
        self._process: Process | None = None
        self._lock = asyncio.Lock()
        self._end: asyncio.TimerHandle | None = None

    async def encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        """Token ids of a text, as Tokens.encode gives them. Raises RequestError (500) when the process dies."""
        data = text.encode("utf-8", "replace")
        async with self._lock:
            if self._end is not None:
                self._end.cancel()
            try:
                ids = await self._ask(data, add_special_tokens)
            except (OSError, asyncio.IncompleteReadError) as error:
                self.close()
                message = "the process that tokenises long texts ended"
                raise RequestError(500, message, type="server_error", source="engine") from error
            except BaseException:  # an answer that nobody read would be taken for the next one's
                self.close()
                raise
            self._end = asyncio.get_running_loop().call_later(self._idle_s, self.close)
            return ids

    def close(self) -> None:
        """End it; the next text starts another."""
        process, self._process = self._process, None
        if process is not None and process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()

    async def _ask(self, data: bytes, add_special_tokens: bool) -> list[int]:
        if self._process is None or self._process.returncode is not None:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", __spec__.name, str(self._folder), stdin=PIPE, stdout=PIPE
            )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(_QUESTION.pack(len(data), add_special_tokens))
        self._process.stdin.write(data)
        await self._process.stdin.drain()
        (count,) = _ANSWER.unpack(await self._process.stdout.readexactly(_ANSWER.size))
        return array.array("i", await self._process.stdout.readexactly(4 * count)).tolist()


def main(folder: Path) -> None:
    """The process: answer until the standard input ends."""
    from ironloom.serve.engines.programs.openvino_start import hide_telemetry

    hide_telemetry()
    from ironloom.serve.engines.programs.openvino_tokens import Tokens
    from ironloom.serve.engines.programs.openvino_untruncated import load_tokenizer

    os.nice(5)  # the streams come first
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints must not get between the answers
    tokens = Tokens(load_tokenizer(folder))
    while question := sys.stdin.buffer.read(_QUESTION.size):
        length, special = _QUESTION.unpack(question)
        ids = tokens.encode(sys.stdin.buffer.read(length).decode(), add_special_tokens=bool(special))
        answers.write(_ANSWER.pack(len(ids)) + array.array("i", ids).tobytes())
        answers.flush()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
