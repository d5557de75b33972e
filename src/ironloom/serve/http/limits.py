"""What the HTTP server allows a peer: sizes, counts and patience."""

from __future__ import annotations

from dataclasses import dataclass

from ironloom.units import KIB, MIB


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """Bounds of one server. Each is an answer to a way of using it up: memory, connections or time."""

    max_head_bytes: int = 32 * KIB
    """Request line and headers; more is answered with 431."""
    max_headers: int = 100
    max_body_bytes: int = 32 * MIB
    """One request's body; more is answered with 413, before it is read where its length is told."""
    max_unread_bytes: int = 256 * MIB
    """Bodies being received on all connections together; more is answered with 503."""
    max_connections: int = 10_000
    max_pipelined: int = 16
    """Requests waiting behind an unfinished one on a connection; reading pauses at this many."""
    head_timeout_s: float = 10.0
    """From the connection, or the first byte of a next request, to the end of its head (slow-loris)."""
    body_timeout_s: float = 20.0
    """Patience with a body, to which each received byte adds 1 / min_body_bytes_per_s seconds."""
    min_body_bytes_per_s: float = 16.0 * KIB
    keep_alive_s: float = 75.0
    """An idle connection is closed after this long; nginx's default."""
    send_timeout_s: float = 60.0
    """A client that takes nothing of a waiting answer for this long is cut off."""
