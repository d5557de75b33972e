"""The allocator: what is granted, queued or refused, with which numbers."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from ironloom.backends.local.devices import (
    Decision,
    Granted,
    Hold,
    Inventory,
    Need,
    Queued,
    Refused,
    allocate,
    capacity,
    cpu_threads,
)
from ironloom.backends.local.holdings import Holdings
from ironloom.errors import CapacityError
from ironloom.fleet.node import Gpu, Node
from ironloom.units import GIB


def gpu(index: int, free_gib: int = 80) -> Gpu:
    return Gpu(index=index, uuid=f"GPU-{index}", name="Sim", memory_bytes=80 * GIB, free_memory_bytes=free_gib * GIB)


TWO = Inventory(gpus=(gpu(0), gpu(1)), memory_bytes=32 * GIB)
NONE = Inventory(memory_bytes=32 * GIB)

CASES: dict[str, tuple[Inventory, int, list[Hold], Need, Decision]] = {
    "the lowest free index is granted": (
        TWO,
        32,
        [Hold(replica="a", gpu_indexes=(0,))],
        Need(num_gpus=1),
        Granted(gpu_indexes=(1,)),
    ),
    "a GPU that another program fills comes last": (
        Inventory(gpus=(gpu(0, 10), gpu(1)), memory_bytes=GIB),
        1,
        [],
        Need(num_gpus=1),
        Granted(gpu_indexes=(1,)),
    ),
    "GPUs are granted whole or not at all": (
        TWO,
        32,
        [Hold(replica="chat-x", gpu_indexes=(1,))],
        Need(num_gpus=2),
        Queued(reason="needs 2 GPUs; 1 of 2 free (held: gpu:1 by chat-x)"),
    ),
    "more GPUs than there are can never be had": (
        TWO,
        32,
        [],
        Need(num_gpus=3),
        Refused(reason="needs 3 GPUs; this machine has 2"),
    ),
    "a parked process wants its own GPUs back": (
        TWO,
        32,
        [Hold(replica="b", gpu_indexes=(0,))],
        Need(num_gpus=1, gpu_indexes=(0,)),
        Queued(reason="needs gpu:0; 1 of 2 free (held: gpu:0 by b)"),
    ),
    "a GPU that is gone cannot be given back": (
        NONE,
        32,
        [],
        Need(num_gpus=1, gpu_indexes=(0,)),
        Refused(reason="needs gpu:0; this machine has 0"),
    ),
    "memory that is free now is granted": (NONE, 10, [], Need(memory_bytes=10 * GIB), Granted()),
    "memory that starting replicas will still take is not free": (
        NONE,
        10,
        [Hold(replica="a", pending_bytes=6 * GIB)],
        Need(memory_bytes=5 * GIB),
        Queued(
            reason="needs 5.0 GiB of memory; 4.0 GiB of 32.0 GiB free (6.0 GiB promised to replicas that are starting)"
        ),
    ),
    "more memory than the machine has is refused": (
        NONE,
        32,
        [],
        Need(memory_bytes=33 * GIB),
        Refused(reason="needs 33.0 GiB of memory; this machine has 32.0 GiB"),
    ),
    "a need that is not known is granted": (NONE, 0, [], Need(), Granted()),
}


@pytest.mark.parametrize(("inventory", "available_gib", "holds", "need", "expected"), CASES.values(), ids=CASES.keys())
def test_allocate(inventory: Inventory, available_gib: int, holds: list[Hold], need: Need, expected: Decision) -> None:
    assert allocate(inventory, available_gib * GIB, holds, need) == expected


def test_a_grant_says_the_same_whatever_the_order_of_the_gpus() -> None:
    gpus = (gpu(2, 40), gpu(0), gpu(1))
    for order in (gpus, gpus[::-1]):
        inventory = Inventory(gpus=order, memory_bytes=GIB)
        assert allocate(inventory, GIB, [], Need(num_gpus=2)) == Granted(gpu_indexes=(0, 1))


needs = st.builds(
    Need, num_gpus=st.integers(0, 5), memory_bytes=st.integers(0, 40).map(lambda gib: gib * GIB), gpu_indexes=st.none()
)


@given(st.integers(0, 4), st.integers(0, 32), st.lists(needs, max_size=12))
def test_grants_never_oversubscribe(num_gpus: int, available_gib: int, asked: list[Need]) -> None:
    inventory = Inventory(gpus=tuple(gpu(n) for n in range(num_gpus)), memory_bytes=32 * GIB)
    holds: list[Hold] = []
    for number, need in enumerate(asked):
        decision = allocate(inventory, available_gib * GIB, holds, need)
        if isinstance(decision, Granted):
            assert len(decision.gpu_indexes) == need.num_gpus
            holds.append(Hold(replica=str(number), gpu_indexes=decision.gpu_indexes, pending_bytes=need.memory_bytes))
        elif isinstance(decision, Refused):
            assert need.num_gpus > num_gpus or need.memory_bytes > 32 * GIB
    given_out = [index for hold in holds for index in hold.gpu_indexes]
    assert len(given_out) == len(set(given_out)) <= num_gpus
    assert sum(hold.pending_bytes for hold in holds if hold.pending_bytes) <= max(available_gib * GIB, 0)


@given(st.integers(0, 4), st.integers(0, 32), needs)
def test_what_fits_an_empty_machine_is_never_refused_and_what_does_not_always_is(
    num_gpus: int, available_gib: int, need: Need
) -> None:
    inventory = Inventory(gpus=tuple(gpu(n) for n in range(num_gpus)), memory_bytes=32 * GIB)
    fits = need.num_gpus <= num_gpus and need.memory_bytes <= 32 * GIB
    decision = allocate(inventory, available_gib * GIB, [], need)
    assert isinstance(decision, Refused) is not fits


def test_capacity_counts_those_that_are_there() -> None:
    need = Need(num_gpus=1, memory_bytes=4 * GIB)
    assert capacity(need, num_live=2, num_gpus_free=3, available_bytes=9 * GIB) == 4
    assert capacity(Need(), num_live=2, num_gpus_free=3, available_bytes=0) is None


@pytest.mark.parametrize(
    ("num_cpus", "num_physical", "num_replicas", "expected"),
    [(8, 4, 1, 4), (8, 4, 2, 2), (8, 4, 9, 1), (8, 0, 1, 8), (1, 1, 0, 1)],
    ids=["one gets all cores", "two share them", "never less than one", "hyperthreads if nothing is known", "alone"],
)
def test_threads_are_the_share_of_the_cores(num_cpus: int, num_physical: int, num_replicas: int, expected: int) -> None:
    node = Node(name="n", num_cpus=num_cpus, num_physical_cpus=num_physical, memory_bytes=1, available_memory_bytes=1)
    assert cpu_threads(node, num_replicas) == expected


# Who holds and who waits.


def holdings(num_gpus: int = 2, memory_gib: int = 32) -> Holdings:
    inventory = Inventory(gpus=tuple(gpu(n) for n in range(num_gpus)), memory_bytes=memory_gib * GIB)
    return Holdings(lambda: inventory, lambda: memory_gib * GIB)


def silent(reason: str) -> None:
    del reason


def test_one_that_waits_hears_why_and_gets_it_when_it_is_given_back() -> None:
    async def scenario() -> None:
        book, heard = holdings(num_gpus=1), list[str]()
        assert await book.acquire("a", Need(num_gpus=1), heard.append) == (0,)
        waiting = asyncio.create_task(book.acquire("b", Need(num_gpus=1), heard.append))
        await asyncio.sleep(0)
        assert heard == ["needs 1 GPU; 0 of 1 free (held: gpu:0 by a)"]
        book.release("a")
        assert await waiting == (0,)
        book.release("b")
        book.close()

    asyncio.run(scenario())


def test_a_cancelled_wait_holds_nothing_and_lets_the_next_pass() -> None:
    async def scenario() -> None:
        book = holdings(num_gpus=1)
        await book.acquire("a", Need(num_gpus=1), silent)
        second = asyncio.create_task(book.acquire("b", Need(num_gpus=1), silent))
        third = asyncio.create_task(book.acquire("c", Need(num_gpus=1), silent))
        await asyncio.sleep(0)
        second.cancel()
        book.release("a")
        assert await third == (0,)
        with pytest.raises(asyncio.CancelledError):
            await second
        book.close()

    asyncio.run(scenario())


def test_one_cancelled_in_the_moment_of_its_grant_gives_it_back() -> None:
    async def scenario() -> None:
        book = holdings(num_gpus=1)
        await book.acquire("a", Need(num_gpus=1), silent)
        second = asyncio.create_task(book.acquire("b", Need(num_gpus=1), silent))
        await asyncio.sleep(0)
        book.release("a")  # grants to b, whose task has not run yet
        second.cancel()
        await asyncio.gather(second, return_exceptions=True)
        assert await book.acquire("c", Need(num_gpus=1), silent) == (0,)
        book.close()

    asyncio.run(scenario())


def test_what_can_never_fit_is_an_error_with_the_numbers() -> None:
    async def scenario() -> None:
        with pytest.raises(CapacityError, match=r"a needs 3 GPUs; this machine has 2"):
            await holdings().acquire("a", Need(num_gpus=3), silent)

    asyncio.run(scenario())


def test_memory_that_a_starting_replica_took_is_counted_once() -> None:
    """32 GiB free. A starts with 20 and took 15: the kernel shows 17 free, 5 of them are promised, so 12 can be had."""

    async def scenario() -> None:
        available = [32 * GIB]
        book = Holdings(lambda: NONE, lambda: available[0])
        await book.acquire("a", Need(memory_bytes=20 * GIB), silent)
        book.measure("a", lambda: 15 * GIB)
        available[0] = 17 * GIB
        blocked = asyncio.create_task(book.acquire("b", Need(memory_bytes=13 * GIB), silent))
        await asyncio.sleep(0)
        assert not blocked.done()
        assert await book.acquire("c", Need(memory_bytes=12 * GIB), silent) == ()
        book.release("c")
        book.settle("a")  # ready: it takes no more
        assert await blocked == ()
        book.close()

    asyncio.run(scenario())


class HoldingsMachine(RuleBasedStateMachine):
    """Replicas come, wait, are granted, are cancelled and go, in any order; the book always adds up."""

    replicas: Bundle[str] = Bundle("replicas")

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.inventory = Inventory(gpus=tuple(gpu(n) for n in range(3)), memory_bytes=32 * GIB)
        self.held_bytes = 0
        self.book = self.run_in_loop(self._make())
        self.tasks: dict[str, tuple[Need, asyncio.Task[tuple[int, ...]]]] = {}
        self.number = 0

    async def _make(self) -> Holdings:
        return Holdings(lambda: self.inventory, lambda: self.inventory.memory_bytes)

    def run_in_loop(self, work):  # type: ignore[no-untyped-def]
        return self.loop.run_until_complete(work)

    async def _settle(self) -> None:
        for _ in range(3):
            await asyncio.sleep(0)

    @rule(target=replicas, need=needs)
    def ask(self, need: Need) -> str:
        self.number += 1
        name = f"r{self.number}"

        async def begin() -> None:
            self.tasks[name] = (need, asyncio.ensure_future(self.book.acquire(name, need, silent)))
            await self._settle()

        self.run_in_loop(begin())
        return name

    @rule(name=consumes(replicas))
    def go(self, name: str) -> None:
        _, task = self.tasks.pop(name)

        async def end() -> None:
            if task.done() and not task.exception():
                self.book.release(name)
                self.book.release(name)  # twice is once
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            await self._settle()

        self.run_in_loop(end())

    @invariant()
    def adds_up(self) -> None:
        granted = [(need, task.result()) for need, task in self.tasks.values() if task.done() and not task.exception()]
        indexes = [index for _, gpus in granted for index in gpus]
        assert len(indexes) == len(set(indexes))
        assert sum(need.memory_bytes for need, _ in granted) <= self.inventory.memory_bytes
        for need, task in self.tasks.values():
            never = need.num_gpus > 3 or need.memory_bytes > self.inventory.memory_bytes
            assert never == (task.done() and task.exception() is not None)
            if not task.done():  # nobody waits for what is there
                free = 3 - len(indexes)
                free_bytes = self.inventory.memory_bytes - sum(n.memory_bytes for n, _ in granted)
                assert need.num_gpus > free or need.memory_bytes > free_bytes

    def teardown(self) -> None:
        async def end() -> None:
            tasks = [task for _, task in self.tasks.values()]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

        self.run_in_loop(end())
        self.book.close()
        self.loop.close()


TestHoldings = HoldingsMachine.TestCase
TestHoldings.settings = settings(max_examples=60, stateful_step_count=25, deadline=None)
