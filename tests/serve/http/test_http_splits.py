"""Bytes are bytes, however they are cut: random splits of random valid requests and answers change nothing."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ironloom.serve.gateway.usage import EventStream, usage_in_tail
from ironloom.serve.http.client import Connection, Upstream
from ironloom.serve.http.connection import ServerConnection
from ironloom.serve.http.deadlines import Deadlines
from ironloom.serve.http.exchange import Exchange
from ironloom.serve.http.limits import Limits
from ironloom.serve.http.server import HttpServer


class Wire:
    """A transport that remembers."""

    def __init__(self) -> None:
        self.written = b""
        self.closed = False

    def write(self, data: bytes) -> None:
        self.written += data

    def is_closing(self) -> bool:
        return self.closed

    def get_extra_info(self, _name: str) -> Any:
        return ("127.0.0.1", 1)

    def get_write_buffer_size(self) -> int:
        return 0

    def can_write_eof(self) -> bool:
        return False

    def close(self) -> None:
        self.closed = True

    abort = pause_reading = resume_reading = close


def cut(data: bytes, at: list[int]) -> list[bytes]:
    """The data in pieces that end at these places (taken modulo its length)."""
    places = sorted({0, len(data), *(place % (len(data) + 1) for place in at)})
    return [data[a:b] for a, b in pairwise(places)]


def chunked(body: bytes, sizes: list[int]) -> bytes:
    encoded, rest = b"", body
    for size in sizes:
        piece, rest = rest[:size], rest[size:]
        if piece:
            encoded += b"%x\r\n%b\r\n" % (len(piece), piece)
    if rest:
        encoded += b"%X\r\n%b\r\n" % (len(rest), rest)
    return encoded + b"0\r\n\r\n"


bodies = st.binary(max_size=300)
places = st.lists(st.integers(0, 5000), max_size=30)
sizes = st.lists(st.integers(1, 60), max_size=8)
header_values = st.text("abcdefgh ,;=\t~!", max_size=30)


@st.composite
def requests(draw: Any) -> tuple[bytes, bytes]:
    """(a valid request, what the handler must see of it)."""
    body = draw(bodies)
    value = draw(header_values).strip(" \t").encode()
    path = draw(st.sampled_from(["/a", "/b/c", "/d%20e"]))
    head = b"POST %b?q=1 HTTP/1.1\r\nHost: h\r\nX-Any: %b\r\n" % (path.encode(), value)
    if draw(st.booleans()):
        raw = head + b"Transfer-Encoding: chunked\r\n\r\n" + chunked(body, draw(sizes))
    else:
        raw = head + b"Content-Length: %d\r\n\r\n" % len(body) + body
    return raw, b"|".join([path.replace("%20", " ").encode(), value, body])


def serve_bytes(pieces: list[bytes]) -> tuple[bytes, list[bytes]]:
    """What a connection answers to these reads, and what its handler saw."""
    seen: list[bytes] = []

    def handler(exchange: Exchange) -> None:
        request = exchange.request
        seen.append(b"|".join([request.path.encode(), request.headers.get(b"x-any", b""), request.body]))
        exchange.respond(200, seen[-1])

    server = HttpServer(handler, Limits(max_pipelined=100), Deadlines())
    connection = ServerConnection(server)
    wire = Wire()
    connection.connection_made(cast("Any", wire))
    for piece in pieces:
        connection.data_received(piece)
    written = wire.written
    connection.connection_lost(None)
    assert server.num_unread_bytes == 0, "bytes of a body that was never whole are still counted"
    return written, seen


@settings(max_examples=300, deadline=None)
@given(st.lists(requests(), min_size=1, max_size=4), places)
def test_requests_are_the_same_however_they_are_cut(many: list[tuple[bytes, bytes]], at: list[int]) -> None:
    raw = b"".join(one for one, _ in many)
    whole, seen_whole = serve_bytes([raw])
    parts, seen_parts = serve_bytes(cut(raw, at))
    assert seen_whole == seen_parts == [expected for _, expected in many]
    assert whole.count(b"HTTP/1.1 200 OK\r\nDate: ") == parts.count(b"HTTP/1.1 200 OK\r\nDate: ") == len(many)


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=400), places)
def test_no_bytes_bring_the_server_down(data: bytes, at: list[int]) -> None:
    written, _ = serve_bytes(cut(data, at))
    assert not written or written.startswith(b"HTTP/1.1 ")


@settings(max_examples=300, deadline=None)
@given(requests(), st.integers(0, 2000), st.binary(min_size=1, max_size=3), places)
def test_a_damaged_request_is_answered_alike_however_it_is_cut(
    request: tuple[bytes, bytes], place: int, damage: bytes, at: list[int]
) -> None:
    raw = request[0]
    place %= len(raw)
    raw = raw[:place] + damage + raw[place + len(damage) :]
    whole, seen_whole = serve_bytes([raw])
    parts, seen_parts = serve_bytes(cut(raw, at))
    assert seen_whole == seen_parts
    assert whole[:12] == parts[:12]


class Gatherer:
    """A Receiver that remembers."""

    def __init__(self) -> None:
        self.status = 0
        self.lines = b""
        self.body = b""
        self.num_ends = 0
        self.num_losses = 0
        self.num_relayed = 0

    def answered(self, status: int, _content_type: bytes, lines: bytes, body: bytes) -> None:
        self.received_head(status, _content_type, lines, len(body))
        self.received(body)
        self.ended()

    def relay(self, chunk: bytes) -> bool:
        if not chunk.endswith(b"\r\n"):
            return False
        self.num_relayed += 1
        while chunk:
            line, _, rest = chunk.partition(b"\r\n")
            size = int(line, 16)
            self.received(rest[:size])
            chunk = rest[size + 2 :]
        return True

    def received_head(self, status: int, _content_type: bytes, lines: bytes, _content_length: int | None) -> None:
        self.status, self.lines = status, lines

    def received(self, data: bytes) -> None:
        self.body += data

    def ended(self) -> None:
        self.num_ends += 1

    def lost(self, reason: str, *, stale: bool) -> None:
        self.num_losses += 1


def answer_bytes(pieces: list[bytes]) -> tuple[Gatherer, Connection, Upstream]:
    upstream = Upstream("127.0.0.1", 1)
    connection = Connection(upstream)
    connection.connection_made(cast("Any", Wire()))
    gatherer = Gatherer()
    connection.send(b"", gatherer)
    connection.relay = gatherer.relay
    for piece in pieces:
        connection.data_received(piece)
    return gatherer, connection, upstream


@settings(max_examples=300, deadline=None)
@given(bodies, sizes, st.booleans(), st.booleans(), places)
def test_answers_are_the_same_however_they_are_cut(
    body: bytes, chunk_sizes: list[int], is_chunked: bool, interim: bool, at: list[int]
) -> None:
    raw = b"HTTP/1.1 100 Continue\r\n\r\n" if interim else b""
    raw += b"HTTP/1.1 200 OK\r\nContent-Type: a/b\r\nX-Any: 1\r\nConnection: keep-alive\r\n"
    if is_chunked:
        raw += b"Transfer-Encoding: chunked\r\n\r\n" + chunked(body, chunk_sizes)
    else:
        raw += b"Content-Length: %d\r\n\r\n" % len(body) + body
    gatherer, connection, upstream = answer_bytes(cut(raw, at))
    assert (gatherer.status, gatherer.body) == (200, body)
    assert gatherer.lines == b"Content-Type: a/b\r\nX-Any: 1\r\n"
    assert (gatherer.num_ends, gatherer.num_losses) == (1, 0)
    assert upstream.idle == [connection]
    second = Gatherer()
    connection.send(b"", second)
    for piece in cut(raw, at):
        connection.data_received(piece)
    assert (second.status, second.body, second.num_ends) == (200, body, 1)


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=300), places)
def test_whatever_an_engine_sends_its_receiver_hears_of_one_end_at_most(data: bytes, at: list[int]) -> None:
    gatherer, connection, upstream = answer_bytes(cut(data, at))
    connection.connection_lost(None)
    assert gatherer.num_ends + gatherer.num_losses == 1
    assert upstream.idle == []


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)


@settings(max_examples=300, deadline=None)
@given(st.lists(texts, max_size=8), st.booleans(), st.sampled_from([b"\n\n", b"\r\n\r\n"]), places)
def test_events_are_the_same_however_they_are_cut(
    words: list[str], with_usage: bool, end: bytes, at: list[int]
) -> None:
    events = [b"data: " + json.dumps({"choices": [{"delta": {"content": w}}]}).encode() for w in words]
    expected = end.join([*events, b"data: [DONE]", b""])
    report = b'data: {"choices": [], "usage": {"prompt_tokens": 5, "completion_tokens": 9}}'
    sent = end.join([*events, *([report] if with_usage else []), b"data: [DONE]", b""])
    stream = EventStream(hide_usage=True)
    passed = []
    for piece in cut(sent, at):
        out = stream.feed(piece)
        assert not out or out.endswith(end), "whole events only"
        passed.append(out)
    assert b"".join(passed) + stream.rest() == expected
    assert stream.completion_tokens == (9 if with_usage else len(words))


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (b'{"x":1,"usage":{"prompt_tokens":3,"total_tokens":7,"completion_tokens":4}}', (3, 4)),
        (b'{"usage": {"completion_tokens": 4, "prompt_tokens": 3}, "prompt_logprobs": null}', (3, 4)),
        (b'{"usage":{"prompt_tokens":3,"total_tokens":3}}', (3, None)),
        (b'{"usage":{"prompt_tokens":3,"total_tokens":3},"a":1}', (3, 0)),
        (b'{"usage":{"prompt_tokens":3,"completion_tokens":4,"details":{"cached_tokens":2}},"a":null}', (3, 4)),
        (b'{"usage":null}', None),
        (b'{"text":"say \\"usage\\":{\\"prompt_tokens\\":9}"}', None),
        (b'{"text":"\xff"}', None),
        (b"", None),
    ],
)  # fmt: skip
def test_usage_is_read_from_the_tail(answer: bytes, expected: tuple[int, int | None] | None) -> None:
    usage = usage_in_tail(answer)
    assert (None if usage is None else (usage.prompt_tokens, usage.completion_tokens)) == expected


def test_an_endless_event_is_passed_on_in_pieces() -> None:
    stream = EventStream(hide_usage=True)
    out = b"".join(stream.feed(b"x" * 100_000) for _ in range(30))
    assert len(out) > 2_000_000
    assert len(out) + len(stream.rest()) == 3_000_000
