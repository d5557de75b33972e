"""What the arguments of an FSDP1 wrap are here: a setting, what always is so, or nothing to be done.

Sources: https://docs.pytorch.org/docs/stable/fsdp.html (FSDP1's arguments) and
https://docs.pytorch.org/docs/stable/distributed.fsdp.fully_shard.html (what they became).
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from ironloom.workload.scripts.mapping import Mapped, short, unseen
from ironloom.workload.scripts.recipe import recipe
from ironloom.workload.training import Sharding

if TYPE_CHECKING:
    from ironloom.workload.scripts.model import Call, Script

_STRATEGIES = {
    Sharding.FULL_SHARD: "reshard_after_forward=True",
    Sharding.SHARD_GRAD_OP: "reshard_after_forward=False",
    Sharding.NO_SHARD: "everything on each rank, as DDP does",
    Sharding.HYBRID_SHARD: "a mesh of two dimensions: replicas of groups that shard",
    Sharding.HYBRID_SHARD_ZERO2: "the same, parameters whole from the forward to the end of the backward",
}
_DTYPES = {"torch.bfloat16": "bfloat16", "torch.float32": "float32", "torch.float": "float32"}
_MIXED = {"param_dtype": "compute.compute_dtype", "reduce_dtype": "compute.reduce_dtype"}
_MIXED_WHYS = {"param_dtype": "the computation's type", "reduce_dtype": "gradients are summed over the ranks in it"}
_OFFLOAD_WHY = "parameters, gradients and states in host memory"
_MIXED_NO_OPS = {
    "buffer_dtype": "buffers keep their type: a rotary table loses in bfloat16",
    "keep_low_precision_grads": "gradients are summed and kept in compute.reduce_dtype",
    "cast_forward_inputs": "tokens are whole numbers: nothing to cast",
    "cast_root_forward_inputs": "tokens are whole numbers: nothing to cast",
}
_CHECKPOINTING = "torch.distributed.algorithms._checkpoint.checkpoint_wrapper.apply_activation_checkpointing"
_NO_OPS = {
    "auto_wrap_policy": "each block is a unit by itself, the embedding alone, norm and head in one",
    "backward_prefetch": "FSDP2 fetches the next unit before the present one's gradients, as BACKWARD_PRE does",
    "forward_prefetch": "FSDP2 fetches the next unit as its stream has room",
    "limit_all_gathers": "FSDP2 bounds what is gathered at once by itself",
    "use_orig_params": "FSDP2 keeps the parameters as they are, which is what True did",
    "sync_module_states": "each rank reads its own part of the weights from the files",
    "device_id": "the rank's device is that of LOCAL_RANK",
    "param_init_fn": "models begin on the meta device, and are filled where they are",
    "ignored_modules": "nothing is left out: adapters are chosen by lora.targets",
    "ignored_states": "nothing is left out: adapters are chosen by lora.targets",
    "ignored_parameters": "nothing is left out: adapters are chosen by lora.targets",
    "process_group": "all ranks of the launch are one group; the hybrid strategies make the others",
    "device_mesh": "the mesh follows from the strategy and compute.shard_group_size",
}

_POSITIONS = (
    "module", "process_group", "sharding_strategy", "cpu_offload", "auto_wrap_policy", "backward_prefetch",
    "mixed_precision", "ignored_modules", "param_init_fn", "device_id", "sync_module_states", "forward_prefetch",
    "limit_all_gathers", "use_orig_params", "ignored_states", "device_mesh",
)  # fmt: skip
"""FullyShardedDataParallel's arguments in their order."""


def names() -> Iterator[tuple[str, str, str]]:
    """Every name of FSDP1 that is taken: as it is written there, the setting (empty: there is nothing to set), why."""
    for strategy, why in _STRATEGIES.items():
        yield f"sharding_strategy={strategy.value}", f"compute.sharding={strategy.value}", why
    for name, setting in _MIXED.items():
        yield f"MixedPrecision({name}=…)", f"{setting}=…", _MIXED_WHYS[name]
    yield "cpu_offload=CPUOffload(offload_params=True)", "compute.is_cpu_offload=true", _OFFLOAD_WHY
    yield from ((f"MixedPrecision({name}=…)", "", why) for name, why in _MIXED_NO_OPS.items())
    yield from ((name, "", why) for name, why in _NO_OPS.items())


def mapped(script: Script) -> list[Mapped]:
    """Every argument of every FSDP1 wrap, in the order of the text, with the activation checkpointing and the recipe
    beside it; empty where there is no wrap."""
    if not script.training.fsdp1:
        return []
    found = [one for call in script.training.fsdp1 for one in _of_wrap(script, call)]
    found += recipe(script)
    found += [
        Mapped(
            line=call.node.lineno,
            written="apply_activation_checkpointing(…)",
            here="compute.checkpointing=full",
            why="each block's input alone is kept; selective, the default, keeps matrix products too",
        )
        for call in script.calls_of(_CHECKPOINTING)
    ]
    return sorted(found, key=lambda one: one.line)


