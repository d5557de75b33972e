"""Taking up what an earlier daemon left: adopt.py decides, here it is done."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from ironloom.account.events import Event, EventKind
from ironloom.backends.local import procfs
from ironloom.backends.local.adopt import Found, Verdict, find_state, is_stray, judge
from ironloom.backends.local.ground import Ground
from ironloom.backends.local.process import ReplicaOwner
from ironloom.backends.local.spawn import adopt as adopt_process
from ironloom.backends.local.store import Row
from ironloom.serve.replica import Replica
from ironloom.serve.replica import ReplicaState as State

REASON = "taken up from an earlier daemon"


async def take_up(ground: Ground, adopt: Callable[[ReplicaOwner], None]) -> None:
    """Kill strays, end what is of no use, and give each replica that lives to `adopt`."""
    rows = await ground.store.rows()
    declared = await ground.store.service_names()
    known = frozenset(row.id for row in rows)
    # Launchers are among the strays, and go first: one that is still there could fork what an order in its socket says.
    marked = await asyncio.to_thread(lambda: list(procfs.ours(ground.state_id)))
    for mark in sorted({mark for _, mark in marked if is_stray(mark, known)}):
        await asyncio.to_thread(procfs.kill_all_ours, ground.state_id, mark)
    await asyncio.gather(*(_take_up_one(ground, row, row.service in declared, adopt) for row in rows))


async def _take_up_one(ground: Ground, row: Row, is_declared: bool, adopt: Callable[[ReplicaOwner], None]) -> None:
    found = Found(identity=None, marks=None)
    if row.pid is not None:
        found = Found(identity=procfs.identity(row.pid), marks=procfs.marks(row.pid))
    verdict, why = judge(row, found, boot_id=ground.boot_id, state_id=ground.state_id, is_declared=is_declared)
    if verdict is Verdict.ADOPT and row.pid is not None:
        state = await find_state(row)
        if state is not None:
            adopt(_owner(ground, row, row.pid, state))
            return
        why = "its engine does not answer"
    # Its children too, which may have outlived it.
    await asyncio.to_thread(procfs.kill_all_ours, ground.state_id, row.id)
    was_ending = row.state == State.STOPPING or not is_declared
    facts: dict[str, object] = {"engine": row.engine, "generation": row.generation}
    if row.pid is not None:
        facts["pid"] = row.pid
    ground.log.event(
        Event(
            kind=EventKind.REPLICA_STOPPED if was_ending else EventKind.REPLICA_FAILED,
            service=row.service,
            replica=row.id,
            reason="NotAdopted",
            message=f"not taken up: {why}",
            data=facts,
        )
    )
    await ground.store.remove(row.id)


def _owner(ground: Ground, row: Row, pid: int, state: State) -> ReplicaOwner:
    devices = () if state is State.PARKED else row.devices
    if not devices and state is not State.PARKED:  # the row was written while it was parked
        gpus = (row.launch or {}).get("gpu_indexes", ())
        devices = tuple(f"gpu:{index}" for index in gpus) or ("cpu",)
    replica = Replica(
        id=row.id,
        service=row.service,
        state=state,
        generation=row.generation,
        engine=row.engine,
        port=row.port,
        pid=pid,
        devices=devices,
        since_s=row.changed_s if state == row.state else ground.wall_s(),
        reason=REASON,
        max_concurrency=int((row.launch or {}).get("max_concurrency", 0)),
    )
    ground.log.event(
        Event(
            kind=EventKind.REPLICA_ADOPTED,
            service=row.service,
            replica=row.id,
            reason="Adopted",
            message=f"{state.value}, {REASON}",
            devices=devices,
            data={"engine": row.engine, "generation": row.generation, "pid": pid, "state": state.value},
        )
    )
    return ReplicaOwner.adopted(ground, replica, row, adopt_process(pid))
