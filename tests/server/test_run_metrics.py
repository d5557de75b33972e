"""Training runs as Prometheus reads them."""

from __future__ import annotations

from ironloom.server.run_metrics import METRICS, render
from ironloom.train.loop.progress import RunProgress
from ironloom.train.run_state import RunReport, RunState


def report() -> RunReport:
    progress = RunProgress()
    progress.add({"kind": "started", "attempt": 2, "step": 4, "num_ranks": 2, "num_steps": 10})
    step = {"kind": "step", "step": 5, "num_steps": 10, "loss": 2.5, "tokens": 5120, "tokens_per_s": 99.5}
    times = {"step_s": 2.0, "parts_s": {"forward": 1.5, "communication": 0.5}, "num_stalls": 3, "stall_s": 4.5}
    progress.add(step | times)
    progress.add({"kind": "evaluated", "step": 5, "loss": 2.75})
    return RunReport(name='a"b', state=RunState.RUNNING, attempt=2, device_s=12.5, progress=progress)


def test_each_metric_has_its_help_and_its_samples() -> None:
    lines = render([report()]).decode().splitlines()
    assert 'ironloom_run_state{run="a\\"b",state="running"} 1' in lines
    assert 'ironloom_run_state{run="a\\"b",state="failed"} 0' in lines
    assert 'ironloom_run_loss{run="a\\"b"} 2.5' in lines
    assert 'ironloom_run_eval_loss{run="a\\"b"} 2.75' in lines
    assert 'ironloom_run_tokens_total{run="a\\"b"} 5120' in lines
    assert 'ironloom_run_device_seconds_total{run="a\\"b"} 12.5' in lines
    assert 'ironloom_run_step_seconds{run="a\\"b"} 2' in lines
    assert 'ironloom_run_step_part_seconds{run="a\\"b",part="communication"} 0.5' in lines
    assert 'ironloom_run_stalls_total{run="a\\"b"} 3' in lines
    assert 'ironloom_run_stall_seconds_total{run="a\\"b"} 4.5' in lines
    for metric in METRICS:
        assert f"# TYPE {metric.name} {metric.type}" in lines


def test_what_is_not_known_yet_has_no_sample() -> None:
    text = render([RunReport(name="a", state=RunState.QUEUED)]).decode()
    assert 'ironloom_run_loss{run="a"}' not in text
    assert 'ironloom_run_step{run="a"} 0' in text


def test_without_runs_there_is_nothing() -> None:
    assert render([]) == b""
