"""A head that is known again is read as the parser would have read it, and nothing else is taken for one."""

from __future__ import annotations

from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.serve.http.test_http_splits import Gatherer, Wire, chunked, cut

from ironloom.serve.http import client, connection
from ironloom.serve.http.client import Connection, Upstream, are_chunks, chunk_begins
from ironloom.serve.http.connection import ServerConnection
from ironloom.serve.http.deadlines import Deadlines
from ironloom.serve.http.exchange import Exchange
from ironloom.serve.http.known_heads import KnownHead, split_head
from ironloom.serve.http.limits import Limits
from ironloom.serve.http.server import HttpServer

HEAD = b"POST /a?q=1 HTTP/1.1\r\nHost: h\r\n%bContent-Length: %d\r\nX-Any: %b\r\n\r\n"
bodies = st.binary(max_size=60)


def request(body: bytes, any_: bytes = b"1", extra: bytes = b"") -> bytes:
    return HEAD % (extra, len(body), any_) + body


class Talk:
    """A connection to a server whose handler remembers what it saw."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, str, str, dict[bytes, bytes], bytes]] = []
        self.num_known = 0
        self._server = HttpServer(self._handle, Limits(max_pipelined=100), Deadlines())
        self._server.date_line = b"Date: x\r\n"
        self.connection = ServerConnection(self._server)
        self.wire = Wire()
        self.connection.connection_made(cast("Any", self.wire))

    def _handle(self, exchange: Exchange) -> None:
        request = exchange.request
        self.num_known += request.known is not None
        self.seen.append((request.method, request.path, request.query, dict(request.headers), request.body))
        exchange.respond(200, request.body)

    def read(self, *reads: bytes) -> Talk:
        for data in reads:
            self.connection.data_received(data)
        return self


def without_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "split_head", lambda _head: None)
    monkeypatch.setattr(client, "split_head", lambda _head: None)


def test_the_second_request_with_a_head_is_known_whatever_its_body() -> None:
    talk = Talk().read(request(b"one"), request(b"a longer body"), request(b""))
    assert talk.num_known == 2
    assert [body for *_, body in talk.seen] == [b"one", b"a longer body", b""]
    assert [headers[b"content-length"] for *_, headers, _ in talk.seen] == [b"3", b"13", b"0"]


def test_a_head_that_differs_in_a_byte_is_parsed() -> None:
    talk = Talk().read(request(b"one", b"1"), request(b"one", b"2"), request(b"one", b"2"))
    assert talk.num_known == 1
    assert [headers[b"x-any"] for _, _, _, headers, _ in talk.seen] == [b"1", b"2", b"2"]


@pytest.mark.parametrize(
    "extra", [b"Connection: close\r\n", b"Expect: 100-continue\r\n", b"Upgrade: h2c\r\nConnection: upgrade\r\n"]
)
def test_a_head_that_asks_something_of_its_connection_is_never_known(extra: bytes) -> None:
    talk = Talk().read(request(b"one", extra=extra))
    talk.read(request(b"two", extra=extra))
    assert talk.num_known == 0


def test_a_head_of_an_older_version_is_never_known() -> None:
    old = request(b"one", extra=b"Connection: keep-alive\r\n").replace(b"HTTP/1.1", b"HTTP/1.0")
    talk = Talk().read(old, old)
    assert len(talk.seen) == 2
    assert talk.num_known == 0


def test_half_a_head_before_it_makes_a_known_head_an_error() -> None:
    talk = Talk().read(request(b"one"), b"PO", request(b"two"))
    assert len(talk.seen) == 1
    assert b"HTTP/1.1 400 " in talk.wire.written


def test_a_body_that_comes_later_is_waited_for() -> None:
    whole = request(b"two words")
    talk = Talk().read(request(b"one"), whole[:-5], whole[-5:], request(b"three"))
    assert [body for *_, body in talk.seen] == [b"one", b"two words", b"three"]
    assert talk.num_known == 1, "after a request in two reads the parser is between requests again"


def test_a_known_body_is_bounded_as_any_other() -> None:
    talk = Talk().read(request(b"one"))
    talk.connection.server.limits = Limits(max_body_bytes=5)
    talk.read(request(b"more than five"))
    assert b"HTTP/1.1 413 " in talk.wire.written


def test_a_head_is_known_before_a_body_of_any_length_and_no_other() -> None:
    parts = split_head(request(b"one")[:-3])
    assert parts is not None
    known = KnownHead(*parts)
    for length in (0, 1, 9, 10, 11, 99, 100, 98, 999, 1000, 99_999, 100_000, 0, 10):
        body = b"x" * length
        assert known.body(request(body)) == body
        assert known.body(request(body) + b"x") is None
        assert known.body(request(body)[:-1]) is None
        assert known.body(request(body)) == body


@pytest.mark.parametrize("digits", [b"+3", b" 3", b"03", b"3_0", b"0x3", b"", b"-3", b"\xb3", b"3\r\nX: y"])
def test_a_length_that_is_not_plain_digits_is_the_parsers_to_judge(digits: bytes) -> None:
    parts = split_head(request(b"one")[:-3])
    assert parts is not None
    assert KnownHead(*parts).body(parts[0] + digits + parts[1] + b"one") is None


reads = st.one_of(
    st.builds(request, bodies, st.sampled_from([b"1", b"2"])),
    st.builds(lambda data, at: data[:at], st.builds(request, bodies), st.integers(0, 120)),
    st.builds(lambda a, b: a + b, st.builds(request, bodies), st.builds(request, bodies)),
    st.builds(
        lambda data, at, damage: data[: at % len(data)] + damage + data[at % len(data) + 1 :],
        st.builds(request, bodies),
        st.integers(0, 120),
        st.binary(max_size=2),
    ),
    st.sampled_from([b"\r\n", b"GET / HTTP/1.1\r\nHost: h\r\n\r\n", b"P"]),
)


@settings(max_examples=400, deadline=None)
@given(st.lists(reads, min_size=1, max_size=6))
def test_any_reads_are_answered_as_if_no_head_were_ever_known(many: list[bytes]) -> None:
    with pytest.MonkeyPatch.context() as monkeypatch:
        without_memory(monkeypatch)
        plain = Talk().read(*many)
    assert plain.num_known == 0
    talk = Talk().read(*many)
    assert talk.seen == plain.seen
    assert talk.wire.written == plain.wire.written


def answers(pieces: list[list[bytes]]) -> tuple[list[tuple[int, bytes, bytes, int, int]], int]:
    """What the receivers of one connection hear of these answers, each in these reads; and how many were relayed."""
    upstream = Upstream("127.0.0.1", 1)
    connection = Connection(upstream)
    connection.connection_made(cast("Any", Wire()))
    heard, num_relayed = [], 0
    for reads in pieces:
        gatherer = Gatherer()
        connection.send(b"", gatherer)
        connection.relay = gatherer.relay
        for data in reads:
            connection.data_received(data)
        heard.append((gatherer.status, gatherer.lines, gatherer.body, gatherer.num_ends, gatherer.num_losses))
        num_relayed += gatherer.num_relayed
        if upstream.idle != [connection]:
            break
        upstream.idle.clear()
    return heard, num_relayed


JSON = b"HTTP/1.1 200 OK\r\nContent-Type: a/b\r\nContent-Length: %d\r\n\r\n%b"
STREAM = b"HTTP/1.1 200 OK\r\nContent-Type: a/b\r\nTransfer-Encoding: chunked\r\n\r\n"


def test_an_engines_second_answer_with_a_head_is_known() -> None:
    upstream = Upstream("127.0.0.1", 1)
    connection = Connection(upstream)
    connection.connection_made(cast("Any", Wire()))
    for body in (b"one", b"a longer one"):
        gatherer = Gatherer()
        connection.send(b"", gatherer)
        connection.data_received(JSON % (len(body), body))
        assert (gatherer.status, gatherer.body, gatherer.num_ends) == (200, body, 1)
        upstream.take()
    assert upstream.known is not None
    assert upstream.known.body(JSON % (2, b"ab")) == b"ab"


def test_whole_chunks_are_relayed_and_the_end_is_the_parsers() -> None:
    reads = [STREAM, b"3\r\nabc\r\n", b"3\r\ndef\r\n", b"A\r\n0123456789\r\n", b"0\r\n\r\n"]
    heard, num_relayed = answers([reads, reads])
    assert heard == [(200, b"Content-Type: a/b\r\n", b"abcdef0123456789", 1, 0)] * 2
    assert num_relayed == 4


def test_several_chunks_of_one_read_are_relayed_as_one() -> None:
    reads = [STREAM, b"3\r\nabc\r\n", b"3\r\ndef\r\n01\r\ng\r\n", b"2\r\nhi\r\n0\r\n\r\n"]
    heard, num_relayed = answers([reads, reads])
    assert heard == [(200, b"Content-Type: a/b\r\n", b"abcdefghi", 1, 0)] * 2
    assert num_relayed == 2


@settings(max_examples=400, deadline=None)
@given(
    st.lists(st.tuples(bodies, st.booleans(), st.lists(st.integers(0, 300), max_size=4)), min_size=1, max_size=5),
    st.lists(st.integers(1, 20), max_size=6),
)
def test_any_answers_are_heard_as_if_no_head_were_ever_known(
    many: list[tuple[bytes, bool, list[int]]], sizes: list[int]
) -> None:
    pieces = [
        cut(STREAM + chunked(body, sizes) if is_stream else JSON % (len(body), body), at)
        for body, is_stream, at in many
    ]
    with pytest.MonkeyPatch.context() as monkeypatch:
        without_memory(monkeypatch)
        monkeypatch.setattr(client, "chunk_begins", lambda _num_bytes: ())
        monkeypatch.setattr(client, "are_chunks", lambda _data: False)
        plain, num_relayed = answers(pieces)
    assert num_relayed == 0
    assert answers(pieces)[0] == plain
    assert [heard[2] for heard in plain] == [body for body, _, _ in many]


@settings(max_examples=300, deadline=None)
@given(st.lists(st.binary(max_size=12), max_size=4), st.integers(0, 60), st.binary(max_size=3))
def test_damaged_chunks_are_heard_as_the_parser_hears_them(datas: list[bytes], place: int, damage: bytes) -> None:
    reads = [STREAM, *(b"%x\r\n%b\r\n" % (len(data), data) for data in datas if data), b"0\r\n\r\n"]
    at = place % len(reads)
    reads[at] = reads[at][:place] + damage + reads[at][place + 1 :]
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(client, "chunk_begins", lambda _num_bytes: ())
        monkeypatch.setattr(client, "are_chunks", lambda _data: False)
        plain = answers([reads])[0]
    assert answers([reads])[0] == plain


def test_a_chunk_begins_as_its_size_in_hexadecimal_says_and_in_no_other_way() -> None:
    for size in (1, 9, 10, 15, 16, 255, 256, 4095, 4096, 65_535):
        chunk = b"%x\r\n%b\r\n" % (size, b"x" * size)
        assert chunk.startswith(chunk_begins(len(chunk)))
        assert chunk.upper().startswith(chunk_begins(len(chunk)))
        assert not chunk.startswith(chunk_begins(len(chunk) + 1))
        assert not (b"0" + chunk).startswith(chunk_begins(len(chunk) + 1))


@pytest.mark.parametrize("num_bytes", [0, 1, 5, 21])
def test_no_chunk_is_so_long(num_bytes: int) -> None:
    assert chunk_begins(num_bytes) == ()


@pytest.mark.parametrize(
    "data",
    [
        b"0\r\n\r\n",
        b"1\r\na\r\n0\r\n\r\n",
        b"1\r\na\r\n1\r\nb\r",
        b"1\r\na\r\n1\r\nb",
        b"1\r\nab\r\n",
        b"1\r\na\n\n",
        b"\r\n1\r\na\r\n",
        *(
            line + b"\r\nabcde\r\n"
            for line in (b"", b"+5", b" 5", b"5 ", b"0x5", b"5_0", b"5;a=b", b"00000005", b"g", b"-5")
        ),
    ],
)
def test_what_is_not_whole_chunks_with_plain_sizes_is_the_parsers_to_judge(data: bytes) -> None:
    assert not are_chunks(data)
