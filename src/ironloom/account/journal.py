"""An append-only journal in memory-mapped files: a record survives kill -9 of the process, and costs no system call.

The stores of a killed process into a shared mapping are in the page cache and stay there, so a record is safe the
moment `append` returns. (A power cut may lose the last seconds; the SQLite file it is imported into is synced.)

A segment is a file of fixed size, its blocks allocated at creation, so that a full disk shows there as an error and
not as SIGBUS at a store. Layout: records of (length: u32 little endian, payload), each length stored after its
payload; a length of 0 ends the segment.
"""

from __future__ import annotations

import mmap
import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ironloom.units import MIB

SEGMENT_BYTES = 4 * MIB
_LENGTH = struct.Struct("<I")


@dataclass(frozen=True, slots=True, order=True)
class Position:
    """A place in the journal: everything before it."""

    segment: int
    offset: int


class Journal:
    """The writer of a journal folder. One process, one thread."""

    def __init__(self, folder: Path, *, segment_bytes: int = SEGMENT_BYTES) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._segment_bytes = segment_bytes
        existing = _segment_numbers(folder)
        self._number = (existing[-1] if existing else 0) + 1
        self._map = self._create(self._number)
        self._offset = 0

    @property
    def position(self) -> Position:
        return Position(self._number, self._offset)

    def append(self, payload: bytes) -> None:
        """Add a record. Raises OSError when it needs a new segment and the disk has no room for one."""
        offset = self._offset
        end = offset + 4 + len(payload)
        if end + 4 > self._segment_bytes:
            if len(payload) + 8 > self._segment_bytes:
                raise ValueError(f"a record of {len(payload)} bytes is larger than a segment")
            self._roll()
            offset, end = 0, 4 + len(payload)
        self._map[offset + 4 : end] = payload
        _LENGTH.pack_into(self._map, offset, len(payload))
        self._offset = end

    def discard_before(self, position: Position) -> None:
        """Remove the segments that lie wholly before `position`."""
        for number in _segment_numbers(self._folder):
            if number < position.segment:
                _path(self._folder, number).unlink(missing_ok=True)

    def close(self) -> None:
        self._map.close()

    def _roll(self) -> None:
        fresh = self._create(self._number + 1)
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
