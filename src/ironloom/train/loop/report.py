"""The report at a run's end: what was trained on what, how it went, what it took. Pure; written as report.json."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from ironloom.train.loop.best import Exported
from ironloom.units import format_duration
from ironloom.workload.training import Training


def make_report(
    training: Training,
    *,
    num_ranks: int,
    device: str,
    num_steps: int,
    num_tokens: int,
    first_loss: float | None,
    last_loss: float | None,
    eval_losses: list[tuple[int, float]],
    best_eval_step: int,
    exported: Exported,
    rank_s: float,
    tokens_per_s: float,
    peak_memory_bytes: int,
    parts_s: dict[str, float],
    num_stalls: int,
    stall_s: float,
    num_skipped: int,
    num_attempts: int,
    stopped_early: bool,
    versions: dict[str, str],
) -> dict[str, Any]:
    """The report as JSON values. Lengths in seconds; `device_s` counts each rank's device from its
    process's start, over all attempts; of one that was killed, to its last record. `step_time` is rank 0's, over the
    steps that count: where it went, part by part."""
    points = [(step, loss if math.isfinite(loss) else None) for step, loss in eval_losses]
    return {
        "run": training.name,
        "model": training.model,
        "method": training.method.value,
        "output": training.output,
        "num_ranks": num_ranks,
        "device": device,
        "num_attempts": num_attempts,
        "num_steps": num_steps,
        "num_tokens": num_tokens,
        "stopped_early": stopped_early,
        "exported": {"step": exported.step, "eval_loss": exported.eval_loss},
        "num_skipped": num_skipped,
        "loss": {"first": first_loss, "last": last_loss},
        "eval_loss": {
            "first": points[0][1] if points else None,
            "last": points[-1][1] if points else None,
            "best": dict(points).get(best_eval_step) if best_eval_step else None,
            "best_step": best_eval_step or None,
            "points": [list(point) for point in points],
        },
        "device_s": round(rank_s, 1),
        "tokens_per_s": round(tokens_per_s, 1),
        "peak_memory_bytes": peak_memory_bytes,
        "step_time": {"total_s": round(sum(parts_s.values()), 3), "parts_s": parts_s},
        "stalls": {"number": num_stalls, "lost_s": round(stall_s, 3)},
        "versions": versions,
    }


def parts_line(parts_s: Mapping[str, float], total_s: float) -> str:
    """Shares of the whole, those of one in a hundred and more: `forward 33 %, backward 60 %`."""
    shares = {part: seconds / total_s for part, seconds in parts_s.items()} if total_s > 0 else {}
    return ", ".join(f"{part} {share:.0%}" for part, share in shares.items() if share >= 0.01)


def exported_line(report: Mapping[str, Any]) -> str:
    """Whose model was exported: `the model of step 40, evaluation loss 2.1034, the best`; empty where that is not
    told."""
    exported, evaluated = report.get("exported") or {}, report.get("eval_loss") or {}
    if not exported:
        return ""
    step, loss, best_step = exported["step"], exported["eval_loss"], evaluated.get("best_step")
    told = f"the model of step {step}"
    if loss is not None:
        told += f", evaluation loss {loss:.4f}"
    if best_step and evaluated.get("best") is not None:
        told += ", the best" if best_step == step else f"; the best was {evaluated['best']:.4f} at step {best_step}"
    return told


def report_lines(report: dict[str, Any]) -> list[str]:
    """The report for a person."""
    loss, evaluated = report["loss"], report["eval_loss"]
    ranks = report["num_ranks"]
    spent = format_duration(report["device_s"])
    where = f"{ranks} rank{'s' if ranks != 1 else ''} ({report['device']})"
    steps = report["num_steps"]
    work = f"{steps} step{'s' if steps != 1 else ''}, {report['num_tokens']:,} tokens"
    lines = [f"{report['run']}: {work}, {spent} of device time on {where}"]
    if loss["first"] is not None and loss["last"] is not None:
        lines.append(f"training loss {loss['first']:.4f} → {loss['last']:.4f}")
    if evaluated["first"] is not None and evaluated["last"] is not None:
        lines.append(f"evaluation loss {evaluated['first']:.4f} → {evaluated['last']:.4f}")
    if told := parts_line(report["step_time"]["parts_s"], report["step_time"]["total_s"]):
        lines.append(f"time went to {told}")
    if number := report["stalls"]["number"]:
        lost = format_duration(report["stalls"]["lost_s"])
        lines.append(f"{number} stall{'s' if number != 1 else ''}: {lost} beyond the usual step")
    if report["stopped_early"]:
        lines.append("ended early: the evaluation loss got no better")
    lines.append(f"exported: {exported_line(report)}")
    if report["num_skipped"]:
        lines.append(f"{report['num_skipped']} steps skipped for a bad loss")
    return lines