def _of_wrap(script: Script, call: Call) -> Iterator[Mapped]:
    passed = list(_passed(script, call.node, _POSITIONS))
    for name, node in passed:
        written = f"{name}={short(script.source(node))}"
        line = node.lineno
        if name == "sharding_strategy":
            yield _strategy(script, node, written, line)
        elif name == "mixed_precision":
            yield from _mixed_precision(script, node, line)
        elif name == "cpu_offload":
            yield _cpu_offload(script, node, written, line)
        elif name in _NO_OPS:
            yield Mapped(line=line, written=written, here="", why=_NO_OPS[name])
        elif name != "module":
            yield Mapped(line=line, written=written, here="", why="not known here")
    yield from unseen(script, call.node)
    if script.values.arguments(call.node).is_open:
        return
    if all(name != "mixed_precision" for name, _ in passed):
        yield _own_precision(script, call.node.lineno)
    if all(name != "sharding_strategy" for name, _ in passed):
        yield Mapped(
            line=call.node.lineno,
            written="(no sharding_strategy)",
            here="compute.sharding=FULL_SHARD",
            why="FSDP1's default, and the default here",
        )


def _passed(script: Script, call: ast.Call, positions: Sequence[str]) -> Iterator[tuple[str, ast.expr]]:
    """What a call passes by name or position, without what is None, which is as good as not passed."""
    arguments = script.values.arguments(call)
    for name, node in [*zip(positions, arguments.positional, strict=False), *arguments.named.items()]:
        if script.values.of(node) is not None:
            yield name, node


def _made(script: Script, node: ast.expr, kind: str) -> ast.Call | None:
    """The call of this class behind an expression; another call's arguments say nothing of what it gives."""
    made = script.values.origin(node)
    if not isinstance(made, ast.Call):
        return None
    name = script.names.one(made.func) or script.source(made.func)
    return made if name.rpartition(".")[2] == kind else None


def _strategy(script: Script, node: ast.expr, written: str, line: int) -> Mapped:
    name = script.source(script.values.origin(node) or node).rpartition(".")[2]
    if name in tuple(one.value for one in Sharding):
        return Mapped(line=line, written=written, here=f"compute.sharding={name}", why=_STRATEGIES[Sharding(name)])
    return Mapped(line=line, written=written, here="", why="the strategy is not written out in the script")


def _mixed_precision(script: Script, node: ast.expr, line: int) -> Iterator[Mapped]:
    made = _made(script, node, "MixedPrecision")
    if made is None:
        yield Mapped(line=line, written=f"mixed_precision={short(script.source(node))}", here="",
                     why="what it holds is not written out in the script")  # fmt: skip
        return
    yield from unseen(script, made)
    for name, value in _passed(script, made, (*_MIXED, *_MIXED_NO_OPS)):
        written = f"MixedPrecision({name}={short(script.source(value))})"
        at = value.lineno
        if name in _MIXED_NO_OPS:
            yield Mapped(line=at, written=written, here="", why=_MIXED_NO_OPS[name])
            continue
        dtype = _DTYPES.get(script.names.one(script.values.origin(value) or value))
        setting = _MIXED.get(name)
        if setting is not None and dtype is not None:
            yield Mapped(line=at, written=written, here=f"{setting}={dtype}", why=_MIXED_WHYS[name])
        else:
            why = "bfloat16 and float32 are computed with here; float16 would need a loss scaler"
            yield Mapped(line=at, written=written, here="", why=why)


def _own_precision(script: Script, line: int) -> Mapped:
    """Without MixedPrecision it computes in the parameters' type, float32 unless the script itself sees to another."""
    here, why = "compute.compute_dtype=float32", "FSDP1 computes in the parameters' type; the default here is bfloat16"
    if not script.training.is_whole or script.training.mentions_any("autocast", "bfloat16", "float16", "half", "dtype"):
        here, why = "", "in what type it computes is not the wrap's; compute.compute_dtype is bfloat16 unset"
    return Mapped(line=line, written="(no mixed_precision)", here=here, why=why)


def _cpu_offload(script: Script, node: ast.expr, written: str, line: int) -> Mapped:
    made = _made(script, node, "CPUOffload")
    is_on: object = None
    if made is not None:
        arguments = script.values.arguments(made)
        given = arguments.get("offload_params", 0)
        is_on = False if given is None and not arguments.is_open else script.values.usual(given)
    if not isinstance(is_on, bool):
        return Mapped(line=line, written=written, here="", why="what it holds is not written out in the script")
    return Mapped(line=line, written=written, here=f"compute.is_cpu_offload={str(is_on).lower()}", why=_OFFLOAD_WHY)
