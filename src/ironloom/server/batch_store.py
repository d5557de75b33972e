"""Batches and their rows in SQLite: each function is one step that happens whole or not at all.

A row is written with its answer and its tokens in one transaction, and only if it had none: however often a row was
sent (a kill between the engine's answer and this write sends it again), one answer stands and is billed once.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import msgspec

from ironloom.server.batch_rows import LineError, Row
from ironloom.server.files import Page, find_file, insert_file, new_file, page_of

FINAL_STATUSES = frozenset({"completed", "failed", "expired", "cancelled"})
_COLUMNS = (
    "id, endpoint, input_file_id, output_file_id, error_file_id, status, key_id, metadata, times, errors, expires_s,"
    " completion_window, output_expires_after_s, created_s"
)
_encode = msgspec.json.Encoder().encode


@dataclass(frozen=True, kw_only=True, slots=True)
class Counts:
    """How far a batch's rows are, and what they cost."""

    total: int = 0
    completed: int = 0
    failed: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Batch:
    """One batch, without its rows."""

    id: str
    endpoint: str
    input_file_id: str
    status: str
    key_id: str
    created_s: float
    expires_s: float
    completion_window: str = "24h"
    output_file_id: str | None = None
    error_file_id: str | None = None
    output_expires_after_s: float | None = None
    metadata: dict[str, str] = field(default_factory=dict)
    times: dict[str, int] = field(default_factory=dict)
    """in_progress_at, finalizing_at, … in whole seconds since the epoch."""
    errors: list[dict[str, Any]] = field(default_factory=list)

    def view(self, counts: Counts) -> dict[str, Any]:
        """As OpenAI's Batch object."""
        moments = ("in_progress", "finalizing", "completed", "failed", "expired", "cancelling", "cancelled")
        return {
            "id": self.id,
            "object": "batch",
            "endpoint": self.endpoint,
            "errors": {"object": "list", "data": self.errors} if self.errors else None,
            "input_file_id": self.input_file_id,
            "completion_window": self.completion_window,
            "status": self.status,
            "output_file_id": self.output_file_id,
            "error_file_id": self.error_file_id,
            "created_at": int(self.created_s),
            "expires_at": int(self.expires_s),
            **{f"{moment}_at": self.times.get(f"{moment}_at") for moment in moments},
            "request_counts": {"total": counts.total, "completed": counts.completed, "failed": counts.failed},
            "usage": {
                "input_tokens": counts.prompt_tokens,
                "output_tokens": counts.completion_tokens,
                "total_tokens": counts.prompt_tokens + counts.completion_tokens,
                "input_tokens_details": {"cached_tokens": 0},
                "output_tokens_details": {"reasoning_tokens": 0},
            },
            "metadata": self.metadata or None,
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class PendingRow:
    """A row that has no answer yet."""

    line: int
    service: str
    body: bytes


@dataclass(frozen=True, kw_only=True, slots=True)
class RowResult:
    """A row's end: an HTTP answer, or an error of ours."""

    status: int
    """HTTP status of the answer; 0 when there was none."""
    response: bytes | None = None
    """The answer's body, JSON."""
    error: dict[str, str] | None = None
    """{code, message} when there was no answer."""
    prompt_tokens: int = 0
    completion_tokens: int = 0


def insert_batch(connection: sqlite3.Connection, batch: Batch) -> None:
    """A new batch, not yet validated."""
    connection.execute(
        f"INSERT INTO batches ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            batch.id,
            batch.endpoint,
            batch.input_file_id,
            None,
            None,
            batch.status,
            batch.key_id,
            json.dumps(batch.metadata),
            json.dumps(batch.times),
            None,
            batch.expires_s,
            batch.completion_window,
            batch.output_expires_after_s,
            batch.created_s,
        ),
    )


def find_batch(connection: sqlite3.Connection, batch_id: str) -> Batch | None:
    """One batch."""
    row = connection.execute(f"SELECT {_COLUMNS} FROM batches WHERE id = ?", (batch_id,)).fetchone()
    return None if row is None else _batch(row)


