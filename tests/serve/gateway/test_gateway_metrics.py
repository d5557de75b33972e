"""What /metrics counts when something is held, retried, cut or refused."""

from __future__ import annotations

import asyncio
import json

from tests.fakes.gateway import STREAM_HEAD, EngineRequest, World, chat_body, chunk, replica, run, token_event, until

from ironloom.serve.replica import ReplicaState


async def die(_request: EngineRequest, writer: asyncio.StreamWriter) -> None:
    writer.transport.abort()


async def half(_request: EngineRequest, writer: asyncio.StreamWriter) -> None:
    """One token, and death."""
    writer.write(STREAM_HEAD + chunk(token_event("a")))
    await writer.drain()
    await asyncio.sleep(0.01)
    writer.transport.abort()


async def metric(world: World, name: str, labels: str = '{service="m"}') -> float:
    """The value of one sample."""
    text = (await world.get("/metrics")).body.decode()
    (line,) = [line for line in text.splitlines() if line.startswith(f"{name}{labels} ")]
    return float(line.rpartition(" ")[2])


def test_a_held_request_counts_with_its_bytes_while_it_waits_and_with_its_time_after() -> None:
    async def main() -> None:
        async with World() as world:
            asking = asyncio.ensure_future(world.chat())
            await until(lambda: world.pool.num_held == 1)
            assert await metric(world, "ironloom_requests_held") == 1
            assert await metric(world, "ironloom_held_bytes") == len(json.dumps(chat_body()))
            assert await metric(world, "ironloom_hold_seconds_count") == 0
            await world.engine()
            assert (await asking).status == 200
            assert await metric(world, "ironloom_requests_held") == 0
            assert await metric(world, "ironloom_held_bytes") == 0
            assert await metric(world, "ironloom_hold_seconds_count") == 1
            assert await metric(world, "ironloom_hold_seconds_sum") > 0
            await world.chat()
            assert await metric(world, "ironloom_hold_seconds_count") == 1, "what need not wait has no hold"

    run(main)


def test_a_request_that_is_sent_again_is_one_retry_and_one_request() -> None:
    async def main() -> None:
        async with World() as world:
            first = await world.engine(die)
            asking = asyncio.ensure_future(world.chat())
            await until(lambda: first.requests)
            world.report(replica(first, state=ReplicaState.FAILED))
            await world.engine(name="m-bbbbb")
            assert (await asking).status == 200
            assert await metric(world, "ironloom_retries_total") == 1
            assert await metric(world, "ironloom_requests_total", '{service="m",code="200"}') == 1
            assert await metric(world, "ironloom_requests_cut_total") == 0

    run(main)


def test_a_stream_that_its_engine_cut_is_told_as_cut() -> None:
    async def main() -> None:
        async with World() as world:
            await world.engine(half)
            assert b'"source":"engine"' in (await world.chat(stream=True)).body
            assert await metric(world, "ironloom_requests_cut_total") == 1
            assert await metric(world, "ironloom_retries_total") == 0
            assert await metric(world, "ironloom_completion_tokens_total") == 1

    run(main)


def test_what_is_no_http_is_refused_and_no_services_request() -> None:
    async def main() -> None:
        async with World() as world:
            reader, writer = await asyncio.open_connection("127.0.0.1", world.server.port)
            writer.write(b"this is no HTTP\r\n\r\n")
            assert (await reader.read()).startswith(b"HTTP/1.1 400 ")
            writer.close()
            assert await metric(world, "ironloom_http_refused_total", "") == 1
            assert 'code="' not in (await world.get("/metrics")).body.decode()

    run(main)
