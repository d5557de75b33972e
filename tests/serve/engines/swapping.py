"""What happens to a process's memory when it is swapped: programs that test_openvino_park runs, each in a process.

    python -m tests.serve.engines.swapping SCENARIO FOLDER

A scenario ends with status 0 when what it asserts holds.
"""

from __future__ import annotations

import ctypes
import gc
import hashlib
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from ironloom.serve.engines.programs import memory_areas, openvino_park
from ironloom.serve.engines.programs.openvino_park import MemoryDoubtful, NotParked, Swap, resident_bytes

MIB = 1 << 20
LIBC = ctypes.CDLL(None)
for _name, _arguments in {"malloc": [ctypes.c_size_t], "realloc": [ctypes.c_void_p, ctypes.c_size_t]}.items():
    getattr(LIBC, _name).restype = ctypes.c_void_p
    getattr(LIBC, _name).argtypes = _arguments
LIBC.aligned_alloc.restype = ctypes.c_void_p
LIBC.aligned_alloc.argtypes = [ctypes.c_size_t, ctypes.c_size_t]
LIBC.free.argtypes = [ctypes.c_void_p]


class Buffer:
    """An allocation of the C library's, and what should be in it."""

    def __init__(self, size: int, seed: int, *, align: int = 0) -> None:
        self.size = size
        self.address = LIBC.aligned_alloc(align, size) if align else LIBC.malloc(size)
        assert self.address
        self.random = np.random.default_rng(seed)
        self.view()[:] = self.random.integers(0, 256, size, dtype=np.uint8)
        self.digest = self.now()

    def view(self) -> np.ndarray:
        return np.ctypeslib.as_array((ctypes.c_uint8 * self.size).from_address(self.address))

    def now(self) -> str:
        return hashlib.blake2b(self.view()).hexdigest()

    def scribble(self, num_places: int) -> None:
        """Write to some places, so that some of its pages differ from what was swapped."""
        for at in self.random.integers(0, self.size, num_places).tolist():
            self.view()[at] ^= 0xFF
        self.digest = self.now()

    def grow(self, size: int) -> None:
        """As realloc does it, in place or not."""
        self.address = LIBC.realloc(self.address, size)
        old, self.size = self.size, size
        self.view()[old:] = 7
        self.digest = self.now()

    def check(self) -> None:
        assert self.now() == self.digest, f"{self.size} bytes at {self.address:#x} changed"

    def free(self) -> None:
        LIBC.free(self.address)

    def swapped_bytes(self, swap: Swap) -> int:
        """How much of it is mapped from the swap file."""
        areas = [area for area in swap._maps() if memory_areas.is_of(area, swap._id)]
        end = self.address + self.size
        return sum(max(0, min(area.end, end) - max(area.start, self.address)) for area in areas)


@contextmanager
def sleeping_thread() -> Iterator[None]:
    """Another thread that does nothing."""
    done = threading.Event()
    thread = threading.Thread(target=done.wait)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def cycles(folder: Path) -> None:
    """Memory stays as it is over many parks, while it is written to, freed, allocated and grown."""
    swap = Swap(folder)
    buffers = [Buffer(size * 100_003, size) for size in range(2, 20)]
    buffers += [Buffer(3 * MIB, 91, align=64), Buffer(3 * MIB, 92, align=4096), Buffer(4 * MIB, 93, align=2 * MIB)]
    swap.settle()
    random = np.random.default_rng(5)
    with sleeping_thread():
        for cycle in range(24):
            parked = swap.park()
            if cycle == 0:
                total = sum(buffer.size for buffer in buffers)
                assert parked.written_bytes > 0.95 * total, parked
                assert parked.freed_bytes > 0.9 * total, parked
            if cycle % 3:
                swap.wake()
            for buffer in buffers:
                buffer.check()
            for index in random.integers(0, len(buffers), 8).tolist():
                buffers[index].scribble(5)
            swap._libc.mallopt(openvino_park._M_MMAP_THRESHOLD, 128 * 1024)
            index = int(random.integers(0, len(buffers)))
            buffers[index].free()
            buffers[index] = Buffer(int(random.integers(200_000, 4 * MIB)), 1000 + cycle)
            index = int(random.integers(0, len(buffers)))
            buffers[index].grow(buffers[index].size + int(random.integers(1, 300_000)))
            swap.settle()
    used = max(end for _, end in swap._extents)
    assert used < 3 * sum(buffer.size for buffer in buffers), "the file's room is not used again"


def filling(folder: Path) -> None:
    """Memory that fills page by page stays whole, and in few pieces."""
    openvino_park._MIN_SHARE = 0.0
    swap = Swap(folder)
    size = 8 * MIB
    address = LIBC.malloc(size)
    view = np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(address))
    swap.settle()
    for step in range(40):
        at = step * 32 * 4096  # farther apart than gaps are bridged
        view[at : at + 100] = step + 1
        swap.park()
        for before in range(step + 1):
            assert view[before * 32 * 4096 + 50] == before + 1
        areas = [area for area in swap._maps() if memory_areas.is_of(area, swap._id)]
        assert len(areas) <= openvino_park._MAX_PIECES + 2, len(areas)


