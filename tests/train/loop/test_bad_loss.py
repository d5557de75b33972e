"""What is kept and said of a loss that went bad."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from ironloom.train.loop.bad_loss import Evidence

LAST = Evidence(
    step=20,
    last_step_before=10,
    loss="nan",
    grad_norm=None,
    recent_losses=[2.5, 2.25],
    first_sequence=80,
    num_sequences=80,
)


def test_steps_whose_loss_was_not_looked_at_are_told_as_that() -> None:
    assert LAST.told(Path("logs"), reason="the loss is nan", saved_step=0) == (
        "step 20: the loss is nan, and was looked at last at step 10; no checkpoint was taken yet; "
        "what led there is in logs/bad-loss-step-20.json"
    )
    told = replace(LAST, last_step_before=19).told(Path("logs"), reason="the loss is nan", saved_step=15)
    assert told.startswith("step 20: the loss is nan; the last checkpoint is of step 15; ")


def test_a_norm_that_was_not_taken_is_null(tmp_path: Path) -> None:
    LAST.write(tmp_path)
    kept = json.loads((tmp_path / "bad-loss-step-20.json").read_text())
    assert kept["grad_norm"] is None
    assert (kept["first_sequence"], kept["num_sequences"], kept["recent_losses"]) == (80, 80, [2.5, 2.25])
