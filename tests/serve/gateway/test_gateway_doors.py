"""Who gets in, what is listed, and what is said to those who do not: keys, models, probes, CORS, wrong requests."""

from __future__ import annotations

import asyncio
import re
from typing import Any

import pytest
from tests.fakes.gateway import STREAM_HEAD, EngineRequest, MemoryLog, World, chunk, run, token_event, until

from ironloom.account.events import Outcome
from ironloom.serve.gateway.app import Gateway
from ironloom.serve.gateway.config import GatewayConfig
from ironloom.serve.gateway.metrics import METRICS
from ironloom.serve.http.exchange import Exchange
from ironloom.serve.http.server import serve
from ironloom.serve.pool import ServicePool
from ironloom.workload.serving import Serving

KEYS = GatewayConfig(keys_required=True)


def other_service(world: World, name: str = "other") -> None:
    serving = Serving(name=name, kind="InferenceService")
    world.gateway.declare(serving, ServicePool(serving), created_s=2.5e9)


def test_models_are_the_declared_services_ready_or_not() -> None:
    async def main() -> None:
        async with World() as world:
            other_service(world)
            for path in ("/v1/models", "/openai/v1/models"):
                listed = (await world.get(path)).json
                assert listed["object"] == "list"
                assert [model["id"] for model in listed["data"]] == ["m", "other"]
                assert listed["data"][0] == {
                    "id": "m",
                    "object": "model",
                    "created": 1500000000,
                    "owned_by": "ironloom",
                }
            assert (await world.get("/v1/models/other")).json["id"] == "other"
            assert (await world.get("/v1/models/nothing")).status == 404
            world.gateway.forget("other")
            assert [model["id"] for model in (await world.get("/v1/models")).json["data"]] == ["m"]

    run(main)


def test_a_new_manifest_keeps_the_services_counters() -> None:
    async def main() -> None:
        async with World() as world:
            await world.engine()
            await world.chat()
            world.gateway.declare(world.serving, world.pool, created_s=9e9)
            counters = world.gateway.metrics_of("m")
            assert counters is not None
            assert counters.by_code[200] == 1

    run(main)


def test_a_key_is_needed_where_keys_are_required() -> None:
    async def main() -> None:
        async with World(KEYS, keys=True) as world:
            engine = await world.engine()
            missing, wrong = await world.chat(), await world.chat(headers={"Authorization": "Bearer bad"})
            assert (missing.status, missing.error["code"]) == (401, "missing_api_key")
            assert (wrong.status, wrong.error["code"]) == (401, "invalid_api_key")
            assert missing.headers["www-authenticate"] == "Bearer"
            for path in ("/v1/models", "/v1/models/m", "/metrics"):
                assert (await world.get(path)).status == 401
                assert (await world.get(path, {"Authorization": "Bearer good"})).status == 200
            assert (await world.get("/healthz")).status == 200
            assert not engine.requests
            assert world.log.outcomes() == [Outcome.REJECTED, Outcome.REJECTED]
            assert (await world.chat(headers={"X-Api-Key": "good"})).status == 200

    run(main)


def test_where_no_key_is_needed_a_foolish_one_does_no_harm() -> None:
    async def main() -> None:
        async with World(keys=True) as world:
            await world.engine()
            assert (await world.chat(headers={"Authorization": "Bearer sk-none"})).status == 200
            assert world.log.last.key_id == ""

    run(main)


def test_a_key_of_ours_that_opens_nothing_is_refused_where_none_is_needed() -> None:
    """It was revoked, or mistyped: whoever sends it means to be known by it."""

    async def main() -> None:
        async with World(keys=True) as world:
            await world.engine()
            wrong = await world.chat(headers={"Authorization": "Bearer il-revoked"})
            assert (wrong.status, wrong.error["code"]) == (401, "invalid_api_key")
            assert (await world.chat(headers={"Authorization": "Bearer good"})).status == 200

    run(main)


