"""Processes of a training job: how they find each other, which GPU each takes, and what all of them must do."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from ironloom.check.finding import Confidence, Severity
from ironloom.check.rule import Context, Problem, Source, rule
from ironloom.check.scripts import at, line, replace, shown
from ironloom.workload.scripts.model import Call, Script
from ironloom.workload.scripts.ranks import is_for_first_rank
from ironloom.workload.scripts.terms import DDP, FSDP1

_DIST = "torch.distributed."
_SETUP = """\
import os

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel as DDP

"""
_DISTRIBUTED_DOCS = "https://docs.pytorch.org/docs/stable/distributed.html"
_DEVICE_PARAMETERS = frozenset(
    {"device", "device_id", "local_rank", "rank", "gpu", "gpu_id", "dev", "device_idx", "device_index", "cuda_device"}
)
_COLLECTIVES = frozenset(
    f"{_DIST}{name}"
    for name in (
        "barrier", "monitored_barrier", "all_reduce", "all_gather", "all_gather_object", "all_gather_into_tensor",
        "all_to_all", "all_to_all_single", "broadcast", "broadcast_object_list", "gather", "gather_object", "reduce",
        "reduce_scatter", "reduce_scatter_tensor", "scatter", "scatter_object_list",
    )
)  # fmt: skip


@rule(
    id="IL702",
    name="no-process-group",
    family="training-script",
    severity=Severity.ERROR,
    subject=Script,
    summary="DDP or FSDP without a process group",
    why="DistributedDataParallel and FullyShardedDataParallel talk through the default process group. Where nothing "
    "has made it, the wrap ends with `Default process group has not been initialized`. Frameworks make it themselves, "
    "and so does fully_shard; a script that uses one of those, or modules of its own, is left alone.",
    bad=_SETUP
    + """\
local_rank = int(os.environ["LOCAL_RANK"])
model = DDP(torch.nn.Linear(8, 8).to(local_rank), device_ids=[local_rank])
""",
    good=_SETUP
    + """\
dist.init_process_group("nccl")
local_rank = int(os.environ["LOCAL_RANK"])
torch.cuda.set_device(local_rank)
model = DDP(torch.nn.Linear(8, 8).to(local_rank), device_ids=[local_rank])
dist.destroy_process_group()
""",
    sources=(
        Source(f"{_DISTRIBUTED_DOCS}#initialization", "the group must be made before any other call of the package"),
        Source("https://github.com/openvla/openvla/pull/78", "the error that a wrap without a group ends with"),
    ),
)
def no_process_group(script: Script, _context: Context) -> Iterator[Problem]:
    training = script.training
    wraps = [call for call in training.wraps if call.name in {DDP, FSDP1}]
    if not wraps or not training.is_whole or training.mentions_any("init_process_group", "init_device_mesh"):
        return
    yield at(
        script,
        wraps[0].node,
        f"{_last(wraps[0].name)} needs a process group, and this script makes none",
        evidence=("neither init_process_group nor init_device_mesh is called in the script",),
        help='call torch.distributed.init_process_group("nccl") first; torchrun sets the variables that it reads',
    )


@rule(
    id="IL703",
    name="unused-device-parameter",
    family="training-script",
    severity=Severity.WARNING,
    subject=Script,
    summary="a function that is told its device and does not use it",
    why="The caller believes that it chooses the GPU. The function takes the current one instead, which is GPU 0 in "
    "every process until torch.cuda.set_device has been called, so that all processes of a node end up on one GPU.",
    bad="""\
import torch


def place(model, device_id):
    return model.to(torch.cuda.current_device())
""",
    good="""\
import torch


def place(model, device_id):
    return model.to(device_id)
""",
    sources=(
        Source("https://docs.pytorch.org/docs/stable/fsdp.html", "three ways to say which GPU FSDP takes"),
        Source("https://github.com/NVIDIA/apex/issues/222", "all processes with memory on GPU 0, and why"),
    ),
)
def unused_device_parameter(script: Script, _context: Context) -> Iterator[Problem]:
    takes: dict[ast.AST | None, Call] = {}
    for call in reversed(script.calls_of("torch.cuda.current_device")):
        takes[script.flow.function(call.node)] = call
    for function, current in takes.items():
        if not isinstance(function, ast.FunctionDef) or isinstance(script.parents.get(function), ast.ClassDef):
            continue
        if function.decorator_list or script.flow.function(function) is not None:
            continue
        inside = [node for statement in function.body for node in ast.walk(statement)]
        read = {node.id for node in inside if isinstance(node, ast.Name)}
        for parameter in (*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs):
            if parameter.arg in _DEVICE_PARAMETERS and parameter.arg not in read:
                yield at(
                    script,
                    parameter,
                    f"the parameter {parameter.arg} of {function.name} is never read: "
                    "the model goes to torch.cuda.current_device(), whatever the caller passes",
                    path=f"{function.name}.{parameter.arg}",
                    evidence=(f"{line(script, current.node)}: {shown(script, current.node)}",),
                    help=f"use {parameter.arg} there, or take the parameter away",
                )


@rule(
    id="IL704",
    name="device-never-set",
    family="training-script",
    severity=Severity.WARNING,
    subject=Script,
    summary="the current GPU is used in many processes and never set",
    why="Without torch.cuda.set_device the current GPU is 0 in each process. `torch.cuda.current_device()`, `.cuda()` "
    "and the device `cuda` then mean the same GPU for all processes of a node: NCCL refuses two ranks on one GPU, or "
    "the first GPU runs out of memory.",
    bad=_SETUP
    + """\
