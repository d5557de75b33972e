"""What the daemon stands on: its options, the machine, the backend, the certificate."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import ssl
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from ironloom.account.database import Database
from ironloom.account.events import Left, StoredEvent
from ironloom.account.log import EventLog
from ironloom.backends.kubernetes.kubeconfig import Target
from ironloom.errors import UsageError
from ironloom.fleet.node import Node
from ironloom.serve.replica import ReplicaBackend

_TLS_REASONS = (
    ("PEM lib", "one of them holds no PEM text of its kind"),
    ("KEY_VALUES_MISMATCH", "the key belongs to another certificate"),
)
"""OpenSSL's words for what is wrong with a certificate's files, and ours."""
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
    cluster: Target | None = None
    """Where replicas are pods, in the namespace that it names; None runs them on this machine."""
    control_key_file: Path | None = None
    """Holds a key made elsewhere that opens the control API: a mounted Secret's."""
    url: str = ""
    """Where clients reach it, without a path; empty: where it listens."""
    is_shared: bool = False
    """Other gateways run the same services of the cluster, and one of them decides."""
    keeps_replicas: bool = False
    """A signal ends the daemon alone: its replicas go on, and another one takes them up."""


def local_backend(database: Database, log: EventLog, state_dir: Path, node: Callable[[], Node]) -> ReplicaBackend:
    """Replicas as processes on this machine."""
    from ironloom.backends.local.backend import LocalBackend
    from ironloom.serve.models.cache import default_cache_dir

    return LocalBackend(db=database, log=log, state_dir=state_dir, node=node, cache_dir=default_cache_dir())


def own_identity(environ: Mapping[str, str] = os.environ) -> str:
    """Who this gateway is among others: the pod's name, else one that no other process has."""
    return environ.get("POD_NAME") or f"{socket.gethostname()}-{uuid.uuid4().hex[:8]}"


def own_url(host: str, url: str, environ: Mapping[str, str] = os.environ) -> str:
    """Where the other gateways reach this one, which listens on `host` and calls itself `url`: the pod's address where
    it listens on all."""
    parts = urlsplit(url)
    address = environ.get("POD_IP") if host in {"0.0.0.0", "::"} else None
    return f"{parts.scheme}://{shown_host(address)}:{parts.port}" if address else url


def kubernetes_backend(target: Target, *, is_shared: bool = False) -> BackendFactory:
    """Replicas as pods of a cluster, in the target's namespace. `is_shared`: other gateways run the same services, and
    one of them decides."""

    def made(database: Database, log: EventLog, state_dir: Path, node: Callable[[], Node]) -> ReplicaBackend:
        del database, state_dir, node
        from ironloom.backends.kubernetes.backend import KubernetesBackend
        from ironloom.backends.kubernetes.client import Client
        from ironloom.backends.kubernetes.group import Group
        from ironloom.backends.kubernetes.starts import NUM_EVENTS

        async def left() -> Left:
            return Left(events=tuple(await log.left_replicas()), last_s=log.last_s)

        async def history(service: str) -> list[StoredEvent]:
            return await log.events(service=service, limit=NUM_EVENTS, is_latest=False)

        client = Client(target)
        group = Group(client, namespace=target.namespace, identity=own_identity()) if is_shared else None
        return KubernetesBackend(
            client, namespace=target.namespace, record=log.event, left=left, group=group, history=history
        )

    return made


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
        said = str(error) if isinstance(error, ssl.SSLError) else error.strerror or str(error)
        reason = next((ours for theirs, ours in _TLS_REASONS if theirs in said), said)
        raise UsageError(
            f"The certificate {options.cert} and its key {options.key} cannot be used: {reason}.",
            hint="both are PEM files, the key without a passphrase",
        ) from error
    return context


def cannot_listen(options: Options, error: OSError) -> UsageError:
    """The error of an address that cannot be had, with what to do about it."""
    hint = "another program may have the port; --port N or IRONLOOM_PORT takes another, --port 0 a free one"
    if isinstance(error, socket.gaierror) or error.errno in (errno.EADDRNOTAVAIL, None):
        hint = "--host is an address of this machine: 127.0.0.1 is this machine alone, 0.0.0.0 every address it has"
    elif error.errno in (errno.EACCES, errno.EPERM):
        hint = "ports below 1024 are root's; --port N or IRONLOOM_PORT takes another"
    return UsageError(f"Cannot listen on {options.host} port {options.port}: {_why_not(error)}.", hint=hint)


def _why_not(error: OSError) -> str:
    """What is in the way, in the system's words: asyncio puts its own and a Python tuple around them.

    Newer versions of asyncio pass over an address that is not this machine's, and then have no number to tell.
    """
    if isinstance(error, socket.gaierror):
        said = error.strerror or str(error)
    else:
        said = os.strerror(errno.EADDRNOTAVAIL if error.errno is None else error.errno)
    return said[:1].lower() + said[1:]


def shown_host(host: str) -> str:
    """A host as it stands in a URL."""
    return f"[{host}]" if ":" in host else host