def test_a_scoped_key_sees_and_reaches_its_services_only() -> None:
    async def main() -> None:
        async with World(KEYS, keys=True) as world:
            await world.engine()
            other_service(world)
            scoped = {"Authorization": "Bearer scoped"}
            assert [model["id"] for model in (await world.get("/v1/models", scoped)).json["data"]] == ["m"]
            assert (await world.chat(headers=scoped)).status == 200
            refused = await world.ask("/v1/completions", {"model": "other", "prompt": "x"}, headers=scoped)
            unknown = await world.ask("/v1/completions", {"model": "nothing", "prompt": "x"}, headers=scoped)
            assert refused.status == unknown.status == 404
            assert refused.error["code"] == unknown.error["code"] == "model_not_found"
            assert (await world.get("/v1/models/other", scoped)).status == 404

    run(main)


BAD_BODIES: dict[str, tuple[bytes, str | None]] = {
    "nothing": (b"", None),
    "no JSON": (b"hello", None),
    "half of it": (b'{"model":"m"', None),
    "a list": (b"[]", None),
    "no model": (b"{}", "model"),
    "a model that is a number": (b'{"model":1}', "model"),
    "a stream that is text": (b'{"model":"m","stream":"yes"}', "stream"),
    "stream options that are a list": (b'{"model":"m","stream_options":[]}', "stream_options"),
    "a byte order mark": (b'\xef\xbb\xbf{"model":"m"}', None),
    "invalid UTF-8 in the model": (b'{"model":"\xff"}', None),
    "an absurd depth": (b'{"model":"m","x":' + b"[" * 100_000 + b"]" * 100_000 + b"}", None),
}


@pytest.mark.parametrize("name", BAD_BODIES)
def test_a_bad_body_is_the_clients_fault_and_named(name: str) -> None:
    body, param = BAD_BODIES[name]

    async def main() -> None:
        async with World() as world:
            engine = await world.engine()
            response = await world.ask("/v1/chat/completions", body)
            assert response.status == 400
            assert response.error["param"] == param
            assert response.error["source"] == "client"
            assert not engine.requests

    run(main)


def test_the_last_of_two_models_counts_as_it_does_for_the_engine() -> None:
    async def main() -> None:
        async with World() as world:
            await world.engine()
            assert (await world.ask("/v1/completions", b'{"model":"nothing","model":"m"}')).status == 200

    run(main)


def test_wrong_paths_methods_and_codings_are_told() -> None:
    async def main() -> None:
        async with World() as world:
            assert (await world.get("/nothing")).error["code"] == "not_found"
            assert (await world.get("/v1/chat/completions")).status == 405
            assert (await world.ask("/v1/models", {})).status == 405
            zipped = await world.chat(headers={"Content-Encoding": "gzip"})
            assert zipped.status == 415
            assert (await world.ask("/v1/chat/completions", {"model": "no" * 200})).status == 404

    run(main)


def test_probes_say_alive_and_ready() -> None:
    async def main() -> None:
        async with World() as world:
            assert (await world.get("/healthz")).status == 200
            assert (await world.get("/readyz")).status == 503
            world.gateway.ready = True
            assert (await world.get("/readyz")).status == 200
            world.gateway.stop()
            assert (await world.get("/readyz")).status == 503
            assert (await world.get("/healthz")).status == 200

    run(main)


@pytest.mark.parametrize("given", ["bad id", "x" * 200, "a\tb", '"', "-x"])
def test_a_strange_request_id_is_replaced(given: str) -> None:
    async def main() -> None:
        async with World() as world:
            await world.engine()
            response = await world.chat(headers={"X-Request-Id": given})
            assert re.fullmatch(r"req-[0-9a-f]{12}-[0-9a-f]+", response.headers["x-request-id"])
            assert world.log.last.request_id == response.headers["x-request-id"]

    run(main)


