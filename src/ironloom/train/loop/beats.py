"""Signs of life: what each rank does now, in a small file that all ranks of the machine (or of a shared folder) can
read, and which rank is the slow one when a step does not end. The naming is pure.

A rank enters the parts of a step one after the other; who waits for another is in a later part than the one waited for,
or in the same one and alive. A rank whose watching thread does not beat any more is stopped, swapped out or gone.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

STALE_S = 5.0
"""A rank beats each second; one that did not for this long gives no sign of life."""
PARTS = ("starting", "data", "forward", "backward", "optimizer", "profile", "checkpoint", "evaluation", "ending")
"""In the order of a step."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Beat:
    """One rank's sign of life."""

    rank: int
    pid: int
    step: int
    part: str
    part_since_s: float
    """Wall clock."""
    beat_s: float
    """Wall clock of the sign."""

    @property
    def place(self) -> tuple[int, int]:
        return self.step, PARTS.index(self.part) if self.part in PARTS else 0


def write_beat(folder: Path, beat: Beat) -> None:
    """Whole or not at all; a full disk is no matter here."""
    path = folder / f"beat-{beat.rank}.json"
    partial = path.with_suffix(".part")
    try:
        partial.write_text(json.dumps(asdict(beat)))
        partial.replace(path)
    except OSError:
        return


def read_beats(folder: Path) -> list[Beat]:
    """Those that can be read, by rank."""
    found = []
    for path in folder.glob("beat-*.json"):
        try:
            found.append(Beat(**json.loads(path.read_text())))
        except (OSError, ValueError, TypeError):
            continue
    return sorted(found, key=lambda beat: beat.rank)


def name_slow(beats: Sequence[Beat], num_ranks: int, now_s: float) -> tuple[tuple[int, ...], str]:
    """The ranks that the others wait for, and what is to be said of it in a sentence. No rank where none stands out."""
    known = {beat.rank: beat for beat in beats}
    silent = [rank for rank in range(num_ranks) if rank not in known]
    if silent:
        return tuple(silent), f"{_ranks(silent)} never gave a sign of life"
    stale = [beat for beat in beats if now_s - beat.beat_s > STALE_S]
    if stale and len(stale) < num_ranks:
        said = ", ".join(f"rank {beat.rank} (pid {beat.pid}, {now_s - beat.beat_s:.0f} s)" for beat in stale)
        ranks = tuple(beat.rank for beat in stale)
        return ranks, f"no sign of life from {said}: stopped, swapped out or gone, last heard of in {_at(stale[0])}"
    last = min(beat.place for beat in beats)
    behind = [beat for beat in beats if beat.place == last]
    if len(behind) < num_ranks:
        others = max(beats, key=lambda beat: beat.place)
        ranks = tuple(beat.rank for beat in behind)
        since_s = now_s - min(beat.part_since_s for beat in behind)
        return ranks, (
            f"{_ranks(ranks)} {'is' if len(ranks) == 1 else 'are'} in {_at(behind[0])} for {since_s:.0f} s, "
            f"and the others wait in {_at(others)}"
        )
    if num_ranks == 1:
        return (0,), f"it is in {_at(behind[0])} for {now_s - behind[0].part_since_s:.0f} s"
    return (), f"all {num_ranks} ranks are in {_at(behind[0])} and alive: a collective does not end (the network?)"


def _at(beat: Beat) -> str:
    return f"the {beat.part} of step {beat.step}" if beat.step else f"its {beat.part}"


def _ranks(ranks: Sequence[int]) -> str:
    return f"rank {ranks[0]}" if len(ranks) == 1 else f"ranks {', '.join(map(str, ranks))}"
