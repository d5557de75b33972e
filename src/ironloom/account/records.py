"""The records of the event log, and how a batch of them becomes rows.

A record is a tuple that begins with its kind and a sequence number, the same in the journal, in memory and as the
parameters of a statement: the statements number what they take of it. SQLite's module gives up the interpreter at each
step of a statement, and takes it back from a busy event loop, so requests are inserted many rows a step.
"""

from __future__ import annotations

import sqlite3
from itertools import chain
from typing import Any

from ironloom.account.journal import Position

Record = tuple[Any, ...]

BEGIN, END, EVENT, PROGRESS = 1, 2, 3, 4
"""Kinds of records:

    (BEGIN, seq, wall, monotonic, request id, service, key id, path, stream)
    (END, seq, monotonic, outcome, status, replica, prompt tokens, completion tokens, ttft, held, retries)
    (EVENT, seq, wall, monotonic, kind, service, replica, reason, message, devices, data)
    (PROGRESS, seq, status, replica, prompt tokens, completion tokens, ttft, monotonic, held, retries)
"""

_LEN_BEGIN, _LEN_END = 9, 11
_ROWS_A_STEP = (64, 8, 1)


def _insert_whole(num_rows: int) -> str:
    """The statement that inserts requests of which both ends are known: its parameters are begin and end in turns, and
    at last the boot's id."""
    boot = num_rows * (_LEN_BEGIN + _LEN_END) + 1
    rows = []
    for at in range(0, boot - 1, _LEN_BEGIN + _LEN_END):
        begin, end = at, at + _LEN_BEGIN
        of_begin = ",".join(f"?{begin + n}" for n in (2, 5, 6, 7, 8, 9, 3, 4))
        of_end = ",".join(f"?{end + n}" for n in (4, 5, 6, 7, 8, 9))
        rows.append(f"({of_begin},?{boot},{of_end},?{end + 3}-?{begin + 4},?{end + 10},?{end + 11})")
    return (
        "INSERT INTO requests (seq, request_id, service, key_id, path, stream, wall_time_s, monotonic_s, boot_id,"
        " outcome, status, replica, prompt_tokens, completion_tokens, ttft_s, duration_s, held_s, num_retries) VALUES "
        + ",".join(rows)
    )


_INSERT_WHOLE = [(num_rows, _insert_whole(num_rows)) for num_rows in _ROWS_A_STEP]
_INSERT_OPEN = (
    "INSERT INTO requests (seq, wall_time_s, monotonic_s, request_id, service, key_id, path, stream, boot_id)"
    " VALUES (?2,?3,?4,?5,?6,?7,?8,?9,?10)"
)
_CLOSE = (
    "UPDATE requests SET outcome=?4, status=?5, replica=?6, prompt_tokens=?7, completion_tokens=?8, ttft_s=?9,"
    " duration_s = ?3 - monotonic_s, held_s=?10, num_retries=?11 WHERE seq=?2 AND outcome IS NULL"
)
_NOTE_PROGRESS = (
    "UPDATE requests SET status=?3, replica=?4, prompt_tokens=?5, completion_tokens=?6, ttft_s=?7,"
    " duration_s = ?8 - monotonic_s, held_s=?9, num_retries=?10 WHERE seq=?2 AND outcome IS NULL"
)
_INSERT_EVENT = (
    "INSERT INTO events"
    " (seq, wall_time_s, monotonic_s, kind, service, replica, reason, message, devices, data, boot_id)"
    " VALUES (?2,?3,?4,?5,?6,?7,?8,?9,?10,?11,?12)"
)


class Batch:
    """Records that are to be imported together."""

    __slots__ = ("begun", "closed", "events", "progress", "whole")

    def __init__(self) -> None:
        self.whole: list[Record] = []
        """Of requests that begin and end in the batch: the two records of each, one behind the other."""
        self.begun: dict[int, Record] = {}
        """Of requests that are open at its end, by number."""
        self.closed: list[Record] = []
        """Ends of requests whose beginning an earlier batch has."""
        self.progress: dict[int, Record] = {}
        """The last of each request, by number."""
        self.events: list[Record] = []

    def __len__(self) -> int:
        """Records in it."""
        return len(self.whole) + len(self.begun) + len(self.closed) + len(self.progress) + len(self.events)

    def add(self, record: Record) -> None:
        """Add a record, as the journal has it."""
        kind, seq = record[0], record[1]
        if kind == BEGIN:
            self.begun[seq] = record
        elif kind == END:
            begin = self.begun.pop(seq, None)
            if begin is None:
                self.closed.append(record)
            else:
                self.whole += (begin, record)
        elif kind == PROGRESS:
            self.progress[seq] = record
        else:
            self.events.append(record)

    def followed_by(self, later: Batch) -> Batch:
        """Both as one, this one's records being the older."""
        both = Batch()
        both.whole = self.whole + later.whole
        both.begun = self.begun | later.begun
        both.closed = self.closed + later.closed
        both.progress = self.progress | later.progress
        both.events = self.events + later.events
        return both

    def keep_newest(self, max_records: int) -> int:
        """Drop the oldest ends and events beyond a number of each; returns how many records were dropped."""
        num_dropped = 0
        for records in (self.whole, self.closed, self.events):
            num_surplus = max(0, len(records) - max_records)
            num_surplus += num_surplus % 2 if records is self.whole else 0
            del records[:num_surplus]
            num_dropped += num_surplus
        return num_dropped

    def write(self, connection: sqlite3.Connection, position: Position, boot: str) -> None:
        """Make rows of it, and note that the journal is imported up to `position`. `boot` is the boot of its times."""
        at = 0
        for num_rows, statement in _INSERT_WHOLE:
            step = 2 * num_rows
            while at + step <= len(self.whole):
                connection.execute(statement, (*chain.from_iterable(self.whole[at : at + step]), boot))
                at += step
        connection.executemany(_INSERT_OPEN, [(*record, boot) for record in self.begun.values()])
        connection.executemany(_CLOSE, self.closed)
        connection.executemany(_NOTE_PROGRESS, self.progress.values())
        connection.executemany(_INSERT_EVENT, [(*record, boot) for record in self.events])
        connection.execute(
            "INSERT OR REPLACE INTO meta VALUES ('journal', ?)", (f"{position.segment}:{position.offset}",)
        )