def test_errors_and_other_paths_carry_the_request_id() -> None:
    async def main() -> None:
        async with World() as world:
            for path in ("/nothing", "/v1/models", "/v1/chat/completions"):
                assert (await world.get(path, {"X-Request-Id": "abc"})).headers["x-request-id"] == "abc"

    run(main)


def test_pages_of_other_origins_get_no_permission_unless_allowed() -> None:
    origin = "http://localhost:3000"

    async def main() -> None:
        async with World() as world:
            await world.engine()
            response = await world.chat(headers={"Origin": origin})
            assert not [name for name in response.headers if name.startswith("access-control")]
            preflight = await world.ask("/v1/chat/completions", method="OPTIONS", headers={"Origin": origin})
            assert preflight.status == 204
            assert not [name for name in preflight.headers if name.startswith("access-control")]
        async with World(GatewayConfig(allow_origins=frozenset({origin}))) as world:
            await world.engine()
            asked = {"Origin": origin, "Access-Control-Request-Headers": "authorization, x-stainless-os"}
            preflight = await world.ask("/v1/chat/completions", method="OPTIONS", headers=asked)
            assert preflight.headers["access-control-allow-origin"] == origin
            assert preflight.headers["access-control-allow-headers"] == "authorization, x-stainless-os"
            assert "POST" in preflight.headers["access-control-allow-methods"]
            response = await world.chat(headers={"Origin": origin})
            assert response.headers["access-control-allow-origin"] == origin
            assert "access-control-allow-origin" not in (await world.chat(headers={"Origin": "http://evil"})).headers

    run(main)


def test_other_paths_go_to_the_fallback() -> None:
    def fallback(exchange: Exchange) -> None:
        exchange.respond(200, exchange.request.path.encode(), content_type="text/plain")

    async def main() -> None:
        async with World() as world:
            gateway = Gateway(log=MemoryLog(), fallback=fallback)
            server = await serve(gateway)
            world.server, real = server, world.server
            assert (await world.get("/api/v1/status")).body == b"/api/v1/status"
            assert (await world.get("/v1/models")).json["data"] == []
            world.server = real
            await server.close()

    run(main)


def test_every_metric_is_shown_with_its_help_and_counts() -> None:
    async def main() -> None:
        async with World() as world:
            await world.engine()
            await world.chat()
            await world.chat(stream=True)
            await world.ask("/v1/chat/completions", b"nonsense")
            other_service(world, 'o"th\\er')
            response = await world.get("/metrics")
            assert response.headers["content-type"].startswith("text/plain; version=0.0.4")
            text = response.body.decode()
            for metric in METRICS:
                assert f"# HELP {metric.name} " in text
                assert f"# TYPE {metric.name} {metric.type}\n" in text
            for line in (
                'ironloom_requests_total{service="m",code="200"} 2',
                'ironloom_requests_total{service="",code="400"} 1',
                'ironloom_requests_in_flight{service="m"} 0',
                'ironloom_requests_held{service="o\\"th\\\\er"} 0',
                'ironloom_prompt_tokens_total{service="m"} 14',
                'ironloom_completion_tokens_total{service="m"} 6',
                'ironloom_time_to_first_token_seconds_count{service="m"} 2',
                'ironloom_request_duration_seconds_bucket{service="m",le="+Inf"} 2',
                'ironloom_replicas{service="m",state="ready"} 1',
                "ironloom_connections 1",
            ):
                assert line + "\n" in text, line
            nobody = [line for line in text.splitlines() if 'service=""' in line]
            assert nobody == ['ironloom_requests_total{service="",code="400"} 1'], "what had no service has no times"
            for line in text.splitlines():
                assert line.startswith("#") or re.fullmatch(r'[a-z_]+(\{[a-z]+=".*"\})? [0-9.e+-]+', line), line

    run(main)


