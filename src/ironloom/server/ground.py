"""What the daemon stands on: its options, the machine, the backend, the certificate."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ironloom.account.database import Database
from ironloom.account.log import EventLog
from ironloom.errors import UsageError
from ironloom.fleet.node import Node
from ironloom.serve.replica import ReplicaBackend

BackendFactory = Callable[[Database, EventLog, Path, Callable[[], Node]], ReplicaBackend]


@dataclass(frozen=True, kw_only=True, slots=True)
class Options:
    """What `ironloom up` was asked for."""

    host: str = "127.0.0.1"
    port: int = 11500
    """0 takes a free one."""
    state_dir: Path
    cert: Path | None = None
    key: Path | None = None
    require_keys: bool = False
    """Want a key on loopback too; off loopback one is always wanted."""
    allow_origins: tuple[str, ...] = ()
    """Origins of web pages that may call the inference API."""
    allow_hosts: tuple[str, ...] = ()
    """Host names, besides loopback's, that requests on loopback may carry: a local reverse proxy's."""


def local_backend(database: Database, log: EventLog, state_dir: Path, node: Callable[[], Node]) -> ReplicaBackend:
    """Replicas as processes on this machine."""
    from ironloom.backends.local.backend import LocalBackend
    from ironloom.serve.models.cache import default_cache_dir

    return LocalBackend(db=database, log=log, state_dir=state_dir, node=node, cache_dir=default_cache_dir())


async def find_machine() -> Callable[[], Node]:
    """This machine, its GPUs found once (that may take seconds), its memory read at each call."""
    from ironloom.fleet.gpus import gpus as find_gpus
    from ironloom.fleet.machine import this_machine

    found = await asyncio.to_thread(find_gpus)
    return lambda: this_machine(gpus=lambda: found)


def tls_context(options: Options) -> ssl.SSLContext | None:
    """The certificate to serve with, None for cleartext. Raises UsageError when it cannot be used."""
    if options.cert is None:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_cert_chain(options.cert, options.key)
    except (OSError, ssl.SSLError) as error:
        raise UsageError(
            f"The certificate {options.cert} and its key cannot be used: {error}.",
            hint="both as PEM, the key without a passphrase",
        ) from error
    return context


def shown_host(host: str) -> str:
    """A host as it stands in a URL."""
    return f"[{host}]" if ":" in host else host
