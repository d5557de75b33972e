"""What the load asks for, brought within what may be: min, max and initial scale, and what fits.

Source of the order of bounds: knative/serving pkg/reconciler/autoscaling/kpa/scaler.go (`applyBounds`, `scale`).
"""

from __future__ import annotations

from dataclasses import dataclass

from ironloom.workload.serving import Scaling


@dataclass(frozen=True, kw_only=True, slots=True)
class Bounded:
    """A count within its bounds; `reason` names the bound that moved it, empty when none did."""

    num_replicas: int
    reason: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Ask:
    """The last time more replicas were asked for: how many, and when that surge began."""

    num_replicas: int = 0
    since_s: float = 0.0


def bound(num_replicas: int, scaling: Scaling, *, is_activating: bool, capacity: int | None) -> Bounded:
    """`num_replicas` within the service's bounds.

    `is_activating`: the service was never ready since it was made, so its initial scale counts.
    `capacity`: how many replicas fit on this backend, its own included; None is not known. At least one is asked for
    even where none fits: the backend then says why not, with the numbers.
    """
    low = max(scaling.min_replicas, scaling.initial_scale) if is_activating else scaling.min_replicas
    high = scaling.max_replicas
    bounded = Bounded(num_replicas=num_replicas)
    if num_replicas < low:
        name = "initial scale" if low > scaling.min_replicas else "min replicas"
        bounded = Bounded(num_replicas=low, reason=f"{name} is {low}")
    if high and bounded.num_replicas > high:
        bounded = Bounded(num_replicas=high, reason=f"max replicas is {high}")
    if capacity is not None and bounded.num_replicas > max(1, capacity):
        bounded = Bounded(num_replicas=max(1, capacity), reason=f"{capacity} fit here")
    return bounded


def ask(
    last: Ask, num_replicas: int, *, num_live: int, num_starting: int, settle_s: float, now_s: float
) -> tuple[Ask, Bounded]:
    """Ask once: while replicas start, the count does not rise.

    A surge is sized within `settle_s` (the panic window) of its first ask; in that time the ask may still rise. After
    it, requests that pile up at the gateway say that the start is slow, not that more replicas are needed, and each
    would take a GPU. When the starts are over, ready or failed, the next decision asks anew.
    """
    if num_starting == 0 and num_replicas <= num_live:
        return Ask(num_replicas=num_replicas, since_s=now_s), Bounded(num_replicas=num_replicas)
    if num_replicas <= last.num_replicas:
        return Ask(num_replicas=num_replicas, since_s=last.since_s), Bounded(num_replicas=num_replicas)
    if num_starting == 0 or last.num_replicas == 0:
        return Ask(num_replicas=num_replicas, since_s=now_s), Bounded(num_replicas=num_replicas)
    if now_s - last.since_s <= settle_s:
        return Ask(num_replicas=num_replicas, since_s=last.since_s), Bounded(num_replicas=num_replicas)
    kept = max(1, last.num_replicas)
    return last, Bounded(num_replicas=kept, reason=f"{num_starting} starting, none asked for again until they are up")
