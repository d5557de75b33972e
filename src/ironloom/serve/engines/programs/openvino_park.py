"""Parking by swap: an engine's large allocations go to a file, and the same bytes are mapped back over them.

    swap = Swap(folder)    before the model is loaded
    swap.settle()          after it
    swap.park()            the process keeps its state and gives up the memory
    swap.wake()            reads it back in one go

Nothing has to be restored. The file is mapped privately at the addresses where the bytes were, so the content of the
address space is the same before, while and after; what is touched is read back, and `wake` only does that at once.
Pages that were not written to since need not be written again at the next park.

What could go wrong is a write that comes between copying a page and replacing it. So all other threads must sleep
while it is done, which is looked at before, between copying and replacing, and after; Python's lock is held
throughout; parts that hold Python objects are left alone; and each piece is compared with its copy right before it
is replaced. docs/decisions/0011-quick-start-and-park.md weighs this against other ways.
"""

from __future__ import annotations

import ctypes
import gc
import logging
import mmap
import os
import platform
import sys
import sysconfig
import threading
import time
from bisect import insort
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ironloom.serve.engines.programs import memory_areas as areas
from ironloom.serve.engines.programs.memory_areas import Area, Range
from ironloom.units import GIB, KIB, MIB, format_bytes

logger = logging.getLogger(__name__)

_PAGE = mmap.PAGESIZE
_M_MMAP_THRESHOLD, _M_MMAP_MAX = -3, -4
_MAP_FIXED = 0x10
_MADV_DONTNEED, _MADV_POPULATE_READ = 4, 22
_LOAD_THRESHOLD_BYTES = 128 * KIB
"""While a model is loaded each allocation from this size on is a mapping of its own (glibc's default at the start)."""
_STEADY_THRESHOLD_BYTES = 32 * MIB
"""Afterwards, so that a step's scratch memory is not mapped and unmapped each time (glibc's own upper bound)."""
_MAX_MAPPINGS = 1 << 20
_MIN_PART_BYTES = 64 * KIB
_MIN_AREA_BYTES = 4 * MIB
"""A plain area without a malloc header is taken from this size on, when it is full."""
_FULL_FRACTION = 0.9
_MIN_SHARE = 0.25
"""Of what was allocated since a Swap was made, this much must be found, or parking by swap is not worth it. Measured:
0.73 for the default model, 0.39 before its first request."""
_BRIDGE_PAGES = 16
_MAX_PIECES = 8
"""An allocation in more pieces than this (a KV cache that fills) is written again as one."""
_TAIL_BYTES = 64 * GIB
"""A hole at the file's end: memory that is grown in place never reaches past the end of the file."""
_DISK_RESERVE_BYTES = 64 * MIB
_STILL_S = 0.005
_PATIENCE_S = 2.0
_MEMORY_FILE_SYSTEMS = {0x01021994: "tmpfs", 0x858458F6: "ramfs"}
_MACHINES = {"x86_64", "aarch64"}


class NotParked(Exception):
    """It could not be parked; memory is as it was, and the engine may go on. The message says why."""


class MemoryDoubtful(Exception):
    """A thread ran while memory was replaced, or a replacement was refused: the process must end."""


@dataclass(frozen=True, slots=True)
class Parked:
    """What a park did."""

    num_pieces: int
    written_bytes: int
    freed_bytes: int
    """Resident memory before less after."""
    took_s: float


def supported(folder: Path) -> str | None:
    """None when a process here can be swapped into a file in `folder`, else why not."""
    if sys.platform != "linux" or platform.machine() not in _MACHINES or sys.maxsize < 1 << 32:
        return f"swapping is for Linux on x86_64 and aarch64, and this is {sys.platform} on {platform.machine()}"
    if not _glibc():
        return "swapping needs glibc's malloc"
    if sysconfig.get_config_var("Py_GIL_DISABLED"):
        return "swapping needs Python's global lock"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        name = _MEMORY_FILE_SYSTEMS.get(_file_system(folder))
        if name is not None:
            return f"{folder} is on {name}, which is memory itself"
        os.close(_open_swap(folder))
    except OSError as error:
        return f"{folder} takes no unnamed file: {error.strerror}"
    try:
        return None if _sees_pages() else "/proc/self/pagemap does not tell which pages are present"
    except OSError as error:
        return f"/proc/self cannot be read: {error.strerror}"


