"""What follows from a head that comes again holds no longer than what it was found out from."""

from __future__ import annotations

import json
import re
from typing import Any, cast

from tests.serve.http.test_http_splits import Wire

from ironloom.serve.gateway.app import Gateway
from ironloom.serve.gateway.config import GatewayConfig
from ironloom.serve.gateway.keys import Key, KeyRing, Scope
from ironloom.serve.http.connection import ServerConnection
from ironloom.serve.http.deadlines import Deadlines
from ironloom.serve.http.limits import Limits
from ironloom.serve.http.server import HttpServer


class Ring:
    """A key ring with one token, until it is revoked."""

    def __init__(self) -> None:
        self.version = 1
        self.uses: list[str] = []
        self.num_checks = 0

    def check(self, token: bytes | None) -> Key | None:
        self.num_checks += 1
        key = Key(id="key-1", name="one", scope=Scope.INFERENCE)
        if token != b"il-one" or self.version > 1:
            return None
        self.used(key)
        return key

    def used(self, key: Key) -> None:
        self.uses.append(key.id)


class Log:
    """An event log that keeps who asked."""

    def __init__(self) -> None:
        self.begun: list[tuple[str, str]] = []

    def begin(
        self, request_id: str, _service: str, key_id: str, _path: str, _stream: bool, _now_s: float | None = None
    ) -> int:
        self.begun.append((request_id, key_id))
        return len(self.begun)

    def end(self, *_args: Any, **_named: Any) -> None: ...

    def progress(self, *_args: Any, **_named: Any) -> None: ...


def post(model: str, *headers: bytes) -> bytes:
    body = json.dumps({"model": model, "messages": []}).encode()
    lines = b"".join(header + b"\r\n" for header in headers)
    return b"POST /v1/chat/completions HTTP/1.1\r\nHost: h\r\n%bContent-Length: %d\r\n\r\n%b" % (lines, len(body), body)


def asked(ring: Ring, *reads: bytes) -> tuple[list[int], Log, ServerConnection]:
    log = Log()
    gateway = Gateway(log=log, keys=cast("KeyRing", ring), config=GatewayConfig(keys_required=True))
    connection = ServerConnection(HttpServer(gateway, Limits(), Deadlines()))
    connection.connection_made(cast("Any", Wire()))
    for data in reads:
        connection.data_received(data)
    return statuses(connection), log, connection


def statuses(connection: ServerConnection) -> list[int]:
    written = cast("Wire", cast("Any", connection.transport)).written
    return [int(status) for status in re.findall(rb"HTTP/1\.1 (\d+) ", written)]


KEY = b"Authorization: Bearer il-one"


def test_a_key_is_checked_once_for_a_head_that_comes_again_and_each_use_counts() -> None:
    ring = Ring()
    # A service that is not there: 404 says that the key was taken.
    seen, log, _ = asked(ring, post("a", KEY), post("bb", KEY), post("ccc", KEY))
    assert seen == [404, 404, 404]
    assert ring.num_checks == 2, "the parsed one, and the first that was known"
    assert ring.uses == ["key-1"] * 3
    assert [key_id for _, key_id in log.begun] == ["key-1"] * 3


def test_a_revoked_key_opens_nothing_though_its_head_is_known() -> None:
    ring = Ring()
    seen, _, connection = asked(ring, post("a", KEY), post("a", KEY), post("a", KEY))
    ring.version += 1
    connection.data_received(post("a", KEY))
    connection.data_received(post("a", KEY))
    assert seen == [404, 404, 404]
    assert statuses(connection)[3:] == [401, 401]


def test_each_request_has_an_id_of_its_own_unless_its_head_names_one() -> None:
    _, log, _ = asked(Ring(), *[post("a", KEY)] * 3, *[post("a", KEY, b"X-Request-Id: mine")] * 3)
    ids = [request_id for request_id, _ in log.begun]
    assert len(set(ids[:3])) == 3
    assert ids[3:] == ["mine"] * 3
