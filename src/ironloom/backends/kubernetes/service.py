"""One service in a cluster: what is wanted of it, what its pods are, and the one task that writes its scale.

    order (from the scaler) ──► task ──► drain what is given up ──► scale subresource
    pods (from the watch)   ──► report

    pods, but not so many ──► look    at the object, once: what others did to it is told, and put back or left

The scale is applied under a field manager of its own. A count that an autoscaler owns is not taken from it: that is
told, and the count left alone until it has another owner. A person's `kubectl scale` is told and put back.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import msgspec

from ironloom.account.events import Event, EventKind
from ironloom.backends.kubernetes import groups
from ironloom.backends.kubernetes.client import MERGE, Client
from ironloom.backends.kubernetes.counts import count_at, count_of, is_autoscaler, other_owner
from ironloom.backends.kubernetes.drift import told
from ironloom.backends.kubernetes.first_answers import FirstAnswers
from ironloom.backends.kubernetes.leaving import leaving
from ironloom.backends.kubernetes.made import NOT_MADE, is_there, until_made
from ironloom.backends.kubernetes.names import DELETION_COST, SCALE_MANAGER
from ironloom.backends.kubernetes.pods import PodView, port_of, view, waits_for_a_node
from ironloom.backends.kubernetes.replica_events import Seen, events_of, seen
from ironloom.backends.kubernetes.stuck import RETRY_AFTER_S, Tries, after
from ironloom.backends.kubernetes.supply import RETRY_AFTER_S as NODES_AFTER_S
from ironloom.backends.kubernetes.supply import NodeWait
from ironloom.errors import ClusterError, IronloomError
from ironloom.serve.replica import Replica, ReplicaState, ScaleOrder, ServiceReplicas

FIRST_PAUSE_S = 1.0
MAX_PAUSE_S = 60.0
LOOK_AFTER_S = 2.0
"""A pod that was ordered is in the API sooner than that."""
PASSING = frozenset({0, 429, 500, 502, 503, 504})
"""Statuses of an API server that is away (no answer at all) or busy."""
ENDED = frozenset({"Failed", "Succeeded"})
"""Phases of a pod that is no replica any more: its controller has made another one."""
_CONFLICT = re.compile(r'conflict with "([^"]+)"')
_logger = logging.getLogger(__name__)


@dataclass
class ClusterService:
    """Its one owner of mutable state is this object; the backend hands it pods and orders."""

    name: str
    namespace: str
    port: int
    engine: str
    client: Client
    drain: Callable[[Replica], Awaitable[None]]
    changed: Callable[[ServiceReplicas], None]
    deployment: str = ""
    """Whose scale it is; the service's own name where nobody says otherwise."""
    scaled: str = ""
    """Path of the object of that name; a Deployment's where nobody says otherwise."""
    maker: str = ""
    """Path of the object from which a controller makes the Deployment; empty where it is applied here."""
    foreign_writer: str = ""
    """Who writes the count by the manifest's own wish; empty where it is Ironloom."""
    notes: tuple[str, ...] = ()
    record: Callable[[Event], None] = lambda _: None
    """Takes what the event log is told."""
    outlook: Callable[[Mapping[str, Any]], Awaitable[str]] | None = None
    """Asks what may come for a pod that waits for a node; may raise ClusterError."""
    may_write: Callable[[], bool] = lambda: True
    """False while another gateway decides."""
    make: Callable[[Mapping[str, Any]], Awaitable[None]] | None = None
    """Applies one of its objects; raises ClusterError."""
    make_again: Callable[[], Awaitable[object]] | None = None
    """Applies all of them; raises IronloomError."""
    wanted: bytes = b""
    """The object that has its count, as it was applied; empty where a controller makes it."""
    later: tuple[Mapping[str, Any], ...] = ()
    """Objects that are made with the first replica: there is nothing behind them before."""
    pods: dict[str, dict[str, Any]] = field(default_factory=dict)
    draining: set[str] = field(default_factory=set)
    order: ScaleOrder | None = None
    written: int | None = None
    """The count that was applied last; None before the first."""
    other_writer: str = ""
    """The autoscaler that owns the count; empty for none."""
    taken_back: str = ""
    """That its count was changed by hand, until the next order."""
    changed_by_hand: tuple[str, ...] = ()
    """What else of its object was, as it was seen last."""
    failure: str | None = None
    """Why its scale cannot be written."""
    failure_passes: bool = False
    """The API server is away or busy: it is tried again, and nobody need mend anything."""
    refusal: str | None = None
    """Why pods that were ordered cannot be made, as their controller says: a quota, a webhook."""
    is_gone: bool = False
    """Somebody took its object away."""
    _looking: asyncio.Task[None] | None = None
    _looked_at: int | None = None
    """How many pods there were when a look found nothing to do."""
    _task: asyncio.Task[None] | None = None
    _has_ended: bool = False
    _wake: asyncio.Event = field(default_factory=asyncio.Event)
    _reported: ServiceReplicas | None = None
    _adopts: bool = True
    _seen: dict[str, Seen] = field(default_factory=dict)
    _tries: dict[str, Tries] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._first_answers = FirstAnswers(self.report)
        self._node_wait = NodeWait(self.outlook, self.report) if self.outlook is not None else None

    @property
    def path(self) -> str:
        deployments = f"/apis/apps/v1/namespaces/{self.namespace}/deployments"
        return self.scaled or f"{deployments}/{self.deployment or self.name}"

    def begin(self) -> None:
        """Pods that it was handed before are adopted: they were there before this daemon was."""
        self.report()
        self._adopts = False
        self._task = asyncio.create_task(self._run(), name=f"scale-{self.name}")

    async def end(self) -> None:
        """Nothing is written or asked by itself any more; pods are taken, and reported, all the same."""
        self._has_ended = True
        self._first_answers.stop()
        if self._node_wait is not None:
            self._node_wait.stop()
        running = [task for task in (self._task, self._looking) if task is not None]
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)

    def scale(self, order: ScaleOrder) -> None:
        if order != self.order:
            if self.order is None or order.num_ready != self.order.num_ready:
                self.taken_back = ""
            self.order = order
            self._wake.set()

    def begin_anew(self, written: int) -> None:
        """Its object was made now, with this count."""
        self.written, self.other_writer, self.changed_by_hand = written, "", ()
        self._wake.set()

    def leave_for_later(self, objects: tuple[Mapping[str, Any], ...]) -> None:
        """Make these with the next replica, or now where there is one."""
        self.later = objects
        self._wake.set()

    def forget_order(self) -> None:
        """Nothing is wanted from here any more, and what was written last is for another one to know."""
        self.order = self.written = self.failure = None
        self._keep()

    def take(self, name: str, pod: dict[str, Any] | None) -> None:
        """A pod changed, or is gone."""
        if pod is None or not groups.is_worker(pod):
            self._first_answers.take(name, pod)
        if pod is None:
            self.pods.pop(name, None)
            self.draining.discard(name)
            self._tries.pop(name, None)
        else:
            self.pods[name] = pod
            if self.later:
                self._wake.set()
            self._tries[name] = after(self._tries.get(name, Tries()), pod, is_old=self._adopts)
        self._consider()
        self.report()

    def views(self) -> list[PodView]:
        """Of its replicas, oldest first."""
        pods = sorted(self.pods.values(), key=lambda pod: (pod["metadata"].get("creationTimestamp", ""), _name(pod)))
        return [self._with_supply(one) for one in groups.views(pods, self._view)]

    def _with_supply(self, found: PodView) -> PodView:
        """A replica that waits for a node says what may come, one that its queue holds why."""
        wait, phase = self._node_wait, found.replica.phase
        if wait is None or not wait.text or not phase.startswith(wait.begins):
            return found
        told = f"{phase}; {wait.text}"
        reason = told if found.replica.reason == phase else found.replica.reason
        return replace(found, replica=replace(found.replica, phase=told, reason=reason))

    def _view(self, pod: Mapping[str, Any]) -> PodView:
        made = view(
            pod,
            service=self.name,
            port=port_of(pod, self.port),
            engine=self.engine,
            draining=_name(pod) in self.draining,
            answers=self._first_answers.is_open(_name(pod)),
        )
        return replace(made, is_stuck=made.is_stuck or self._tries.get(_name(pod), Tries()).is_stuck)

    @property
    def lasting_notes(self) -> tuple[str, ...]:
        """What is to be said of its objects as they were made last, whatever its pods do."""
        writer = self.foreign_writer or self.other_writer
        return (*self.notes, f"its scale is left alone: {writer} writes it") if writer else self.notes

    def report(self) -> None:
        waits = next((pod for pod in self.pods.values() if waits_for_a_node(pod)), None)
        if self._node_wait is not None and not self._has_ended:
            self._node_wait.look(waits)
        views = self.views()
        self._tell(views)
        is_ready = any(one.replica.state is ReplicaState.READY for one in views)
        broken = next((one.failure for one in views if one.failure), None)
        notes = (*self.lasting_notes, *filter(None, (self.taken_back,)), *self.changed_by_hand)
        failure = None if is_ready else self.failure or self.refusal or broken
        passes = self._passes(views) if failure is not None else None
        made = ServiceReplicas(
            service=self.name,
            replicas=tuple(one.replica for one in views),
            failure=failure,
            passes=passes,
            retry_after_s=RETRY_AFTER_S if passes is False else NODES_AFTER_S if waits is not None else None,
            notes=notes,
        )
        if made != self._reported:
            self._reported = made
            self.changed(made)

    def _passes(self, views: list[PodView]) -> bool | None:
        """See ServiceReplicas. A pod on its way that is not stuck is hope whatever else fails."""
        coming = [one for one in views if one.replica.state is ReplicaState.STARTING]
        if not all(one.is_stuck for one in coming):
            return None
        if self.failure is not None:
            return self.failure_passes
        return False if coming or self.refusal else None

    @property
    def refused(self) -> str | None:
        """Why none of its pods can be made or ordered before somebody mends something; None where they can."""
        return self.failure if self.failure is not None and not self.failure_passes else self.refusal

    def gone(self) -> None:
        """Its pods are no longer watched for: the log is told that they end with the service."""
        self.pods.clear()
        self._tell([])

    def _tell(self, views: list[PodView]) -> None:
        now = {one.replica.id: seen(self.pods[one.replica.id], one) for one in views}
        for name in {**self._seen, **now}:
            for event in events_of(self._seen.get(name), now.get(name), adopted=self._adopts):
                self.record(event)
        self._seen = now

    # --- the writer of the scale ---

    async def stop(self) -> None:
        """Drain every pod and write 0, whatever was ordered; nothing is ordered after it. Raises ClusterError."""
        await self.end()
        if self.maker and not await is_there(self.client, self.path):
            return
        await self._bring_to(0)

    async def _run(self) -> None:
        pause_s = FIRST_PAUSE_S
        while True:
            await self._wake.wait()
            self._wake.clear()
            order = self.order
            if order is not None and self.draining and order.num_ready >= (self.written or 0):
                self._keep()  # what was to be given up is wanted again
            was_gone = self.is_gone
            try:
                if was_gone and self.make_again is not None:
                    await self.make_again()
                    self.is_gone = False
                is_written = order is None or await self._obey(order)
            except IronloomError as error:
                self.failure = str(error)
                self.failure_passes = (
                    isinstance(error, ClusterError) and error.status in PASSING and error.reason != NOT_MADE
                )
                _logger.warning("scaling %s: %s", self.name, error)
                self._wake.set()
                self.report()
                await asyncio.sleep(pause_s)
                pause_s = min(MAX_PAUSE_S, pause_s * 2)
            else:
                self.failure, pause_s = None, FIRST_PAUSE_S
                if not is_written:
                    self._wake.set()
                if was_gone and self.is_gone:  # what was made again was taken away again
                    await asyncio.sleep(pause_s)
            self.report()

    async def _obey(self, order: ScaleOrder) -> bool:
        """See `_bring_to`; what is so already is not written again."""
        is_written = order.num_ready == self.written or await self._bring_to(order.num_ready, order)
        if is_written and self._lacks(order):
            await self._complete()
        return is_written

    async def _bring_to(self, number: int, order: ScaleOrder | None = None) -> bool:
        """Drain, then write. False where another order came while pods were drained: nothing was written then."""
        if self.foreign_writer:
            self.written = number
            return True
        if not self.other_writer:
            await self._give_up(number)
        if order is not None and self.order != order:
            self._keep()
            return False
        if not self.may_write():
            return True
        await self._write(number)
        if self.other_writer:
            self._keep()
        return True

    def _lacks(self, order: ScaleOrder) -> bool:
        """Whether objects are left to be made that go with replicas."""
        return bool(self.later and (order.num_ready or self.pods))

    async def _complete(self) -> None:
        while self.later and self.make is not None and self.may_write():
            one = self.later[0]
            await self.make(one)
            self.later = tuple(other for other in self.later if other is not one)

    def _keep(self) -> None:
        """Those that were drained take requests again."""
        self.draining.clear()
        self.report()

    async def _give_up(self, number: int) -> None:
        """Drain the pods that go when `number` stay, and say so to the ReplicaSet."""
        live = [one.replica for one in self.views() if one.replica.state is not ReplicaState.STOPPING]
        in_groups = {one.id: groups.group_index(self.pods[one.id]) for one in live}
        going = leaving(live, number, in_groups)
        if not going:
            return
        self.draining.update(one.id for one in going)
        self.report()
        ready = [one for one in going if one.state is ReplicaState.READY]
        if number and None in in_groups.values():
            cost = {"metadata": {"annotations": {DELETION_COST: "-1000"}}}
            for one in going:
                path = f"/api/v1/namespaces/{self.namespace}/pods/{one.id}"
                await self.client.change("PATCH", path, cost, content_type=MERGE, what=f"patch pod {one.id}")
        await asyncio.gather(*(self.drain(replace(one, state=ReplicaState.STOPPING)) for one in ready))

    async def _write(self, number: int) -> None:
        path, body = count_at(self.path, number)
        if self.maker and self.written is None:
            await until_made(self.client, self.path, self.maker)
        try:
            await self.client.apply(path, body, manager=SCALE_MANAGER)
        except ClusterError as error:
            if error.status == 404 and self.make_again is not None:
                await self._take_gone()
                return
            if error.status != 409:
                raise
            owners = _CONFLICT.findall(str(error))
            machine = next((owner for owner in owners if is_autoscaler(owner)), "")
            if machine:
                self.other_writer, self.written = machine, number  # asked once an order: it may be given up meanwhile
                return
            await self.client.apply(path, body, manager=SCALE_MANAGER, forces=True)
        self.other_writer, self.written = "", number
        self._watch_over(number)

    # --- what others do to it ---

    @property
    def num_live(self) -> int:
        """Replicas that its count asks for, as far as they have come to be."""
        return sum(
            not groups.is_worker(pod)
            and not pod["metadata"].get("deletionTimestamp")
            and (pod.get("status") or {}).get("phase") not in ENDED
            for pod in self.pods.values()
        )

    def _watch_over(self, number: int) -> None:
        """After a count was written: see that as many pods come to be."""
        if self._looking is not None:
            self._looking.cancel()
        self._looked_at = None
        if not number:
            self.refusal = None
        self._looking = asyncio.create_task(self._look(), name=f"look-{self.name}") if number else None

    def _consider(self) -> None:
        """Look at its object where there are other pods than it was given."""
        number = self.num_live
        if self._has_ended:
            return
        if number == self.written:
            self._looked_at = None
        elif self.written is None or self.foreign_writer or self._task is None or number == self._looked_at:
            return
        elif self._looking is None or self._looking.done():
            self._looking = asyncio.create_task(self._look(), name=f"look-{self.name}")

    async def _look(self) -> None:
        """Until there are so many pods as were written, or a look tells why not."""
        pause_s = LOOK_AFTER_S
        while True:
            await asyncio.sleep(pause_s)
            if self.written is None or not self.may_write():
                return
            number = self.num_live
            if number == self.written:
                self._be_refused(None)
                return
            with contextlib.suppress(ClusterError):  # the next look may have an answer
                if await self._judged(number):
                    self._looked_at = number
                    return
            pause_s = min(MAX_PAUSE_S, pause_s * 2)

    async def _judged(self, number: int) -> bool:
        """Whether the object says why there are `number` pods, so that there is no more to see. Raises ClusterError."""
        try:
            live = msgspec.json.decode(await self.client.get(self.path))
        except ClusterError as error:
            if error.status != 404:
                raise
            await self._take_gone()
            return True
        self.take_fields(live)
        if self.take_count(live) or self.other_writer:
            return True
        conditions = (live.get("status") or {}).get("conditions") or ()
        said = next((one for one in conditions if one["type"] == "ReplicaFailure"), None)
        self._be_refused(f"its pods cannot be made: {said.get('message')}" if said else None)
        return self.written is not None and number > self.written  # more than ordered: a rollout

    def _be_refused(self, why: str | None) -> None:
        if why != self.refusal:
            self.refusal = why
            self.report()

    async def _take_gone(self) -> None:
        """Its object is not there: it is made again. Raises ClusterError."""
        if self.maker and await is_there(self.client, self.maker):
            self.written = None  # its controller makes it, with a count of its own
        else:
            self.is_gone = True
        self._wake.set()

    def take_count(self, live: Mapping[str, Any]) -> str:
        """What is done about a count that another one wrote, in a sentence: a person's is put back, an autoscaler's is
        left. Empty where nobody did."""
        owner, number = other_owner(live), count_of(live)
        if not owner or self.written is None or self.foreign_writer or owner == self.other_writer:
            return ""
        if is_autoscaler(owner):
            self.other_writer = owner
            said = f"its count is left alone from now on: {owner} has set it to {number}"
        elif number == self.written and not self.other_writer:
            return ""
        else:
            self.other_writer, self.written = "", number
            self._wake.set()
            if self.order is None:
                return ""
            said = f"its count was set to {number} by {owner} and is put back to {self.order.num_ready}"
            self.taken_back = f"{said}: `ironloom scale {self.name} {number}` would keep it there"
        self.record(
            Event(
                kind=EventKind.SERVICE_DRIFTED,
                service=self.name,
                reason="CountLeftAlone" if self.other_writer else "CountPutBack",
                message=said,
                data={"count": number, "manager": owner},
            )
        )
        self.report()
        return said

    def take_fields(self, live: Mapping[str, Any]) -> None:
        """See what else of its object a person has changed: it is told, and left until the next apply."""
        if not self.wanted:
            return
        found = told(live, msgspec.json.decode(self.wanted), was_whole=False, is_trial=True)
        for said in found:
            if said not in self.changed_by_hand:
                self.record(Event(kind=EventKind.SERVICE_DRIFTED, service=self.name, reason="Changed", message=said))
        if found != self.changed_by_hand:
            self.changed_by_hand = found
            self.report()


def _name(pod: Mapping[str, Any]) -> str:
    return str(pod["metadata"]["name"])
