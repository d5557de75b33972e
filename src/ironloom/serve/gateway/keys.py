"""API keys: the ring that the gateway asks on every request, kept in step with the table `keys`.

A key is `il-` and 43 url-safe characters (32 random bytes). Only its SHA-256 is stored: 256 bits of randomness need
no slow hash. The ring is a dict from digest to key, so a lookup's time tells nothing of the tokens in it. A token is
shown once, when it is made, and reaches no log and no repr.
"""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from hashlib import sha256
from typing import TYPE_CHECKING, Any, Protocol

from ironloom.errors import RequestError, UsageError

if TYPE_CHECKING:
    import sqlite3

    from ironloom.account.database import Database

TOKEN_PREFIX = "il-"
_NUM_RANDOM_BYTES = 32
_MAX_TOKEN_BYTES = 512
_MAX_NAME_CHARS = 100


class Scope(StrEnum):
    """What a key opens. A control key opens inference too, of every service."""

    INFERENCE = "inference"
    CONTROL = "control"


@dataclass(frozen=True, kw_only=True, slots=True)
class Key:
    """One API key, without its token."""

    id: str
    name: str
    scope: Scope
    services: frozenset[str] = frozenset()
    """Names of the services it may use; empty is all."""
    created_s: float = 0.0
    """Wall clock, seconds since the epoch."""
    last_used_s: float | None = None
    """Wall clock, as of the last flush; None is never."""

    def allows(self, service: str) -> bool:
        """True when the key may send requests to this service."""
        return not self.services or service in self.services


def is_ours(token: bytes | None) -> bool:
    """True for what has the form of a key of Ironloom: one that is unknown or was revoked is refused also where none is
    needed. Clients that must send something send another word there (`none`, `EMPTY`, `sk-…`), and may."""
    return token is not None and token.startswith(TOKEN_PREFIX.encode())


def token_of(headers: Mapping[bytes, bytes]) -> bytes | None:
    """The token a request carries: `Authorization: Bearer`, else `x-api-key`, else `api-key`; None when none does.

    Names of the headers are in lower case.
    """
    authorization = headers.get(b"authorization")
    if authorization is not None:
        scheme, _, token = authorization.partition(b" ")
        if scheme.lower() == b"bearer":
            return token.strip() or None
    return headers.get(b"x-api-key") or headers.get(b"api-key") or None


class Shelf(Protocol):
    """Where several gateways keep the keys that they make, in place of each one's database. What is there is told to
    the ring by `take`."""

    async def save(self, key_id: str, document: Any) -> None: ...
    async def remove(self, key_id: str) -> None: ...


