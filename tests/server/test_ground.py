from __future__ import annotations

import errno
import os
import socket
from pathlib import Path

import pytest

from ironloom.server.ground import Options, cannot_listen


@pytest.mark.parametrize(
    ("error", "hint"),
    [
        (OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE)), "another program may have the port"),
        (OSError(errno.EADDRNOTAVAIL, os.strerror(errno.EADDRNOTAVAIL)), "--host is an address of this machine"),
        (socket.gaierror(socket.EAI_NONAME, "Name or service not known"), "--host is an address of this machine"),
        (PermissionError(errno.EACCES, os.strerror(errno.EACCES)), "ports below 1024 are root's"),
    ],
)
def test_an_address_that_cannot_be_had_says_why_and_what_to_do(error: OSError, hint: str) -> None:
    told = cannot_listen(Options(host="10.9.9.9", port=80, state_dir=Path()), error)
    assert told.message == f"Cannot listen on 10.9.9.9 port 80: {error.strerror}."
    assert told.hint is not None
    assert told.hint.startswith(hint)