dist.init_process_group("nccl")
model = DDP(torch.nn.Linear(8, 8).cuda())
dist.destroy_process_group()
""",
    good=_SETUP
    + """\
dist.init_process_group("nccl")
torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
model = DDP(torch.nn.Linear(8, 8).cuda())
dist.destroy_process_group()
""",
    sources=(
        Source(f"{_DISTRIBUTED_DOCS}#launch-utility", "each process must keep to one GPU, by set_device"),
        Source("https://github.com/NVIDIA/apex/issues/203", "a script that forgot set_device"),
    ),
)
def device_never_set(script: Script, _context: Context) -> Iterator[Problem]:
    training = script.training
    if not training.wraps or not training.is_whole:
        return
    if training.mentions_any("set_device", "cuda_visible_devices", "mp.spawn", "init_device_mesh"):
        return
    if any(not call.lacks("device_id") for call in script.calls_of(f"{_DIST}init_process_group")):
        return
    wrap = training.wraps[0].node
    for call in script.calls:
        said = _current_gpu(script, call)
        if said:
            yield at(
                script,
                call.node,
                f"{said} is GPU 0 in every process: this script never calls torch.cuda.set_device",
                evidence=(f"{line(script, wrap)}: {shown(script, wrap.func)} makes it one of many processes",),
                help='call torch.cuda.set_device(int(os.environ["LOCAL_RANK"])) before anything is put on a GPU',
                confidence=Confidence.LIKELY,
            )
            return


def _current_gpu(script: Script, call: Call) -> str:
    """How a call takes the current GPU; empty where it does not."""
    if call.name == "torch.cuda.current_device":
        return "torch.cuda.current_device()"
    if call.attribute == "cuda" and not call.node.args and not call.node.keywords:
        return ".cuda()"
    device = call.get("device", 0)
    if call.attribute == "to" and device is not None and script.values.text(device) == "cuda":
        return 'the device "cuda"'
    return ""


@rule(
    id="IL706",
    name="gloo-on-gpu",
    family="training-script",
    severity=Severity.WARNING,
    subject=Script,
    summary="gradients of GPUs go through gloo",
    why="gloo copies every tensor to the host and sends it over TCP: neither NVLink nor InfiniBand is used, and FSDP "
    "needs collectives that gloo does not have for GPUs. nccl is the backend for NVIDIA GPUs.",
    bad=_SETUP
    + """\
dist.init_process_group("gloo")
local_rank = int(os.environ["LOCAL_RANK"])
torch.cuda.set_device(local_rank)
model = DDP(torch.nn.Linear(8, 8).to(local_rank), device_ids=[local_rank])
dist.destroy_process_group()
""",
    good=_SETUP
    + """\
dist.init_process_group("nccl")
local_rank = int(os.environ["LOCAL_RANK"])
torch.cuda.set_device(local_rank)
model = DDP(torch.nn.Linear(8, 8).to(local_rank), device_ids=[local_rank])
dist.destroy_process_group()
""",
    sources=(Source(f"{_DISTRIBUTED_DOCS}#which-backend-to-use", "nccl for GPUs, gloo for CPUs"),),
)
def gloo_on_gpu(script: Script, _context: Context) -> Iterator[Problem]:
    training = script.training
    made = script.calls_of(f"{_DIST}init_process_group")
    if not training.wraps or len(made) != 1 or script.flow.guards(made[0].node):
        return
    backend = made[0].get("backend", 0)
    on_gpu = [call for call in script.calls if training.is_move(call.node)]
    if on_gpu and backend is not None and script.values.of(backend) == "gloo":
        yield at(
            script,
            backend,
            "gloo carries the gradients of GPU tensors through the host and TCP",
            evidence=(f"{line(script, on_gpu[0].node)}: {shown(script, on_gpu[0].node)}",),
            help='use "nccl"',
            patch=replace(script, backend, '"nccl"', "use nccl", is_safe=False),
        )


@rule(
    id="IL708",
    name="collective-on-some-ranks",
    family="training-script",
    severity=Severity.ERROR,
    subject=Script,
    summary="a collective that only some ranks come to",
    why="A collective ends when every rank of its group has called it. Under `if rank == 0` the others never do: rank "
    "0 waits until NCCL's timeout, ten minutes by default, and the job ends there. Only a pair that all ranks come "
    "to, each in its own branch, is right.",
    bad="""\
