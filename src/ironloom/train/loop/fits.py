"""Whether the run's state fits before anything is loaded: the shared memory model against what is free, and what would
fit where it does not. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

from ironloom.errors import CapacityError
from ironloom.plan.training import Optimizer, TrainingState, adapter_state, training_state
from ironloom.units import GIB, format_bytes
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
    num_local_ranks: int = 0
    """Ranks of this machine; 0 where all are."""
    host_bytes: int | None = None
    """Of host memory that is free beside a GPU's, for all ranks of this machine; None is not known."""
    is_gpu: bool = True
    """Whether the memory is a GPU's, and not a machine's own."""

    @property
    def rank_bytes(self) -> int:
        return int(self.free_bytes * (1 - RESERVED_FRACTION)) // max(1, self.num_ranks_sharing)

    def rank_host_bytes(self, num_ranks: int) -> int:
        """Of host memory, for each of the ranks of this machine."""
        return int((self.host_bytes or 0) * (1 - RESERVED_FRACTION)) // max(1, self.num_local_ranks or num_ranks)


def state_of(training: Training, shape: ModelShape, num_ranks: int, *, num_local_ranks: int = 0) -> TrainingState:
    """One rank's state by the shared memory model; of adapters, the frozen base and what little is trained.

    `num_local_ranks`, of one machine, is what a hybrid strategy's group is by default; 0 is all ranks.
    """
    compute, state_dtype = training.compute, training.optimizer.state_dtype
    state_bytes = state_dtype.num_bytes if state_dtype is not None else None
    hybrid = compute.sharding in (Sharding.HYBRID_SHARD, Sharding.HYBRID_SHARD_ZERO2)
    shards = max(1, compute.shard_group_size or num_local_ranks or num_ranks if hybrid else num_ranks)
    if training.method is Method.FULL:
        state = training_state(
            shape,
            num_shards=shards,
            sharding=compute.sharding,
            parameter_bytes=compute.param_dtype.num_bytes,
            compute_bytes=compute.compute_dtype.num_bytes,
            state_bytes=state_bytes,
            optimizer=Optimizer.ADAMW,
            is_offloaded=compute.is_cpu_offload,
        )
        return _with_copies(state, training, shape.num_parameters, num_ranks)
    return adapter_state(
        shape,
        rank=training.lora.rank,
        targets=training.lora.targets,
        num_shards=shards,
        sharding=compute.sharding,
        parameter_bytes=compute.param_dtype.num_bytes,
        compute_bytes=compute.compute_dtype.num_bytes,
        state_bytes=state_bytes,
        is_nf4=training.method is Method.QLORA,
        is_offloaded=compute.is_cpu_offload,
    )


def _with_copies(state: TrainingState, training: Training, number: int, num_ranks: int) -> TrainingState:
    """What a rank that has all parameters keeps in the type that is computed with, beside wider ones (`Masters`, and
    FSDP2 over groups of one rank): the parameters; on one rank the gradients too, with sums in fp32 beside them where
    a step has several micro-batches."""
    wide_bytes, narrow_bytes = training.compute.param_dtype.num_bytes, training.compute.compute_dtype.num_bytes
    is_whole = num_ranks == 1 or training.compute.sharding is Sharding.NO_SHARD
    if not is_whole or narrow_bytes >= wide_bytes:
        return state
    copies = replace(state, gathered_bytes=number * narrow_bytes)
    if num_ranks > 1:
        return copies
    sums_bytes = wide_bytes if training.global_batch_size > training.micro_batch_size else 0
    return replace(copies, gradients_bytes=number * (narrow_bytes + sums_bytes))


