"""silu(gate) · up and its gradient as Triton kernels over a fused product's rows, gate beside up.

A compiler makes the gradient of the two halves one concatenation, which computes and reads everything for each half
anew; here both are written in one pass. Imported where there is a GPU alone.
"""

from __future__ import annotations

from typing import Any

import triton
import triton.language as tl

BLOCK = 1024


@triton.jit
def _forward(gate_up, out, width, BLOCK: tl.constexpr) -> None:  # type: ignore[no-untyped-def]
    row = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    here = column < width
    gate = tl.load(gate_up + row * 2 * width + column, mask=here).to(tl.float32)
    up = tl.load(gate_up + row * 2 * width + width + column, mask=here).to(tl.float32)
    tl.store(out + row * width + column, (gate * tl.sigmoid(gate) * up).to(out.dtype.element_ty), mask=here)


@triton.jit
def _backward(gradient, gate_up, out, width, BLOCK: tl.constexpr) -> None:  # type: ignore[no-untyped-def]
    row = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    here = column < width
    at = row * 2 * width + column
    g = tl.load(gradient + row * width + column, mask=here).to(tl.float32)
    gate = tl.load(gate_up + at, mask=here).to(tl.float32)
    up = tl.load(gate_up + at + width, mask=here).to(tl.float32)
    share = tl.sigmoid(gate)
    slope = share * (1 + gate * (1 - share))
    tl.store(out + at, (g * up * slope).to(out.dtype.element_ty), mask=here)
    tl.store(out + at + width, (g * gate * share).to(out.dtype.element_ty), mask=here)


def forward(gate_up: Any, out: Any) -> None:
    """Fills `out` (N × width) from `gate_up` (N × 2 width), both contiguous."""
    rows, width = out.shape
    _forward[(rows, triton.cdiv(width, BLOCK))](gate_up, out, width, BLOCK=BLOCK)


def backward(gradient: Any, gate_up: Any, out: Any) -> None:
    """Fills `out` (N × 2 width) with the gradient of `gate_up`."""
    rows, width = gradient.shape
    _backward[(rows, triton.cdiv(width, BLOCK))](gradient, gate_up, out, width, BLOCK=BLOCK)
