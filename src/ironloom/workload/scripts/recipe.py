"""What a script trains by, whatever it shards with: its optimizer, the schedule of its rate, its clipping. What it does
not do, and would be done here unless it is set, is told as well.

Sources: https://docs.pytorch.org/docs/stable/optim.html (optimizers and schedules, with their defaults),
https://docs.pytorch.org/docs/stable/generated/torch.nn.utils.clip_grad_norm_.html and
https://huggingface.co/docs/transformers/main_classes/optimizer_schedules.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ironloom.workload.scripts.mapping import Mapped, number, short, unseen
from ironloom.workload.training import OptimizerSettings

if TYPE_CHECKING:
    from ironloom.workload.scripts.model import Call, Script

_ADAMW = frozenset({"torch.optim.AdamW", "transformers.AdamW"})
_ADAM = "torch.optim.Adam"
_OTHER_OPTIMIZER = re.compile(r"(torch\.optim|bitsandbytes\.optim|apex\.optimizers)\.[A-Z]\w+")
_ARGUMENTS: Mapping[str, tuple[str, Any]] = {
    "lr": ("optimizer.learning_rate", 1e-3),
    "betas": ("optimizer.betas", (0.9, 0.999)),
    "eps": ("optimizer.eps", 1e-8),
    "weight_decay": ("optimizer.weight_decay", 1e-2),
}
"""AdamW's arguments after the parameters, in their order, with its defaults
(https://docs.pytorch.org/docs/stable/generated/torch.optim.AdamW.html)."""
_NOT_HERE: Mapping[str, int | None] = {"amsgrad": 5, "maximize": None}
"""Its arguments that change what a step is, with their positions; the others say how it is computed."""
_WHYS = {
    "lr": "the peak of the schedule",
    "betas": "of the two moments",
    "eps": "below the second moment's root",
    "weight_decay": "of matrices, and of vectors where optimizer.is_vector_decayed",
}
_SCHEDULE = re.compile(
    r"torch\.optim\.lr_scheduler\.(?!ReduceOp)[A-Z]\w+|transformers\.(optimization\.)?get_\w*schedule\w*"
)
_COSINE = "torch.optim.lr_scheduler.CosineAnnealingLR"
_OF_TRANSFORMERS = {
    "get_constant_schedule": "constant",
    "get_constant_schedule_with_warmup": "constant",
    "get_linear_schedule_with_warmup": "linear",
    "get_cosine_schedule_with_warmup": "cosine",
}
_DEFAULTS = OptimizerSettings()
_OWN_RATE = f"optimizer.learning_rate is {_DEFAULTS.learning_rate:g} unset"
_NO_SCHEDULE = f"it is none of the schedules here (constant, linear, cosine, wsd); unset is {_DEFAULTS.schedule.value}"


def recipe(script: Script) -> Iterator[Mapped]:
    """Every setting of the optimizer, the schedule and the clipping, and what the script lacks of them."""
    adamw = script.calls_of(*_ADAMW, _ADAM)
    others = [one for one in script.calls if one not in adamw and _OTHER_OPTIMIZER.fullmatch(one.name)]
    made = [*adamw, *others]
    # What it lacks is told where its optimizer is made.
    line = min((call.node.lineno for call in made or script.training.fsdp1), default=1)
    is_whole = bool(made) and script.training.is_whole
    for call in adamw:
        yield from _of_adamw(script, call)
    for call in others:
        name = call.name.rpartition(".")[2]
        why = f"not {name} but AdamW trains here; {_OWN_RATE}"
        yield Mapped(line=call.node.lineno, written=f"{name}(…)", here="", why=why)
    if not made:
        yield Mapped(
            line=line, written="(no optimizer that can be read)", here="", why=f"AdamW trains here; {_OWN_RATE}"
        )
    yield from _of_schedules(script, line, is_whole=is_whole)
    yield from _of_clipping(script, line, is_whole=is_whole)


def _of_adamw(script: Script, call: Call) -> Iterator[Mapped]:
    """Learning rate, betas, eps and weight decay; what is not passed has torch's default, which is not ours."""
    name = call.node.func.attr if isinstance(call.node.func, ast.Attribute) else script.source(call.node.func)
    is_decoupled = bool(call.names & _ADAMW)
    arguments = call.arguments
    for position, (argument, (setting, default)) in enumerate(_ARGUMENTS.items(), start=1):
        node = arguments.get(argument, position)
        if node is None and arguments.is_open:
            continue
        default = 0.0 if argument == "weight_decay" and not is_decoupled else default
        value = script.values.usual(node) if node is not None else default
        text = number(value)
        line = call.node.lineno if node is None else node.lineno
        written = f"{name}({argument}={short(script.source(node)) if node is not None else text})"
        if text is None:
            yield Mapped(line=line, written=written, here="", why="the value is not written out in the script")
        elif argument == "weight_decay" and not is_decoupled and value:
            yield Mapped(
                line=line, written=written, here="", why="Adam adds it to gradients; AdamW here decays weights"
            )
        else:
            why = "torch's default" if node is None else _WHYS[argument]
            yield Mapped(line=line, written=written, here=f"{setting}={text}", why=why)
            if argument == "weight_decay" and value:
                yield _of_vectors(script, call, name)
    for argument, place in _NOT_HERE.items():
        node = arguments.get(argument, place)
        if node is not None and script.values.usual(node) is not False:
            written = f"{name}({argument}={short(script.source(node))})"
            yield Mapped(line=node.lineno, written=written, here="", why="AdamW here has no such variant")
    yield from unseen(script, call.node)


def _of_vectors(script: Script, call: Call, name: str) -> Mapped:
    """Whether norms and biases decay: where all parameters are one group they do, and here they do not unless set."""
    given = call.get("params", 0)
    made = script.values.origin(given)
    is_one = isinstance(made, ast.Call) and isinstance(made.func, ast.Attribute) and made.func.attr == "parameters"
    written = f"{name}({short(script.source(given)) if given is not None else '…'})"
    if is_one:
        why = "one group: vectors decay as matrices do; the default here spares them"
        return Mapped(line=call.node.lineno, written=written, here="optimizer.is_vector_decayed=true", why=why)
    why = "which parameters decay is not known; here matrices do, and vectors by optimizer.is_vector_decayed"
    return Mapped(line=call.node.lineno, written=written, here="", why=why)


def _of_schedules(script: Script, line: int, *, is_whole: bool) -> Iterator[Mapped]:
    calls = [one for one in script.calls if _SCHEDULE.fullmatch(one.name)]
    if not calls and is_whole and not script.training.mentions_any("sched", "lr_lambda"):
        why = f"the rate stays as it is; the default here is {_DEFAULTS.schedule.value}"
        yield Mapped(line=line, written="(no schedule)", here="optimizer.schedule=constant", why=why)
    elif not calls:
        why = f"what becomes of the rate is not written out in the script; unset is {_DEFAULTS.schedule.value}"
        yield Mapped(line=line, written="(no schedule that can be read)", here="", why=why)
    for call in calls:
        if len(calls) > 1:
            why = f"one of several, and one is taken here after a warm-up; unset is {_DEFAULTS.schedule.value}"
            yield Mapped(line=call.node.lineno, written=_called(call), here="", why=why)
        else:
            yield from _of_schedule(script, call)


def _of_schedule(script: Script, call: Call) -> Iterator[Mapped]:
    line, written = call.node.lineno, _called(call)
    kind = "cosine" if call.name == _COSINE else _OF_TRANSFORMERS.get(call.name.rpartition(".")[2])
    if kind is None or call.arguments.is_open or call.get("num_cycles", 3) is not None:
        yield Mapped(line=line, written=written, here="", why=_NO_SCHEDULE)
        return
    why = "the rate stays as it is" if kind == "constant" else "over all steps of the run, which --steps says"
    yield Mapped(line=line, written=written, here=f"optimizer.schedule={kind}", why=why)
    if call.name == _COSINE:
        yield from _of_least(script, call)
    elif (node := call.get("num_warmup_steps", 1)) is not None:
        value = script.values.usual(node)
        is_whole = isinstance(value, int) and not isinstance(value, bool)
        yield Mapped(
            line=node.lineno,
            written=f"num_warmup_steps={short(script.source(node))}",
            here=f"optimizer.warmup_steps={value}" if is_whole else "",
            why="steps over which the rate rises" if is_whole else "the value is not written out in the script",
        )


def _of_least(script: Script, call: Call) -> Iterator[Mapped]:
    """What a cosine ends at: a rate there, a share of the peak here."""
    node = call.get("eta_min", 2)
    least = script.values.usual(node) if node is not None else 0
    if node is None or least == 0:
        return
    peaks = {number(script.values.usual(one.get("lr", 1))) for one in script.calls_of(*_ADAMW, _ADAM)}
    peak = float(only) if len(peaks) == 1 and (only := next(iter(peaks))) and "," not in only else 0.0
    is_known = number(least) is not None and 0 < least <= peak
    yield Mapped(
        line=node.lineno,
        written=f"eta_min={short(script.source(node))}",
        here=f"optimizer.min_lr_fraction={least / peak:g}" if is_known else "",
        why="the rate at the end, as a share of the peak" + ("" if is_known else ": optimizer.min_lr_fraction"),
    )


def _of_clipping(script: Script, line: int, *, is_whole: bool) -> Iterator[Mapped]:
    calls: Sequence[Call] = [*script.methods("clip_grad_norm_"), *script.calls_of("torch.nn.utils.clip_grad_norm_")]
    calls = list({call.node: call for call in calls}.values())
    for call in calls:
        norm = call.get("max_norm", 0) if "torch.nn.utils" not in call.name else call.get("max_norm", 1)
        value = script.values.usual(norm)
        is_known = isinstance(value, int | float) and not isinstance(value, bool)
        yield Mapped(
            line=call.node.lineno,
            written=f"clip_grad_norm_({f'{value:g}' if is_known else short(script.source(norm)) if norm else '…'})",
            here=f"optimizer.max_grad_norm={value:g}" if is_known else "",
            why="the global norm over all ranks' parts" if is_known else "the norm is not written out in the script",
        )
    if calls:
        return
    if is_whole and not script.training.mentions_any("clip"):
        why = f"gradients are taken as they are; the default here is {_DEFAULTS.max_grad_norm:g}"
        yield Mapped(line=line, written="(no clipping)", here="optimizer.max_grad_norm=0", why=why)
    else:
        why = (
            f"what it clips is not written out as a norm; optimizer.max_grad_norm is {_DEFAULTS.max_grad_norm:g} unset"
        )
        yield Mapped(line=line, written="(no clip_grad_norm_ that can be read)", here="", why=why)


def _called(call: Call) -> str:
    return f"{call.name.rpartition('.')[2]}(…)"
