"""What a person reads of a training run in a cluster."""

from __future__ import annotations

import pytest

from ironloom.backends.kubernetes.training_view import PodLine, RunState
from ironloom.cli import output
from ironloom.cli.cluster_runs import render


def test_a_run_that_waits_says_why_by_its_queue_and_by_the_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(output, "_now", lambda: 120.0)
    state = RunState(
        name="tune", namespace="ml", kind="JobSet", state="queued", reason="no room", queue="gpus", num_pods=2,
        restarts=1, created_s=60.0,
    )  # fmt: skip
    lines = render(state, ["room: a takes 1 of its 2 pods", "nodes: 1/4 nodes are available"]).splitlines()
    assert lines[3:6] == ["State:       queued: no room", "Queue:       gpus", "Restarts:    1"]
    assert lines[6].endswith("(60s ago)")
    assert lines[7:] == ["Room:        a takes 1 of its 2 pods", "             nodes: 1/4 nodes are available"]


def test_pods_stand_by_rank_with_what_failed_before() -> None:
    pods = (
        PodLine(rank=0, name="tune-0-x", state="running", node="n1"),
        PodLine(rank=1, name="tune-1-y", state="failed", reason="exit status 5", num_failed=2),
    )
    state = RunState(name="tune", namespace="ml", kind="Job", state="starting", num_pods=2, pods=pods)
    assert render(state, []).splitlines()[-3:] == [
        "  RANK   POD        STATE     NODE   FAILED   REASON",
        "  0      tune-0-x   running   n1     0        -",
        "  1      tune-1-y   failed    -      2        exit status 5",
    ]
