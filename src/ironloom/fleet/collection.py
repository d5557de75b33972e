"""Reading without the garbage collector: it looks through all that was made so far, again and again."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def no_collection(*, stays: bool = False) -> Iterator[None]:
    """Hundreds of thousands of objects are made and none is garbage: looking through them for some takes seconds.

    With `stays` they are not looked through later either: they hold no cycles, and go when the last who holds them
    lets go. What else is garbage at that moment is then never found: for what is read once in a process's life.
    """
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if stays:
            gc.freeze()
        if was_on:
            gc.enable()
