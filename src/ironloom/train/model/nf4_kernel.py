"""A matrix out of its NF4 codes as one Triton kernel: each byte read once, each number written once.

Written as single operations it takes ten times the traffic, for an index and a product in fp32. Imported where there is
a GPU alone.
"""

from __future__ import annotations

from typing import Any

import triton
import triton.language as tl

BLOCK = 1024


@triton.jit
def _matrix(codes, scales, ranges, levels, out, width, num_blocks, BLOCK: tl.constexpr) -> None:  # type: ignore[no-untyped-def]
    row = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    here = column < width
    pair = tl.load(codes + row * num_blocks * 32 + column // 2, mask=here, other=0).to(tl.int32)
    code = tl.where(column % 2 == 0, pair >> 4, pair & 15)
    low = tl.load(ranges + row * 2).to(tl.float32)
    step = tl.load(ranges + row * 2 + 1).to(tl.float32)
    scale = low + step * tl.load(scales + row * num_blocks + column // 64, mask=here, other=0).to(tl.float32)
    value = tl.load(levels + code, mask=here, other=0.0) * scale
    tl.store(out + row * width + column, value.to(out.dtype.element_ty), mask=here)


def matrix(codes: Any, scales: Any, ranges: Any, levels: Any, out: Any) -> None:
    """Fills `out` (R × C) from codes (R × 32·B), scales (R × B) and ranges (R × 2), all contiguous, both of bytes."""
    rows, width = out.shape
    _matrix[(rows, triton.cdiv(width, BLOCK))](codes, scales, ranges, levels, out, width, scales.shape[1], BLOCK=BLOCK)
