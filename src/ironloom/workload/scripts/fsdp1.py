"""What the arguments of an FSDP1 wrap are here: a setting, what always is so, or nothing to be done.

Sources: https://docs.pytorch.org/docs/stable/fsdp.html (FSDP1's arguments) and
https://docs.pytorch.org/docs/stable/distributed.fsdp.fully_shard.html (what they became).
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

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


@dataclass(frozen=True, kw_only=True, slots=True)
class Mapped:
    """One setting of the script, and what it is here."""

    line: int
    written: str
    here: str
    """NAME=VALUE; empty where there is nothing to set."""
    why: str


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
    """Every argument of every FSDP1 wrap, in the order of the text, and the activation checkpointing beside it."""
    found = [one for call in script.training.fsdp1 for one in _of_wrap(script, call)]
    found += [
        Mapped(
            line=call.node.lineno,
            written="apply_activation_checkpointing(…)",
            here="compute.checkpointing=full",
            why="each block's input alone is kept; selective, the default, keeps matrix products too",
        )
        for call in script.calls_of(_CHECKPOINTING)
    ]
    for call in script.methods("clip_grad_norm_"):
        norm = call.get("max_norm", 0) if "torch.nn.utils" not in call.name else call.get("max_norm", 1)
        value = _constant(script.values.origin(norm))
        if value is not None:
            found.append(
                Mapped(
                    line=call.node.lineno,
                    written=f"clip_grad_norm_({value:g})",
                    here=f"optimizer.max_grad_norm={value:g}",
                    why="the global norm over all ranks' parts",
                )
            )
    return sorted(found, key=lambda one: one.line)


def _of_wrap(script: Script, call: Call) -> Iterator[Mapped]:
    for keyword in call.node.keywords:
        if keyword.arg is None:
            continue
        written = f"{keyword.arg}={_short(script.source(keyword.value))}"
        line = keyword.value.lineno
        if keyword.arg == "sharding_strategy":
            yield _strategy(script, keyword.value, written, line)
        elif keyword.arg == "mixed_precision":
            yield from _mixed_precision(script, keyword.value, line)
        elif keyword.arg == "cpu_offload":
            yield _cpu_offload(script, keyword.value, written, line)
        elif keyword.arg in _NO_OPS:
            yield Mapped(line=line, written=written, here="", why=_NO_OPS[keyword.arg])
        else:
            yield Mapped(line=line, written=written, here="", why="not known here")
    if not any(keyword.arg == "sharding_strategy" for keyword in call.node.keywords):
        yield Mapped(
            line=call.node.lineno,
            written="(no sharding_strategy)",
            here="compute.sharding=FULL_SHARD",
            why="FSDP1's default, and the default here",
        )


def _strategy(script: Script, node: ast.expr, written: str, line: int) -> Mapped:
    name = script.source(script.values.origin(node) or node).rpartition(".")[2]
    if name in tuple(one.value for one in Sharding):
        return Mapped(line=line, written=written, here=f"compute.sharding={name}", why=_STRATEGIES[Sharding(name)])
    return Mapped(line=line, written=written, here="", why="the strategy is not written out in the script")


def _mixed_precision(script: Script, node: ast.expr, line: int) -> Iterator[Mapped]:
    made = script.values.origin(node)
    if not isinstance(made, ast.Call):
        yield Mapped(line=line, written=f"mixed_precision={_short(script.source(node))}", here="",
                     why="what it holds is not written out in the script")  # fmt: skip
        return
    for keyword in made.keywords:
        if keyword.arg is None:
            continue
        written = f"MixedPrecision({keyword.arg}={_short(script.source(keyword.value))})"
        at = keyword.value.lineno
        if keyword.arg in _MIXED_NO_OPS:
            yield Mapped(line=at, written=written, here="", why=_MIXED_NO_OPS[keyword.arg])
            continue
        dtype = _DTYPES.get(script.names.one(script.values.origin(keyword.value) or keyword.value))
        setting = _MIXED.get(keyword.arg)
        if setting is not None and dtype is not None:
            yield Mapped(line=at, written=written, here=f"{setting}={dtype}", why=_MIXED_WHYS[keyword.arg])
        else:
            why = "bfloat16 and float32 are computed with here; float16 would need a loss scaler"
            yield Mapped(line=at, written=written, here="", why=why)


def _cpu_offload(script: Script, node: ast.expr, written: str, line: int) -> Mapped:
    made = script.values.origin(node)
    value = next((one.value for one in made.keywords if one.arg == "offload_params"), None) if isinstance(
        made, ast.Call) else None  # fmt: skip
    if value is None and isinstance(made, ast.Call) and made.args:
        value = made.args[0]
    is_on = isinstance(value, ast.Constant) and value.value is True
    here = f"compute.is_cpu_offload={str(is_on).lower()}"
    return Mapped(line=line, written=written, here=here, why=_OFFLOAD_WHY)


def _constant(node: ast.AST | None) -> float | None:
    value = node.value if isinstance(node, ast.Constant) else None
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def _short(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= 50 else f"{text[:47]}…"
