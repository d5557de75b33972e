"""AdamW's pass as a Triton kernel: 16-byte loads, nothing written but what changes.

Imported where there is a GPU alone: Triton comes with torch's CUDA builds.
"""

from __future__ import annotations

from typing import Any

import triton
import triton.language as tl

BLOCK = 1024
"""Numbers of one program: 8 of each of 128 threads."""


@triton.jit
def _kernel(  # type: ignore[no-untyped-def]  # Triton reads annotations in its own way
    parameter,
    gradient,
    average,
    square,
    wide,
    factor,
    numel,
    keep,
    rate,
    beta1,
    beta2,
    eps,
    root,
    HAS_WIDE: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    here = at < numel
    g = tl.load(gradient + at, mask=here).to(tl.float32) * tl.load(factor)
    m = tl.load(average + at, mask=here).to(tl.float32)
    v = tl.load(square + at, mask=here).to(tl.float32)
    if HAS_WIDE:  # noqa: SIM108  a constant, which the compiler decides
        p = tl.load(wide + at, mask=here)
    else:
        p = tl.load(parameter + at, mask=here).to(tl.float32)
    m = g + beta1 * (m - g)
    v = g * g + beta2 * (v - g * g)
    p = p * keep - rate * m / (tl.sqrt(v) * root + eps)
    tl.store(average + at, m.to(average.dtype.element_ty), mask=here)
    tl.store(square + at, v.to(square.dtype.element_ty), mask=here)
    if HAS_WIDE:
        tl.store(wide + at, p, mask=here)
    tl.store(parameter + at, p.to(parameter.dtype.element_ty), mask=here)


def run(
    parameter: Any,
    gradient: Any,
    average: Any,
    square: Any,
    wide: Any,
    factor: Any,
    *,
    keep: float,
    rate: float,
    beta1: float,
    beta2: float,
    eps: float,
    root: float,
) -> None:
    """The pass over contiguous tensors of one size, as `adamw.update` defines it."""
    numel = parameter.numel()
    _kernel[(triton.cdiv(numel, BLOCK),)](
        parameter,
        gradient,
        average,
        square,
        parameter if wide is None else wide,
        factor,
        numel,
        keep,
        rate,
        beta1,
        beta2,
        eps,
        root,
        HAS_WIDE=wide is not None,
        BLOCK=BLOCK,
    )


@triton.jit
def _squares(  # type: ignore[no-untyped-def]
    gradient, out, numel, BLOCK: tl.constexpr, STEPS: tl.constexpr
) -> None:
    begin = tl.program_id(0).to(tl.int64) * BLOCK * STEPS
    total = tl.zeros((BLOCK,), dtype=tl.float32)
    for step in tl.static_range(STEPS):
        at = begin + step * BLOCK + tl.arange(0, BLOCK)
        value = tl.load(gradient + at, mask=at < numel, other=0).to(tl.float32)
        total += value * value
    tl.store(out + tl.program_id(0), tl.sum(total, 0))


SQUARES_BLOCK, SQUARES_STEPS = 2048, 8


def sum_of_squares(gradients: Any) -> Any:
    """Of all numbers of contiguous tensors, in fp32: one read, the same bits each time."""
    import torch

    counts = [triton.cdiv(g.numel(), SQUARES_BLOCK * SQUARES_STEPS) for g in gradients]
    parts = torch.empty(sum(counts), dtype=torch.float32, device=gradients[0].device)
    for gradient, count, part in zip(gradients, counts, parts.split(counts), strict=True):
        if count:
            _squares[(count,)](gradient, part, gradient.numel(), BLOCK=SQUARES_BLOCK, STEPS=SQUARES_STEPS)
    return parts.sum()