def list_batches(connection: sqlite3.Connection, page: Page, owner: str | None) -> list[tuple[Batch, Counts]]:
    """A page of batches with their counts, newest first; one more than asked for if there are more."""
    found = [_batch(row) for row in page_of(connection, "batches", _COLUMNS, page, [], [], {"key_id": owner})]
    return [(batch, count_rows(connection, batch.id)) for batch in found]


def unfinished(connection: sqlite3.Connection) -> list[str]:
    """Batches that have still something to do, oldest first."""
    marks = ", ".join("?" * len(FINAL_STATUSES))
    rows = connection.execute(
        f"SELECT id FROM batches WHERE status NOT IN ({marks}) ORDER BY created_s, id", sorted(FINAL_STATUSES)
    )
    return [row[0] for row in rows]


def count_rows(connection: sqlite3.Connection, batch_id: str) -> Counts:
    """How far a batch is. Completed rows have a 2xx answer."""
    total, completed, answered, prompt, completion = connection.execute(
        "SELECT COUNT(*), COALESCE(SUM(status BETWEEN 200 AND 299), 0), COUNT(status),"
        " COALESCE(SUM(prompt_tokens), 0), COALESCE(SUM(completion_tokens), 0)"
        " FROM batch_rows WHERE batch_id = ?",
        (batch_id,),
    ).fetchone()
    return Counts(
        total=total,
        completed=completed,
        failed=answered - completed,
        prompt_tokens=prompt,
        completion_tokens=completion,
    )


def set_status(connection: sqlite3.Connection, batch_id: str, status: str, now_s: float) -> None:
    """Move a batch on, and note when."""
    row = connection.execute("SELECT times FROM batches WHERE id = ?", (batch_id,)).fetchone()
    times = json.loads(row[0]) | {f"{status}_at": int(now_s)}
    connection.execute("UPDATE batches SET status = ?, times = ? WHERE id = ?", (status, json.dumps(times), batch_id))


def start_cancelling(connection: sqlite3.Connection, batch_id: str, now_s: float) -> None:
    """Ask a batch to end, if it has not begun to."""
    batch = find_batch(connection, batch_id)
    if batch is not None and batch.status in {"validating", "in_progress"}:
        set_status(connection, batch_id, "cancelling", now_s)


def input_parts(connection: sqlite3.Connection, batch: Batch, now_s: float) -> Iterator[bytes] | None:
    """The input file's bytes, part by part; None when it is gone."""
    if find_file(connection, batch.input_file_id, now_s) is None:
        return None
    rows = connection.execute("SELECT data FROM file_parts WHERE file_id = ? ORDER BY part", (batch.input_file_id,))
    return (bytes(row[0]) for row in rows)


def accept(connection: sqlite3.Connection, batch_id: str, rows: Iterable[Row], now_s: float) -> bool:
    """Validated: its rows are written and it is in progress. False when it was cancelled meanwhile."""
    batch = find_batch(connection, batch_id)
    if batch is None or batch.status != "validating":
        return False
    connection.executemany(
        "INSERT INTO batch_rows (batch_id, line, custom_id, request, service) VALUES (?, ?, ?, ?, ?)",
        ((batch_id, row.line, row.custom_id, row.body.decode(), row.service) for row in rows),
    )
    set_status(connection, batch_id, "in_progress", now_s)
    return True


def reject(connection: sqlite3.Connection, batch_id: str, errors: list[LineError], now_s: float) -> None:
    """Its file is wrong: nothing of it runs."""
    set_status(connection, batch_id, "failed", now_s)
    text = _encode(errors).decode()
    connection.execute("UPDATE batches SET errors = ? WHERE id = ?", (text, batch_id))


def pending_rows(connection: sqlite3.Connection, batch_id: str, after_line: int, limit: int) -> list[PendingRow]:
    """The next rows without an answer."""
    rows = connection.execute(
        "SELECT line, service, request FROM batch_rows WHERE batch_id = ? AND line > ? AND status IS NULL"
        " ORDER BY line LIMIT ?",
        (batch_id, after_line, limit),
    )
    return [PendingRow(line=line, service=service, body=body.encode()) for line, service, body in rows]