import torch.distributed as dist

dist.init_process_group("nccl")
if dist.get_rank() == 0:
    print("downloaded")
    dist.barrier()
dist.destroy_process_group()
""",
    good="""\
import torch.distributed as dist

dist.init_process_group("nccl")
if dist.get_rank() == 0:
    print("downloaded")
dist.barrier()
dist.destroy_process_group()
""",
    sources=(
        Source(f"{_DISTRIBUTED_DOCS}#collective-functions", "every process of the group must enter the call"),
        Source("https://github.com/pytorch/pytorch/issues/143536", "a save that not all ranks come to hangs"),
    ),
)
def collective_on_some_ranks(script: Script, _context: Context) -> Iterator[Problem]:
    seen: dict[str, list[tuple[Call, bool | None, str]]] = {}
    for call in script.calls_of(*_COLLECTIVES):
        if call.name not in _COLLECTIVES or not call.lacks("group"):
            continue
        guard = script.flow.rank_guard(call.node)
        first = is_for_first_rank(guard) if guard is not None else None
        seen.setdefault(call.name, []).append((call, first, shown(script, guard.test) if guard is not None else ""))
    for name, calls in seen.items():
        sides = {first for _, first, _ in calls if first is not None}
        if len(sides) != 1 or any(first is None and _is_called_by_rank(script, call) for call, first, _ in calls):
            continue
        for call, first, test in calls:
            if first is not None and not _has_own_group(script, call) and not _ends_branch(script, call):
                yield at(
                    script,
                    call.node,
                    f"{_last(name)} waits for every rank, and only {'rank 0' if first else 'the other ranks'} "
                    f"{'comes' if first else 'come'} here: the job hangs until the timeout",
                    path=_last(name),
                    evidence=(f"the condition is {test}",),
                    help="call it outside of the condition",
                )


def _is_called_by_rank(script: Script, call: Call) -> bool:
    """Whether a function around a call is called under a condition on the rank: it may be the other side of a pair."""
    node: ast.AST = call.node
    for _ in range(6):
        function = script.flow.function(node)
        callers = script.names.calls_of_function.get(function, []) if function is not None else []
        if any(script.flow.rank_guard(caller) is not None for caller in callers):
            return True
        if len(callers) != 1:
            return False
        node = callers[0]
    return False


def _ends_branch(script: Script, call: Call) -> bool:
    """Whether its branch leaves the function or the loop: the others come to what stands below."""
    for above in script.flow.above(call.node):
        if isinstance(above, ast.If):
            branches = (above.body, above.orelse)
            return any(isinstance(one, ast.Return | ast.Raise | ast.Continue | ast.Break)
                       for branch in branches for one in branch)  # fmt: skip
    return False


def _has_own_group(script: Script, call: Call) -> bool:
    """Whether a call takes part in a group that it is given by position, which may be of these ranks alone."""
    last = call.node.args[-1] if len(call.node.args) > 1 else None
    return last is not None and re.search(r"group|mesh|pg$", script.source(last), re.I) is not None


@rule(
    id="IL709",
    name="process-group-not-destroyed",
    family="training-script",
    severity=Severity.NOTE,
    subject=Script,
    summary="a process group that is never destroyed",
    why="A process that ends with a live group may leave while others still wait for it: the job ends with a warning, "
    "and now and then with a hang. PyTorch 2.4 and newer say so at exit.",
    bad="""\
import torch.distributed as dist


def main():
    dist.init_process_group("nccl")
    dist.barrier()


if __name__ == "__main__":
    main()
""",
    good="""\
import torch.distributed as dist


def main():
    dist.init_process_group("nccl")
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
""",
    sources=(
        Source(f"{_DISTRIBUTED_DOCS}#shutdown", "clean up by destroy_process_group"),
        Source("https://github.com/pytorch/pytorch/issues/126275", "the warning of PyTorch 2.4"),
    ),
)
def process_group_not_destroyed(script: Script, _context: Context) -> Iterator[Problem]:
    made = script.calls_of(f"{_DIST}init_process_group")
    if made and script.training.is_whole and not script.training.mentions_any("destroy", "abort"):
        yield at(
            script,
            made[0].node,
            "this process group is never destroyed: a rank may end while another one still waits for it",
            help="call torch.distributed.destroy_process_group() at the end of the run",
        )


def _last(name: str) -> str:
    return name.rpartition(".")[2]
