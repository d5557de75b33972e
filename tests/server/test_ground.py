from __future__ import annotations

import errno
import os
import socket
from pathlib import Path

import pytest

from ironloom.server.ground import Options, cannot_listen


@pytest.mark.parametrize(
    ("error", "why", "hint"),
    [
        (
            OSError(errno.EADDRINUSE, "error while attempting to bind on address ('10.9.9.9', 80): in use"),
            "address already in use",
            "another program may have the port",
        ),
        (
            OSError(errno.EADDRNOTAVAIL, os.strerror(errno.EADDRNOTAVAIL)),
            "cannot assign requested address",
            "--host is an address of this machine",
        ),
        (
            OSError("could not bind on any address out of [('10.9.9.9', 80)]"),
            "cannot assign requested address",
            "--host is an address of this machine",
        ),
        (
            socket.gaierror(socket.EAI_NONAME, "Name or service not known"),
            "name or service not known",
            "--host is an address of this machine",
        ),
        (PermissionError(errno.EACCES, os.strerror(errno.EACCES)), "permission denied", "ports below 1024 are root's"),
    ],
)
def test_an_address_that_cannot_be_had_says_why_and_what_to_do(error: OSError, why: str, hint: str) -> None:
    told = cannot_listen(Options(host="10.9.9.9", port=80, state_dir=Path()), error)
    assert told.message == f"Cannot listen on 10.9.9.9 port 80: {why}."
    assert told.hint is not None
    assert told.hint.startswith(hint)
