"""The share of CPU time that a hypervisor gave to others, from /proc/stat: what makes a step slow for no reason of its
own. Source: https://man7.org/linux/man-pages/man5/proc_stat.5.html"""

from __future__ import annotations

from pathlib import Path

_STEAL = 7
"""Field of the line `cpu`: user, nice, system, idle, iowait, irq, softirq, steal."""


class Steal:
    """Of this machine, between one look and the next."""

    def __init__(self, stat: Path = Path("/proc/stat")) -> None:
        self._stat = stat
        self._last = self._read()

    def fraction(self) -> float | None:
        """Since the last look; None where the system does not tell, or no time has passed."""
        last, self._last = self._last, self._read()
        if last is None or self._last is None:
            return None
        spent = [now - before for now, before in zip(self._last, last, strict=True)]
        total = sum(spent)
        return round(spent[_STEAL] / total, 4) if total > 0 else None

    def _read(self) -> list[int] | None:
        try:
            words = self._stat.read_text().split("\n", 1)[0].split()
            is_whole = words[0] == "cpu" and len(words) > _STEAL + 1
            return [int(word) for word in words[1 : _STEAL + 2]] if is_whole else None
        except (OSError, ValueError, IndexError):
            return None
