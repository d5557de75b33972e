"""Layouts on disk, beside the tokens they are of: laid out once, mapped by every rank.

Laying out takes some microseconds a document: a minute or two for ten million, which no rank pays at each start.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from ironloom.train.data.pack import Layout, Pieces

_PARTS = ("document", "start", "length")


def kept_layout(cache: Path, settings: dict[str, Any], make: Callable[[], Layout]) -> Layout:
    """The layout of a cache under these settings, made where it is not there.

    Ranks that come at once each make the same one, and the first to end is kept. A cache that cannot be written to is
    read as it is.
    """
    name = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]
    target = cache / f"layout-{name}"
    if not target.is_dir():
        layout = make()
        partial = cache / f"layout-{name}.{uuid.uuid4().hex}.partial"
        try:
            partial.mkdir()
            for part in _PARTS:
                np.save(partial / f"{part}.npy", getattr(layout.pieces, part))
            np.save(partial / "first.npy", layout.first)
            partial.rename(target)
        except OSError:
            shutil.rmtree(partial, ignore_errors=True)
        if not target.is_dir():
            return layout
    mapped = {part: np.load(target / f"{part}.npy", mmap_mode="r") for part in (*_PARTS, "first")}
    return Layout(Pieces(mapped["document"], mapped["start"], mapped["length"]), mapped["first"])
