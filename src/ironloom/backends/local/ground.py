"""What every replica of the local backend stands on: the shared owners, the folders, the patience."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from ironloom.account.events import Event
from ironloom.backends.local.backoff import BackoffLimits
from ironloom.backends.local.holdings import Holdings
from ironloom.backends.local.launcher import Launchers
from ironloom.backends.local.ports import Ports
from ironloom.backends.local.procfs import REPLICA_VARIABLE, STATE_VARIABLE
from ironloom.backends.local.store import Store
from ironloom.serve.replica import Replica

SECRETS = ("IRONLOOM_API_KEY",)
"""The daemon's own; an engine has no business with them."""


class Log(Protocol):
    """The part of the event log that is used here."""

    def event(self, event: Event) -> None: ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Timing:
    """How long things may take, in seconds."""

    stop_grace_s: float = 10.0
    """From SIGTERM to SIGKILL. Kubernetes gives 30 s; here the replica was drained before."""
    park_timeout_s: float = 60.0
    """For an engine to give up its device; one that takes longer is stopped instead."""
    probe_timeout_s: float = 5.0
    """For one answer of a starting engine's /health."""
    tick_s: float = 10.0
    """How often a ready or parked replica's log is looked at, and a ready one asked for its health."""
    hung_after_s: float = 60.0
    """A ready engine whose /health gives no answer for this long, or only bad ones, has failed."""
    backoff: BackoffLimits = field(default_factory=BackoffLimits)


@dataclass(kw_only=True, slots=True)
class Ground:
    """Made once by the backend."""

    store: Store
    log: Log
    log_dir: Path
    cache_dir: Path
    state_id: str
    boot_id: str
    timing: Timing
    launchers: Launchers
    holdings: Holdings
    ports: Ports
    wall_s: Callable[[], float]
    num_threads: Callable[[], int]
    """Threads for one more replica on CPU."""
    num_gpus_here: Callable[[], int]
    drain: Callable[[Replica], Awaitable[None]]
    changed: Callable[[str], None]
    """A replica of this service changed."""

    def environment(self, replica: str, extra: Mapping[str, str]) -> dict[str, str]:
        """What an engine's environment is: the daemon's without its secrets, the engine's own, the marks."""
        inherited = {name: value for name, value in os.environ.items() if name not in SECRETS}
        return {**inherited, **extra, REPLICA_VARIABLE: replica, STATE_VARIABLE: self.state_id}

    def log_path(self, service: str, replica: str) -> Path:
        folder = self.log_dir / service
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        return folder / f"{replica}.log"
