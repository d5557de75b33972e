"""A request through the gateway when all goes well: bytes, headers, accounting."""

from __future__ import annotations

import asyncio
import json

import pytest
from tests.fakes.gateway import (
    ANSWER,
    STREAM_HEAD,
    USAGE_EVENT,
    EngineRequest,
    World,
    chat_body,
    chunk,
    json_answer,
    run,
    token_event,
    until,
)

from ironloom.account.events import Outcome


def test_a_json_answer_passes_through_and_is_accounted() -> None:
    async def main() -> None:
        async with World() as world:
            engine = await world.engine()
            response = await world.chat(headers={"X-Request-Id": "my-id-1"})
            assert response.status == 200
            assert response.json == ANSWER
            assert response.headers["x-request-id"] == "my-id-1"
            assert response.headers["content-type"] == "application/json"
            (asked,) = engine.requests
            assert asked.path == "/v1/chat/completions"
            assert asked.json == chat_body()
            assert asked.headers["x-request-id"] == "my-id-1"
            entry = world.log.last
            assert entry.ends == [(Outcome.OK, 200)]
            assert (entry.request_id, entry.service, entry.replica) == ("my-id-1", "m", "m-aaaaa")
            assert (entry.prompt_tokens, entry.completion_tokens) == (7, 3)
            assert entry.ttft_s is not None
            assert 0 < entry.ttft_s < 5
            assert world.pool.in_flight == 0

    run(main)


@pytest.mark.parametrize("prefix", ["", "/openai"])
@pytest.mark.parametrize(
    "path", ["/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/tokenize", "/detokenize"]
)
def test_every_path_reaches_the_engine_under_its_own_name(prefix: str, path: str) -> None:
    async def main() -> None:
        async with World() as world:
            engine = await world.engine()
            response = await world.ask(prefix + path, {"model": "m", "input": "x"})
            assert response.status == 200
            assert engine.requests[0].path == path

    run(main)


def test_a_stream_passes_through_and_its_usage_is_asked_for_and_hidden() -> None:
    async def main() -> None:
        async with World() as world:
            engine = await world.engine()
            response = await world.chat(stream=True)
            assert response.headers["content-type"].startswith("text/event-stream")
            assert response.body == b"".join(token_event(t) for t in "abc") + b"data: [DONE]\n\n"
            assert engine.requests[0].json["stream_options"] == {"include_usage": True}
            entry = world.log.last
            assert entry.stream
            assert (entry.prompt_tokens, entry.completion_tokens) == (7, 3)

    run(main)


def test_a_client_that_asks_for_usage_gets_it() -> None:
    async def main() -> None:
        async with World() as world:
            await world.engine()
            response = await world.chat(stream=True, stream_options={"include_usage": True})
            assert USAGE_EVENT in response.body
            assert world.log.last.completion_tokens == 3

    run(main)


@pytest.mark.parametrize("options", [None, {"include_usage": False}, {"include_usage": None, "other": 1}])
def test_a_client_that_declines_usage_does_not_see_it(options: object) -> None:
    async def main() -> None:
        async with World() as world:
            await world.engine()
            response = await world.chat(stream=True, stream_options=options)
            assert b'"usage"' not in response.body
            assert world.log.last.prompt_tokens == 7

    run(main)


def test_without_a_usage_report_the_events_are_counted() -> None:
    async def behave(_request: EngineRequest, writer: asyncio.StreamWriter) -> None:
        events = b"".join(chunk(token_event(text)) for text in "abcd")
        writer.write(STREAM_HEAD + events + chunk(b"data: [DONE]\n\n") + b"0\r\n\r\n")

    async def main() -> None:
        async with World() as world:
            await world.engine(behave)
            await world.chat(stream=True)
            assert world.log.last.completion_tokens == 4

    run(main)


def test_connections_to_the_engine_are_reused() -> None:
    async def main() -> None:
        async with World() as world:
            engine = await world.engine()
            for i in range(6):
                assert (await world.chat(stream=i % 2 == 0)).status == 200
            assert engine.num_connections == 1

    run(main)


def test_an_engines_refusal_is_an_answer() -> None:
    async def refuse(_request: EngineRequest, writer: asyncio.StreamWriter) -> None:
        writer.write(json_answer({"error": {"message": "no", "param": "top_k"}}, 400, headers="X-Engine: 1\r\n"))

    async def main() -> None:
        async with World() as world:
            await world.engine(refuse)
            for stream in (False, True):
                response = await world.chat(stream=stream)
                assert response.status == 400
                assert response.error["param"] == "top_k"
                assert response.headers["x-engine"] == "1"
            assert world.log.outcomes() == [Outcome.OK, Outcome.OK]
            assert world.log.last.completion_tokens == 0

    run(main)


