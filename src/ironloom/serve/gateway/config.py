"""The gateway's settings."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class GatewayConfig:
    """Set once, by the daemon."""

    keys_required: bool = False
    """Every inference request needs a valid key; always so off loopback."""
    allow_origins: frozenset[str] = frozenset()
    """Origins of web pages that may call the inference API (CORS), e.g. `http://localhost:3000`. None by default."""
    heartbeat_s: float = 5.0
    """A held stream gets its head and a comment after this long, and a comment this often. Before, an error still has
    its own status code."""
    max_retries: int = 2
    """How often a request is sent again after an engine died on it. A request that kills engines must not kill all."""
