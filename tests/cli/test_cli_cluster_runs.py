"""What a person reads of a training run in a cluster."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from ironloom.backends.kubernetes.training import NoSuchRunError
from ironloom.backends.kubernetes.training_view import PodLine, RunState
from ironloom.cli import cluster_runs, output
from ironloom.cli.cluster_runs import logs_of_run, render
from ironloom.errors import ClusterError


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


def pod(rank: int, name: str, phase: str = "Running", *, made: int = 0, restarts: int = 0) -> dict[str, Any]:
    return {
        "metadata": {
            "name": name,
            "creationTimestamp": f"2026-01-01T00:00:{made:02d}Z",
            "labels": {"batch.kubernetes.io/job-completion-index": str(rank)},
        },
        "status": {"phase": phase, "containerStatuses": [{"restartCount": restarts}]},
    }


class FakeRuns:
    """A run whose states and pods are those of one look after the other."""

    def __init__(self, looks: list[tuple[str, list[dict[str, Any]]]], logs: dict[str, list[str]]) -> None:
        self._looks = looks
        self._logs = logs
        self._at = -1

    async def owner(self, name: str) -> dict[str, Any]:
        return {"metadata": {"name": name}}

    async def state(self, name: str) -> RunState:
        self._at = min(self._at + 1, len(self._looks) - 1)
        if (state := self._looks[self._at][0]) == "gone":
            raise NoSuchRunError(f"There is no training run {name!r}.")
        return RunState(name=name, namespace="ml", kind="Job", state=state)

    async def pods(self, name: str) -> list[dict[str, Any]]:
        return self._looks[max(self._at, 0)][1]

    async def log_of(self, pod: dict[str, Any], *, follow: bool, tail: int) -> AsyncIterator[str]:
        name = f"{pod['metadata']['name']}/{pod['status']['containerStatuses'][0]['restartCount']}"
        if name not in self._logs:
            raise ClusterError(f"there is no pod {name}", status=404)
        for line in self._logs[name]:
            yield line


FIRST, SECOND = pod(0, "a-0"), pod(1, "a-1")
AGAIN = pod(1, "b-1", made=5)
LOGS = {"a-0/0": ["zero"], "a-1/0": ["one"], "b-1/0": ["one anew"], "a-0/1": ["zero anew"]}


@pytest.mark.parametrize(
    ("looks", "rank", "told"),
    [
        pytest.param(
            [("running", [FIRST, SECOND]), ("succeeded", [FIRST, SECOND])], None, ["[a-0] zero", "[a-1] one"],
            id="it ends with the run",
        ),
        pytest.param(
            [("queued", []), ("starting", [pod(0, "a-0", "Pending")]), ("running", [FIRST]), ("gone", [])], "rank-0",
            ["zero"], id="it waits for pods, and ends where the run was deleted",
        ),
        pytest.param(
            [("running", [FIRST, SECOND]), ("running", [FIRST, SECOND, pod(1, "b-1", "Pending", made=5)]),
             ("running", [FIRST, SECOND, AGAIN]), ("failed", [FIRST, SECOND, AGAIN])],
            "1", ["one", "one anew"], id="a pod that takes another's place is followed",
        ),
        pytest.param(
            [("running", [FIRST]), ("running", [pod(0, "a-0", restarts=1)]), ("stopped", [])], "0",
            ["zero", "zero anew"], id="so is a container that is started again",
        ),
        pytest.param(
            [("running", [FIRST, pod(1, "went-1")]), ("succeeded", [FIRST])], None, ["[a-0] zero"],
            id="a pod that went before it was read is passed over",
        ),
    ],
)  # fmt: skip
def test_the_log_of_a_cluster_s_run_is_followed_to_its_end(
    looks: list[tuple[str, list[dict[str, Any]]]],
    rank: str | None,
    told: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    @asynccontextmanager
    async def opened(context: str, namespace: str | None) -> AsyncIterator[FakeRuns]:
        yield FakeRuns(looks, LOGS)

    monkeypatch.setattr(cluster_runs, "_opened", opened)
    monkeypatch.setattr(cluster_runs, "POLL_S", 0.01)
    logs_of_run("prod", "ml", "tune", follow=True, rank=rank, tail=10, prefix=None)
    assert capsys.readouterr().out.splitlines() == told
