"""An append-only journal in memory-mapped files: a record survives kill -9 of the process, and costs no system call.

The stores of a killed process into a shared mapping are in the page cache and stay there, so a record is safe the
moment `append` returns. (A power cut may lose the last seconds; the SQLite file it is imported into is synced.)

A segment is a file of fixed size, its blocks allocated at creation, so that a full disk shows there as an error and
not as SIGBUS at a store. Layout: records of (length: u32 little endian, payload), each length stored after its
payload; a length of 0 ends the segment.
"""

from __future__ import annotations

import errno
import mmap
import os
import struct
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from ironloom.units import MIB

SEGMENT_BYTES = 4 * MIB
ROOM_AGAIN_S = 0.5
"""After a segment found no room on the disk, none is tried for so long."""
_LENGTH = struct.Struct("<I")
_put_length = _LENGTH.pack_into


@dataclass(frozen=True, slots=True, order=True)
class Position:
    """A place in the journal: everything before it."""

    segment: int
    offset: int


class Journal:
    """The writer of a journal folder. One process, one thread."""

    def __init__(
        self,
        folder: Path,
        *,
        segment_bytes: int = SEGMENT_BYTES,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._segment_bytes = segment_bytes
        self._monotonic = monotonic
        existing = _segment_numbers(folder)
        self._number = (existing[-1] if existing else 0) + 1
        self._map = self._create(self._number)
        self._offset = 0
        self._may_roll_at_s = 0.0
        """Monotonic; above zero while there is no room for a new segment."""

    @property
    def has_no_room(self) -> bool:
        """True from a new segment that the disk had no room for to one that it has."""
        return self._may_roll_at_s > 0

    @property
    def position(self) -> Position:
        return Position(self._number, self._offset)

    def append(self, payload: bytes) -> None:
        """Add a record. Raises OSError when it needs a new segment and the disk has no room for one."""
        length = len(payload)
        start = self._offset + 4
        end = start + length
        if end + 4 > self._segment_bytes:
            if length + 8 > self._segment_bytes:
                raise ValueError(f"a record of {length} bytes is larger than a segment")
            self._roll()
            start, end = 4, 4 + length
        self._map[start:end] = payload
        _put_length(self._map, start - 4, length)
        self._offset = end

    def discard_before(self, position: Position) -> None:
        """Remove the segments that lie wholly before `position`."""
        for number in _segment_numbers(self._folder):
            if number < position.segment:
                _path(self._folder, number).unlink(missing_ok=True)

    def close(self) -> None:
        self._map.close()

    def _roll(self) -> None:
        now_s = self._monotonic()
        if now_s < self._may_roll_at_s:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        try:
            fresh = self._create(self._number + 1)
        except OSError:
            self._may_roll_at_s = now_s + ROOM_AGAIN_S
            raise
        self._may_roll_at_s = 0.0
        self._map.close()
        self._map, self._number, self._offset = fresh, self._number + 1, 0

    def _create(self, number: int) -> mmap.mmap:
        path = _path(self._folder, number)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
        try:
            _allocate(descriptor, self._segment_bytes)
            return mmap.mmap(descriptor, self._segment_bytes)
        except OSError:
            path.unlink(missing_ok=True)
            raise
        finally:
            os.close(descriptor)


def read_journal(folder: Path, after: Position) -> Iterator[tuple[Position, bytes]]:
    """Records that come after `after`, oldest first, each with the position behind it.

    A torn tail (the process died in the middle of a store) ends its segment silently: its length was never written.
    """
    for number in _segment_numbers(folder):
        if number < after.segment:
            continue
        data = _path(folder, number).read_bytes()
        offset = after.offset if number == after.segment else 0
        while offset + 4 <= len(data):
            (length,) = _LENGTH.unpack_from(data, offset)
            if length == 0 or offset + 4 + length > len(data):
                break
            end = offset + 4 + length
            yield Position(number, end), data[offset + 4 : end]
            offset = end


def _allocate(descriptor: int, num_bytes: int) -> None:
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(descriptor, 0, num_bytes)
    else:  # macOS: writing zeros allocates the blocks
        os.write(descriptor, bytes(num_bytes))


def _path(folder: Path, number: int) -> Path:
    return folder / f"{number:08d}.journal"


def _segment_numbers(folder: Path) -> list[int]:
    return sorted(int(path.stem) for path in folder.glob("*.journal") if path.stem.isdigit())
