"""Waiting until a service answers, and saying meanwhile what it does."""

from __future__ import annotations

import time
from dataclasses import dataclass

from ironloom.account.events import EventKind
from ironloom.cli.client import Client
from ironloom.cli.progress import Line
from ironloom.cli.views import replica_state
from ironloom.errors import EngineError
from ironloom.serve.reason import NOT_AGAIN, one_line
from ironloom.server.control import ServiceView

POLL_S = 0.2
SETTLE_S = 3.0
"""A service that is still at zero this long after an apply is meant to be: its first request starts it."""


@dataclass(frozen=True, slots=True)
class Waited:
    """How the waiting ended: with a ready replica, or with a service that is at zero on purpose."""

    view: ServiceView
    ready: bool
    took_s: float


class StartFailed(EngineError):
    """A service did not start; `is_final`: nothing but another manifest, model or machine changes that. `options` are
    those with which a command reaches it."""

    def __init__(self, name: str, reason: str, options: str = "") -> None:
        self.is_final = NOT_AGAIN in reason
        goes_on = f"it is tried again until `ironloom delete {name}{options}`"
        what = "mend that, then apply it again" if self.is_final else goes_on
        hint = f"{what}; `ironloom describe {name}{options}` says more."
        super().__init__(f"{name} did not start: {one_line(reason)}", hint=hint)

    def taken_back(self) -> EngineError:
        """The same where the service is gone again."""
        return EngineError(
            self.message.replace(f"; {NOT_AGAIN}", ""),
            hint="mend that and serve it again; the service was taken back, so that nothing of it is left.",
        )


def now_seq(client: Client) -> int:
    """The event log's end, as it is before an apply."""
    newest = client.events(limit=1)
    return newest[-1].seq if newest else 0


def until_ready(client: Client, name: str, generation: int, *, after_seq: int) -> Waited:
    """Wait until a replica of this generation is ready.

    Raises StartFailed with the reason when it fails. A service that failed before may say so until its new replica
    is ready; only a failure after the event `after_seq` is one of this start.
    """
    began_s = time.monotonic()
    with Line(f"Starting {name}") as line:
        while True:
            view = client.service(name)
            took_s = time.monotonic() - began_s
            ours = [replica for replica in view.replicas if replica.generation >= generation]
            if any(replica.state == "ready" for replica in ours):
                return Waited(view, True, took_s)
            broken = next((replica for replica in ours if replica.state == "failed"), None)
            if (view.state == "failed" or broken is not None) and _failed_since(client, name, after_seq):
                reason = view.reason or (broken.reason if broken else "") or "no reason is known"
                raise StartFailed(name, reason, client.to.options)
            starting = any(replica.state == "starting" for replica in ours)
            at_rest = view.state in ("zero", "parked", "ready") and not starting
            if at_rest and took_s > SETTLE_S:
                return Waited(view, False, took_s)
            line.show(replica_state(ours[0]) if ours else one_line(view.reason) or view.state)
            time.sleep(POLL_S)


def _failed_since(client: Client, name: str, seq: int) -> bool:
    kinds = (EventKind.REPLICA_FAILED, EventKind.SERVICE_FAILED)
    return any(event.kind in kinds for event in client.events(service=name, after=seq))
