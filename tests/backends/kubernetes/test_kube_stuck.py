"""When a pod that does not start is waited for no longer."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ironloom.backends.kubernetes.pods import BAD_WAITS
from ironloom.backends.kubernetes.stuck import MAX_PULLS, Tries, after

Wait = tuple[str, str]
PULL: Wait = ("ErrImagePull", "dial tcp 10.0.0.1:443: connect: connection refused")
BACK_OFF: Wait = ("ImagePullBackOff", 'Back-off pulling image "a": ErrImagePull: connection refused')
MAKING: Wait = ("ContainerCreating", "")
RUNS: Wait = ("", "")


def crash(back_off: str) -> Wait:
    return ("CrashLoopBackOff", f"back-off {back_off} restarting failed container=engine pod=a-x_default(uid)")


CASES: dict[str, tuple[list[Wait], bool]] = {
    "a pod whose containers are being made is on its way": ([MAKING], False),
    "a registry that was away once may be back at the next pull": ([MAKING, PULL, BACK_OFF], False),
    "an image that could not be pulled twice is given up": ([PULL, BACK_OFF, PULL], True),
    "what is seen for longer is one pull": ([PULL, PULL, PULL], False),
    "a pull that was not seen counts by its back-off": ([BACK_OFF, PULL], True),
    "an image that its registry does not have is given up at once": (
        [("ErrImagePull", 'rpc error: code = NotFound desc = failed to pull and unpack image "a": not found')],
        True,
    ),
    "an image that its registry does not give is given up at once": (
        [("ErrImagePull", "pull access denied, repository does not exist or may require authorization")],
        True,
    ),
    "a Secret that is not there is given up at once": (
        [("CreateContainerConfigError", 'secret "token" not found')],
        True,
    ),
    "a name that is none is given up at once": ([("InvalidImageName", "couldn't parse image name")], True),
    "a container that ended twice is started again soon": ([crash("10s")], False),
    "a container that ends again and again is given up": ([crash("10s"), ("", ""), crash("20s")], True),
    "and stays so": ([crash("5m0s")], True),
    "a container whose kubelet does not say when it is started again is given up": ([("CrashLoopBackOff", "")], True),
    "a container that could not be run is tried again": ([("RunContainerError", "exec: no such file")], False),
    "what was given up stays so through its back-offs": ([PULL, BACK_OFF, PULL, BACK_OFF], True),
    "what runs after all has a clean slate": ([PULL, BACK_OFF, PULL, RUNS], False),
    "and fails anew from the beginning": ([PULL, BACK_OFF, PULL, RUNS, PULL], False),
}


def pod(wait: Wait, *, is_init: bool = False) -> dict[str, Any]:
    reason, message = wait
    state = {"waiting": {"reason": reason, "message": message}} if reason else {"running": {}}
    key = "initContainerStatuses" if is_init else "containerStatuses"
    return {"metadata": {"name": "a"}, "status": {key: [{"name": "engine", "state": state}]}}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("is_init", [False, True])
def test_a_pod_is_given_up(name: str, is_init: bool) -> None:
    waits, is_stuck = CASES[name]
    tries = Tries()
    for wait in waits:
        tries = after(tries, pod(wait, is_init=is_init))
    assert tries.is_stuck is is_stuck


def test_a_pod_that_was_there_before_has_failed_before() -> None:
    assert after(Tries(), pod(BACK_OFF), is_old=True).is_stuck
    assert not after(Tries(), pod(PULL), is_old=True).is_stuck


@given(st.lists(st.sampled_from([PULL, BACK_OFF, MAKING, RUNS, *((reason, "") for reason in BAD_WAITS)])))
def test_no_pod_is_given_up_that_does_not_wait_and_none_is_waited_for_beyond_its_pulls(waits: list[Wait]) -> None:
    tries = Tries()
    for wait in waits:
        tries = after(tries, pod(wait))
        assert not (tries.is_stuck and wait[0] not in BAD_WAITS)
        assert tries.num_pulls < MAX_PULLS or tries.is_stuck