class KeyRing:
    """The keys that are valid now. Owned by the daemon; `check` is safe to call on every request. With a `shelf`, set
    before the first key is made, keys are kept there."""

    def __init__(self, database: Database, *, wall_clock: Callable[[], float] = time.time) -> None:
        self._database = database
        self._wall_clock = wall_clock
        self.shelf: Shelf | None = None
        self._own: dict[bytes, Key] = {}
        """Of the database."""
        self._shared: dict[bytes, Key] = {}
        """Of the shelf."""
        self._by_digest: dict[bytes, Key] = {}
        """Both."""
        self._used: set[str] = set()
        self.version = 0
        """Grows whenever the keys may have changed: what `check` said holds until then."""

    @classmethod
    async def open(cls, database: Database, *, wall_clock: Callable[[], float] = time.time) -> KeyRing:
        """A ring with the keys of the database."""
        ring = cls(database, wall_clock=wall_clock)
        await ring.refresh()
        return ring

    def __len__(self) -> int:
        return len(self._by_digest)

    def __repr__(self) -> str:
        return f"<KeyRing of {len(self)} keys>"

    def check(self, token: bytes | None) -> Key | None:
        """The key of this token, or None when there is none. A dict lookup: no clock, no wait (under 1 µs)."""
        if token is None or len(token) > _MAX_TOKEN_BYTES:
            return None
        key = self._by_digest.get(sha256(token).digest())
        if key is not None:
            self._used.add(key.id)
        return key

    def used(self, key: Key) -> None:
        """Note that a key was used, where its token was checked before."""
        self._used.add(key.id)

    async def refresh(self) -> None:
        """Read the keys anew. Every change made through this ring does so by itself."""
        self._own = await self._database.read(_read)
        self._renew()

    def take(self, documents: Mapping[str, Any]) -> None:
        """What is on the shelf now, by key id; a document that is none of a key is passed over."""
        before = {key.id: key for key in self._shared.values()}
        found = dict(pair for key_id, one in documents.items() if (pair := _of_document(key_id, one)) is not None)
        self._shared = {
            digest: replace(key, last_used_s=before[key.id].last_used_s) if key.id in before else key
            for digest, key in found.items()
        }
        self._renew()

    def _renew(self) -> None:
        self._by_digest = {**self._shared, **self._own}
        self.version += 1

    async def create(
        self, name: str, scope: str, services: Iterable[str] = (), *, stays_here: bool = False
    ) -> tuple[Key, str]:
        """Make a key; returns it and its token, which is not to be had again. `stays_here`: no other gateway is to know
        it. Raises UsageError for bad arguments, and what the shelf raises."""
        key = Key(
            id=f"key-{secrets.token_hex(6)}",
            name=_checked_name(name),
            scope=_checked_scope(scope),
            services=frozenset(services),
            created_s=self._wall_clock(),
        )
        if key.scope is Scope.CONTROL and key.services:
            raise UsageError(
                "a control key reaches every service, so it cannot be limited to " + ", ".join(sorted(key.services)),
                hint="make it with scope inference, or without services",
            )
        if "" in key.services:
            raise UsageError("a service's name in `services` is empty; name the services, or leave the list empty")
        token = TOKEN_PREFIX + secrets.token_urlsafe(_NUM_RANDOM_BYTES)
        digest = sha256(token.encode()).digest()
        if self.shelf is not None and not stays_here:
            await self.shelf.save(key.id, _document(key, digest))
            self._shared[digest] = key
            self._renew()
        else:
            await self._database.write(lambda connection: _insert(connection, key, digest))
            await self.refresh()
        return key, token

    async def admit(self, token: str, name: str, scope: Scope) -> Key:
        """Let in a token that was made elsewhere, instead of those that came so under this name before: what its maker
        replaced opens nothing any more. The same again does no harm. Raises UsageError for one that is none of
        Ironloom's form."""
        if not is_ours(token.encode()) or not len(TOKEN_PREFIX) + 32 <= len(token) <= _MAX_TOKEN_BYTES:
            raise UsageError(
                f"the key {name!r} does not have the form of a key: {TOKEN_PREFIX} and 32 characters or more",
                hint="`ironloom install` makes one",
            )
        digest = sha256(token.encode()).digest()
        key = Key(id=_admitted_id(digest), name=_checked_name(name), scope=scope, created_s=self._wall_clock())
        replaced = [
            one.id for known, one in self._own.items()
            if known != digest and (one.id, one.name, one.scope) == (_admitted_id(known), key.name, scope)
        ]  # fmt: skip

        def write(connection: sqlite3.Connection) -> None:
            for key_id in replaced:
                _revoke(connection, key_id, key.created_s)
            if digest not in self._by_digest:
                _admit(connection, key, digest)

        if replaced or digest not in self._by_digest:
            await self._database.write(write)
            await self.refresh()
        return self._by_digest[digest]

    def list(self) -> list[Key]:
        """The keys, oldest first."""
        return sorted(self._by_digest.values(), key=lambda key: (key.created_s, key.id))

    async def revoke(self, key_id: str) -> Key:
        """Take a key out of use, from now on; its row stays for the ledger. Raises RequestError 404 when there is
        no such key."""
        key = next((key for key in self._by_digest.values() if key.id == key_id), None)
        if key is None:
            raise RequestError(
                404,
                f"there is no key {key_id!r}",
                code="key_not_found",
                param="id",
                hint="`ironloom key list` shows the keys",
            )
        if self.shelf is not None and key in self._shared.values():
            await self.shelf.remove(key_id)
            self._shared = {digest: one for digest, one in self._shared.items() if one.id != key_id}
            self._renew()
            return key
        now_s = self._wall_clock()
        await self._database.write(lambda connection: _revoke(connection, key_id, now_s))
        await self.refresh()
        return key

    async def flush(self) -> None:
        """Write when keys were last used: call it every minute or so, and at the end. The time written is now, so
        `last_used_s` is late by as much as the caller's period."""
        if not self._used:
            return
        used, self._used = self._used, set()
        now_s = self._wall_clock()
        self._shared = {
            digest: replace(key, last_used_s=now_s) if key.id in used else key for digest, key in self._shared.items()
        }
        await self._database.write(lambda connection: _touch(connection, used, now_s))
        await self.refresh()


