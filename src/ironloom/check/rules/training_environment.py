"""What a training process learns from its environment, and what a script puts there."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from ironloom.check.finding import Severity
from ironloom.check.rule import Context, Problem, Source, rule
from ironloom.check.scripts import at
from ironloom.workload.scripts.model import Script

_DIST = "torch.distributed."
_TCP = {
    "NCCL_IB_DISABLE": ("1", "InfiniBand and RoCE are not used"),
    "NCCL_P2P_DISABLE": ("1", "GPUs of one node do not use NVLink or PCIe to reach each other"),
    "NCCL_SHM_DISABLE": ("1", "GPUs of one node without peer access go over the network stack"),
    "NCCL_NET": ("socket", "all traffic between nodes is TCP"),
    "NCCL_SOCKET_IFNAME": ("lo", "processes of other nodes cannot be reached over the loopback interface"),
}
"""Variables of NCCL with the value that gives up a fast path, and what follows."""


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
