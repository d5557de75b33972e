"""A run's records as they grow on the disk: what they add up to, and what its ranks said when they ended."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ironloom.train.loop.progress import RunProgress
from ironloom.train.loop.records import Kind, path_of, read_records


class RunRecords:
    """Of one run: what another one wrote into the same folder is passed over. `read` is called from a thread, one at a
    time."""

    def __init__(self, logs: Path, run_id: str) -> None:
        self.progress = RunProgress()
        self._logs = logs
        self._run_id = run_id
        self._offset = 0

    def read(self) -> bool:
        """Take in what rank 0 wrote since; whether there was anything."""
        records, self._offset = read_records(path_of(self._logs, 0), self._offset)
        own = [one for one in records if self._is_own(one)]
        self.progress.add_all(own)
        return bool(own)

    def last_words(self, rank: int, attempt: int) -> dict[str, Any]:
        """A rank's last record of this attempt that says how it ended; empty where there is none."""
        records, _ = read_records(path_of(self._logs, rank))
        telling = (Kind.FAILED, Kind.HUNG, Kind.DONE, Kind.PREEMPTED)
        of_attempt = (one for one in records if self._is_own(one) and one.get("attempt") == attempt)
        own = [one for one in of_attempt if one.get("kind") in telling]
        return own[-1] if own else {}

    def _is_own(self, record: dict[str, Any]) -> bool:
        return str(record.get("run_id", "")) == self._run_id
