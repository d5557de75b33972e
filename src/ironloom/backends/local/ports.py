"""Loopback ports for engines."""

from __future__ import annotations

import random
import socket

from ironloom.errors import CapacityError

FIRST, LAST = 20_000, 31_999
"""Below the range that the kernel gives to outgoing connections (32768 and up on Linux, 49152 on macOS): a port from
that range could be taken by any client between our look and the engine's bind."""


class Ports:
    """Hands out each port once until it is given back."""

    def __init__(self, *, seed: int | None = None) -> None:
        self._random = random.Random(seed)
        self._held: set[int] = set()

    def take(self) -> int:
        """A port that nothing listens on now. Another program may still take it first: see `is_free`.

        Raises CapacityError when none is left.
        """
        start = self._random.randint(FIRST, LAST)
        candidates: list[int] = [*range(start, LAST + 1), *range(FIRST, start)]
        for port in candidates:
            if port not in self._held and is_free(port):
                self._held.add(port)
                return port
        raise CapacityError(f"No loopback port from {FIRST} to {LAST} is free.")

    def adopt(self, port: int) -> None:
        """This one is in use by a replica found running."""
        self._held.add(port)

    def give_back(self, port: int) -> None:
        self._held.discard(port)


def is_free(port: int, host: str = "127.0.0.1") -> bool:
    """True when a server could bind to it now."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        # As servers do: connections in TIME_WAIT do not keep a port from them.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True
