"""An OpenAI batch file, checked row by row before it is sent, and made ready for one service.

Each row is `{"custom_id": …, "method": "POST", "url": "/v1/…", "body": {…}}`.
Source: https://platform.openai.com/docs/api-reference/batch/request-input
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from ironloom.errors import UsageError
from ironloom.server.batch_rows import ENDPOINTS

IN_MEMORY_BYTES = 8 << 20
_ROW = 'a row is one line: {"custom_id": "1", "method": "POST", "url": "/v1/chat/completions", "body": {…}}.'


@dataclass(frozen=True, slots=True)
class BatchFile:
    """A batch file that is ready to be sent. `content` stands at its start."""

    content: IO[bytes]
    size_bytes: int
    num_rows: int
    endpoint: str
    num_renamed: int
    """Rows that named another model, and are sent to the service all the same."""


def prepare(path: Path, model: str) -> BatchFile:
    """Read a batch file, with `model` put into each row. Raises UsageError, with the line, for a row that is none."""
    content: IO[bytes] = tempfile.SpooledTemporaryFile(max_size=IN_MEMORY_BYTES)  # noqa: SIM115 (handed on, open)
    seen: dict[str, int] = {}
    endpoint, num_renamed = "", 0
    try:
        with path.open("rb") as stream:
            for number, line in enumerate(stream, 1):
                if not line.strip():
                    continue
                row = _row(path, number, line)
                if first := seen.get(row["custom_id"]):
                    raise UsageError(
                        f"{path}:{number}: custom_id {row['custom_id']!r} stands in line {first} already.",
                        hint="each row's custom_id is its own: the answers carry it.",
                    )
                if endpoint and row["url"] != endpoint:
                    raise UsageError(
                        f"{path}:{number}: url is {row['url']!r}, and the rows before have {endpoint!r}.",
                        hint="a batch has one endpoint; split the file.",
                    )
                seen[row["custom_id"]], endpoint = number, row["url"]
                num_renamed += row["body"].get("model") not in (None, "", model)
                row["body"]["model"] = model
                content.write(json.dumps(row, ensure_ascii=False).encode() + b"\n")
        if not seen:
            raise UsageError(f"{path} has no rows.", hint=_ROW)
    except BaseException as error:
        content.close()
        if isinstance(error, OSError):
            raise UsageError(f"{path} cannot be read: {error.strerror}.") from error
        raise
    size = content.tell()
    content.seek(0)
    return BatchFile(content, size, len(seen), endpoint, num_renamed)


def _row(path: Path, number: int, line: bytes) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise UsageError(f"{path}:{number}: this line is not JSON: {error}.", hint=_ROW) from error
    if not isinstance(row, dict) or not isinstance(row.get("body"), dict):
        raise UsageError(f'{path}:{number}: this row has no "body" that is an object.', hint=_ROW)
    if not isinstance(row.get("custom_id"), str) or not row["custom_id"]:
        raise UsageError(
            f'{path}:{number}: "custom_id" is {row.get("custom_id")!r}, and must be a text that is not empty.',
            hint=_ROW,
        )
    if row.get("method", "POST") != "POST":
        raise UsageError(f'{path}:{number}: "method" is {row["method"]!r}, and must be "POST".')
    if row.get("url") not in ENDPOINTS:
        raise UsageError(f'{path}:{number}: "url" is {row.get("url")!r}, and must be one of {", ".join(ENDPOINTS)}.')
    return row


def multipart(batch: BatchFile, name: str, boundary: str) -> tuple[Iterator[bytes], dict[str, str]]:
    """The body and the headers of POST /v1/files, read piece by piece."""
    head = (
        f'--{boundary}\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nbatch\r\n'
        f'--{boundary}\r\nContent-Disposition: form-data; name="file"; filename="{_quoted(name)}"\r\n'
        "Content-Type: application/jsonl\r\n\r\n"
    ).encode()
    tail = f"\r\n--{boundary}--\r\n".encode()

    def body() -> Iterator[bytes]:
        yield head
        while chunk := batch.content.read(1 << 16):
            yield chunk
        yield tail

    size = len(head) + batch.size_bytes + len(tail)
    return body(), {"Content-Type": f"multipart/form-data; boundary={boundary}", "Content-Length": str(size)}


def _quoted(name: str) -> str:
    """A file name inside a header, as browsers write it."""
    return name.replace('"', "%22").replace("\r", "%0D").replace("\n", "%0A")
