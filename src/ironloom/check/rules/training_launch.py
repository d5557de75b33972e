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
_TCP = {
    "NCCL_IB_DISABLE": ("1", "InfiniBand and RoCE are not used"),
    "NCCL_P2P_DISABLE": ("1", "GPUs of one node do not use NVLink or PCIe to reach each other"),
    "NCCL_SHM_DISABLE": ("1", "GPUs of one node without peer access go over the network stack"),
    "NCCL_NET": ("socket", "all traffic between nodes is TCP"),
    "NCCL_SOCKET_IFNAME": ("lo", "processes of other nodes cannot be reached over the loopback interface"),
}
"""Variables of NCCL with the value that gives up a fast path, and what follows."""


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
    id="IL705",
    name="local-rank-argument",
    family="training-script",
    severity=Severity.WARNING,
    subject=Script,
    summary="an argument --local_rank that torchrun does not pass",
    why="torchrun passes no arguments of its own: the local rank is in the environment as LOCAL_RANK. A script that "
    "reads it from --local_rank alone gets the default in each process, and all processes of a node take the same "
    "GPU. The older torch.distributed.launch passes --local-rank since PyTorch 2.0, which this parser refuses.",
    bad="""\
import argparse

import torch
import torch.distributed as dist

parser = argparse.ArgumentParser()
parser.add_argument("--local_rank", type=int, default=0)
args = parser.parse_args()
dist.init_process_group("nccl")
torch.cuda.set_device(args.local_rank)
""",
    good="""\
import os

import torch
import torch.distributed as dist

dist.init_process_group("nccl")
torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
""",
    sources=(
        Source(
            "https://docs.pytorch.org/docs/stable/elastic/run.html", "how a script moves from --local_rank to torchrun"
        ),
        Source("https://github.com/XPixelGroup/BasicSR/issues/626", "unrecognized arguments: --local-rank=0"),
    ),
)
def local_rank_argument(script: Script, _context: Context) -> Iterator[Problem]:
    training = script.training
    if "--local_rank" not in script.text or not script.calls_of(f"{_DIST}init_process_group"):
        return
    if not training.is_own or training.mentions & {"LOCAL_RANK", "--local-rank", "parse_known_args"}:
        return
    for call in script.methods("add_argument"):
        names = [script.values.of(one) for one in call.node.args]
        if "--local_rank" in names:
            yield at(
                script,
                call.node,
                "torchrun passes no --local_rank: in each process this argument keeps its default",
                evidence=("the script does not read the variable LOCAL_RANK",),
                help='read int(os.environ["LOCAL_RANK"])',
            )


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
    id="IL707",
    name="nccl-forced-to-tcp",
    family="training-script",
    severity=Severity.WARNING,
    subject=Script,
    summary="a script that switches off NCCL's fast paths",
    why="These variables are for finding faults. Left in a script they win over what the cluster's image or the pod "
    "sets, and nothing fails: the job runs over TCP at a tenth of the speed or less.",
    bad="""\
import os

import torch.distributed as dist

os.environ["NCCL_IB_DISABLE"] = "1"
dist.init_process_group("nccl")
""",
    good="""\
import torch.distributed as dist

dist.init_process_group("nccl")
""",
    sources=(
        Source(
            "https://docs.nvidia.com/deeplearning/nccl/user-guide/docs/env.html",
            "what each variable switches off, and that such settings are for debugging",
        ),
    ),
)
def nccl_forced_to_tcp(script: Script, _context: Context) -> Iterator[Problem]:
    for place, name, value in _environment(script) if "NCCL_" in script.text else ():
        off, effect = _TCP.get(name, ("", ""))
        if off and value.lower() == off and not script.flow.guards(place):
            yield at(
                script,
                place,
                f"{name}={value} is set for every run: {effect}",
                path=name,
                help="take it out; where a machine needs it, set it in that machine's environment",
            )


def _environment(script: Script) -> Iterator[tuple[ast.AST, str, str]]:
    """(place, name, value) of each environment variable that the script sets to a constant."""
    for node in script.nodes:
        if not isinstance(node, ast.Assign) or len(node.targets) != 1:
            continue
        target = node.targets[0]
        if isinstance(target, ast.Subscript) and script.names.one(target.value) == "os.environ":
            name, value = script.values.of(target.slice), script.values.of(node.value)
            if isinstance(name, str) and isinstance(value, str):
                yield node, name, value
    for call in script.calls_of("os.putenv", "os.environ.setdefault"):
        name, value = (script.values.of(call.get(key, place)) for place, key in enumerate(("key", "value")))
        if isinstance(name, str) and isinstance(value, str):
            yield call.node, name, value


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
        if len(sides) != 1:
            continue
        for call, first, test in calls:
            if first is not None and not _leaves(script, call):
                yield at(
                    script,
                    call.node,
                    f"{_last(name)} waits for every rank, and only {'rank 0' if first else 'the other ranks'} "
                    f"{'comes' if first else 'come'} here: the job hangs until the timeout",
                    path=_last(name),
                    evidence=(f"the condition is {test}",),
                    help="call it outside of the condition",
                )


def _leaves(script: Script, call: Call) -> bool:
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
