"""The decider of the Lease, and what must hold of many that follow it: never two that may write."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ironloom.backends.kubernetes import lease
from ironloom.backends.kubernetes.lease import DURATION_S, RENEW_WITHIN_S, RETRY_S, Record, Seen, Step

EPOCH = datetime(2026, 1, 1, tzinfo=UTC)
CASES = {
    "none is created": (Seen(), 0.0, Step.CREATE),
    "one's own is renewed": (Seen(record=Record(holder="a"), at_s=0.0), 5.0, Step.RENEW),
    "one's own is renewed late too": (Seen(record=Record(holder="a"), at_s=0.0), 500.0, Step.RENEW),
    "another's is left for its duration": (Seen(record=Record(holder="b"), at_s=10.0), 21.9, Step.WAIT),
    "another's is taken after it": (Seen(record=Record(holder="b"), at_s=10.0), 22.0, Step.TAKE),
    "a longer duration counts": (Seen(record=Record(holder="b", duration_s=60), at_s=10.0), 69.0, Step.WAIT),
    "one that was let go is taken": (Seen(record=Record(holder=""), at_s=10.0), 10.0, Step.TAKE),
}


@pytest.mark.parametrize(("seen", "now_s", "step"), CASES.values(), ids=CASES)
def test_what_a_gateway_does(seen: Seen, now_s: float, step: Step) -> None:
    assert lease.decide(seen, "a", now_s) is step


def test_a_namesake_elsewhere_is_another_one_until_its_lease_is_over() -> None:
    """A pod of a StatefulSet that was lost may go on unseen while its successor has its name."""
    seen = Seen(record=Record(holder="a", url="http://10.0.0.1:1"), at_s=10.0)
    assert lease.decide(seen, "a", 11.0, url="http://10.0.0.2:1") is Step.WAIT
    assert lease.decide(seen, "a", 10.0 + DURATION_S, url="http://10.0.0.2:1") is Step.TAKE
    assert lease.decide(seen, "a", 11.0, url="http://10.0.0.1:1") is Step.RENEW
    assert seen.record is not None
    taken = lease.held_by(seen.record, "a", wall=EPOCH, url="http://10.0.0.2:1")
    assert (taken.num_transitions, taken.acquired) == (1, taken.renewed)


def test_a_lease_that_did_not_change_stays_as_old_as_it_was() -> None:
    record = Record(holder="b", renewed="2031-01-01T00:00:00.000000Z")
    seen = lease.observe(Seen(), record, 10.0)
    assert lease.observe(seen, record, 20.0) == seen
    assert lease.observe(seen, Record(holder="b", renewed="1999-01-01T00:00:00.000000Z"), 20.0).at_s == 20.0


def test_a_transition_is_counted_when_the_holder_changes_alone() -> None:
    first = lease.held_by(None, "a", wall=EPOCH)
    again = lease.held_by(first, "a", wall=EPOCH + timedelta(seconds=3))
    taken = lease.held_by(again, "b", wall=EPOCH + timedelta(seconds=30))
    assert [one.num_transitions for one in (first, again, taken)] == [0, 0, 1]
    assert again.acquired == first.acquired < again.renewed
    assert taken.acquired == taken.renewed


def test_an_object_is_read_as_it_was_written() -> None:
    record = lease.held_by(Record(holder="b", num_transitions=4), "a", wall=EPOCH, url="http://10.0.0.1:1", version="1")
    assert lease.read(lease.written(record, name="ironloom", namespace="models", resource_version="7")) == record
    assert lease.read({"metadata": {}}) == Record(holder="")


def test_the_times_leave_room() -> None:
    assert 2 * RETRY_S < RENEW_WITHIN_S < DURATION_S
    assert DURATION_S + RETRY_S < 20


@dataclass
class Server:
    """The API server's one Lease: a write of an old version is refused."""

    record: Record | None = None
    version: int = 0

    def put(self, record: Record, version: int) -> bool:
        if version != self.version:
            return False
        self.record, self.version = record, self.version + 1
        return True


@dataclass
class Gateway:
    """One that follows the decider; its wall clock is off by `skew_s`."""

    name: str
    skew_s: float
    url: str = ""
    seen: Seen = field(default_factory=Seen)
    renewed_s: float | None = None

    def look(self, server: Server, sent_s: float, arrives_s: float) -> None:
        """Reads and writes; the request is sent at one time and judged by the server at a later one."""
        self.seen = lease.observe(self.seen, server.record, arrives_s)
        version = server.version
        if lease.decide(self.seen, self.name, arrives_s, url=self.url) is Step.WAIT:
            self.renewed_s = None
            return
        wall = EPOCH + timedelta(seconds=arrives_s + self.skew_s)
        record = lease.held_by(self.seen.record, self.name, wall=wall, url=self.url)
        if server.put(record, version):
            self.seen = lease.observe(self.seen, record, arrives_s)
            self.renewed_s = sent_s


@given(
    skews_s=st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=4),
    looks=st.lists(st.tuples(st.integers(0, 3), st.floats(0.01, 20.0), st.floats(0.0, 7.0)), max_size=60),
    names=st.lists(st.sampled_from("ab"), min_size=4, max_size=4),
)
def test_never_two_may_write_whatever_their_clocks_say_and_however_late_they_look(
    skews_s: list[float], looks: list[tuple[int, float, float]], names: list[str]
) -> None:
    server = Server()
    gateways = [
        Gateway(name, skew_s, f"http://10.0.0.{number}:1")
        for number, (name, skew_s) in enumerate(zip(names, skews_s, strict=False))
    ]
    now_s = 100.0
    for number, pause_s, delay_s in looks:
        now_s += pause_s
        gateways[number % len(gateways)].look(server, now_s, now_s + delay_s)
        now_s += delay_s
        for at_s in (now_s, now_s + 1e-3):
            assert sum(lease.may_write(one.renewed_s, at_s) for one in gateways) <= 1


@given(start_s=st.floats(0, 1e9), phase_s=st.floats(0.0, RETRY_S))
def test_after_the_holder_fell_silent_another_one_decides_in_time(start_s: float, phase_s: float) -> None:
    server, first, second = Server(), Gateway("a", 0.0), Gateway("b", 1e5)
    first.look(server, start_s, start_s)
    looked_s = start_s + phase_s
    second.look(server, looked_s, looked_s)
    while not lease.may_write(second.renewed_s, looked_s):
        looked_s += RETRY_S
        second.look(server, looked_s, looked_s)
    # It sees the holder at most one look late, and that its time is over at most one look late.
    assert looked_s - start_s <= DURATION_S + 2 * RETRY_S + 1e-6 * start_s
