"""The part of a training run's memory that is exact: parameters, gradients and optimizer states, and how sharding
divides them. Activations come on top, and depend on batch, sequence and checkpointing.

    a GPU = parameters / shards + gradients / shards + states / shards + what is gathered at once

Sources: https://docs.pytorch.org/docs/stable/fsdp.html (what each strategy shards and when it gathers),
https://arxiv.org/abs/1910.02054 (16 bytes a parameter with Adam in mixed precision). Beside what one H100 held with
torchtitan 0.2.2 (reserved, this project, 2026-11-23): tests/plan/test_training.py.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import StrEnum

from ironloom.plan.nf4 import nf4_bytes
from ironloom.units import GIB
from ironloom.workload.shapes.model import ModelShape, Part, Weight
from ironloom.workload.training import Sharding


class Optimizer(StrEnum):
    """What an optimizer keeps of each parameter."""

    ADAMW = "adamw"
    """Two numbers in the parameters' type."""
    ADAMW_8BIT = "adamw-8bit"
    """Two numbers of one byte, and a scale for each 256 of them."""
    SGD = "sgd"
    SGD_MOMENTUM = "sgd-momentum"
    ADAFACTOR = "adafactor"
    """A row's and a column's sums for each matrix: next to nothing."""


STATE_BYTES = {Optimizer.SGD: 0.0, Optimizer.ADAFACTOR: 0.0, Optimizer.ADAMW_8BIT: 2 * (1 + 4 / 256)}
STATE_NUMBERS = {Optimizer.ADAMW: 2, Optimizer.SGD_MOMENTUM: 1}
KEPT_WHOLE = (Sharding.SHARD_GRAD_OP, Sharding.HYBRID_SHARD_ZERO2)
"""Strategies that gather every unit in the forward and let none go before its backward."""
GATHERED_UNITS = 2
"""The unit at work, and the one that is fetched meanwhile."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingState:
    """Bytes on one GPU."""

    parameters_bytes: int
    gradients_bytes: int
    optimizer_bytes: int
    gathered_bytes: int
    """Whole parameters that are there for the computation, at the most."""
    first_bytes: int
    """Of the whole model on one device, where it is put there before it is sharded; 0 where it is not."""
    arithmetic: tuple[str, ...]
    is_offloaded: bool = False
    """Parameters, gradients and states lie in host memory; what is gathered is on the GPU."""

    @property
    def kept_bytes(self) -> int:
        """Parameters, gradients and states, wherever they lie."""
        return self.parameters_bytes + self.gradients_bytes + self.optimizer_bytes

    @property
    def host_bytes(self) -> int:
        """In host memory."""
        return self.kept_bytes if self.is_offloaded else 0

    @property
    def total_bytes(self) -> int:
        """On the GPU while it trains, without activations."""
        return self.kept_bytes - self.host_bytes + self.gathered_bytes

    @property
    def peak_bytes(self) -> int:
        """The most that it needs, its beginning among it."""
        return max(self.total_bytes, self.first_bytes)


def training_state(
    shape: ModelShape,
    *,
    num_shards: int = 1,
    sharding: Sharding = Sharding.FULL_SHARD,
    parameter_bytes: int = 4,
    compute_bytes: int = 2,
    state_bytes: int | None = None,
    optimizer: Optimizer = Optimizer.ADAMW,
    is_wrapped: bool = True,
    is_whole_first: bool = False,
    is_offloaded: bool = False,
) -> TrainingState:
    """The exact part of one GPU's memory.

    `num_shards` is the size of the group that a parameter is divided over. `parameter_bytes` is of the type that
    parameters and gradients are kept in, `state_bytes` of the type of AdamW's or SGD's states (by default the
    parameters' own), `compute_bytes` of the type that gathered ones have (mixed precision). Without `is_wrapped` the
    model is one unit, gathered all at once. `is_whole_first`: it is moved to the GPU before it is sharded.
    `is_offloaded`: what a rank keeps lies in host memory. Raises ValueError for numbers below one.
    """
    if min(num_shards, parameter_bytes, compute_bytes) < 1:
        raise ValueError("shards and bytes must be at least 1")
    number = shape.num_parameters
    shards = 1 if sharding is Sharding.NO_SHARD else num_shards
    own = -(-number // shards)
    each = STATE_BYTES.get(optimizer, 0.0) + STATE_NUMBERS.get(optimizer, 0) * (state_bytes or parameter_bytes)
    gathered = gathered_parameters(shape, sharding, num_shards=shards, is_wrapped=is_wrapped)
    made = TrainingState(
        parameters_bytes=own * parameter_bytes,
        gradients_bytes=own * parameter_bytes,
        optimizer_bytes=round(own * each),
        gathered_bytes=gathered * compute_bytes,
        first_bytes=number * parameter_bytes if is_whole_first else 0,
        arithmetic=(),
        is_offloaded=is_offloaded,
    )
    over = f", over {shards} GPUs" if shards > 1 else ""
    states = f"{optimizer.value} {_gib(made.optimizer_bytes)}"
    lines = [
        f"{number / 1e9:.3f} billion parameters, {parameter_bytes} bytes each{over}",
        f"parameters {_gib(made.parameters_bytes)}, gradients {_gib(made.gradients_bytes)}, {states} a GPU",
    ]
    if gathered:
        what = "the whole model" if gathered >= number else f"{GATHERED_UNITS} units"
        lines.append(f"gathered: {what}, {gathered / 1e9:.3f} billion × {compute_bytes} = {_gib(made.gathered_bytes)}")
    if is_whole_first:
        lines.append(f"before it is sharded: the whole model, {_gib(made.first_bytes)}")
    if is_offloaded:
        lines.append(f"in host memory: parameters, gradients and states, {_gib(made.host_bytes)}")
    lines.append(f"in all {_gib(made.peak_bytes)} a GPU, and activations on top")
    return replace(made, arithmetic=tuple(lines))


def adapter_state(
    shape: ModelShape,
    *,
    rank: int,
    targets: tuple[str, ...],
    num_shards: int = 1,
    sharding: Sharding = Sharding.FULL_SHARD,
    parameter_bytes: int = 4,
    compute_bytes: int = 2,
    state_bytes: int | None = None,
    is_nf4: bool = False,
    is_offloaded: bool = False,
) -> TrainingState:
    """The exact part of one GPU's memory where adapters alone are trained, with AdamW.

    The base is frozen, in the type that is computed with (`compute_bytes`) or with its layers' matrices in NF4; the
    adapters, two matrices of `rank` beside each layer that `targets` names, are kept in `parameter_bytes`,
    AdamW's states of them in `state_bytes` (by default the same).
    """
    shards = 1 if sharding is Sharding.NO_SHARD else max(1, num_shards)

    def base_bytes(weight: Weight) -> int:
        if is_nf4 and weight.is_in_layers and weight.is_linear and len(weight.shape) == 2:
            return nf4_bytes(*weight.shape) * weight.num_copies
        return weight.num_parameters * compute_bytes

    base = sum(base_bytes(weight) for weight in shape.weights)
    number = -(-_adapter_parameters(shape, rank, targets) // shards)
    own, states = number * parameter_bytes, 2 * number * (state_bytes or parameter_bytes)
    gathered = 0
    if shards > 1:
        units = sorted(_by_unit(shape, base_bytes), reverse=True)
        gathered = base if sharding in KEPT_WHOLE else min(base, sum(units[:GATHERED_UNITS]))
    kind = "in NF4" if is_nf4 else f"in {compute_bytes} bytes a parameter"
    over = f", over {shards} GPUs" if shards > 1 else ""
    made = TrainingState(
        parameters_bytes=-(-base // shards) + own,
        gradients_bytes=own,
        optimizer_bytes=states,
        gathered_bytes=gathered,
        first_bytes=0,
        arithmetic=(
            f"a frozen base {kind}, {_gib(base)}{over}; adapters, gradients and AdamW {_gib(2 * own + states)} a GPU",
        ),
        is_offloaded=is_offloaded,
    )
    return replace(made, arithmetic=(*made.arithmetic, f"in all {_gib(made.peak_bytes)} a GPU, and activations on top"))


def _adapter_parameters(shape: ModelShape, rank: int, targets: tuple[str, ...]) -> int:
    """Two matrices of the adapters' rank beside each chosen matrix."""
    return sum(
        rank * sum(weight.shape) * weight.num_copies
        for weight in shape.weights
        if len(weight.shape) == 2 and weight.name.removesuffix(".weight").rpartition(".")[2] in targets
    )


def gathered_parameters(shape: ModelShape, sharding: Sharding, *, num_shards: int, is_wrapped: bool) -> int:
    """Parameters that a GPU has whole at the most: two units with FULL_SHARD, all where the model is one unit or is
    kept from forward to backward; none where nothing is divided."""
    if num_shards == 1 or sharding is Sharding.NO_SHARD:
        return 0
    if not is_wrapped or sharding in KEPT_WHOLE:
        return shape.num_parameters
    units = unit_parameters(shape)
    return min(shape.num_parameters, sum(sorted(units, reverse=True)[:GATHERED_UNITS]))


def unit_parameters(shape: ModelShape) -> tuple[int, ...]:
    """Parameters of each unit where every layer is one, and what stands outside of the layers is the last."""
    return _by_unit(shape, lambda weight: weight.num_parameters)


def _by_unit(shape: ModelShape, size_of: Callable[[Weight], int]) -> tuple[int, ...]:
    layers = [0] * shape.num_layers
    outside = 0
    for weight in shape.weights:
        if weight.part is Part.LAYERS and weight.layers:
            for layer in weight.layers:
                layers[layer] += size_of(weight) // len(weight.layers)
        else:
            outside += size_of(weight)
    return (*layers, outside)


def _gib(num_bytes: int) -> str:
    return f"{num_bytes / GIB:.1f} GiB"