def write_result(connection: sqlite3.Connection, batch_id: str, line: int, result: RowResult) -> bool:
    """A row's answer and what it cost. False when it had one already: then nothing changes."""
    cursor = connection.execute(
        "UPDATE batch_rows SET status = ?, response = ?, error = ?, prompt_tokens = ?, completion_tokens = ?"
        " WHERE batch_id = ? AND line = ? AND status IS NULL",
        (
            result.status,
            None if result.response is None else result.response.decode(),
            None if result.error is None else json.dumps(result.error),
            result.prompt_tokens,
            result.completion_tokens,
            batch_id,
            line,
        ),
    )
    return cursor.rowcount == 1


def finish(connection: sqlite3.Connection, batch_id: str, status: str, now_s: float) -> Batch:
    """The end of a batch: its rows become the output file and the error file, and lose their texts; their counts and
    tokens stay. Rows without an answer are told as expired or cancelled in the error file."""
    set_status(connection, batch_id, "finalizing", now_s)
    unanswered = {
        "expired": {"code": "batch_expired", "message": "the batch expired before this request was run"},
        "cancelled": {"code": "batch_cancelled", "message": "the batch was cancelled before this request was run"},
    }.get(status)
    if unanswered is not None:
        connection.execute(
            "UPDATE batch_rows SET status = 0, error = ? WHERE batch_id = ? AND status IS NULL",
            (json.dumps(unanswered), batch_id),
        )
    batch = find_batch(connection, batch_id)
    assert batch is not None
    output_file_id = _write_file(connection, batch, "output", "status BETWEEN 200 AND 299", now_s)
    error_file_id = _write_file(connection, batch, "error", "status NOT BETWEEN 200 AND 299", now_s)
    connection.execute(
        "UPDATE batches SET output_file_id = ?, error_file_id = ? WHERE id = ?",
        (output_file_id, error_file_id, batch_id),
    )
    connection.execute("UPDATE batch_rows SET request = '', response = NULL WHERE batch_id = ?", (batch_id,))
    set_status(connection, batch_id, status, now_s)
    finished = find_batch(connection, batch_id)
    assert finished is not None
    return finished


def request_id(batch_id: str, line: int) -> str:
    """The request id of a row: the same each time it is sent, so that a ledger can count it once."""
    return f"{batch_id}-{line}"


def _write_file(connection: sqlite3.Connection, batch: Batch, name: str, condition: str, now_s: float) -> str | None:
    rows = connection.execute(
        "SELECT line, custom_id, status, response, error FROM batch_rows"
        f" WHERE batch_id = ? AND {condition} ORDER BY line",
        (batch.id,),
    )
    first = rows.fetchone()
    if first is None:
        return None

    def lines() -> Iterator[bytes]:
        yield _output_line(batch.id, first)
        for row in rows:
            yield _output_line(batch.id, row)

    file = new_file(
        f"{batch.id}_{name}.jsonl",
        "batch_output",
        now_s=now_s,
        key_id=batch.key_id,
        expires_after_s=batch.output_expires_after_s,
    )
    return insert_file(connection, file, lines()).id


def _output_line(batch_id: str, row: sqlite3.Row) -> bytes:
    line, custom_id, status, response, error = row
    answer = None
    if response is not None:
        answer = {
            "status_code": status,
            "request_id": request_id(batch_id, line),
            "body": msgspec.Raw(response.encode()),
        }
    told = {
        "id": f"batch_req_{batch_id.removeprefix('batch_')}_{line}",
        "custom_id": custom_id,
        "response": answer,
        "error": None if error is None else json.loads(error),
    }
    return _encode(told) + b"\n"


def _batch(row: sqlite3.Row) -> Batch:
    values = dict(row)
    values["metadata"] = json.loads(values["metadata"])
    values["times"] = json.loads(values["times"])
    values["errors"] = json.loads(values["errors"]) if values["errors"] else []
    return Batch(**values)
