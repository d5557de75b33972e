"""What to do with the replicas that an earlier daemon left. Pure, but for asking an engine how it is.

A daemon that was killed left rows (each written before its process started), processes with our marks, and perhaps
launchers. A row whose process is surely that one is adopted, if its engine answers; everything else of ours is killed.
Nothing that does not carry this state folder's marks is ever touched.
"""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from enum import Enum

from ironloom.backends.local.launcher_program import LAUNCHER_MARK
from ironloom.backends.local.probe import ask
from ironloom.backends.local.procfs import Identity
from ironloom.backends.local.store import Row
from ironloom.serve.replica import ReplicaState as State

RUN_MARK = "run/"
"""What the marks of all ranks of training runs begin with: a replica's never has a slash."""
ANSWER_S = 15.0
"""An engine that computes on every core may take seconds to say that it is there."""


class Verdict(Enum):
    ADOPT = "adopt"
    KILL = "kill"
    """Ours, and of no use."""
    GONE = "gone"
    """Not there any more (or not ours)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Found:
    """What is known of the process that a row names."""

    identity: Identity | None
    """None when no process has that pid."""
    marks: tuple[str, str] | None
    """(replica id, state id) that it carries."""


def judge(row: Row, found: Found, *, boot_id: str, state_id: str, is_declared: bool) -> tuple[Verdict, str]:
    """What to do with a row's process, and why. `is_declared`: its service still is."""
    if row.boot_id != boot_id:
        return Verdict.GONE, "the machine was started anew since"
    if row.pid is None:
        return Verdict.KILL, "it had no pid yet"
    if found.identity is None:
        return Verdict.GONE, f"process {row.pid} ended while no daemon ran"
    if found.identity.started_ticks != row.process_started or found.marks != (row.id, state_id):
        return Verdict.GONE, f"pid {row.pid} belongs to another process now"
    if not is_declared:
        return Verdict.KILL, "its service was deleted"
    if row.state == State.STOPPING:
        return Verdict.KILL, "it was being stopped"
    return Verdict.ADOPT, ""


def is_stray(replica: str, known: frozenset[str]) -> bool:
    """Whether a process with this mark belongs to no row: a launcher that is left, or a child of a gone replica. Ranks
    of training runs have their own rows."""
    if replica.startswith(RUN_MARK):
        return False
    return replica.startswith(LAUNCHER_MARK + ".") or replica not in known


async def find_state(row: Row) -> State | None:
    """The state that an adopted replica is really in, asked from its engine; None when it gives no answer.

    A start goes on as a start. For the rest the engine is believed, not the row: it may have parked or woken after
    the row was written.
    """
    if row.state == State.STARTING:
        return State.STARTING
    try:
        async with asyncio.timeout(ANSWER_S):
            if row.state in (State.PARKING, State.PARKED, State.WAKING):
                status, body = await ask(row.port, "GET", "/is_sleeping", timeout_s=ANSWER_S)
                if status == 200 and json.loads(body).get("is_sleeping"):
                    return State.PARKED
            status, _ = await ask(row.port, "GET", "/health", timeout_s=ANSWER_S)
    except (OSError, ValueError, AttributeError):
        return None
    return State.READY if status == 200 else None
