"""What a test of the ring skips for. Where CI runs them, a skipped test has failed."""

from __future__ import annotations

from collections.abc import Sequence

import pytest


def need_programs(absent: Sequence[str]) -> None:
    """Skip unless nothing is absent of what scripts/setup_kubernetes builds."""
    if absent:
        pytest.skip(f"no {absent[0]}: run scripts/setup_kubernetes")
