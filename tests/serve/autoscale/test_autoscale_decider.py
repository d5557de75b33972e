"""The decider against the vectors of Knative's own test, and its properties.

Vectors: knative/serving pkg/autoscaler/scaling/autoscaler_test.go. There: rates 10 and 10, panic threshold 2, a stable
window of 60 s, one ready pod when the autoscaler is made.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ironloom.serve.autoscale.decider import (
    DeciderSpec,
    DeciderState,
    Observation,
    decide,
    panic_window_s,
    restarted,
    spec_for,
)
from ironloom.workload.serving import ScaleMetric, Scaling


def knative(target: float, **other: object) -> DeciderSpec:
    spec = DeciderSpec(target=target, max_scale_up_rate=10, max_scale_down_rate=10)
    return replace(spec, **other)


class Run:
    """A decider with its state carried along; `at` is the time in seconds."""

    def __init__(self, spec: DeciderSpec, state: DeciderState | None = None) -> None:
        self.spec = spec
        self.state = state or DeciderState()

    def want(self, stable: float, panic: float, ready: int = 1, at: float = 0.0, starting: int = 0) -> int:
        observed = Observation(stable=stable, panic=panic, num_ready=ready, num_starting=starting)
        self.state, wanted = decide(self.state, observed, self.spec, at)
        assert wanted.reason
        assert wanted.panicking == self.state.panicking
        return wanted.num_replicas


@pytest.mark.parametrize(
    ("name", "spec", "stable", "panic", "ready", "expected"),
    [
        ("no load wants none", knative(10), 0, 0, 1, 0),
        ("a high target is met by one", knative(181), 21, 26, 1, 1),
        ("a panic window below the stable one", knative(10), 50, 49, 1, 5),
        ("stable", knative(10), 50, 50, 1, 5),
        ("already scaled", knative(10), 50, 50, 5, 5),
        ("a small up rate still grows by one", knative(1, max_scale_up_rate=1.1), 3, 3.1, 2, 3),
        ("a small down rate", knative(10, max_scale_down_rate=1.1), 1, 1, 100, 90),
        (
            "unreachable, the down rate does not hold",
            knative(10, max_scale_down_rate=1.1, reachable=False),
            1,
            1,
            100,
            1,
        ),
        ("panic doubles", knative(10), 50, 100, 1, 10),
        ("the up rate limits", knative(10), 1000, 1001, 1, 10),
        ("the up rate limits from ten", knative(10), 1000, 1001, 10, 100),
        ("the down rate limits", knative(10), 1, 1, 100, 10),
        ("none ready counts as one", knative(10), 1000, 1000, 0, 10),
        ("stable wins below the panic threshold", knative(10), 50, 10, 1, 5),
    ],
)
def test_one_decision(name: str, spec: DeciderSpec, stable: float, panic: float, ready: int, expected: int) -> None:
    assert Run(spec).want(stable, panic, ready) == expected, name


def test_the_stable_window_alone_grows_and_shrinks() -> None:
    run = Run(knative(10))
    assert run.want(50, 10) == 5
    assert run.want(100, 10) == 10
    run = Run(knative(10))
    assert run.want(100, 100, ready=8) == 10
    assert run.want(50, 50, ready=8) == 5


def test_no_traffic_goes_to_zero() -> None:
    run = Run(knative(10))
    assert run.want(1, 0) == 1
    assert run.want(0, 0) == 0


def test_panic_ends_after_a_slow_increase() -> None:
    run = Run(knative(1))
    assert run.want(11, 25, ready=10, at=0) == 25
    assert run.state.panic_since_s == 0
    assert run.want(30, 41, ready=40, at=30) == 41
    assert run.state.panic_since_s == 0
    assert run.want(50, 56, ready=55, at=62) == 50
    assert not run.state.panicking


def test_a_surge_that_goes_on_extends_the_panic() -> None:
    run = Run(knative(1))
    assert run.want(11, 25, ready=10, at=0) == 25
    assert run.want(30, 80, ready=40, at=30) == 80
    assert run.state.panic_since_s == 30


def test_panic_tracks_an_exponential_load_and_stays_there() -> None:
    run = Run(knative(1))
    for at, (load, ready) in enumerate([(6, 1), (36, 6), (216, 36), (1296, 216), (1296, 1296)]):
        assert run.want(load, load, ready=ready, at=at) == load


def test_panic_does_not_shrink_and_leaves_after_the_window() -> None:
    run = Run(knative(10))
    assert run.want(100, 100, ready=1, at=0) == 10
    assert run.want(100, 1000, ready=10, at=0) == 100
    assert run.want(1, 1, ready=10, at=30) == 100
    assert run.want(1, 1, ready=10, at=61) == 1


@pytest.mark.parametrize(("stable", "panic", "expected"), [(50, 30, 50), (20, 30, 30)])
def test_in_panic_the_larger_of_both_windows_counts(stable: float, panic: float, expected: int) -> None:
    assert Run(knative(1), DeciderState(panic_since_s=-5, max_panic=5)).want(stable, panic, ready=5) == expected


@pytest.mark.parametrize(("stable", "expected"), [(0, 0), (1, 2)])
def test_activation_scale_is_the_least_once_any_is_wanted(stable: float, expected: int) -> None:
    assert Run(knative(10, activation_scale=2)).want(stable, 0) == expected


def test_scale_down_waits_for_its_delay() -> None:
    run = Run(knative(10, panic_threshold=100, scale_down_delay_s=300))
    assert run.want(40, 40, at=2) == 4
    assert run.want(0, 0, at=300) == 4
    assert run.want(0, 0, at=302) == 0


def test_scale_down_goes_down_in_the_steps_that_scroll_out() -> None:
    run = Run(knative(10, panic_threshold=100, scale_down_delay_s=300))
    assert [
        run.want(40, 40, at=540),
        run.want(30, 30, at=600),
        run.want(0, 0, at=660),
        run.want(0, 0, at=840),
        run.want(0, 0, at=900),
    ] == [4, 4, 4, 3, 0]


def test_the_delay_does_not_hold_an_unreachable_service() -> None:
    run = Run(knative(10, panic_threshold=100, scale_down_delay_s=300))
    assert run.want(40, 40, at=2) == 4
    run.spec = replace(run.spec, reachable=False)
    assert run.want(0, 0, at=4) == 0


def test_without_a_delay_two_decisions_in_one_tick_may_shrink() -> None:
    run = Run(knative(10, panic_threshold=100))
    assert run.want(40, 40, at=0) == 4
    assert run.want(20, 20, at=0.5) == 2


def test_a_restart_with_several_replicas_begins_in_panic_with_that_many() -> None:
    run = Run(knative(10), restarted(4, 100.0))
    assert run.want(0, 0, ready=4, at=102) == 4
    assert run.want(0, 0, ready=4, at=161) == 0
    assert restarted(1, 100.0) == DeciderState()


def test_replicas_that_start_count_for_the_rates() -> None:
    # Knative, which counts ready ones only, would panic on here: 30 / 1 is over the threshold.
    run = Run(knative(1))
    assert run.want(30, 30, ready=1, starting=29, at=0) == 30
    assert not run.state.panicking


def test_a_panic_outlasts_a_start() -> None:
    run = Run(knative(1))
    assert run.want(5, 25, ready=10, at=0) == 25
    assert run.want(1, 1, ready=10, starting=15, at=600) == 25
    assert run.want(1, 1, ready=25, at=602) == 2


@pytest.mark.parametrize(
    ("scaling", "max_concurrency", "target"),
    [
        (Scaling(), 0, 70),
        (Scaling(), 32, 22.4),
        (Scaling(container_concurrency=10), 32, 7),
        (Scaling(target=20), 32, 14),
        (Scaling(target=20, container_concurrency=10), 32, 7),
        (Scaling(target=5, container_concurrency=10), 32, 3.5),
        (Scaling(metric=ScaleMetric.RPS), 32, 140),
        (Scaling(metric=ScaleMetric.RPS, target=10), 32, 7),
        (Scaling(metric=ScaleMetric.RPS, target=50, container_concurrency=10), 32, 35),
        (Scaling(target=0.001), 32, 0.01),
    ],
)
def test_the_target_of_a_replica(scaling: Scaling, max_concurrency: int, target: float) -> None:
    assert spec_for(scaling, max_concurrency=max_concurrency).target == pytest.approx(target)


@pytest.mark.parametrize(("stable_s", "fraction", "panic_s"), [(60, 0.1, 6), (6, 0.1, 1), (60, 1.0, 60), (14, 0.25, 4)])
def test_the_panic_window_is_whole_seconds_and_at_least_one(stable_s: float, fraction: float, panic_s: float) -> None:
    assert panic_window_s(Scaling(stable_window_s=stable_s, panic_window_fraction=fraction)) == panic_s


observations = st.builds(
    Observation,
    stable=st.floats(0, 5000, allow_subnormal=False),  # a load that no division by a target takes to 0
    panic=st.floats(0, 5000, allow_subnormal=False),
    num_ready=st.integers(0, 50),
    num_starting=st.integers(0, 5),
)
specs = st.builds(
    DeciderSpec,
    target=st.floats(0.01, 200),
    stable_window_s=st.sampled_from([6.0, 60.0]),
    max_scale_up_rate=st.floats(1.1, 1000),
    max_scale_down_rate=st.floats(1.1, 10),
    activation_scale=st.integers(1, 4),
    scale_down_delay_s=st.sampled_from([0.0, 10.0, 300.0]),
)


@given(specs, st.lists(st.tuples(observations, st.floats(0.1, 40)), min_size=1, max_size=40))
def test_any_load_is_decided_within_the_rates(spec: DeciderSpec, steps: list[tuple[Observation, float]]) -> None:
    state, now_s = DeciderState(), 0.0
    for observed, wait_s in steps:
        now_s += wait_s
        before = state
        state, wanted = decide(state, observed, spec, now_s)
        assert decide(before, observed, spec, now_s) == (state, wanted)
        replicas = max(1, observed.num_ready + observed.num_starting)
        assert wanted.num_replicas >= 0
        if observed.stable > 0:
            assert wanted.num_replicas >= 1
        if state.panicking and before.panicking:
            assert state.max_panic >= before.max_panic
        if not state.panicking and spec.scale_down_delay_s == 0:
            assert wanted.num_replicas <= max(spec.activation_scale, -(-spec.max_scale_up_rate * replicas // 1))
            assert wanted.num_replicas >= replicas // spec.max_scale_down_rate
        if spec.scale_down_delay_s:
            counts = [count for _, count in state.recent]
            assert counts == sorted(counts, reverse=True)
            assert wanted.num_replicas == counts[0]
            assert len(counts) <= spec.scale_down_delay_s / 2 + 1


def test_the_reason_has_no_more_than_two_decimals() -> None:
    observed = Observation(stable=0.00001, panic=1.23456, num_ready=1)
    _, wanted = decide(DeciderState(), observed, DeciderSpec(target=0.123456), 0.0)
    assert wanted.reason.startswith(
        "panic, surge seen 0ms ago: 1.23 requests in flight, 0 requests in flight on average over 60s; "
        "a replica takes 0.12"
    )