def test_the_ends_of_requests_are_told_to_who_wants_to_know() -> None:
    async def main() -> None:
        async with World() as world:
            await world.engine()
            ends: list[tuple[str, int]] = []
            world.gateway.on_end = lambda service, tokens: ends.append((service, tokens))
            await world.chat()
            await world.chat(stream=True)
            assert ends == [("m", 3), ("m", 3)]

    run(main)


async def gathered(result: Any) -> bytes:
    return b"".join([piece async for piece in result.body])


def test_a_call_from_inside_is_held_retried_and_logged_like_any_other() -> None:
    async def main() -> None:
        async with World() as world:
            body = b'{"model":"m","messages":[],"stream":true,"stream_options":{"include_usage":true}}'

            async def call() -> bytes:
                result = await world.gateway.call(
                    "m", "/v1/chat/completions", body, {}, key_id="key-1", request_id="inside-1"
                )
                assert result.status == 200
                assert result.headers["content-type"].startswith("text/event-stream")
                return await gathered(result)

            calling = asyncio.ensure_future(call())
            await until(lambda: world.pool.num_held == 1)
            engine = await world.engine()
            answer = await calling
            assert b'"usage"' in answer
            assert answer.endswith(b"data: [DONE]\n\n")
            assert engine.requests[0].body == body
            entry = world.log.last
            assert (entry.request_id, entry.key_id, entry.completion_tokens) == ("inside-1", "key-1", 3)
            assert entry.held_s > 0

    run(main)


def test_a_call_from_inside_raises_what_the_gateway_would_have_answered() -> None:
    async def main() -> None:
        async with World() as world:

            async def call(service: str) -> Any:
                return await world.gateway.call(
                    service, "/v1/chat/completions", b'{"model":"m"}', {}, key_id="", request_id="i"
                )

            with pytest.raises(Exception, match="no service 'x'"):
                await call("x")
            calling = asyncio.ensure_future(call("m"))
            await until(lambda: world.pool.num_held == 1)
            world.report(failure="no such file")
            with pytest.raises(Exception, match="no such file") as raised:
                await calling
            assert raised.value.status == 503
            calling = asyncio.ensure_future(call("m"))
            await until(lambda: world.pool.num_held == 1)
            calling.cancel()
            await until(lambda: world.pool.num_held == 0)
            assert world.log.outcomes() == [Outcome.REJECTED, Outcome.ENGINE_FAILED, Outcome.CLIENT_GONE]
            world.gateway.stop()
            with pytest.raises(Exception, match="shutting down"):
                await call("m")

    run(main)


def test_a_call_from_inside_that_is_left_early_is_dropped_at_the_engine() -> None:
    async def main() -> None:
        async def endless(_request: EngineRequest, writer: asyncio.StreamWriter) -> None:
            writer.write(STREAM_HEAD)
            while True:
                writer.write(chunk(token_event("a") * 50))
                await writer.drain()
                await asyncio.sleep(0)

        async with World() as world:
            engine = await world.engine(endless)
            body = b'{"model":"m","stream":true}'
            result = await world.gateway.call("m", "/v1/chat/completions", body, {}, key_id="", request_id="i")
            await asyncio.sleep(0.05)  # the reader is slow: the engine must be stopped, not buffered
            pieces = result.body
            assert (await anext(pieces)).startswith(b"data: ")
            await pieces.aclose()  # type: ignore[attr-defined]
            await until(lambda: engine.num_cut == 1)
            assert world.log.outcomes() == [Outcome.CLIENT_GONE]

    run(main)


def test_a_call_from_inside_hears_of_an_answer_cut_short() -> None:
    async def main() -> None:
        async def cut(_request: EngineRequest, writer: asyncio.StreamWriter) -> None:
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{")
            await writer.drain()
            await asyncio.sleep(0.01)
            writer.transport.abort()

        async with World() as world:
            await world.engine(cut)
            result = await world.gateway.call("m", "/v1/embeddings", b'{"model":"m"}', {}, key_id="", request_id="i")
            with pytest.raises(Exception, match="ended early"):
                await gathered(result)

    run(main)
