"""What the gateway does when an engine, a client or a start fails: nobody is left without an answer or a word."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace

import pytest
from tests.fakes.gateway import (
    ANSWER,
    STREAM_HEAD,
    USAGE_EVENT,
    EngineRequest,
    World,
    answer,
    chat_body,
    chunk,
    json_answer,
    replica,
    run,
    token_event,
    until,
)

from ironloom.account.events import Outcome
from ironloom.serve.gateway.config import GatewayConfig
from ironloom.serve.pool import HoldLimits
from ironloom.serve.replica import ReplicaState


async def die(_request: EngineRequest, writer: asyncio.StreamWriter) -> None:
    writer.transport.abort()


async def hang(_request: EngineRequest, _writer: asyncio.StreamWriter) -> None:
    await asyncio.sleep(3600)


async def half(_request: EngineRequest, writer: asyncio.StreamWriter) -> None:
    """A head, one token and a half, and death."""
    writer.write(STREAM_HEAD + chunk(token_event("a")) + chunk(token_event("b")[:20]))
    await writer.drain()
    await asyncio.sleep(0.01)
    writer.transport.abort()


def test_an_engine_that_dies_before_its_first_byte_is_replaced_by_another() -> None:
    async def main() -> None:
        async with World() as world:
            bad = await world.engine(die, "m-aaaaa")
            good = await world.engine(name="m-bbbbb")
            for i in range(16):  # different prompts, so that some prefer the bad one
                body = {"model": "m", "prompt": f"{i}"}
                assert (await world.ask("/v1/completions", body)).json == ANSWER
            assert bad.requests
            assert len(good.requests) == 16
            assert set(world.log.outcomes()) == {Outcome.OK}
            assert sum(entry.num_retries for entry in world.log.entries) == len(bad.requests)
            assert world.pool.in_flight == 0

    run(main)


@pytest.mark.parametrize("stream", [False, True])
def test_an_engine_that_dies_alone_is_waited_for(stream: bool) -> None:
    async def main() -> None:
        async with World() as world:
            first = await world.engine(die)
            asking = asyncio.ensure_future(world.chat(stream=stream))
            await until(lambda: first.requests)
            world.report(replica(first, state=ReplicaState.FAILED))
            await until(lambda: world.pool.num_held == 1)
            assert world.num_holds
            second = await world.engine(name="m-bbbbb")
            response = await asking
            assert response.status == 200
            assert len(second.requests) == 1
            assert world.log.last.replica == "m-bbbbb"
            assert world.log.last.held_s > 0

    run(main)


def test_a_request_that_kills_every_engine_is_given_up() -> None:
    async def main() -> None:
        async with World(GatewayConfig(max_retries=2)) as world:
            engines = [await world.engine(die, f"m-{i}{i}{i}{i}{i}") for i in range(5)]
            response = await world.chat()
            assert response.status == 502
            assert response.error["source"] == "engine"
            assert response.error["code"] == "engine_failed"
            assert sum(len(engine.requests) for engine in engines) == 3
            assert world.log.outcomes() == [Outcome.ENGINE_FAILED]

    run(main)


def test_a_stream_that_is_cut_ends_with_an_error_event_after_a_whole_one() -> None:
    async def main() -> None:
        async with World() as world:
            await world.engine(half)
            response = await world.chat(stream=True)
            assert response.status == 200
            assert response.body.startswith(token_event("a"))
            rest = response.body[len(token_event("a")) :]
            assert rest.startswith(b'data: {"error":{"message":"')
            assert rest.endswith(b"}}\n\n")
            assert b'"source":"engine"' in rest
            entry = world.log.last
            assert entry.ends == [(Outcome.ENGINE_FAILED, 200)]
            assert entry.completion_tokens == 1
            assert world.pool.in_flight == 0

    run(main)


def test_an_answer_without_a_stream_that_is_cut_cuts_the_client() -> None:
    async def behave(_request: EngineRequest, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{")
        await writer.drain()
        await asyncio.sleep(0.01)
        writer.transport.abort()

    async def main() -> None:
        async with World() as world:
            await world.engine(behave)
            with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
                await world.chat()
            assert world.log.outcomes() == [Outcome.ENGINE_FAILED]

    run(main)


def test_a_head_without_a_body_is_not_an_answer_yet() -> None:
    """The engine dies between its head and its body: the client has seen nothing, so another engine answers."""

    async def behave(_request: EngineRequest, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n")
        await writer.drain()
        await asyncio.sleep(0.01)
        writer.transport.abort()

    async def main() -> None:
        async with World() as world:
            await world.engine(behave)
            asking = asyncio.ensure_future(world.chat())
            await until(lambda: world.log.entries)
            await world.engine(name="m-bbbbb")
            assert (await asking).json == ANSWER

    run(main)


@pytest.mark.parametrize(
    "garbage",
    [
        b"hello\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd",
        b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: a\r\n folded\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"a" * 100_000 + b"\r\nContent-Length: 2\r\n\r\n{}",
        b"\0" * 100,
    ],
)
def test_garbage_of_an_engine_reaches_nobody(garbage: bytes) -> None:
    async def behave(_request: EngineRequest, writer: asyncio.StreamWriter) -> None:
        writer.write(garbage)
        await asyncio.sleep(0.05)

    async def main() -> None:
        async with World(GatewayConfig(max_retries=0)) as world:
            await world.engine(behave)
            response = await world.chat()
            assert response.status == 502
            assert response.error["code"] == "engine_failed"
            assert world.log.outcomes() == [Outcome.ENGINE_FAILED]

    run(main)


def test_bad_chunks_in_the_middle_of_a_stream_end_it_with_an_error_event() -> None:
    async def behave(_request: EngineRequest, writer: asyncio.StreamWriter) -> None:
        writer.write(STREAM_HEAD + chunk(token_event("a")) + b"zz\r\n")
        await asyncio.sleep(0.05)

    async def main() -> None:
        async with World() as world:
            await world.engine(behave)
            response = await world.chat(stream=True)
            assert response.events[0] in token_event("a").decode()
            assert '"error"' in response.events[1]

    run(main)


def test_bytes_after_an_answer_never_become_the_next_answer() -> None:
    async def behave(request: EngineRequest, writer: asyncio.StreamWriter) -> None:
        await answer(request, writer)
        writer.write(json_answer({"stolen": True}))

    async def main() -> None:
        async with World() as world:
            engine = await world.engine(behave)
            for _ in range(5):
                assert (await world.chat()).json == ANSWER
                await asyncio.sleep(0.002)
            assert engine.num_connections == 5

    run(main)


def test_a_kept_connection_that_the_engine_closed_is_no_failure() -> None:
    async def main() -> None:
        async with World(GatewayConfig(max_retries=0)) as world:
            engine = await world.engine()
            assert (await world.chat()).status == 200
            slot = world.pool._slots["m-aaaaa"]
            (connection,) = slot.upstream.idle

            async def once(_request: EngineRequest, writer: asyncio.StreamWriter) -> None:
                engine.behaviour = answer
                writer.transport.abort()  # as an engine whose keep-alive ran out when the request was on its way

            engine.behaviour = once
            assert (await world.chat()).status == 200
            assert world.log.last.num_retries == 1
            assert connection.transport.is_closing()

    run(main)


def test_a_replica_that_refuses_connections_is_passed_over_until_the_backend_speaks() -> None:
    async def main() -> None:
        async with World() as world:
            gone = await world.engine(name="m-aaaaa")
            await gone.kill()
            asking = asyncio.ensure_future(world.chat())
            await until(lambda: world.pool.num_held == 1)
            world.report(replica(gone, state=ReplicaState.FAILED))
            await world.engine(name="m-bbbbb")
            assert (await asking).status == 200

    run(main)


def test_a_client_that_goes_away_cancels_its_request_at_the_engine() -> None:
    async def main() -> None:
        async with World() as world:
            engine = await world.engine(hang)
            raw = await world.raw("POST", "/v1/chat/completions", b'{"model":"m"}')
            await until(lambda: engine.requests)
            raw.hang_up()
            await until(lambda: engine.num_cut == 1)
            await until(lambda: world.pool.in_flight == 0)
            assert world.log.last.ends == [(Outcome.CLIENT_GONE, 0)]
            metrics = (await world.get("/metrics")).body.decode()
            assert 'ironloom_requests_total{service="m",code="499"} 1' in metrics

    run(main)


def test_a_client_that_goes_away_in_a_stream_cancels_it_and_is_billed_what_came() -> None:
    async def endless(_request: EngineRequest, writer: asyncio.StreamWriter) -> None:
        writer.write(STREAM_HEAD)
        while True:
            writer.write(chunk(token_event("a")))
            await asyncio.sleep(0.001)

    async def main() -> None:
        async with World() as world:
            engine = await world.engine(endless)
            raw = await world.raw("POST", "/v1/chat/completions", b'{"model":"m","stream":true}')
            await raw.head()
            for _ in range(5):
                await raw.chunk()
            raw.hang_up()
            await until(lambda: engine.num_cut == 1)
            await until(lambda: world.log.last.ends)
            assert world.log.last.ends == [(Outcome.CLIENT_GONE, 200)]
            assert world.log.last.completion_tokens >= 5

    run(main)


def test_a_client_that_closes_at_done_was_answered_whole() -> None:
    async def never_ending(request: EngineRequest, writer: asyncio.StreamWriter) -> None:
        writer.write(STREAM_HEAD + chunk(token_event("a")) + chunk(USAGE_EVENT) + chunk(b"data: [DONE]\n\n"))
        await hang(request, writer)  # the last chunk does not come

    async def main() -> None:
        async with World() as world:
            await world.engine(never_ending)
            for num_before in range(5):
                raw = await world.raw("POST", "/v1/chat/completions", b'{"model":"m","stream":true}')
                await raw.head()
                while b"data: [DONE]" not in await raw.chunk():
                    pass
                raw.hang_up()
                await until(lambda: len(world.log.entries) > num_before and world.log.last.ends)  # noqa: B023
                assert world.log.last.ends == [(Outcome.OK, 200)]
                assert (world.log.last.prompt_tokens, world.log.last.completion_tokens) == (7, 3)
                await until(lambda: world.pool.in_flight == 0)
            metrics = (await world.get("/metrics")).body.decode()
            assert 'ironloom_requests_total{service="m",code="200"} 5' in metrics
            assert 'code="499"' not in metrics

    run(main)


def test_a_held_client_that_goes_away_is_forgotten() -> None:
    async def main() -> None:
        async with World() as world:
            raw = await world.raw("POST", "/v1/chat/completions", b'{"model":"m"}')
            await until(lambda: world.pool.num_held == 1)
            assert world.pool.held_bytes == 13
            raw.hang_up()
            await until(lambda: world.pool.num_held == 0)
            assert world.pool.held_bytes == 0
            engine = await world.engine()
            await asyncio.sleep(0.01)
            assert not engine.requests
            assert world.log.outcomes() == [Outcome.CLIENT_GONE]

    run(main)


def test_a_held_request_is_answered_once_a_replica_is_ready() -> None:
    async def main() -> None:
        async with World() as world:
            asking = [asyncio.ensure_future(world.chat(stream=i % 2 == 0)) for i in range(6)]
            await until(lambda: world.pool.num_held == 6)
            assert world.num_holds == 6
            engine = await world.engine()
            assert {(await each).status for each in asking} == {200}
            assert len(engine.requests) == 6
            assert all(entry.held_s > 0 for entry in world.log.entries)

    run(main)


def test_a_held_stream_gets_heartbeats_and_then_its_answer() -> None:
    async def main() -> None:
        async with World(GatewayConfig(heartbeat_s=5.0)) as world:
            raw = await world.raw("POST", "/v1/chat/completions", b'{"model":"m","stream":true}')
            await until(lambda: world.pool.num_held == 1)
            world.sweep(4)
            world.sweep(6)
            status, headers = await raw.head()
            assert status == 200
            assert headers["content-type"].startswith("text/event-stream")
            assert await raw.chunk() == b": held until a replica of m is ready\n\n"
            world.sweep(12)
            assert (await raw.chunk()).startswith(b": held")
            await world.engine()
            body = b""
            while piece := await raw.chunk():
                body += piece
            assert body.endswith(b"data: [DONE]\n\n")
            assert world.log.outcomes() == [Outcome.OK]
            raw.hang_up()

    run(main)


def test_after_a_heartbeat_a_failed_start_and_an_engines_refusal_are_told_as_events() -> None:
    async def refuse(_request: EngineRequest, writer: asyncio.StreamWriter) -> None:
        writer.write(
            json_answer({"error": {"message": "too long", "type": "x", "param": "messages", "code": None}}, 400)
        )

    async def main() -> None:
        async with World() as world:
            for refused in (False, True):
                asking = asyncio.ensure_future(world.chat(stream=True))
                await until(lambda: world.pool.num_held == 1)
                world.sweep(6)
                if refused:
                    await world.engine(refuse)
                else:
                    world.report(failure="the model file is damaged")
                response = await asking
                assert response.status == 200
                event = response.events[-1]
                assert ('"param":"messages"' if refused else "the model file is damaged") in event
                assert '"source":"engine"' in event
            assert world.log.outcomes() == [Outcome.ENGINE_FAILED, Outcome.OK]

    run(main)


def test_a_failed_start_is_told_with_its_reason_and_a_time_to_retry() -> None:
    async def main() -> None:
        async with World() as world:
            asking = asyncio.ensure_future(world.chat())
            await until(lambda: world.pool.num_held == 1)
            world.report(failure="exit status 3: no such file", retry_at_s=time.time() + 60)
            response = await asking
            assert response.status == 503
            assert "exit status 3: no such file" in response.error["message"]
            assert response.error["source"] == "engine"
            assert 55 <= int(response.headers["retry-after"]) <= 61
            again = await world.chat()
            assert again.status == 503, "while no start is in sight, nobody is held"
            assert world.num_holds == 2, "but the scaler hears of every one"

    run(main)


def test_a_start_that_will_soon_be_tried_again_is_waited_for_once() -> None:
    async def main() -> None:
        async with World() as world:
            asking = asyncio.ensure_future(world.chat())
            await until(lambda: world.pool.num_held == 1)
            world.report(failure="killed", retry_at_s=time.time() + 1)
            await asyncio.sleep(0.01)
            assert not asking.done()
            world.report(replica(1, state=ReplicaState.STARTING), failure="killed")
            await asyncio.sleep(0.01)
            assert not asking.done()
            world.report(failure="killed", retry_at_s=time.time() + 2)
            assert (await asking).status == 503

    run(main)


def test_the_timeout_covers_waiting() -> None:
    async def main() -> None:
        async with World(timeout_s=30.0) as world:
            world.report(failure=None)
            asking = asyncio.ensure_future(world.chat())
            await until(lambda: world.pool.num_held == 1)
            world.sweep(29)
            await asyncio.sleep(0.01)
            assert not asking.done()
            world.sweep(31)
            response = await asking
            assert response.status == 504
            assert response.error["code"] == "timeout"
            assert response.error["source"] == "gateway"
            assert world.log.last.ends == [(Outcome.TIMED_OUT, 504)]
            assert world.pool.num_held == 0

    run(main)


def test_a_request_that_was_held_for_too_long_is_told_what_its_replica_waits_for() -> None:
    phase = "waits for a node: 0/3 nodes are available: 3 Insufficient nvidia.com/gpu."

    async def main() -> None:
        async with World(timeout_s=30.0) as world:
            world.report(replace(replica(1, state=ReplicaState.STARTING), phase=phase))
            asking = asyncio.ensure_future(world.chat())
            await until(lambda: world.pool.num_held == 1)
            world.sweep(31)
            response = await asking
            assert response.status == 504
            assert phase in response.error["message"]
            assert int(response.headers["retry-after"]) > 0

    run(main)


def test_the_timeout_covers_answering() -> None:
    async def main() -> None:
        async with World(timeout_s=30.0) as world:
            engine = await world.engine(hang)
            asking = asyncio.ensure_future(world.chat())
            await until(lambda: engine.requests)
            world.sweep(31)
            response = await asking
            assert response.status == 504
            assert response.error["source"] == "engine"
            await until(lambda: engine.num_cut == 1)
            assert world.pool.in_flight == 0

    run(main)


def test_the_timeout_ends_a_stream_with_an_event() -> None:
    async def slow(request: EngineRequest, writer: asyncio.StreamWriter) -> None:
        writer.write(STREAM_HEAD + chunk(token_event("a")))
        await hang(request, writer)

    async def main() -> None:
        async with World(timeout_s=30.0) as world:
            await world.engine(slow)
            raw = await world.raw("POST", "/v1/chat/completions", b'{"model":"m","stream":true}')
            await raw.head()
            assert await raw.chunk() == token_event("a")
            world.sweep(31)
            assert b'"code":"timeout"' in await raw.chunk()
            assert await raw.chunk() == b""
            assert world.log.last.ends == [(Outcome.TIMED_OUT, 200)]
            raw.hang_up()

    run(main)


def test_what_may_be_held_is_bounded_by_count_and_by_bytes() -> None:
    async def main() -> None:
        for limits in (HoldLimits(max_requests=2), HoldLimits(max_bytes=140)):
            async with World(hold_limits=limits) as world:
                asking = [asyncio.ensure_future(world.chat()) for _ in range(2)]
                await until(lambda: world.pool.num_held == 2)
                response = await world.chat()
                assert response.status == 429
                assert response.error["code"] == "queue_full"
                assert int(response.headers["retry-after"]) >= 1
                assert world.log.last.ends == [(Outcome.REJECTED, 429)]
                await world.engine()
                assert [(await each).status for each in asking] == [200, 200]

    run(main)


def test_container_concurrency_is_a_hard_limit_and_the_queue_is_in_order() -> None:
    running = 0
    most = 0

    async def count(request: EngineRequest, writer: asyncio.StreamWriter) -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.005)
        running -= 1
        await answer(request, writer)

    async def main() -> None:
        async with World(container_concurrency=2) as world:
            engine = await world.engine(count)
            asking = []
            for i in range(10):
                asking.append(asyncio.ensure_future(world.chat(user=f"u{i}")))
                await until(lambda i=i: len(world.log.entries) == i + 1)
            assert {(await each).status for each in asking} == {200}
            assert most == 2
            assert [request.json["user"] for request in engine.requests] == [f"u{i}" for i in range(10)]

    run(main)


def test_a_deleted_services_held_requests_are_told() -> None:
    async def main() -> None:
        async with World() as world:
            asking = asyncio.ensure_future(world.chat())
            await until(lambda: world.pool.num_held == 1)
            world.gateway.forget("m")
            assert (await asking).status == 404
            assert (await world.chat()).error["code"] == "model_not_found"

    run(main)


def test_a_slow_client_slows_the_engine_and_loses_nothing() -> None:
    size = 40_000_000
    written = 0

    async def pour(_request: EngineRequest, writer: asyncio.StreamWriter) -> None:
        nonlocal written
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % size)
        while written < size:
            writer.write(b"x" * 100_000)
            written += 100_000
            await writer.drain()

    async def main() -> None:
        async with World() as world:
            engine = await world.engine(pour)
            raw = await world.raw("POST", "/v1/embeddings", b'{"model":"m"}')
            raw.writer.transport.pause_reading()  # type: ignore[attr-defined]
            last = -1
            while written != last:
                last = written
                await asyncio.sleep(0.05)
            assert written < size, "the engine was stopped by backpressure"
            raw.writer.transport.resume_reading()  # type: ignore[attr-defined]
            response = await raw.response()
            assert len(response.body) == size
            engine.behaviour = answer
            assert (await world.chat()).status == 200
            assert engine.num_connections == 1

    run(main)


def test_a_drained_replica_gets_nothing_new_and_is_waited_for() -> None:
    release = asyncio.Event()

    async def wait(request: EngineRequest, writer: asyncio.StreamWriter) -> None:
        await release.wait()
        await answer(request, writer)

    async def main() -> None:
        async with World() as world:
            old = await world.engine(wait, "m-aaaaa")
            asking = asyncio.ensure_future(world.chat())
            await until(lambda: old.requests)
            new = await world.engine(name="m-bbbbb")
            leaving = replica(old, "m-aaaaa")
            draining = asyncio.ensure_future(world.pool.drain(leaving, time.monotonic() + 10))
            for _ in range(4):
                assert (await world.chat()).status == 200
            assert len(old.requests) == 1
            assert len(new.requests) == 4
            assert not draining.done()
            release.set()
            assert (await asking).status == 200
            await draining
            await asyncio.wait_for(world.pool.drain(replica(new, "m-bbbbb"), time.monotonic() + 10), 1)

    run(main)


def test_a_drain_ends_at_its_deadline() -> None:
    async def main() -> None:
        async with World() as world:
            engine = await world.engine(hang)
            raw = await world.raw("POST", "/v1/chat/completions", b'{"model":"m"}')
            await until(lambda: engine.requests)
            await world.pool.drain(replica(engine), time.monotonic() + 0.01)
            assert world.pool.in_flight_of("m-aaaaa") == 1
            world.report(replica(engine, state=ReplicaState.STOPPED))
            await until(lambda: world.pool.num_held == 1)  # its engine is gone, so it waits for another
            raw.hang_up()

    run(main)


def test_stopping_refuses_what_is_new_and_closing_tells_what_is_held() -> None:
    async def main() -> None:
        async with World() as world:
            asking = asyncio.ensure_future(world.chat())
            await until(lambda: world.pool.num_held == 1)
            world.gateway.stop()
            response = await world.chat()
            assert response.status == 503
            assert response.error["code"] == "shutting_down"
            world.gateway.close()
            assert (await asking).status == 503

    run(main)


def test_many_requests_while_engines_come_and_go_end_exactly_once() -> None:
    """Two replicas by turns, each killed in the middle of its work: every client is answered or told."""

    async def main() -> None:
        async with World(GatewayConfig(max_retries=6)) as world:
            statuses: list[int] = []

            async def client(i: int) -> None:
                response = await world.chat(stream=i % 2 == 0, user=f"u{i}")
                statuses.append(response.status)

            clients: list[asyncio.Future[None]] = []
            for turn in range(6):
                engine = await world.engine(name=f"m-{turn:05d}")
                world.report(replica(engine, f"m-{turn:05d}"))
                clients += [asyncio.ensure_future(client(turn * 40 + i)) for i in range(40)]
                await asyncio.sleep(0.004)
                await engine.kill()
                world.report(replica(engine, f"m-{turn:05d}", ReplicaState.FAILED))
            await world.engine(name="m-last0")
            await asyncio.gather(*clients)
            outcomes = world.log.outcomes()
            assert len(statuses) == len(outcomes) == 240
            assert set(statuses) == {200}
            assert world.pool.in_flight == world.pool.num_held == world.pool.held_bytes == 0

    run(main)


def test_the_body_the_engine_gets_is_the_clients_but_for_the_usage_option() -> None:
    async def main() -> None:
        async with World() as world:
            engine = await world.engine()
            body = (
                b'{"model":"m", "messages":[{"role":"user","content":"\xc3\xa4 \\u00e4 \\"stream_options\\""}],"x":1e3}'
            )
            await world.ask("/v1/chat/completions", body)
            assert engine.requests[0].body == body
            await world.ask("/v1/chat/completions", b'  {"stream":true,' + body[1:])
            asked = engine.requests[1].body
            assert asked == b'{"stream_options":{"include_usage":true},"stream":true,' + body[1:]
            assert chat_body()["model"] == "m"

    run(main)
