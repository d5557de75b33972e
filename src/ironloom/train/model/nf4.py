"""Matrices in NF4: four bits a number, by blocks of 64 numbers of a row (https://arxiv.org/abs/2305.14314).

    a number = LEVELS[its code] · its block's scale        code 0 … 15
    a scale  = its row's lowest + its row's step · 0 … 255

The paper quantises the scales too, over 256 blocks; here over those of one row. So each row stands for itself: a matrix
is divided by rows wherever FSDP cuts it, and the parts of a fused one are its rows. Letters: R rows, C columns, B
blocks of a row.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from ironloom.plan.nf4 import BLOCK, nf4_blocks
from ironloom.train.model.decoder import LanguageModel
from ironloom.train.model.layers import Linear

LEVELS = (
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453,
    -0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0.0,
    0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
    0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
)  # fmt: skip
"""What the codes stand for: quantiles of a normal distribution, 0 among them (the paper's appendix E)."""
MAX_ERROR = 0.1519036
"""Of a number, as a share of its block's scale: half the widest gap between two levels."""
_CHUNK = 1 << 23
"""Numbers that are quantised at a time: what is in between takes some twenty bytes for each."""
_levels: dict[torch.device, torch.Tensor] = {}


def levels_on(device: torch.device) -> torch.Tensor:
    """LEVELS there; made once, so that no step waits for a copy to the GPU."""
    if device not in _levels:
        _levels[device] = torch.tensor(LEVELS, device=device)
    return _levels[device]


@torch.no_grad()
def quantised(weight_RC: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Codes of R × 32·B bytes, scales of R × B bytes and ranges of R × 2 in bfloat16."""
    blocks_RBN = functional.pad(weight_RC.float(), (0, -weight_RC.shape[1] % BLOCK)).unflatten(1, (-1, BLOCK))
    peaks_RB = blocks_RBN.abs().amax(-1)
    low_R1, high_R1 = peaks_RB.aminmax(dim=1, keepdim=True)
    ranges_R2 = torch.cat((low_R1, (high_R1 - low_R1) / 255), dim=1).bfloat16()
    low_R1, step_R1 = ranges_R2.float().split(1, dim=1)
    steps_RB = torch.where(step_R1 > 0, (peaks_RB - low_R1) / step_R1, 0.0).round().clamp(0, 255)
    scale_RB1 = (low_R1 + step_R1 * steps_RB).unsqueeze(-1)
    levels = levels_on(weight_RC.device)
    share_RBN = torch.where(scale_RB1 > 0, blocks_RBN / scale_RB1, 0.0)
    nearest_RBN = torch.bucketize(share_RBN, (levels[1:] + levels[:-1]) / 2, out_int32=True).to(torch.uint8)
    codes_RH = ((nearest_RBN[..., 0::2] << 4) | nearest_RBN[..., 1::2]).flatten(1)
    return codes_RH, steps_RB.to(torch.uint8), ranges_R2


def dequantised(
    codes_RH: torch.Tensor, scales_RB: torch.Tensor, ranges_R2: torch.Tensor, num_columns: int, dtype: torch.dtype
) -> torch.Tensor:
    """The matrix of R × C. Bytes that FSDP has cast to the compute type are exact in it, and are cast back."""
    codes_RBH = codes_RH.to(torch.uint8).unflatten(1, (-1, BLOCK // 2))
    pairs_RBH2 = torch.stack((codes_RBH >> 4, codes_RBH & 15), dim=-1)
    low_R1, step_R1 = ranges_R2.float().split(1, dim=1)
    scale_RB1 = (low_R1 + step_R1 * scales_RB.float()).unsqueeze(-1)
    values_RBN = levels_on(codes_RH.device)[pairs_RBH2.flatten(2).int()] * scale_RB1
    return values_RBN.flatten(1)[:, :num_columns].to(dtype)


def _matrix(
    codes_RH: torch.Tensor, scales_RB: torch.Tensor, ranges_R2: torch.Tensor, num_columns: int, dtype: torch.dtype
) -> torch.Tensor:
    """`dequantised`, by a kernel on a GPU."""
    if not codes_RH.is_cuda:
        return dequantised(codes_RH, scales_RB, ranges_R2, num_columns, dtype)
    from ironloom.train.model.nf4_kernel import matrix

    out_RC = torch.empty(codes_RH.shape[0], num_columns, dtype=dtype, device=codes_RH.device)
    codes_RH, scales_RB = codes_RH.to(torch.uint8).contiguous(), scales_RB.to(torch.uint8).contiguous()
    matrix(codes_RH, scales_RB, ranges_R2.contiguous(), levels_on(codes_RH.device), out_RC)
    return out_RC


@torch.library.custom_op("ironloom::nf4_linear", mutates_args=())
def _linear(
    x: torch.Tensor, codes: torch.Tensor, scales: torch.Tensor, ranges: torch.Tensor, num_columns: int
) -> torch.Tensor:
    """x · Wᵀ. One operation, as a compiler that saw the matrix would keep it for the backward."""
    return functional.linear(x, _matrix(codes, scales, ranges, num_columns, x.dtype))


@torch.library.custom_op("ironloom::nf4_linear_backward", mutates_args=())
def _linear_backward(
    gradient: torch.Tensor, codes: torch.Tensor, scales: torch.Tensor, ranges: torch.Tensor, num_columns: int
) -> torch.Tensor:
    """The gradient of x, with the matrix made out of its codes again."""
    return gradient @ _matrix(codes, scales, ranges, num_columns, gradient.dtype)


@_linear.register_fake
def _(x: torch.Tensor, codes: torch.Tensor, *_: Any) -> torch.Tensor:
    return x.new_empty((*x.shape[:-1], codes.shape[0]))


@_linear_backward.register_fake
def _(gradient: torch.Tensor, _: Any, __: Any, ___: Any, num_columns: int) -> torch.Tensor:
    return gradient.new_empty((*gradient.shape[:-1], num_columns))


def _keep(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:  # noqa: ARG001  torch's names
    _, codes, scales, ranges, ctx.num_columns = inputs
    ctx.save_for_backward(codes, scales, ranges)


def _back(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
    made = torch.ops.ironloom.nf4_linear_backward(gradient, *ctx.saved_tensors, ctx.num_columns)
    return made, None, None, None, None


torch.library.register_autograd("ironloom::nf4_linear", _back, setup_context=_keep)

NF4_PRODUCT = torch.ops.ironloom.nf4_linear.default
"""The operation, as checkpointing names what it keeps the results of."""


class Nf4Linear(Linear):
    """A frozen matrix product in NF4. The bias keeps its type."""

    def __init__(self, layer: Linear) -> None:
        """Takes a layer's place with its matrix, or on `meta` with its sizes alone."""
        nn.Module.__init__(self)
        self.in_features, self.out_features, self.parts = layer.in_features, layer.out_features, layer.parts
        self.dtype = layer.weight.dtype
        kind = {"device": layer.weight.device, "dtype": torch.uint8}
        rows, blocks = layer.out_features, nf4_blocks(layer.in_features)
        self.codes = nn.Parameter(torch.empty(rows, blocks * BLOCK // 2, **kind), requires_grad=False)
        self.scales = nn.Parameter(torch.empty(rows, blocks, **kind), requires_grad=False)
        self.ranges = nn.Parameter(torch.empty(rows, 2, **(kind | {"dtype": torch.bfloat16})), requires_grad=False)
        self.bias = layer.bias
        if not layer.weight.is_meta:
            self.fill(layer.weight)

    @property
    def weight(self) -> torch.Tensor:  # type: ignore[override]  # of nn.Linear it is a parameter
        """The matrix that is computed with, in the type that it was given in; made anew at each look."""
        return dequantised(self.codes, self.scales, self.ranges, self.in_features, self.dtype)

    @torch.no_grad()
    def fill(self, weight_RC: torch.Tensor) -> None:
        """Quantises rows into this layer: all of them, or under FSDP the rank's own."""
        own = [getattr(part, "to_local", lambda part=part: part)() for part in (self.codes, self.scales, self.ranges)]
        levels_on(own[0].device)  # before the compiler meets it
        rows = max(1, _CHUNK // weight_RC.shape[1])
        for begin in range(0, weight_RC.shape[0], rows):
            for part, made in zip(own, quantised(weight_RC[begin : begin + rows]), strict=True):
                part[begin : begin + rows].copy_(made)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = torch.ops.ironloom.nf4_linear(x, self.codes, self.scales, self.ranges, self.in_features)
        return out if self.bias is None else out + self.bias


def to_nf4(model: LanguageModel) -> LanguageModel:
    """Puts every matrix of the blocks into NF4 and freezes it, in place; before adapters, compiler and sharding.
    Embedding, head, norms and biases keep their type, as the paper's do."""
    for block in model.layers:
        for name, layer in list(block.named_modules()):
            if isinstance(layer, Linear):
                outer, _, own = name.rpartition(".")
                setattr(block.get_submodule(outer), own, Nf4Linear(layer))
    return model


def nf4_layers(model: nn.Module) -> Iterator[tuple[str, Nf4Linear]]:
    """Each layer in NF4 with its name."""
    for name, module in model.named_modules():
        if isinstance(module, Nf4Linear):
            yield name, module
