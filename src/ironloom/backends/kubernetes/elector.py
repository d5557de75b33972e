"""One gateway's part in the election: the task that looks at the Lease, takes it, renews it, and lets it go."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Final

import msgspec

from ironloom import __version__
from ironloom.backends.kubernetes import lease
from ironloom.backends.kubernetes.client import Client
from ironloom.backends.kubernetes.lease import RENEW_WITHIN_S, RETRY_S, Record, Seen, Step
from ironloom.errors import ClusterError

LEASES: Final = "/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases"
_logger = logging.getLogger(__name__)


class Elector:
    """`on_change` is called on the event loop when this gateway begins to lead (True) and when it no longer does."""

    def __init__(
        self,
        client: Client,
        *,
        namespace: str,
        name: str,
        identity: str,
        on_change: Callable[[bool], None],
        now: Callable[[], float] = time.monotonic,
        wall: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        """`wall` is what is written into the Lease for people to read; nothing is decided by it."""
        self.identity = identity
        self.url = ""
        """Where this gateway answers the others: set before it runs."""
        self._client = client
        self._namespace, self._name = namespace, name
        self._folder = LEASES.format(namespace=namespace)
        self._on_change = on_change
        self._now, self._wall = now, wall
        self._seen = Seen()
        self._version = ""
        """The Lease's resourceVersion as last read or written."""
        self._renewed_s: float | None = None
        self._told = False
        self._is_leaving = False

    @property
    def leads(self) -> bool:
        """Whether this gateway may write now."""
        return lease.may_write(self._renewed_s, self._now())

    @property
    def leader(self) -> Record | None:
        """The Lease as last seen; None before the first look and where there is none."""
        return self._seen.record

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            await self.look()
            pause_s = RETRY_S if self.leads else RETRY_S * random.uniform(0.9, 1.0)
            if not self.leads and self._told:
                self._tell()
            await asyncio.sleep(pause_s)

    async def look(self) -> None:
        """One look at the Lease, and what follows from it. Raises nothing: a failure is tried again."""
        begun_s = self._now()
        try:
            async with asyncio.timeout(RENEW_WITHIN_S):
                await self._step(begun_s)
        except ClusterError as error:
            if error.status in {404, 409}:  # gone, or another one was quicker: read it anew
                self._version = ""
            else:
                _logger.warning("the lease %s: %s", self._name, error)
        except TimeoutError:
            _logger.warning("the lease %s: no answer within %.0f s", self._name, RENEW_WITHIN_S)
        self._tell()

    async def leave(self) -> None:
        """Lead no more, and let the Lease go where it is held, so that another one need not wait."""
        self._is_leaving = True
        was_held, self._renewed_s = self.leads, None
        self._tell()
        record = self._seen.record
        if was_held and record is not None and self._version:
            with contextlib.suppress(ClusterError, TimeoutError):
                async with asyncio.timeout(RENEW_WITHIN_S):
                    await self._put(lease.let_go(record))

    async def _step(self, begun_s: float) -> None:
        if not (self.leads and self._version):  # a holder knows what it wrote
            await self._read()
        if self._is_leaving:
            return
        step = lease.decide(self._seen, self.identity, self._now(), url=self.url)
        if step is Step.WAIT:
            self._renewed_s = None
            return
        record = lease.held_by(self._seen.record, self.identity, wall=self._wall(), url=self.url, version=__version__)
        if step is Step.CREATE:
            await self._write("POST", self._folder, lease.written(record, name=self._name, namespace=self._namespace))
        else:
            await self._put(record)
        if not self._is_leaving:
            self._renewed_s = begun_s  # before it was sent: others count from later

    async def _read(self) -> None:
        try:
            body = await self._client.get(f"{self._folder}/{self._name}", what=f"get lease {self._name}")
        except ClusterError as error:
            if error.status != 404:
                raise
            self._seen, self._version = lease.observe(self._seen, None, self._now()), ""
            return
        self._take(msgspec.json.decode(body))

    async def _put(self, record: Record) -> None:
        body = lease.written(record, name=self._name, namespace=self._namespace, resource_version=self._version)
        await self._write("PUT", f"{self._folder}/{self._name}", body)

    async def _write(self, method: str, path: str, body: dict[str, Any]) -> None:
        answer = await self._client.change(method, path, body, what=f"update lease {self._name}")
        self._take(msgspec.json.decode(answer))

    def _take(self, found: dict[str, Any]) -> None:
        self._version = found["metadata"]["resourceVersion"]
        self._seen = lease.observe(self._seen, lease.read(found), self._now())

    def _tell(self) -> None:
        if self.leads != self._told:
            self._told = self.leads
            _logger.info("%s %s", self.identity, "decides now" if self._told else "no longer decides")
            self._on_change(self._told)
