"""A service's state is read off its replicas."""

from __future__ import annotations

import pytest

from ironloom.errors import ClusterError
from ironloom.serve.replica import Replica, ReplicaState, ServiceReplicas
from ironloom.server.control import LogLine
from ironloom.server.view import log_line, service_state

S = ReplicaState


def report(*states: ReplicaState, failure: str | None = None) -> ServiceReplicas:
    replicas = tuple(
        Replica(id=f"r-{number}", service="demo", state=state, generation=1, engine="fake", phase="loading")
        for number, state in enumerate(states)
    )
    return ServiceReplicas(service="demo", replicas=replicas, failure=failure)


@pytest.mark.parametrize(
    ("states", "failure", "held", "deleting", "expected"),
    [
        ((), None, 0, False, "zero"),
        ((), None, 1, False, "waking"),
        ((S.STARTING,), None, 0, False, "waking"),
        ((S.WAKING,), None, 3, False, "waking"),
        ((S.PARKED,), None, 0, False, "parked"),
        ((S.PARKING,), None, 0, False, "parked"),
        ((S.READY, S.STARTING), None, 0, False, "ready"),
        ((S.READY,), "one of two crashed", 0, False, "ready"),
        ((S.STARTING,), "exit status 1", 0, False, "failed"),
        ((), "exit status 1", 2, False, "failed"),
        ((S.STOPPING,), None, 0, False, "zero"),
        ((S.READY,), None, 0, True, "deleting"),
    ],
)
def test_the_state_of_a_service(
    states: tuple[ReplicaState, ...], failure: str | None, held: int, deleting: bool, expected: str
) -> None:
    assert service_state(report(*states, failure=failure), num_held=held, deleting=deleting)[0] == expected


def test_a_failed_service_says_why_and_a_waking_one_what_it_does() -> None:
    assert service_state(report(failure="no such file"), num_held=0, deleting=False) == ("failed", "no such file")
    assert service_state(report(S.STARTING), num_held=1, deleting=False) == ("waking", "loading")


def test_what_cannot_be_read_of_a_replica_is_told_apart_from_what_it_wrote() -> None:
    assert log_line("r-0", "ready") == LogLine(replica="r-0", line="ready")
    refused = ClusterError("no right to pods/log", hint="ask for it")
    assert log_line("r-0", refused) == LogLine(replica="r-0", line="", error="no right to pods/log", hint="ask for it")
    assert log_line("r-0", ClusterError("away")).hint == ""
