"""What a process's memory is made of, read from /proc, and which parts of it a swap may take. Pure functions.

A *part* is a half-open range of addresses that was one allocation. Only parts whose bounds are known for sure are
taken: glibc's malloc maps each large allocation by itself and writes a header that says so; a library that maps
memory by itself leaves an area that is full from end to end.
"""

from __future__ import annotations

import re
import struct
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

_LINE = re.compile(r"([0-9a-f]+)-([0-9a-f]+) (\S{4}) ([0-9a-f]+) (\S+) (\d+)\s*(.*)")
_PRESENT, _SWAPPED, _FILE = 63, 62, 61
"""Bits of an entry of /proc/PID/pagemap (Linux, Documentation/admin-guide/mm/pagemap.rst)."""
_MMAPPED = 0x2
_FLAGS = 0x7
"""glibc malloc.c: the low bits of a chunk's size; IS_MMAPPED alone marks one that was mapped by itself."""
_ARENA_BYTES = 64 << 20
"""glibc's arenas of threads start at multiples of HEAP_MAX_SIZE, 64 MiB on 64-bit machines."""

Range = tuple[int, int]
"""Start and end."""


@dataclass(frozen=True, slots=True)
class Area:
    """One line of /proc/PID/maps."""

    start: int
    end: int
    permissions: str
    offset: int
    device: str
    inode: int
    name: str

    @property
    def is_plain(self) -> bool:
        """Private memory without a file or a name: what malloc and mmap hand out."""
        return self.permissions == "rw-p" and not self.inode and not self.name


def read_maps(text: str) -> list[Area]:
    """/proc/PID/maps. Lines of another form are left out."""
    areas = []
    for line in text.splitlines():
        if (found := _LINE.fullmatch(line)) is not None:
            start, end, permissions, offset, device, inode, name = found.groups()
            areas.append(
                Area(int(start, 16), int(end, 16), permissions, int(offset, 16), device, int(inode), name.strip())
            )
    return areas


def present(pagemap: Any) -> Any:
    """Which pages hold something, in memory or swapped out. `pagemap` is an array of 64-bit entries."""
    return ((pagemap >> np.uint64(_PRESENT)) | (pagemap >> np.uint64(_SWAPPED))) & np.uint64(1) != 0


def own(pagemap: Any) -> Any:
    """Which pages of a private file mapping the process has written to, so that they are no longer the file's."""
    return present(pagemap) & ((pagemap >> np.uint64(_FILE)) & np.uint64(1) == 0)


def runs(mask: Any, *, bridge: int = 0) -> list[Range]:
    """Ranges of indexes where the mask is true; gaps of up to `bridge` are bridged."""
    edges = np.flatnonzero(np.diff(np.concatenate(([0], np.asarray(mask, dtype=np.int8), [0]))))
    found: list[Range] = []
    for start, end in zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True):
        if found and start - found[-1][1] <= bridge:
            found[-1] = (found[-1][0], end)
        else:
            found.append((start, end))
    return found


def chunk_at(page: bytes, address: int, lowest: int, highest: int, page_size: int) -> Range | None:
    """The mapped malloc chunk whose header is in this page, if there is one, within [lowest, highest).

    The header is two words: what was skipped before it to align it (prev_size), and the size with its flags. Skipped
    and size together are whole pages (glibc malloc.c, munmap_chunk checks the same before it unmaps).
    """
    words = np.frombuffer(page, np.uint64)
    for at in np.flatnonzero((words[1::2] & np.uint64(_FLAGS)) == _MMAPPED).tolist():
        skipped, size = struct.unpack_from("<QQ", page, at * 16)
        total = size - _MMAPPED + skipped
        start = address + at * 16 - skipped
        if (
            skipped % page_size == (at * 16) % page_size
            and total % page_size == 0
            and total >= page_size
            and start % page_size == 0
            and lowest <= start
            and start + total <= highest
        ):
            return start, start + total
    return None


def spans(areas: Iterable[Area], swap: tuple[str, int]) -> list[list[Area]]:
    """Areas of plain memory and of the swap file that lie side by side: an allocation may be made of several.

    Arenas of threads are left out: they are full of small allocations.
    """
    found: list[list[Area]] = []
    for area in areas:
        if not is_of(area, swap) and (not area.is_plain or area.start % _ARENA_BYTES == 0):
            continue
        if found and found[-1][-1].end == area.start:
            found[-1].append(area)
        else:
            found.append([area])
    return found


def is_of(area: Area, swap: tuple[str, int]) -> bool:
    """Whether it maps the file of this device and inode."""
    return (area.device, area.inode) == swap


def find_chunks(
    span: Range, mask: Any, read: Callable[[int, int], bytes], page_size: int, min_bytes: int
) -> list[Range]:
    """Mapped malloc chunks of at least `min_bytes` in a span. `mask` says which of its pages are present."""
    start, end = span
    found: list[Range] = []
    at = lowest = start
    candidates = (np.flatnonzero(mask) * page_size + start).tolist()
    index = 0
    while (index := bisect_left(candidates, at, index)) < len(candidates):
        at = candidates[index]
        chunk = chunk_at(read(at, page_size), at, lowest, end, page_size)
        if chunk is None:
            at += page_size
            continue
        if chunk[1] - chunk[0] >= min_bytes:
            found.append(chunk)
        at = lowest = chunk[1]
    return found


def overlaps(part: Range, others: Sequence[Range]) -> bool:
    """Whether it touches one of these ranges, which are sorted and apart from each other."""
    index = bisect_left(others, (part[1], 0))
    return index > 0 and others[index - 1][1] > part[0]


def inhabited(parts: Sequence[Range], addresses: Any) -> list[bool]:
    """For each part whether one of these addresses (an array) lies in it. Parts are sorted and apart."""
    if not parts or not len(addresses):
        return [False] * len(parts)
    bounds = np.asarray(parts, dtype=np.uint64)
    index = np.searchsorted(bounds[:, 0], addresses, side="right")
    inside = (index > 0) & (addresses < bounds[np.maximum(index, 1) - 1, 1])
    hit = np.zeros(len(parts), dtype=bool)
    hit[index[inside] - 1] = True
    return [bool(one) for one in hit]


def place(lengths: Sequence[int], used: Iterable[Range], gap: int) -> list[int]:
    """Offsets in a file for pieces of these lengths, clear of what is used and of each other by `gap` at least.

    First fit. The gap keeps two mappings that are neighbours in memory from becoming one.
    """
    taken = sorted(used)
    offsets = []
    for length in lengths:
        at = 0
        for index, (start, end) in enumerate(taken):
            if at + length + gap <= start:
                taken.insert(index, (at, at + length))
                break
            at = max(at, end + gap)
        else:
            taken.append((at, at + length))
        offsets.append(at)
    return offsets


def extent_of(part: Range, extents: Sequence[Range]) -> Range | None:
    """The one of these sorted ranges that the part lies in whole."""
    index = bisect_right(extents, (part[0], 1 << 64)) - 1
    if index >= 0 and extents[index][0] <= part[0] and part[1] <= extents[index][1]:
        return extents[index]
    return None
