"""Which rank this process is, from the variables that torchrun (and Ironloom) set. One process alone is rank 0 of 1.

Source: https://docs.pytorch.org/docs/stable/elastic/run.html#environment-variables
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

from ironloom.errors import UsageError

ATTEMPT = "IRONLOOM_ATTEMPT"
"""Which attempt of the run this is, from 1; set by who starts ranks anew."""
RUN_ID = "IRONLOOM_RUN_ID"
"""Which run this is, of those that write into the same output folder one after the other; set by who starts ranks."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Ranks:
    """This process among those of its run."""

    rank: int = 0
    world: int = 1
    local_rank: int = 0
    local_world: int = 1
    attempt: int = 1
    run_id: str = ""

    @property
    def is_first(self) -> bool:
        """Of the whole run: the one that tells."""
        return self.rank == 0


def from_environment(environ: Mapping[str, str] = os.environ) -> Ranks:
    """Raises UsageError for numbers that are none, or that do not go together."""

    def number(name: str, default: int) -> int:
        text = environ.get(name, "")
        if not text:
            return default
        if not text.isdigit():
            raise UsageError(f"{name} = {text!r}, must be a whole number", hint="torchrun sets it")
        return int(text)

    world = number("WORLD_SIZE", 1)
    made = Ranks(
        rank=number("RANK", 0),
        world=world,
        local_rank=number("LOCAL_RANK", 0),
        local_world=number("LOCAL_WORLD_SIZE", world),
        attempt=number(ATTEMPT, number("TORCHELASTIC_RESTART_COUNT", 0) + 1),
        run_id=environ.get(RUN_ID, ""),
    )
    if not 0 <= made.rank < made.world:
        raise UsageError(f"RANK = {made.rank}, must be below WORLD_SIZE, {made.world}")
    if made.world > 1 and not environ.get("MASTER_ADDR"):
        raise UsageError(
            f"WORLD_SIZE = {made.world}, and MASTER_ADDR is not set",
            hint="torchrun sets both; one process alone needs neither",
        )
    return made
