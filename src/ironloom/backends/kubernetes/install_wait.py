"""Waiting until an installed gateway works: all pods of what was applied last are ready, and one of them decides."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from ironloom.backends.kubernetes import installed, lease
from ironloom.backends.kubernetes.client import Client
from ironloom.backends.kubernetes.install_apply import lease_of
from ironloom.backends.kubernetes.lease import Record, Seen
from ironloom.backends.kubernetes.roles import NAME
from ironloom.errors import ClusterError

Object = Mapping[str, Any]

WITHIN_S: Final = 300.0
"""Helm's own patience. Source: https://helm.sh/docs/helm/helm_install/ (`--timeout`)"""
LOOK_S: Final = 1.0
"""Between two looks, each of three requests."""
ANSWER_WITHIN_S: Final = 10.0
"""How long a look may take at least, however little time is left."""


@dataclass(frozen=True, slots=True)
class Works:
    """All of its pods are ready."""

    decides: str
    """The one that decides."""


@dataclass(frozen=True, slots=True)
class NotYet:
    """What is missing, in the cluster's own words."""

    why: str


def judge(
    form: Object, pods: Sequence[Object] | None, record: Record | None, *, is_renewed: bool = False
) -> Works | NotYet:
    """Of what makes the gateway's pods, of the pods (None where they may not be seen), and of what the Lease says (None
    where there is none). A holder that is none of the pods counts once its Lease `is_renewed` while it is looked at: it
    may be a gateway elsewhere, or one that is long gone."""
    if not installed.is_up(form):
        late = [pod for pod in pods or () if not _is_ready(pod) and not _is_leaving(pod)]
        return NotYet(installed.why(form, late))
    if record is None or not record.holder:
        return NotYet("its pods are ready, and none of them decides yet")
    holder = next((pod for pod in pods or () if pod["metadata"]["name"] == record.holder), None)
    decides = is_renewed if holder is None else _is_ready(holder) and not _is_leaving(holder)
    if decides:
        return Works(record.holder)
    return NotYet(f"its pods are ready, and the Lease {NAME} still names {record.holder}, which is not one of them")


def _is_ready(pod: Object) -> bool:
    conditions = (pod.get("status") or {}).get("conditions") or ()
    return any(one.get("type") == "Ready" and one.get("status") == "True" for one in conditions)


def _is_leaving(pod: Object) -> bool:
    return bool(pod["metadata"].get("deletionTimestamp"))


async def until_it_works(
    client: Client,
    kind: str,
    namespace: str,
    *,
    within_s: float = WITHIN_S,
    on_wait: Callable[[str], None] = lambda _: None,
    look_s: float = LOOK_S,
) -> Works | NotYet:
    """What is so after `within_s`, or as soon as it works. `kind` is what makes the gateway's pods; `on_wait` hears at
    each look what is missing. A cluster that is away for a moment is asked again. Raises ClusterError where it forbids
    to look, and where what was applied is gone."""
    loop = asyncio.get_running_loop()
    until_s = loop.time() + within_s
    seen = Seen()
    while True:
        found: Works | NotYet
        try:
            async with asyncio.timeout(max(until_s - loop.time(), ANSWER_WITHIN_S)):
                form, pods, record = await _look(client, kind, namespace)
            is_renewed = seen.record is not None and record != seen.record
            seen = lease.observe(seen, record, loop.time())
            found = judge(form, pods, record, is_renewed=is_renewed)
        except ClusterError as error:
            if error.status not in {0, 429} and error.status < 500:
                raise
            found = NotYet(error.message)
        except TimeoutError:
            found = NotYet("the API server does not answer")
        left_s = until_s - loop.time()
        if isinstance(found, Works) or left_s <= 0:
            return found
        on_wait(found.why)
        await asyncio.sleep(min(look_s, left_s))


async def _look(client: Client, kind: str, namespace: str) -> tuple[Object, Sequence[Object] | None, Record | None]:
    path = installed.FORMS[kind].format(namespace=namespace, name=NAME)
    form: Object = msgspec.json.decode(await client.get(path, what=f"get {kind.lower()} {NAME}"))
    pods = await installed.pods_of(client, namespace)
    return form, pods, await lease_of(client, namespace)