def unparked(folder: Path, *, message: str) -> None:
    """A park that is refused leaves memory where it is."""
    swap = Swap(folder)
    buffer = Buffer(4 * MIB, 1)
    swap.settle()
    with pytest.raises(NotParked, match=message):
        swap.park()
    assert buffer.swapped_bytes(swap) == 0
    buffer.check()


def busy(folder: Path) -> None:
    """A thread that computes without Python's lock is noticed."""
    openvino_park._PATIENCE_S = 0.2
    data, stop = bytes(64 * MIB), threading.Event()

    def compute() -> None:
        while not stop.is_set():
            hashlib.sha256(data)

    thread = threading.Thread(target=compute)
    thread.start()
    try:
        unparked(folder, message="do not rest")
    finally:
        stop.set()
        thread.join()


def full(folder: Path) -> None:
    """A disk without room is noticed."""
    openvino_park._DISK_RESERVE_BYTES = 1 << 62
    unparked(folder, message="are needed")


def unwritable(folder: Path) -> None:
    """A file that cannot grow is noticed."""
    import resource
    import signal

    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (MIB, resource.RLIM_INFINITY))
    unparked(folder, message="could not be written")


def worthless(folder: Path) -> None:
    """Memory in which no allocation can be told is not worth it."""
    memory_areas.chunk_at = lambda *_: None
    openvino_park._MIN_AREA_BYTES = 1 << 40
    unparked(folder, message="could be swapped out")


def different_copy(folder: Path) -> None:
    """A piece that is not what was written is not replaced: a write came between."""
    swap = Swap(folder)
    buffer = Buffer(4 * MIB, 1)
    swap.settle()
    write = swap._write

    def late(start: int, end: int, offset: int) -> None:
        write(start, end, offset)
        if start <= buffer.address < end:
            buffer.scribble(1)

    swap._write = late  # type: ignore[method-assign]
    swap.park()
    assert buffer.swapped_bytes(swap) == 0
    buffer.check()
    swap._write = write  # type: ignore[method-assign]
    swap.park()
    assert buffer.swapped_bytes(swap) > 0
    buffer.check()


def woken(folder: Path) -> None:
    """A thread that ran while pages were replaced makes memory doubtful; one that ran before that does not."""
    swap = Swap(folder)
    buffer = Buffer(4 * MIB, 1)
    swap.settle()
    looks, real = [0], openvino_park._runs_of_threads

    def seen(wakes_at: int) -> dict[str, str]:
        looks[0] += 1
        return {"1": f"S {looks[0] >= wakes_at}"}

    openvino_park._runs_of_threads = lambda: seen(3)  # two looks find it calm
    with pytest.raises(NotParked, match="woke up while memory was written"):
        swap.park()
    assert buffer.swapped_bytes(swap) == 0
    looks[0] = 0
    openvino_park._runs_of_threads = lambda: seen(4)
    with pytest.raises(MemoryDoubtful, match="ran while memory was replaced"):
        swap.park()
    openvino_park._runs_of_threads = real
    buffer.check()


def python_objects(folder: Path) -> None:
    """Allocations that hold a Python object are left alone, and so is what was there before."""
    openvino_park._MIN_SHARE = 0.0
    before = Buffer(4 * MIB, 1)
    swap = Swap(folder)
    many = tuple(range(1_000_000))  # the object itself is one large allocation
    holder = [many]
    after = Buffer(4 * MIB, 2)
    swap.settle()
    gc.collect()
    gc.freeze()
    swap.park()
    areas = sorted((a.start, a.end) for a in swap._maps() if memory_areas.is_of(a, swap._id))
    assert not memory_areas.overlaps((id(many), id(many) + sys.getsizeof(many)), areas)
    assert before.swapped_bytes(swap) == 0
    assert after.swapped_bytes(swap) > 0.95 * after.size
    before.check()
    after.check()
    assert sum(holder[0]) == 499_999_500_000
    assert gc.get_freeze_count() > 0


def resident(folder: Path) -> None:
    """Parking takes memory away, waking brings it back."""
    swap = Swap(folder)
    buffer = Buffer(64 * MIB, 1)
    swap.settle()
    ready = resident_bytes()
    swap.park()
    parked = resident_bytes()
    swap.wake()
    assert ready - parked > 60 * MIB, (ready, parked)
    assert resident_bytes() - parked > 60 * MIB
    buffer.check()


SCENARIOS = {
    one.__name__: one
    for one in (
        cycles, filling, busy, full, unwritable, worthless, different_copy, woken, python_objects, resident,
    )
}  # fmt: skip


if __name__ == "__main__":
    SCENARIOS[sys.argv[1]](Path(sys.argv[2]))
