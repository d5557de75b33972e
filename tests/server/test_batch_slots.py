from __future__ import annotations

import asyncio

from ironloom.server.batch_slots import Slots


def test_as_many_as_the_limit_says_go_at_once_and_the_others_in_order() -> None:
    async def scenario() -> None:
        slots, order = Slots(lambda: 2), []

        async def take(name: str) -> None:
            await slots.acquire()
            order.append(name)

        tasks = [asyncio.create_task(take(name)) for name in "abcd"]
        await asyncio.sleep(0)
        assert order == ["a", "b"]
        for _ in range(2):
            slots.release()
        await asyncio.gather(*tasks)
        assert order == ["a", "b", "c", "d"]

    asyncio.run(scenario())


def test_a_limit_that_grows_lets_more_in_without_a_release() -> None:
    async def scenario() -> None:
        size = 1
        slots = Slots(lambda: size, recheck_s=0.001)
        await slots.acquire()
        waiting = [asyncio.create_task(slots.acquire()) for _ in range(3)]
        await asyncio.sleep(0.005)
        assert not any(task.done() for task in waiting)
        size = 3
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        await asyncio.sleep(0.005)
        assert [task.done() for task in waiting] == [True, True, False]
        waiting[2].cancel()
        await asyncio.gather(*waiting, return_exceptions=True)

    asyncio.run(scenario())


def test_a_limit_that_shrinks_waits_for_releases_and_never_stands_still() -> None:
    async def scenario() -> None:
        size = 3
        slots = Slots(lambda: size)
        for _ in range(3):
            await slots.acquire()
        size = 0
        waiting = asyncio.create_task(slots.acquire())
        for _ in range(2):
            await asyncio.sleep(0)
            slots.release()
        await asyncio.sleep(0)
        assert not waiting.done(), "one is still taken, and less than one counts as one"
        slots.release()
        await waiting

    asyncio.run(scenario())


def test_one_that_gives_up_waiting_hands_its_turn_on() -> None:
    async def scenario() -> None:
        slots = Slots(lambda: 1)
        await slots.acquire()
        first, second = asyncio.create_task(slots.acquire()), asyncio.create_task(slots.acquire())
        await asyncio.sleep(0)
        slots.release()  # wakes the first, which is cancelled before it runs
        first.cancel()
        await asyncio.wait_for(second, 0.5)

    asyncio.run(scenario())
