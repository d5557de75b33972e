"""Which of several gateways decides: a Lease (coordination.k8s.io/v1), held and renewed as client-go's electors do.

Clocks of machines differ, so no time that another gateway wrote is compared with one's own. A Lease counts as held for
its duration after this gateway saw it change; the times in it are for people. The holder stops writing earlier than
that, counted from before it sent its last renewal, so two never write at once however their clocks differ. A pod of a
StatefulSet has the name of one that may still run on a node that nobody hears of: who has the name elsewhere is another
one.
Source: https://pkg.go.dev/k8s.io/client-go/tools/leaderelection
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime
from enum import Enum
from typing import Any, Final

from ironloom.backends.kubernetes.names import MANAGED_BY

DURATION_S: Final = 12
"""How long others wait for a holder that is silent, from when they saw its last renewal: up to RETRY_S after it was
written. The look that takes the Lease comes up to RETRY_S after the wait, so another one decides after at most 18 s
and an answer."""
RENEW_WITHIN_S: Final = 8.0
"""How long a holder writes on without a renewal. The rest of the duration is for writes that are on their way."""
RETRY_S: Final = 3.0
"""Between two looks or renewals: a third of a request a second for each gateway."""
URL: Final = "ironloom.dev/url"
"""Annotation of the Lease: where its holder answers the other gateways."""
VERSION: Final = "ironloom.dev/version"


@dataclass(frozen=True, kw_only=True, slots=True)
class Record:
    """What a Lease says."""

    holder: str
    """Empty when the last holder let go."""
    duration_s: int = DURATION_S
    acquired: str = ""
    renewed: str = ""
    """RFC 3339, by its holder's clock."""
    num_transitions: int = 0
    url: str = ""
    version: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Seen:
    """A Lease as this gateway knows it. `at_s` is this gateway's monotonic clock when it last saw it change."""

    record: Record | None = None
    """None: there is no Lease."""
    at_s: float = 0.0


class Step(Enum):
    """What to do about a Lease now."""

    CREATE = "create"
    TAKE = "take"
    RENEW = "renew"
    WAIT = "wait"


def observe(seen: Seen, record: Record | None, now_s: float) -> Seen:
    """The Lease was read at `now_s` (monotonic). One that did not change stays as old as it was."""
    return seen if record == seen.record else Seen(record=record, at_s=now_s)


def decide(seen: Seen, identity: str, now_s: float, *, url: str = "") -> Step:
    """What the gateway `identity`, which answers at `url`, does at `now_s` (monotonic)."""
    record = seen.record
    if record is None:
        return Step.CREATE
    if _is_own(record, identity, url):
        return Step.RENEW
    if not record.holder or now_s >= seen.at_s + record.duration_s:
        return Step.TAKE
    return Step.WAIT


def _is_own(record: Record, identity: str, url: str) -> bool:
    return record.holder == identity and record.url == url


def held_by(record: Record | None, identity: str, *, wall: datetime, url: str = "", version: str = "") -> Record:
    """The Lease as `identity` writes it to create, take or renew it. `wall` is this machine's clock."""
    now = wall.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    if record is not None and _is_own(record, identity, url):
        return replace(record, renewed=now, duration_s=DURATION_S, url=url, version=version)
    num_transitions = record.num_transitions + 1 if record is not None else 0
    return Record(holder=identity, acquired=now, renewed=now, num_transitions=num_transitions, url=url, version=version)


def let_go(record: Record) -> Record:
    """The Lease as a holder leaves it that ends: free at once."""
    return replace(record, holder="", duration_s=1, url="")


def may_write(renewed_s: float | None, now_s: float) -> bool:
    """Whether a holder may write at `now_s`. `renewed_s` is when it sent the last renewal that succeeded, monotonic;
    None is never."""
    return renewed_s is not None and now_s < renewed_s + RENEW_WITHIN_S


def read(lease: dict[str, Any]) -> Record:
    """A Lease's object."""
    spec = lease.get("spec") or {}
    notes = lease["metadata"].get("annotations") or {}
    return Record(
        holder=spec.get("holderIdentity") or "",
        duration_s=spec.get("leaseDurationSeconds") or DURATION_S,
        acquired=spec.get("acquireTime") or "",
        renewed=spec.get("renewTime") or "",
        num_transitions=spec.get("leaseTransitions") or 0,
        url=notes.get(URL, ""),
        version=notes.get(VERSION, ""),
    )


def written(record: Record, *, name: str, namespace: str, resource_version: str = "") -> dict[str, Any]:
    """The object of a record. With a resource version the API server refuses it where another one was quicker."""
    metadata: dict[str, Any] = {
        "name": name,
        "namespace": namespace,
        "labels": dict(MANAGED_BY),
        "annotations": {URL: record.url, VERSION: record.version},
    }
    if resource_version:
        metadata["resourceVersion"] = resource_version
    return {
        "apiVersion": "coordination.k8s.io/v1",
        "kind": "Lease",
        "metadata": metadata,
        "spec": {
            "holderIdentity": record.holder,
            "leaseDurationSeconds": record.duration_s,
            "acquireTime": record.acquired,
            "renewTime": record.renewed,
            "leaseTransitions": record.num_transitions,
        },
    }
