"""What a node may be used for, read from its conditions, its taints, and what its provider says of it."""

from __future__ import annotations

from collections.abc import Sequence

from ironloom.fleet.dialects import DIALECTS
from ironloom.fleet.dialects.dialect import Labels
from ironloom.fleet.model import Condition, Lifecycle, Taint

_TRUE = {name: why for dialect in DIALECTS for name, why in dialect.conditions_true.items()}
_FALSE = {name: why for dialect in DIALECTS for name, why in dialect.conditions_false.items()}
_DRAINING = frozenset(key for dialect in DIALECTS for key in dialect.draining_taints)
_HEALTHS = tuple(dialect.health for dialect in DIALECTS)


def lifecycle_of(
    labels: Labels, taints: Sequence[Taint], conditions: Sequence[Condition], *, is_unschedulable: bool
) -> tuple[Lifecycle, str]:
    """(lifecycle, why): the worst that anything says. A node that says nothing of itself is ready."""
    states = [health for says in _HEALTHS if (health := says(labels)) is not None]
    for state in states:
        if state.lifecycle is Lifecycle.BROKEN:
            return state.lifecycle, state.why
    not_ready = ""
    for condition in conditions:
        if condition.type == "Ready":
            if condition.status != "True":
                detail = condition.reason or condition.message
                not_ready = f"its condition Ready is {condition.status}" + (f" ({detail})" if detail else "")
        elif condition.status == "True" and condition.type in _TRUE:
            return Lifecycle.BROKEN, f"{_TRUE[condition.type]} ({condition.type})"
        elif condition.status == "False" and condition.type in _FALSE:
            return Lifecycle.BROKEN, f"{_FALSE[condition.type]} ({condition.type})"
    if not_ready:
        return Lifecycle.NOT_READY, not_ready
    for taint in taints:
        if taint.key in _DRAINING:
            return Lifecycle.DRAINING, f"its taint {taint.key}"
    for state in states:
        return state.lifecycle, state.why
    if is_unschedulable:
        return Lifecycle.CORDONED, "spec.unschedulable"
    return Lifecycle.READY, ""