def require_room(training: Training, shape: ModelShape, num_ranks: int, room: Room) -> TrainingState:
    """The state's bytes. Raises CapacityError where they are more than is free, with the numbers and what would fit."""
    state = state_of(training, shape, num_ranks, num_local_ranks=room.num_local_ranks)
    lacks_host = state.host_bytes > room.rank_host_bytes(num_ranks) and room.host_bytes is not None
    if state.total_bytes <= room.rank_bytes and not lacks_host:
        return state
    fitting = next(_fitting(training, shape, num_ranks, room), None)
    kept = (
        f"parameters {format_bytes(state.parameters_bytes)}, gradients {format_bytes(state.gradients_bytes)}, "
        f"optimizer {format_bytes(state.optimizer_bytes)}"
    )
    gathered = f"gathered {format_bytes(state.gathered_bytes)}"
    if state.total_bytes > room.rank_bytes:
        sharing = f" for {room.num_ranks_sharing} ranks" if room.num_ranks_sharing > 1 else ""
        told = (
            f"{shape.name} needs {format_bytes(state.total_bytes)} on each rank before any activation "
            f"({gathered if state.is_offloaded else f'{kept}, {gathered}'}); "
            f"{room.where} has {format_bytes(room.free_bytes)} free{sharing}"
        )
    else:
        sharing = f" for {room.num_local_ranks or num_ranks} ranks"
        told = (
            f"{shape.name} needs {format_bytes(state.host_bytes)} of host memory for each rank, as "
            f"compute.is_cpu_offload is said ({kept}); {format_bytes(room.host_bytes or 0)} are free{sharing}"
        )
    raise CapacityError(told, hint=f"{fitting or _larger(state, room, num_ranks)} would fit")


def _larger(state: TrainingState, room: Room, num_ranks: int) -> str:
    """What holds the state as it is, where nothing less does."""
    num_local = room.num_local_ranks or num_ranks
    if state.total_bytes <= room.rank_bytes:
        return f"a smaller model, or {_gib(state.host_bytes * num_local)} of free host memory,"
    if not room.is_gpu:
        return f"a smaller model, or a machine with {_gib(state.total_bytes * room.num_ranks_sharing)} free,"
    one = "a GPU" if num_ranks == 1 else f"{num_ranks} GPUs"
    return f"a smaller model, or {one} with {_gib(state.total_bytes)} free{' each' * (num_ranks > 1)},"


def _gib(num_bytes: int) -> str:
    """As much memory as leaves that to the state, in whole GiB."""
    return f"{math.ceil(num_bytes / (1 - RESERVED_FRACTION) / GIB):,} GiB"


def setting(said: str) -> str:
    """A setting, and how the command takes it: hints are read in both ways of starting a run, and in manifests."""
    return f"the setting {said} (`ironloom train --set {said}`)"


def _fitting(training: Training, shape: ModelShape, num_ranks: int, room: Room) -> Iterator[str]:
    """Changes after which the state fits, the least first."""

    def fits(changed: Training, ranks: int = num_ranks) -> bool:
        state = state_of(changed, shape, ranks, num_local_ranks=room.num_local_ranks if ranks == num_ranks else 0)
        has_host = room.host_bytes is None or state.host_bytes <= room.rank_host_bytes(num_ranks)
        return state.total_bytes <= room.rank_bytes and has_host

    compute = training.compute
    full = replace(training, compute=replace(compute, sharding=Sharding.FULL_SHARD))
    if compute.sharding is not Sharding.FULL_SHARD and num_ranks > 1 and fits(full):
        yield setting("compute.sharding=FULL_SHARD")
    narrow = replace(training, compute=replace(compute, param_dtype=Dtype.BFLOAT16))
    if compute.param_dtype is Dtype.FLOAT32 and training.method is Method.FULL and fits(narrow):
        yield setting("compute.param_dtype=bfloat16")
    offloaded = replace(training, compute=replace(compute, is_cpu_offload=True))
    has_host = num_ranks > 1 and room.num_ranks_sharing == 1 and room.host_bytes is not None
    if has_host and not compute.is_cpu_offload and fits(offloaded):
        yield setting("compute.is_cpu_offload=true")
    for method in (Method.LORA, Method.QLORA):
        is_narrower = training.method is Method.FULL or (training.method, method) == (Method.LORA, Method.QLORA)
        if is_narrower and not training.is_from_scratch and fits(replace(training, method=method)):
            yield setting(f"method={method.value}")
    # On CPUs a machine's ranks share its memory: what comes with more of them is more machines.
    num_local = 1 if room.is_gpu else room.num_local_ranks or num_ranks
    for number in (2, 4, 8, 16, 32, 64, 128):
        if number * num_local > num_ranks and fits(full, number * num_local):
            yield f"{number} {'GPUs' if room.is_gpu else 'machines'} like it"
            return