@dataclass(frozen=True, slots=True)
class _Piece:
    """Memory that goes to the file."""

    start: int
    end: int
    offset: int
    fresh: bool
    """It is not mapped from there yet."""

    @property
    def file_end(self) -> int:
        return self.offset + self.end - self.start


@dataclass(frozen=True, slots=True)
class _Part:
    """One allocation."""

    bounds: Range
    fresh: list[Range]
    """What of it is to be mapped from the file from now on."""


class Swap:
    """Swaps this process. Made before a model is loaded: what is there by then is never taken. Call from one thread."""

    def __init__(self, folder: Path) -> None:
        """Raises OSError when there can be no swap file; see `supported`."""
        self._libc = _Libc()
        self._folder = folder
        self._file = _open_swap(folder)
        found = os.fstat(self._file)
        self._id = (f"{os.major(found.st_dev):02x}:{os.minor(found.st_dev):02x}", found.st_ino)
        self._copy = mmap.mmap(-1, MIB)
        self._copy_address = ctypes.addressof(ctypes.c_char.from_buffer(self._copy))
        self._extents: list[Range] = []
        """Parts of the file that pieces were written to, sorted."""
        self._before = sorted((area.start, area.end) for area in self._maps() if area.is_plain)
        self._anonymous_before = _anonymous_bytes()
        self._threshold_bytes = _LOAD_THRESHOLD_BYTES
        self._libc.mallopt(_M_MMAP_THRESHOLD, self._threshold_bytes)
        self._libc.mallopt(_M_MMAP_MAX, _MAX_MAPPINGS)

    def settle(self) -> None:
        """The model is loaded and has run once: from now on allocations are made as usual."""
        self._threshold_bytes = _STEADY_THRESHOLD_BYTES
        self._libc.mallopt(_M_MMAP_THRESHOLD, self._threshold_bytes)

    def close(self) -> None:
        """Give the file up. What is mapped of it stays as long as it is mapped."""
        os.close(self._file)

    def park(self) -> Parked:
        """Swap out. Call when nothing is computed; blocks everything in this process for a few tenths of a second.

        Raises NotParked, or MemoryDoubtful.
        """
        # What is allocated meanwhile must not look like a part of the model.
        self._libc.mallopt(_M_MMAP_THRESHOLD, _STEADY_THRESHOLD_BYTES)
        try:
            return self._park()
        finally:
            self._libc.mallopt(_M_MMAP_THRESHOLD, self._threshold_bytes)

    def _park(self) -> Parked:
        begin_s = time.monotonic()
        before_bytes = resident_bytes()
        objects = _object_addresses()
        with _alone():
            calm = _wait_until_calm()
            self._libc.malloc_trim(0)
            try:
                first = not self._extents
                pieces = self._choose(objects)
                if first:
                    self._require_worth(pieces)
                self._make_room(pieces)
                for piece in pieces:
                    self._write(piece.start, piece.end, piece.offset)
            except (OSError, ValueError) as error:
                raise NotParked(f"memory could not be written to {self._folder}: {error}") from error
            if _runs_of_threads() != calm:
                raise NotParked("a thread woke up while memory was written")
            for piece in pieces:
                if self._is_copied(piece.start, piece.end, piece.offset):
                    self._replace(piece)
            if _runs_of_threads() != calm:
                raise MemoryDoubtful("a thread ran while memory was replaced")
        self._drop_clean()
        written_bytes = sum(piece.end - piece.start for piece in pieces)
        freed_bytes = before_bytes - resident_bytes()
        return Parked(len(pieces), written_bytes, freed_bytes, time.monotonic() - begin_s)

    def wake(self) -> float:
        """Read back what was swapped out, in one go. Returns the seconds it took."""
        begin_s = time.monotonic()
        for area in self._maps():
            if areas.is_of(area, self._id):
                # Where the kernel has no such advice (before 5.14) pages come back as they are touched.
                self._libc.madvise(area.start, area.end - area.start, _MADV_POPULATE_READ)
        return time.monotonic() - begin_s

    # --- what to take ---

    def _choose(self, objects: Any) -> list[_Piece]:
        """What to write, and where to."""
        known = [area for area in self._maps() if area.is_plain or areas.is_of(area, self._id)]
        mapped = [area for area in known if areas.is_of(area, self._id)]
        live = {areas.extent_of((area.offset, area.offset + 1), self._extents) for area in mapped}
        self._extents = sorted(extent for extent in live if extent is not None)
        fresh: list[Range] = []
        parts: list[_Part] = []
        for span in areas.spans(known, self._id):
            parts += self._parts_of(span)
        lived_in = areas.inhabited([part.bounds for part in parts], objects)
        for part in (part for part, lived in zip(parts, lived_in, strict=True) if not lived):
            fresh += part.fresh
        fresh.sort()
        old: list[_Piece] = []
        grown: list[Range] = []
        for area in mapped:
            if not areas.overlaps((area.start, area.end), fresh):
                self._changed_in(area, old, grown)
        fresh = sorted(fresh + grown)
        offsets = areas.place([end - start for start, end in fresh], self._extents, _PAGE)
        new = [_Piece(start, end, at, True) for at, (start, end) in zip(offsets, fresh, strict=True)]
        self._extents = sorted([*self._extents, *((piece.offset, piece.file_end) for piece in new)])
        return old + new

    def _parts_of(self, span: list[Area]) -> list[_Part]:
        """Allocations in a span that are not from before, with what is to be swapped of each for the first time."""
        start, end = span[0].start, span[-1].end
        mask = areas.present(self._pagemap(start, end))

        def pages(low: int, high: int) -> slice:
            return slice((low - start) // _PAGE, (high - start) // _PAGE)

        later = mask.copy()
        for low, high in self._before:
            if low < end and start < high:
                later[pages(max(low, start), min(high, end))] = False
        bounds = areas.find_chunks((start, end), later, self._read, _PAGE, _MIN_PART_BYTES)
        for area in span:
            whole = (area.start, area.end)
            if (
                area.is_plain
                and area.end - area.start >= _MIN_AREA_BYTES
                and mask[pages(*whole)].mean() >= _FULL_FRACTION
                and not areas.overlaps(whole, bounds)
            ):
                insort(bounds, whole)
        found = []
        for low, high in bounds:
            if areas.overlaps((low, high), self._before):
                continue
            fresh: list[Range] = []
            num_mapped = 0
            for area in span:
                first, last = max(low, area.start), min(high, area.end)
                if first < last and area.is_plain:
                    taken = areas.runs(mask[pages(first, last)], bridge=_BRIDGE_PAGES)
                    fresh += [(first + a * _PAGE, first + b * _PAGE) for a, b in taken]
                elif first < last:
                    num_mapped += 1
            if fresh and num_mapped + len(fresh) > _MAX_PIECES:
                every = np.flatnonzero(mask[pages(low, high)])
                fresh = [(low + int(every[0]) * _PAGE, low + (int(every[-1]) + 1) * _PAGE)]
            found.append(_Part((low, high), fresh))
        return found

    def _changed_in(self, area: Area, old: list[_Piece], grown: list[Range]) -> None:
        """Pages of the file's mappings that were written to: to their place in it, or to a new one if they have none.

        They have none when an allocation was grown in place, beyond what was written of it.
        """
        home = areas.extent_of((area.offset, area.offset + 1), self._extents)
        for first, last in areas.runs(areas.own(self._pagemap(area.start, area.end))):
            start, end = area.start + first * _PAGE, area.start + last * _PAGE
            offset = area.offset + first * _PAGE
            if home is not None and areas.extent_of((offset, offset + end - start), [home]):
                old.append(_Piece(start, end, offset, False))
            else:
                grown.append((start, end))

    def _require_worth(self, pieces: list[_Piece]) -> None:
        """Little is found where malloc is another one than is thought, or lays its chunks out in another way."""
        grown = _anonymous_bytes() - self._anonymous_before
        found = sum(piece.end - piece.start for piece in pieces)
        if found < _MIN_SHARE * grown:
            raise NotParked(f"of {format_bytes(grown)} only {format_bytes(found)} could be swapped out")

    def _make_room(self, pieces: list[_Piece]) -> None:
        wanted = sum(piece.end - piece.start for piece in pieces) + _DISK_RESERVE_BYTES
        disk = os.statvfs(self._folder)
        if disk.f_bavail * disk.f_frsize < wanted:
            free = format_bytes(disk.f_bavail * disk.f_frsize)
            raise NotParked(f"{self._folder} has {free} free, and {format_bytes(wanted)} are needed")
        limit = int(Path("/proc/sys/vm/max_map_count").read_text())
        if len(self._maps()) + 2 * len(pieces) > limit * 9 // 10:
            raise NotParked(f"{len(pieces)} pieces are too many for vm.max_map_count, {limit}")
        end = max((end for _, end in self._extents), default=0)
        os.ftruncate(self._file, end + _TAIL_BYTES)

    # --- memory ---

    def _write(self, start: int, end: int, offset: int) -> None:
        while start < end:
            done = self._libc.pwrite(self._file, start, end - start, offset)
            if done <= 0:
                number = ctypes.get_errno()
                raise OSError(number, os.strerror(number))
            start, offset = start + done, offset + done

    def _is_copied(self, start: int, end: int, offset: int) -> bool:
        """Whether the file holds what memory does, now."""
        while start < end:
            size = min(MIB, end - start)
            if self._libc.pread(self._file, self._copy_address, size, offset) != size:
                return False
            if self._libc.memcmp(start, self._copy_address, size):
                return False
            start, offset = start + size, offset + size
        return True

    def _replace(self, piece: _Piece) -> None:
        size = piece.end - piece.start
        if not piece.fresh:
            self._libc.madvise(piece.start, size, _MADV_DONTNEED)
            return
        flags, protection = mmap.MAP_PRIVATE | _MAP_FIXED, mmap.PROT_READ | mmap.PROT_WRITE
        if self._libc.mmap(piece.start, size, protection, flags, self._file, piece.offset) != piece.start:
            raise MemoryDoubtful(f"memory could not be mapped: {os.strerror(ctypes.get_errno())}")

    def _drop_clean(self) -> None:
        """Let go of pages that are a file's: the model's, libraries'. The page cache has them when they are needed."""
        for area in self._maps():
            if not area.inode or (area.permissions[1] == "w" and not areas.is_of(area, self._id)):
                continue
            if not areas.own(self._pagemap(area.start, area.end)).any():
                self._libc.madvise(area.start, area.end - area.start, _MADV_DONTNEED)

    def _maps(self) -> list[Area]:
        return areas.read_maps(Path("/proc/self/maps").read_text())

    def _pagemap(self, start: int, end: int) -> Any:
        with open("/proc/self/pagemap", "rb", buffering=0) as file:  # noqa: PTH123
            data = os.pread(file.fileno(), (end - start) // _PAGE * 8, start // _PAGE * 8)
        return np.frombuffer(data.ljust((end - start) // _PAGE * 8, b"\0"), np.uint64)

    def _read(self, address: int, size: int) -> bytes:
        return ctypes.string_at(address, size)


class _Libc:
    """What is called of the C library, without giving up Python's lock."""

    def __init__(self) -> None:
        libc = ctypes.PyDLL(None, use_errno=True)
        pointer, size, number = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int
        offset = ctypes.c_int64

        def function(name: str, result: Any, *arguments: Any) -> Any:
            found = getattr(libc, name)
            found.restype, found.argtypes = result, arguments
            return found

        self.mallopt = function("mallopt", number, number, number)
        self.malloc_trim = function("malloc_trim", number, size)
        self.mmap = function("mmap", pointer, pointer, size, number, number, number, offset)
        self.madvise = function("madvise", number, pointer, size, number)
        self.pwrite = function("pwrite", ctypes.c_ssize_t, number, pointer, size, offset)
        self.pread = function("pread", ctypes.c_ssize_t, number, pointer, size, offset)
        self.memcmp = function("memcmp", number, pointer, pointer, size)


def _anonymous_bytes() -> int:
    """Memory of this process that is not a file's."""
    for line in Path("/proc/self/smaps_rollup").read_text().splitlines():
        if line.startswith("Anonymous:"):
            return int(line.split()[1]) * KIB
    return 0


def resident_bytes() -> int:
    """Of this process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * _PAGE


@contextmanager
def _alone() -> Iterator[None]:
    """No collection, and no other Python thread gets its turn."""
    interval = sys.getswitchinterval()
    collects = gc.isenabled()
    gc.disable()
    sys.setswitchinterval(1000.0)
    try:
        yield
    finally:
        sys.setswitchinterval(interval)
        if collects:
            gc.enable()


def _wait_until_calm() -> dict[str, str]:
    """Until all other threads sleep and stay asleep for a moment. Raises NotParked."""
    deadline_s = time.monotonic() + _PATIENCE_S
    while True:
        seen = _runs_of_threads()
        time.sleep(_STILL_S)
        awake = [thread for thread, state in seen.items() if not state.startswith("S")]
        if not awake and _runs_of_threads() == seen:
            return seen
        if time.monotonic() > deadline_s:
            raise NotParked(f"{len(awake) or 'some'} of {len(seen)} other threads do not rest")


def _runs_of_threads() -> dict[str, str]:
    """Each other thread's state and how often it was switched, which changes when it runs."""
    own = str(threading.get_native_id())
    found = {}
    for thread in os.listdir("/proc/self/task"):  # noqa: PTH208
        if thread == own:
            continue
        with open(f"/proc/self/task/{thread}/status") as file:  # noqa: PTH123
            lines = file.read().splitlines()
        state = next(line.split()[1] for line in lines if line.startswith("State:"))
        switches = [line.split()[1] for line in lines if "ctxt_switches" in line]
        found[thread] = " ".join([state, *switches])
    return found


def _object_addresses() -> Any:
    """Where Python's objects are. Parts that hold one are not taken: any line of Python may write to it.

    Those that the collector tracks, what they refer to, and what untracked tuples among that hold. A part with another
    object in it (one that only a running function's variable refers to) is still only replaced if equal to its copy.
    """
    frozen = gc.get_freeze_count() > 0
    if frozen:
        gc.unfreeze()
    tracked = gc.get_objects()
    others = gc.get_referents(*tracked)
    inner = gc.get_referents(*(one for one in others if type(one) is tuple and not gc.is_tracked(one)))
    addresses = np.concatenate([np.fromiter(map(id, some), np.uint64, len(some)) for some in (tracked, others, inner)])
    del tracked, others, inner
    if frozen:
        gc.freeze()
    return addresses


def _open_swap(folder: Path) -> int:
    """A file without a name, gone when the process is. Raises OSError."""
    return os.open(folder, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)


def _glibc() -> bool:
    try:
        return (os.confstr("CS_GNU_LIBC_VERSION") or "").startswith("glibc")
    except (ValueError, OSError):
        return False


def _file_system(folder: Path) -> int:
    """The type of the file system, as statfs(2) has it."""
    libc = ctypes.CDLL(None, use_errno=True)
    room = (ctypes.c_long * 64)()
    if libc.statfs(os.fsencode(folder), ctypes.byref(room)) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return int(room[0])


def _sees_pages() -> bool:
    with mmap.mmap(-1, 2 * _PAGE) as memory:
        memory[0] = 1
        address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
        with open("/proc/self/pagemap", "rb", buffering=0) as file:  # noqa: PTH123
            pages = np.frombuffer(os.pread(file.fileno(), 16, address // _PAGE * 8), np.uint64)
    return bool(areas.present(pages).tolist() == [True, False])