def test_hop_by_hop_headers_of_the_engine_stay_there() -> None:
    async def behave(_request: EngineRequest, writer: asyncio.StreamWriter) -> None:
        writer.write(
            b"HTTP/1.1 200 OK\r\nConnection: keep-alive, X-Hop\r\nX-Hop: 1\r\nKeep-Alive: timeout=5\r\nServer: e\r\n"
            b"X-Request-Id: theirs\r\nDate: then\r\nX-Kept: 1\r\nContent-Length: 2\r\n\r\n{}"
        )

    async def main() -> None:
        async with World() as world:
            await world.engine(behave)
            headers = (await world.chat(headers={"X-Request-Id": "mine"})).headers
            assert headers["x-kept"] == "1"
            assert headers["x-request-id"] == "mine"
            assert headers["date"] != "then"
            assert not {"x-hop", "keep-alive", "server"} & headers.keys()

    run(main)


def test_keys_and_cookies_are_not_forwarded_and_the_trace_is() -> None:
    async def main() -> None:
        async with World(keys=True) as world:
            engine = await world.engine()
            sent = {"Authorization": "Bearer good", "X-Api-Key": "good", "Cookie": "c=1", "Traceparent": "00-ab-cd-01"}
            assert (await world.chat(headers=sent)).status == 200
            got = engine.requests[0].headers
            assert not {"authorization", "x-api-key", "cookie"} & got.keys()
            assert got["traceparent"] == "00-ab-cd-01"
            assert world.log.last.key_id == "key-good"

    run(main)


def test_a_large_answer_without_a_stream_is_passed_on_in_pieces() -> None:
    big = {"data": "x" * 3_000_000, "usage": {"prompt_tokens": 5, "total_tokens": 5}}

    async def behave(_request: EngineRequest, writer: asyncio.StreamWriter) -> None:
        writer.write(json_answer(big))

    async def main() -> None:
        async with World() as world:
            await world.engine(behave)
            response = await world.ask("/v1/embeddings", {"model": "m", "input": "x"})
            assert response.json == big
            assert world.log.last.prompt_tokens == 5

    run(main)


def test_an_answer_that_ends_with_its_connection_is_whole() -> None:
    async def behave(_request: EngineRequest, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.0 200 OK\r\nContent-Type: application/json\r\n\r\n" + json.dumps(ANSWER).encode())
        writer.close()

    async def main() -> None:
        async with World() as world:
            await world.engine(behave)
            response = await world.chat()
            assert response.json == ANSWER
            assert response.headers["transfer-encoding"] == "chunked"

    run(main)


def test_an_empty_answer_is_an_answer() -> None:
    async def behave(_request: EngineRequest, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 204 No Content\r\n\r\n")

    async def main() -> None:
        async with World() as world:
            await world.engine(behave)
            assert (await world.chat()).status == 204
            assert world.log.outcomes() == [Outcome.OK]

    run(main)


def test_an_event_that_comes_in_parts_is_passed_on_whole() -> None:
    async def behave(_request: EngineRequest, writer: asyncio.StreamWriter) -> None:
        writer.write(STREAM_HEAD)
        data = token_event("a") + token_event("b") + USAGE_EVENT + b"data: [DONE]\n\n"
        for i in range(0, len(data), 7):
            writer.write(chunk(data[i : i + 7]))
            await asyncio.sleep(0)
        writer.write(b"0\r\n\r\n")

    async def main() -> None:
        async with World() as world:
            await world.engine(behave)
            response = await world.chat(stream=True)
            assert response.body == token_event("a") + token_event("b") + b"data: [DONE]\n\n"
            assert world.log.last.completion_tokens == 3

    run(main)


def test_the_log_is_told_each_second_how_far_a_stream_is() -> None:
    go_on = asyncio.Event()

    async def in_two_parts(_request: EngineRequest, writer: asyncio.StreamWriter) -> None:
        writer.write(STREAM_HEAD + chunk(token_event("a")) + chunk(token_event("b")))
        await go_on.wait()
        writer.write(chunk(token_event("c")) + chunk(b"data: [DONE]\n\n") + chunk(b""))

    async def main() -> None:
        async with World() as world:
            await world.engine(in_two_parts)
            asking = asyncio.ensure_future(world.chat(stream=True))
            await until(lambda: bool(world.log.entries) and world.log.last.ttft_s is None and world.pool.in_flight == 1)
            await asyncio.sleep(0.05)
            entry = world.log.last
            for seconds_ahead in (0.1, 0.6, 1.2):
                world.sweep(seconds_ahead)
            (first, ttft_s), (second, _) = entry.progress
            assert (first, second) == (2, 2)
            assert ttft_s is not None
            go_on.set()
            await asking
            assert entry.ends == [(Outcome.OK, 200)]
            assert entry.completion_tokens == 3
            assert entry.ttft_s == ttft_s

    run(main)