def _admitted_id(digest: bytes) -> str:
    """Of a key that was made elsewhere: the same at every start."""
    return f"key-{digest.hex()[:12]}"


def _checked_name(name: str) -> str:
    name = name.strip()
    if not name or len(name) > _MAX_NAME_CHARS or not name.isprintable():
        raise UsageError(
            f"{name[:40]!r} is not a name for a key: it must have 1 to {_MAX_NAME_CHARS} printable characters"
        )
    return name


def _checked_scope(scope: str) -> Scope:
    try:
        return Scope(scope)
    except ValueError:
        raise UsageError(f"scope is {scope!r}; it must be inference or control") from None


def _document(key: Key, digest: bytes) -> dict[str, Any]:
    return {
        "name": key.name,
        "scope": key.scope.value,
        "services": sorted(key.services),
        "created_s": key.created_s,
        "sha256": digest.hex(),
    }


def _of_document(key_id: str, found: Any) -> tuple[bytes, Key] | None:
    try:
        digest = bytes.fromhex(found["sha256"])
        key = Key(
            id=key_id,
            name=str(found["name"]),
            scope=Scope(found["scope"]),
            services=frozenset(map(str, found["services"])),
            created_s=float(found["created_s"]),
        )
    except (KeyError, TypeError, ValueError):
        return None
    return (digest, key) if len(digest) == sha256().digest_size else None


def _read(connection: sqlite3.Connection) -> dict[bytes, Key]:
    rows = connection.execute(
        "SELECT digest, id, name, scope, services, created_s, last_used_s FROM keys WHERE revoked_s IS NULL"
    )
    return {
        bytes(digest): Key(
            id=key_id,
            name=name,
            scope=Scope(scope),
            services=frozenset(json.loads(services)),
            created_s=created_s,
            last_used_s=last_used_s,
        )
        for digest, key_id, name, scope, services, created_s, last_used_s in rows
    }


def _insert(connection: sqlite3.Connection, key: Key, digest: bytes) -> None:
    connection.execute(
        "INSERT INTO keys (id, name, scope, services, digest, created_s) VALUES (?, ?, ?, ?, ?, ?)",
        (key.id, key.name, key.scope.value, json.dumps(sorted(key.services)), digest, key.created_s),
    )


def _admit(connection: sqlite3.Connection, key: Key, digest: bytes) -> None:
    """One that was revoked here is good again: its maker says so."""
    found = connection.execute("UPDATE keys SET revoked_s = NULL WHERE digest = ?", (digest,))
    if not found.rowcount:
        _insert(connection, key, digest)


def _revoke(connection: sqlite3.Connection, key_id: str, now_s: float) -> None:
    connection.execute("UPDATE keys SET revoked_s = ? WHERE id = ?", (now_s, key_id))


def _touch(connection: sqlite3.Connection, used: set[str], now_s: float) -> None:
    connection.executemany("UPDATE keys SET last_used_s = ? WHERE id = ?", [(now_s, key_id) for key_id in used])
