"""Who holds which devices, and who waits for some. The one owner of that state; devices.py decides."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

from ironloom.backends.local.devices import Granted, Hold, Inventory, Need, Queued, Refused, allocate, capacity
from ironloom.errors import CapacityError

LOOK_AGAIN_S = 1.0
"""Memory is also given back by other programs, and nothing tells us: while someone waits we look this often."""


@dataclass(slots=True)
class _Grant:
    need: Need
    gpu_indexes: tuple[int, ...]
    taken_bytes: Callable[[], int] | None = None
    """How much of the memory it has taken by now; None before it has a process."""
    settled: bool = False

    def hold(self, replica: str) -> Hold:
        pending_bytes = 0
        if not self.settled:
            pending_bytes = max(0, self.need.memory_bytes - (self.taken_bytes() if self.taken_bytes else 0))
        return Hold(replica=replica, gpu_indexes=self.gpu_indexes, pending_bytes=pending_bytes)


@dataclass(slots=True)
class _Waiter:
    replica: str
    need: Need
    on_queued: Callable[[str], None]
    granted: asyncio.Future[tuple[int, ...]] = field(default_factory=lambda: asyncio.get_running_loop().create_future())


class Holdings:
    """Grants in the order of asking; a later one that fits may overtake one that does not fit yet."""

    def __init__(self, inventory: Callable[[], Inventory], available_bytes: Callable[[], int]) -> None:
        self._inventory = inventory
        self._available_bytes = available_bytes
        self._grants: dict[str, _Grant] = {}
        self._waiters: list[_Waiter] = []
        self._timer: asyncio.TimerHandle | None = None

    async def acquire(self, replica: str, need: Need, on_queued: Callable[[str], None]) -> tuple[int, ...]:
        """Wait until `need` can be granted; the GPU indexes granted. `on_queued` hears why it waits, with numbers.

        Raises CapacityError when it can never fit. Cancelling takes it out of the queue.
        """
        assert replica not in self._grants, f"{replica} holds devices already"
        waiter = _Waiter(replica, need, on_queued)
        self._waiters.append(waiter)
        self._serve()
        try:
            return await waiter.granted
        except asyncio.CancelledError:
            if waiter in self._waiters:
                self._waiters.remove(waiter)
            else:
                self.release(replica)  # granted in the same moment
            raise

    def adopt(self, replica: str, need: Need, gpu_indexes: tuple[int, ...], *, settled: bool) -> None:
        """A replica found running holds these, whatever the numbers say."""
        self._grants[replica] = _Grant(need, gpu_indexes, settled=settled)

    def measure(self, replica: str, taken_bytes: Callable[[], int]) -> None:
        """From now on `taken_bytes` tells how much of its memory the replica has taken."""
        self._grants[replica].taken_bytes = taken_bytes

    def settle(self, replica: str) -> None:
        """It has taken what it needs: the machine's own numbers tell the rest."""
        if replica in self._grants:
            self._grants[replica].settled = True
            self._serve()

    def release(self, replica: str) -> None:
        """Give all of it back. Nothing held is fine."""
        if self._grants.pop(replica, None) is not None:
            self._serve()

    def capacity(self, need: Need, num_live: int) -> int | None:
        """How many replicas of this need fit at once, the `num_live` there are included; None is not known."""
        holds = self._holds()
        inventory = self._inventory()
        num_held = sum(len(hold.gpu_indexes) for hold in holds)
        return capacity(
            need,
            num_live=num_live,
            num_gpus_free=len(inventory.gpus) - num_held,
            available_bytes=self._available_bytes() - sum(hold.pending_bytes for hold in holds),
        )

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _holds(self) -> list[Hold]:
        return [grant.hold(replica) for replica, grant in self._grants.items()]

    def _serve(self) -> None:
        """Give to those who wait what there is."""
        self.close()
        inventory = self._inventory()
        still: list[_Waiter] = []
        for waiter in self._waiters:
            if waiter.granted.done():
                continue  # cancelled; its acquire tidies up
            match allocate(inventory, self._available_bytes(), self._holds(), waiter.need):
                case Granted(gpu_indexes=indexes):
                    self._grants[waiter.replica] = _Grant(waiter.need, indexes)
                    waiter.granted.set_result(indexes)
                case Refused(reason=reason):
                    waiter.granted.set_exception(CapacityError(f"{waiter.replica} {reason}"))
                case Queued(reason=reason):
                    waiter.on_queued(reason)
                    still.append(waiter)
        self._waiters = still
        if still:
            self._timer = asyncio.get_running_loop().call_later(LOOK_AGAIN_S, self._serve)
