"""Whether the run's state fits before anything is loaded: the shared memory model against what is free, and what would
fit where it does not. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from ironloom.errors import CapacityError
from ironloom.plan.training import Optimizer, TrainingState, training_state
from ironloom.units import format_bytes
from ironloom.workload.shapes.model import ModelShape
from ironloom.workload.training import Dtype, Method, Sharding, Training

RESERVED_FRACTION = 0.05
"""Of the free memory: the libraries' own, and what the allocator cannot use."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Room:
    """What one rank may take."""

    free_bytes: int
    where: str
    """For a person: `GPU 0`, `this machine's memory`."""
    num_ranks_sharing: int = 1
    """Ranks that take from the same memory: all of a machine, on CPU."""

    @property
    def rank_bytes(self) -> int:
        return int(self.free_bytes * (1 - RESERVED_FRACTION)) // max(1, self.num_ranks_sharing)


def state_of(training: Training, shape: ModelShape, num_ranks: int) -> TrainingState:
    """One rank's state by the shared memory model; of adapters, the frozen base and what little is trained."""
    compute = training.compute
    hybrid = compute.sharding in (Sharding.HYBRID_SHARD, Sharding.HYBRID_SHARD_ZERO2)
    shards = compute.shard_group_size or num_ranks if hybrid else num_ranks
    made = training_state(
        shape,
        num_shards=max(1, shards),
        sharding=compute.sharding,
        parameter_bytes=compute.param_dtype.num_bytes,
        compute_bytes=compute.compute_dtype.num_bytes,
        optimizer=Optimizer.ADAMW,
    )
    if training.method is Method.FULL:
        return made
    trained = _adapter_parameters(training, shape) * 4 // max(1, shards)
    base_bits = 4.5 if training.method is Method.QLORA else 8 * compute.compute_dtype.num_bytes
    base = round(made.parameters_bytes / compute.param_dtype.num_bytes * base_bits / 8)
    return TrainingState(
        parameters_bytes=base + trained,
        gradients_bytes=trained,
        optimizer_bytes=2 * trained,
        gathered_bytes=made.gathered_bytes,
        first_bytes=0,
        arithmetic=(),
    )


def require_room(training: Training, shape: ModelShape, num_ranks: int, room: Room) -> TrainingState:
    """The state's bytes. Raises CapacityError where they are more than is free, with the numbers and what would fit."""
    state = state_of(training, shape, num_ranks)
    if state.total_bytes <= room.rank_bytes:
        return state
    sharing = f" for {room.num_ranks_sharing} ranks" if room.num_ranks_sharing > 1 else ""
    fitting = next(_fitting(training, shape, num_ranks, room), None)
    raise CapacityError(
        f"{shape.name} needs {format_bytes(state.total_bytes)} on each rank before any activation "
        f"(parameters {format_bytes(state.parameters_bytes)}, gradients {format_bytes(state.gradients_bytes)}, "
        f"optimizer {format_bytes(state.optimizer_bytes)}, gathered {format_bytes(state.gathered_bytes)}); "
        f"{room.where} has {format_bytes(room.free_bytes)} free{sharing}",
        hint=f"{fitting} would fit" if fitting else "a smaller model, or more GPUs with more memory, would fit",
    )


def _fitting(training: Training, shape: ModelShape, num_ranks: int, room: Room) -> Iterator[str]:
    """Changes after which the state fits, the least first."""

    def fits(changed: Training, ranks: int = num_ranks) -> bool:
        shared = replace(room, num_ranks_sharing=ranks if room.num_ranks_sharing > 1 else 1)
        return state_of(changed, shape, ranks).total_bytes <= shared.rank_bytes

    compute = training.compute
    full = replace(training, compute=replace(compute, sharding=Sharding.FULL_SHARD))
    if compute.sharding is not Sharding.FULL_SHARD and num_ranks > 1 and fits(full):
        yield "--compute.sharding=FULL_SHARD"
    narrow = replace(training, compute=replace(compute, param_dtype=Dtype.BFLOAT16))
    if compute.param_dtype is Dtype.FLOAT32 and training.method is Method.FULL and fits(narrow):
        yield "--compute.param_dtype=bfloat16"
    adapters = replace(training, method=Method.LORA)
    if training.method is Method.FULL and not training.is_from_scratch and fits(adapters):
        yield "--method=lora"
    if room.num_ranks_sharing == 1:
        for ranks in (2, 4, 8, 16, 32, 64, 128):
            if ranks > num_ranks and fits(full, ranks):
                yield f"{ranks} GPUs like it"
                return


def _adapter_parameters(training: Training, shape: ModelShape) -> int:
    """Two matrices of the adapters' rank beside each chosen linear layer."""
    total = 0
    for weight in shape.weights:
        name = weight.name.removesuffix(".weight").rpartition(".")[2]
        if name in training.lora.targets and len(weight.shape) == 2:
            total += training.lora.rank * sum(weight.shape) * max(1, len(weight.layers))
    return total
