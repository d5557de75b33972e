"""The HTTP server as a peer sees it, byte for byte."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from ironloom.errors import RequestError
from ironloom.serve.http.exchange import Exchange
from ironloom.serve.http.limits import Limits
from ironloom.serve.http.server import HttpServer, serve

POST = b"POST /echo HTTP/1.1\r\nHost: a\r\n"
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n"
GET = b"GET /echo?x=1 HTTP/1.1\r\nHost: a\r\n\r\n"


def echo(exchange: Exchange) -> None:
    """Answers with what it saw; `/later` from the loop; `/stream` in pieces; `/never` not at all."""
    request = exchange.request
    line = f"{request.method} {request.path} {request.query} ".encode() + request.body
    if request.path == "/never":
        return
    if request.path == "/later":
        asyncio.get_running_loop().call_later(0.01, lambda: exchange.respond(200, line))
    elif request.path == "/stream":
        exchange.start(200, content_type="text/plain")
        for piece in (b"one", b"two", request.body):
            exchange.write(piece)
        exchange.end()
    elif request.path == "/refused":
        raise RequestError(429, "too much", code="full", retry_after_s=3.0)
    elif request.path == "/broken":
        raise ZeroDivisionError
    else:
        exchange.respond(200, line, content_type="text/plain")


def talk(
    client: Callable[[HttpServer], Coroutine[Any, Any, Any]],
    handler: Callable[[Exchange], None] = echo,
    limits: Limits | None = None,
) -> Any:
    async def main() -> Any:
        server = await serve(handler, limits=limits)
        try:
            return await asyncio.wait_for(client(server), 10)
        finally:
            await server.close()

    return asyncio.run(main())


def send(
    *pieces: bytes, limits: Limits | None = None, handler: Callable[[Exchange], None] = echo, eof: bool = False
) -> bytes:
    """All that comes back for these bytes until the server closes or 0.1 s pass in silence."""

    async def client(server: HttpServer) -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
            if len(pieces) > 1:
                await asyncio.sleep(0.002)
        if eof:
            writer.write_eof()
        received = b""
        while True:
            try:
                data = await asyncio.wait_for(reader.read(65536), 0.1)
            except TimeoutError:
                break
            if not data:
                received += b"<closed>"
                break
            received += data
        writer.close()
        return received

    result = talk(client, handler, limits)
    assert isinstance(result, bytes)
    return result


def status(answer: bytes) -> int:
    return int(answer.split(b" ", 2)[1]) if answer.startswith(b"HTTP/1.1 ") else 0


def test_a_request_is_answered_and_the_connection_kept() -> None:
    answer = send(GET + GET)
    assert answer.count(b"HTTP/1.1 200 OK\r\n") == 2
    assert answer.count(b"GET /echo x=1 ") == 2
    assert b"<closed>" not in answer


REFUSED = {
    "content-length beside transfer-encoding": (400, POST + b"Content-Length: 3\r\n" + CHUNKED[len(POST) :] + b"\r\n"),
    "transfer-encoding beside content-length": (400, CHUNKED + b"Content-Length: 3\r\n\r\n0\r\n\r\n"),
    "repeated content-length, equal": (400, POST + b"Content-Length: 3\r\nContent-Length: 3\r\n\r\nabc"),
    "content-length as a list": (400, POST + b"Content-Length: 3, 3\r\n\r\nabc"),
    "content-length with a sign": (400, POST + b"Content-Length: +3\r\n\r\nabc"),
    "content-length beyond 64 bits": (400, POST + b"Content-Length: 99999999999999999999\r\n\r\nabc"),
    "content-length in hex": (400, POST + b"Content-Length: 0x3\r\n\r\nabc"),
    "an unknown transfer coding": (501, POST + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n"),
    "a coding before chunked": (501, POST + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n"),
    "chunked not last": (400, POST + b"Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n"),
    "chunked twice": (400, CHUNKED + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
    "a vertical tab before chunked": (400, POST + b"Transfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n"),
    "transfer-encoding in HTTP/1.0": (400, CHUNKED.replace(b"1.1", b"1.0") + b"\r\n0\r\n\r\n"),
    "a chunk size with 0x": (400, CHUNKED + b"\r\n0x3\r\nabc\r\n0\r\n\r\n"),
    "a negative chunk size": (400, CHUNKED + b"\r\n-3\r\nabc\r\n0\r\n\r\n"),
    "a chunk size with a space": (400, CHUNKED + b"\r\n3 \r\nabc\r\n0\r\n\r\n"),
    "a chunk size that overflows": (400, CHUNKED + b"\r\n" + b"f" * 17 + b"\r\nabc"),
    "a chunk size line that ends in LF": (400, CHUNKED + b"\r\n3\nabc\r\n0\r\n\r\n"),
    "a chunk longer than its size": (400, CHUNKED + b"\r\n3\r\nabcd\r\n0\r\n\r\n"),
    "a folded header": (400, b"GET / HTTP/1.1\r\nHost: a\r\nX-A: b\r\n c\r\n\r\n"),
    "a space before the colon": (400, b"GET / HTTP/1.1\r\nHost: a\r\nX-A : b\r\n\r\n"),
    "a header without a colon": (400, b"GET / HTTP/1.1\r\nHost: a\r\nX-A\r\n\r\n"),
    "a header without a name": (400, b"GET / HTTP/1.1\r\nHost: a\r\n: b\r\n\r\n"),
    "bare LF everywhere": (400, b"GET / HTTP/1.1\nHost: a\n\n"),
    "bare LF after one header": (400, b"GET / HTTP/1.1\r\nHost: a\nX-A: b\r\n\r\n"),
    "bare CR in a header": (400, b"GET / HTTP/1.1\r\nHost: a\r\nX-A: b\rX-B: c\r\n\r\n"),
    "NUL in a header": (400, b"GET / HTTP/1.1\r\nHost: a\r\nX-A: b\0c\r\n\r\n"),
    "NUL in the path": (400, b"GET /a\0b HTTP/1.1\r\nHost: a\r\n\r\n"),
    "an encoded NUL in the path": (400, b"GET /a%00b HTTP/1.1\r\nHost: a\r\n\r\n"),
    "a dot-dot segment": (400, b"GET /a/%2e%2e/b HTTP/1.1\r\nHost: a\r\n\r\n"),
    "a path that is not UTF-8": (400, b"GET /a%ff HTTP/1.1\r\nHost: a\r\n\r\n"),
    "a space in the path": (400, b"GET /a b HTTP/1.1\r\nHost: a\r\n\r\n"),
    "no Host": (400, b"GET / HTTP/1.1\r\n\r\n"),
    "two Hosts": (400, b"GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n"),
    "a Host with a slash": (400, b"GET / HTTP/1.1\r\nHost: a/b\r\n\r\n"),
    "a Host with user information": (400, b"GET / HTTP/1.1\r\nHost: u@a\r\n\r\n"),
    "an empty Host": (400, b"GET / HTTP/1.1\r\nHost:\r\n\r\n"),
    "two Authorization headers": (400, b"GET / HTTP/1.1\r\nHost: a\r\nAuthorization: a\r\nAuthorization: b\r\n\r\n"),
    "a relative target": (400, b"GET a HTTP/1.1\r\nHost: a\r\n\r\n"),
    "HTTP/2 in clear": (400, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
    "HTTP/2.0 as a version": (505, b"GET / HTTP/2.0\r\nHost: a\r\n\r\n"),
    "HTTP/0.9": (505, b"GET /\r\n\r\n"),
    "an unknown method": (400, b"BREW / HTTP/1.1\r\nHost: a\r\n\r\n"),
    "a method in lower case": (400, b"get / HTTP/1.1\r\nHost: a\r\n\r\n"),
    "a known method that is not served": (501, b"PROPFIND / HTTP/1.1\r\nHost: a\r\n\r\n"),
    "CONNECT": (501, b"CONNECT a:1 HTTP/1.1\r\nHost: a\r\n\r\n"),
    "an unknown expectation": (417, POST + b"Expect: tea\r\nContent-Length: 3\r\n\r\n"),
    "a TLS hello": (400, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"),
    "a huge request line": (431, b"GET /" + b"a" * 40_000 + b" HTTP/1.1\r\nHost: a\r\n\r\n"),
    "a huge header": (431, b"GET / HTTP/1.1\r\nHost: a\r\nX-A: " + b"a" * 40_000 + b"\r\n\r\n"),
    "too many headers": (431, GET[:-2] + b"".join(b"X-%d: a\r\n" % i for i in range(120)) + b"\r\n"),
    "a body told to be too large": (413, POST + b"Content-Length: 999999999\r\n\r\nabc"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_is_refused_and_closed(name: str) -> None:
    expected, raw = REFUSED[name]
    answer = send(raw)
    assert status(answer) == expected, answer
    assert answer.endswith(b"<closed>")
    assert b"Connection: close\r\n" in answer
    assert b'{"error":{"message":"' in answer
    assert answer.count(b"\r\nDate: ") == 1


@pytest.mark.parametrize(
    "name", ["bare LF everywhere", "a folded header", "a huge header", "a chunk longer than its size"]
)
def test_is_refused_too_when_it_comes_byte_by_byte(name: str) -> None:
    expected, raw = REFUSED[name]

    async def client(server: HttpServer) -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        step = 1 if len(raw) < 1000 else 977
        for i in range(0, len(raw), step):
            writer.write(raw[i : i + step])
            await asyncio.sleep(0)
        answer = await reader.read()
        writer.close()
        return answer

    assert status(talk(client)) == expected


def test_what_was_asked_before_the_bad_request_is_answered_first() -> None:
    answer = send(b"GET /later HTTP/1.1\r\nHost: a\r\n\r\nGET / HTTP/1.1\nHost: a\n\n")
    assert [part[:3] for part in answer.split(b"HTTP/1.1 ")[1:]] == [b"200", b"400"]
    assert answer.endswith(b"<closed>")


def test_pipelined_requests_are_answered_in_order() -> None:
    post = b"POST /%s HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\n%02d"
    requests = [post % (b"later" if i % 3 == 0 else b"echo", i) for i in range(12)]
    answer = send(b"".join(requests))
    assert [int(part.rsplit(b" ", 1)[1]) for part in answer.split(b"HTTP/1.1 ")[1:]] == list(range(12))


def test_a_flood_of_pipelined_requests_is_refused_after_those_taken() -> None:
    answer = send(b"GET /later HTTP/1.1\r\nHost: a\r\n\r\n" + GET * 500)
    statuses = [part[:3] for part in answer.split(b"HTTP/1.1 ")[1:]]
    assert statuses[-1] == b"400"
    assert set(statuses[:-1]) == {b"200"}
    assert len(statuses) < 100


def test_a_chunked_body_with_extensions_and_trailers_is_read_whole() -> None:
    answer = send(CHUNKED + b"\r\n3;a=b\r\nabc\r\n2\r\nde\r\n0\r\nHost: evil\r\nX-T: 1\r\n\r\n" + GET)
    assert b"POST /echo  abcde" in answer
    assert answer.count(b"HTTP/1.1 200") == 2


def test_a_chunked_body_that_grows_too_large_is_refused() -> None:
    body = b"8\r\naaaaaaaa\r\n" * 20
    answer = send(CHUNKED + b"\r\n" + body, limits=Limits(max_body_bytes=100))
    assert status(answer) == 413


def test_the_bodies_of_all_connections_together_are_bounded() -> None:
    answer = send(POST + b"Content-Length: 500\r\n\r\n" + b"a" * 200, limits=Limits(max_unread_bytes=100))
    assert status(answer) == 503
    assert b'"code":"overloaded"' in answer
    assert b"Retry-After: 1\r\n" in answer


def test_expect_100_continue_is_answered_before_the_body() -> None:
    async def client(server: HttpServer) -> tuple[bytes, bytes]:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(POST + b"Expect: 100-continue\r\nContent-Length: 3\r\n\r\n")
        first = await reader.readuntil(b"\r\n\r\n")
        writer.write(b"abc")
        head = await reader.readuntil(b"\r\n\r\n")
        writer.close()
        return first, head

    first, head = talk(client)
    assert first == b"HTTP/1.1 100 Continue\r\n\r\n"
    assert status(head) == 200


def test_expect_100_continue_with_its_body_already_there_gets_the_answer_only() -> None:
    answer = send(POST + b"Expect: 100-continue\r\nContent-Length: 3\r\n\r\nabc")
    assert b"100 Continue" not in answer
    assert b"POST /echo  abc" in answer


def test_expect_100_continue_with_a_body_too_large_is_refused_before_it_is_sent() -> None:
    answer = send(POST + b"Expect: 100-continue\r\nContent-Length: 300\r\n\r\n", limits=Limits(max_body_bytes=100))
    assert status(answer) == 413
    assert b"100 Continue" not in answer


def test_the_answer_to_a_refused_upload_survives_the_upload() -> None:
    """A peer that keeps sending must still be able to read why it was refused."""

    async def client(server: HttpServer) -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(POST + b"Content-Length: 50000000\r\n\r\n")
        for _ in range(20):
            writer.write(b"a" * 65536)
            await asyncio.sleep(0.001)
        answer = await reader.readuntil(b"\r\n\r\n")
        writer.close()
        return answer

    assert status(talk(client)) == 413


def test_head_has_the_length_and_no_body() -> None:
    answer = send(b"HEAD /echo HTTP/1.1\r\nHost: a\r\n\r\n" + b"HEAD /stream HTTP/1.1\r\nHost: a\r\n\r\n" + GET)
    first, second, third = answer.split(b"HTTP/1.1 200 OK\r\n")[1:]
    assert b"Content-Length: 12\r\n" in first
    assert first.endswith(b"\r\n\r\n")
    assert second.endswith(b"\r\n\r\n")
    assert third.endswith(b"GET /echo x=1 ")


def test_http_1_0_is_closed_after_its_answer_and_never_chunked() -> None:
    answer = send(b"GET /stream HTTP/1.0\r\n\r\n")
    assert b"Transfer-Encoding" not in answer
    assert answer.endswith(b"\r\n\r\nonetwo<closed>")
    assert send(b"GET /echo HTTP/1.0\r\n\r\n").endswith(b"<closed>")


def test_http_1_0_keep_alive_is_honoured_where_the_length_is_known() -> None:
    answer = send(b"GET /echo HTTP/1.0\r\nConnection: keep-alive\r\n\r\n" * 2)
    assert answer.count(b"Connection: keep-alive\r\n") == 2
    assert not answer.endswith(b"<closed>")


def test_connection_close_is_honoured_and_what_follows_is_ignored() -> None:
    answer = send(b"GET /later HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n" + GET)
    assert answer.count(b"HTTP/1.1 ") == 1
    assert answer.endswith(b"<closed>")


@pytest.mark.parametrize("path", [b"/echo", b"/later"])
def test_an_upgrade_is_ignored_and_the_connection_closed(path: bytes) -> None:
    answer = send(b"GET %b HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n" % path + GET)
    assert status(answer) == 200
    assert answer.count(b"HTTP/1.1 ") == 1
    assert answer.endswith(b"<closed>")


def test_an_absolute_target_replaces_the_host() -> None:
    def handler(exchange: Exchange) -> None:
        exchange.respond(200, exchange.request.headers[b"host"] + exchange.request.path.encode())

    assert send(b"GET http://b:1/x?y HTTP/1.1\r\nHost: a\r\n\r\n", handler=handler).endswith(b"b:1/x")
    assert status(send(b"GET http://b@c/x HTTP/1.1\r\nHost: a\r\n\r\n", handler=handler)) == 400


def test_a_streamed_answer_is_chunked() -> None:
    assert send(b"GET /stream HTTP/1.1\r\nHost: a\r\n\r\n").endswith(b"\r\n\r\n3\r\none\r\n3\r\ntwo\r\n0\r\n\r\n")


def test_an_error_of_the_handler_becomes_the_answer() -> None:
    answer = send(b"GET /refused HTTP/1.1\r\nHost: a\r\n\r\n")
    assert status(answer) == 429
    assert b"Retry-After: 3\r\n" in answer
    assert b'"code":"full"' in answer


def test_a_bug_in_a_handler_is_a_500_without_details(caplog: pytest.LogCaptureFixture) -> None:
    answer = send(b"GET /broken HTTP/1.1\r\nHost: a\r\n\r\n" + GET)
    assert status(answer) == 500
    assert b"ZeroDivision" not in answer
    assert answer.count(b"HTTP/1.1 200") == 1
    assert "ZeroDivisionError" in caplog.text


def test_a_slow_head_is_ended_by_its_deadline() -> None:
    answer = send(b"GET / HTTP/1.1\r\n", b"Host: a\r\n", b"X-A: b\r\n", limits=Limits(head_timeout_s=-1.0))
    assert status(answer) in {0, 408}


def slow(raw: bytes, limits: Limits) -> bytes:
    """What comes back for bytes that stop in the middle, with every deadline looked at at once."""

    async def client(server: HttpServer) -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(raw)
        await asyncio.sleep(0.02)
        server.deadlines.sweep(server.deadlines.now_s + 60)
        answer = await asyncio.wait_for(reader.read(), 5)
        writer.close()
        return answer

    result = talk(client, limits=limits)
    assert isinstance(result, bytes)
    return result


def test_slow_heads_and_bodies_get_408_and_silent_peers_are_closed() -> None:
    assert status(slow(b"GET / HTTP/1.1\r\nHost:", Limits())) == 408
    assert status(slow(POST + b"Content-Length: 9\r\n\r\nabc", Limits())) == 408
    assert slow(b"", Limits()) == b""
    assert slow(GET, Limits(keep_alive_s=30)).count(b"HTTP/1.1 ") == 1


def test_a_request_in_work_has_no_deadline_of_the_server() -> None:
    async def client(server: HttpServer) -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(b"GET /later HTTP/1.1\r\nHost: a\r\n\r\nGET /par")
        await asyncio.sleep(0.002)
        server.deadlines.sweep(server.deadlines.now_s + 1e6)
        head = await reader.readuntil(b"\r\n\r\n")
        writer.close()
        return head

    assert status(talk(client)) == 200


def test_the_handler_hears_that_the_client_has_gone() -> None:
    for half in (True, False):
        heard = asyncio.Event()

        def handler(exchange: Exchange, heard: asyncio.Event = heard) -> None:
            exchange.on_gone(heard.set)

        async def client(server: HttpServer, half: bool = half, heard: asyncio.Event = heard) -> None:
            _, writer = await asyncio.open_connection("127.0.0.1", server.port)
            writer.write(GET)
            await asyncio.sleep(0.01)
            if half:
                writer.write_eof()
            else:
                writer.close()
            await heard.wait()
            writer.close()

        talk(client, handler)


def test_calls_after_the_client_has_gone_do_nothing() -> None:
    async def client(server: HttpServer) -> None:
        _, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(GET + GET)
        await asyncio.sleep(0.01)
        writer.transport.abort()
        await asyncio.sleep(0.01)
        assert len(seen) == 1, "a request behind an unfinished one is not begun"
        exchange = seen[0]
        assert exchange.gone
        calls = []
        exchange.on_gone(lambda: calls.append(1))
        assert calls == [1]
        exchange.start(200, content_type="text/plain")
        exchange.write(b"x")
        await exchange.drain()
        exchange.end()
        exchange.respond(200, b"")
        exchange.abort()

    seen: list[Exchange] = []
    talk(client, seen.append)


def test_a_client_that_does_not_read_stops_the_writer_and_is_cut_off_in_the_end() -> None:
    async def client(server: HttpServer) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port, limit=1024)
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        writer.write(GET)
        await asyncio.sleep(0.01)
        exchange = seen[0]
        exchange.on_flow(lambda: flow.append("pause"), lambda: flow.append("resume"))
        exchange.start(200, content_type="text/plain")
        written = 0
        while "pause" not in flow:
            exchange.write(b"a" * 65536)
            written += 65536
            await asyncio.sleep(0)
            assert written < 100_000_000
        waiting = asyncio.ensure_future(exchange.drain())
        await asyncio.sleep(0.01)
        assert not waiting.done()
        writer.transport.resume_reading()  # type: ignore[attr-defined]
        while not waiting.done():
            await reader.read(1 << 20)
        assert flow == ["pause", "resume"]
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        while flow.count("pause") < 2:
            exchange.write(b"a" * 65536)
            await asyncio.sleep(0)
        server.deadlines.sweep(server.deadlines.now_s + 1000)
        await asyncio.sleep(0.01)
        assert exchange.gone
        writer.close()

    seen: list[Exchange] = []
    flow: list[str] = []
    talk(client, seen.append)


def test_a_shorter_answer_than_was_told_cuts_the_connection() -> None:
    def handler(exchange: Exchange) -> None:
        exchange.start(200, content_type="text/plain", content_length=10)
        exchange.write(b"abc")
        exchange.end()

    answer = send(GET, handler=handler, limits=Limits())
    assert b"Content-Length: 10\r\n" in answer or answer == b"<closed>"


def test_headers_with_line_breaks_are_a_bug_not_a_header() -> None:
    def handler(exchange: Exchange) -> None:
        with pytest.raises(ValueError, match="line break"):
            exchange.respond(200, b"", headers=(("X-A", "b\r\nSet-Cookie: c"),))
        exchange.respond(204, b"")

    answer = send(GET, handler=handler)
    assert status(answer) == 204
    assert b"Content-Length" not in answer


def test_too_many_connections_are_refused_with_a_time_to_retry() -> None:
    async def client(server: HttpServer) -> bytes:
        writers = [(await asyncio.open_connection("127.0.0.1", server.port))[1] for _ in range(2)]
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        answer = await reader.read()
        for each in (*writers, writer):
            each.close()
        return answer

    answer = talk(client, limits=Limits(max_connections=2))
    assert status(answer) == 503
    assert b'"code":"overloaded"' in answer
    assert b"Retry-After: 1\r\n" in answer


def test_a_drained_shutdown_finishes_what_is_under_way_and_closes_the_rest() -> None:
    async def main() -> None:
        seen: list[Exchange] = []
        server = await serve(seen.append)
        idle_reader, idle_writer = await asyncio.open_connection("127.0.0.1", server.port)
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(GET)
        while not seen or len(server.connections) < 2:  # noqa: ASYNC110
            await asyncio.sleep(0.001)
        closing = asyncio.ensure_future(server.close(patience_s=5))
        assert await idle_reader.read() == b""
        assert not closing.done()
        seen[0].respond(200, b"done")
        answer = await reader.read()
        assert status(answer) == 200
        assert b"Connection: close\r\n" in answer
        await closing
        writer.close()
        idle_writer.close()

    asyncio.run(main())


def test_a_shutdown_without_patience_cuts_what_never_ends() -> None:
    async def main() -> None:
        server = await serve(echo)
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(b"GET /never HTTP/1.1\r\nHost: a\r\n\r\n")
        await asyncio.sleep(0.01)
        await server.close(patience_s=0.01)
        assert not server.connections
        assert await reader.read() == b""
        writer.close()

    asyncio.run(main())
