"""The lines of a batch file: read, checked, and told by line what is wrong. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import msgspec

ENDPOINTS = ("/v1/chat/completions", "/v1/completions", "/v1/embeddings")
"""What the requests of a batch may ask for."""
MAX_ROWS = 50_000
"""OpenAI's own bound on a batch."""
MAX_ERRORS = 100
"""Errors told of one file; the rest would say the same."""
MAX_CUSTOM_ID_CHARS = 512


class _Line(msgspec.Struct, frozen=True):
    custom_id: str
    method: str
    url: str
    body: msgspec.Raw


class _Body(msgspec.Struct, frozen=True):
    model: str
    stream: bool | None = None


_decode_line = msgspec.json.Decoder(_Line).decode
_decode_body = msgspec.json.Decoder(_Body).decode


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One request of a batch."""

    line: int
    """From 1, as an editor counts."""
    custom_id: str
    service: str
    body: bytes


class LineError(msgspec.Struct, frozen=True, kw_only=True):
    """What is wrong with a line, as OpenAI's BatchError says it."""

    code: str
    message: str
    line: int | None = None
    param: str | None = None


def lines_of(parts: Iterable[bytes]) -> Iterator[bytes]:
    """The lines of a file that comes in parts, without their ends."""
    rest = b""
    for part in parts:
        *lines, rest = (rest + part).split(b"\n")
        yield from lines
    if rest:
        yield rest


def read_rows(lines: Iterable[bytes], endpoint: str) -> tuple[list[Row], list[LineError]]:
    """The requests of a file's lines, and what is wrong with them; a file with an error is not run at all.

    Blank lines are passed over. Whether its services are there is asked apart: see `service_errors`.
    """
    rows: list[Row] = []
    errors: list[LineError] = []
    first_line_of: dict[str, int] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        if len(errors) >= MAX_ERRORS:
            break
        if len(rows) == MAX_ROWS:
            errors.append(
                LineError(code="too_many_requests", message=f"a batch has at most {MAX_ROWS} requests", line=number)
            )
            break
        row = _read(number, line, endpoint)
        if isinstance(row, LineError):
            errors.append(row)
        elif (first := first_line_of.setdefault(row.custom_id, number)) != number:
            message = f"custom_id {row.custom_id[:100]!r} stands on line {first} already"
            errors.append(LineError(code="duplicate_custom_id", message=message, line=number, param="custom_id"))
        else:
            rows.append(row)
    if not rows and not errors:
        errors.append(LineError(code="empty_file", message="the input file has no requests"))
    return rows, errors


def service_errors(rows: list[Row], why_not: Callable[[str], str | None]) -> list[LineError]:
    """The rows whose service this batch may not use. `why_not` says why not, None when it may; asked once a service."""
    reasons = {service: why_not(service) for service in {row.service for row in rows}}
    return [
        LineError(code="model_not_found", message=reason, line=row.line, param="body.model")
        for row in rows
        if (reason := reasons[row.service]) is not None
    ][:MAX_ERRORS]


def _read(number: int, line: bytes, endpoint: str) -> Row | LineError:
    try:
        parsed = _decode_line(line)
        body = _decode_body(parsed.body)
        text = bytes(parsed.body)
        text.decode()
    except msgspec.ValidationError as error:
        return LineError(code="invalid_request", message=f"the line is not a batch request: {error}", line=number)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        return LineError(code="invalid_json_line", message=f"the line is not valid JSON: {error}", line=number)
    if not 1 <= len(parsed.custom_id) <= MAX_CUSTOM_ID_CHARS:
        message = f"custom_id has {len(parsed.custom_id)} characters; it must have 1 to {MAX_CUSTOM_ID_CHARS}"
        return LineError(code="invalid_custom_id", message=message, line=number, param="custom_id")
    if parsed.method != "POST":
        message = f"method is {parsed.method[:40]!r}; it must be POST"
        return LineError(code="invalid_method", message=message, line=number, param="method")
    if parsed.url != endpoint:
        message = f"url is {parsed.url[:100]!r}; it must be the batch's endpoint, {endpoint}"
        return LineError(code="mismatched_endpoint", message=message, line=number, param="url")
    if body.stream:
        message = "stream is true; a batch's answers are written whole"
        return LineError(code="invalid_value", message=message, line=number, param="body.stream")
    return Row(line=number, custom_id=parsed.custom_id, service=body.model, body=text)
