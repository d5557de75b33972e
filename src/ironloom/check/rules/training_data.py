"""What each rank of a training job reads: samplers, and who loads the data."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from ironloom.check.finding import Confidence, Severity
from ironloom.check.rule import Context, Problem, Source, rule
from ironloom.check.scripts import at, head, line, shown
from ironloom.workload.scripts.model import Call, Script
from ironloom.workload.scripts.ranks import is_rank_name, words
from ironloom.workload.scripts.terms import DATA_LOADER

_SAMPLER = "torch.utils.data.distributed.DistributedSampler"
_SAMPLER_DOCS = "https://docs.pytorch.org/docs/stable/data.html#torch.utils.data.distributed.DistributedSampler"
_TUNING = "https://docs.pytorch.org/tutorials/recipes/recipes/tuning_guide.html"
_SETUP = """\
import os

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel as DDP
from torch.utils.data import DataLoader
from torch.utils.data.distributed import DistributedSampler
from torchvision.datasets import FakeData

dist.init_process_group("nccl")
local_rank = int(os.environ["LOCAL_RANK"])
torch.cuda.set_device(local_rank)
model = DDP(torch.nn.Linear(8, 8).to(local_rank), device_ids=[local_rank])
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
dataset = FakeData()
"""
_STEP = """\
        optimizer.zero_grad()
        loss = model(batch).sum()
        loss.backward()
        optimizer.step()
"""


@rule(
    id="IL720",
    name="no-distributed-sampler",
    family="training-script",
    severity=Severity.WARNING,
    subject=Script,
    summary="every rank reads the same batches",
    why="A DataLoader knows nothing of ranks. Without a DistributedSampler, or a dataset that is divided by rank, "
    "each process goes through the whole dataset: eight GPUs do the same work eight times, or with the same seed "
    "average eight equal gradients. Nothing fails; an epoch takes as long as on one GPU.",
    bad=_SETUP
    + """\
loader = DataLoader(dataset, batch_size=8, shuffle=True)
for epoch in range(3):
    for batch in loader:
"""
    + _STEP,
    good=_SETUP
    + """\
sampler = DistributedSampler(dataset)
loader = DataLoader(dataset, batch_size=8, sampler=sampler)
for epoch in range(3):
    sampler.set_epoch(epoch)
    for batch in loader:
"""
    + _STEP,
    sources=(
        Source(_SAMPLER_DOCS, "each process loads a part of the dataset that is its own"),
        Source(
            "https://docs.pytorch.org/tutorials/beginner/ddp_series_multigpu.html",
            "the sampler as a step of the move to several GPUs",
        ),
    ),
)
def no_distributed_sampler(script: Script, _context: Context) -> Iterator[Problem]:
    training = script.training
    if not training.wraps or not training.is_own or training.mentions_any("sampler", "split_dataset", "num_shards"):
        return
    if training.mentions_any("iterabledataset", "streaming", "num_replicas", "shard_index", "device_mesh"):
        return
    for loop in training.loops:
        if isinstance(loop, ast.While):
            continue
        source = _read(script, loop.iter)
        wrap = f"{line(script, training.wraps[0].node)} makes the model one of many processes"
        if isinstance(source, ast.Name) and source.id in script.undefined:
            yield at(
                script,
                loop,
                f"no DistributedSampler is made in this script: nothing divides {source.id} over the ranks",
                path=source.id,
                evidence=(wrap, f"{source.id} is what the loop reads, and nothing gives it"),
                help="give its DataLoader sampler=DistributedSampler(dataset)",
            )
        elif isinstance(source, ast.Call) and _reads_alike(script, source):
            yield at(
                script,
                source,
                "this DataLoader has no DistributedSampler: every rank reads the same dataset whole",
                path="sampler",
                evidence=(wrap, f"{line(script, loop)} trains on it"),
                help="pass sampler=DistributedSampler(dataset), and no shuffle",
            )


def _read(script: Script, node: ast.expr) -> ast.AST | None:
    """What a loop goes over, without enumerate, progress bars and the like."""
    found: ast.AST | None = node
    for _ in range(8):
        found = script.values.origin(found)
        if not isinstance(found, ast.Call) or not found.args or script.names.one(found.func) == DATA_LOADER:
            break
        if script.names.one(found.func) not in {"enumerate", "tqdm.tqdm", "tqdm.auto.tqdm", "iter", "list"}:
            break
        found = found.args[0]
    return found


def _reads_alike(script: Script, node: ast.Call) -> bool:
    """Whether a DataLoader surely gives every rank the same."""
    call = next((call for call in script.calls if call.node is node), None)
    if call is None or call.name != DATA_LOADER or not (call.lacks("sampler", 3) and call.lacks("batch_sampler", 4)):
        return False
    dataset = script.values.origin(call.get("dataset", 0))
    parts = [dataset, node]
    if isinstance(dataset, ast.Call) and (made := script.names.function(dataset.func)) is not None:
        parts.append(made)
    name = script.names.one(dataset.func) if isinstance(dataset, ast.Call) else ""
    if name.startswith(".") and (own := script.names.classes.get(name[1:])) is not None:
        parts.append(own)
    if any(is_rank_name(word) or word in {"shard", "world_size"} for part in parts if part for word in words(part)):
        return False
    # What a dataset is must be seen, or it may be divided where it is made.
    return isinstance(dataset, ast.Call) and bool(name)


@rule(
    id="IL721",
    name="sampler-epoch-not-set",
    family="training-script",
    severity=Severity.WARNING,
    subject=Script,
    summary="a DistributedSampler whose epoch is never set",
    why="A DistributedSampler shuffles by its seed and its epoch. Where set_epoch is never called the epoch stays 0, "
    "and every epoch has the same batches in the same order.",
    bad=_SETUP
    + """\
loader = DataLoader(dataset, batch_size=8, sampler=DistributedSampler(dataset))
for epoch in range(3):
    for batch in loader:
"""
    + _STEP,
    good=_SETUP
    + """\
sampler = DistributedSampler(dataset)
loader = DataLoader(dataset, batch_size=8, sampler=sampler)
for epoch in range(3):
    sampler.set_epoch(epoch)
    for batch in loader:
"""
    + _STEP,
    sources=(
        Source(_SAMPLER_DOCS, "set_epoch must be called at the beginning of each epoch"),
        Source("https://github.com/pytorch/pytorch/issues/31771", "each epoch samples the data in the same order"),
    ),
)
def sampler_epoch_not_set(script: Script, _context: Context) -> Iterator[Problem]:
    training = script.training
    if not script.calls_of(_SAMPLER) or not training.is_own or "set_epoch" in training.mentions:
        return
    epochs = [
        loops[1]
        for call in training.backwards
        if len(loops := script.flow.loops(call.node)) > 1 and isinstance(loops[0], ast.For)
    ]
    if not epochs:
        return
    for call in script.calls_of(_SAMPLER):
        shuffle = call.get("shuffle", 3)
        if call.arguments.is_open or (shuffle is not None and script.values.of(shuffle) is not True):
            continue
        if _is_for_evaluation(script, call):
            continue
        yield at(
            script,
            call.node,
            "set_epoch is never called: each epoch has the same batches in the same order",
            path="set_epoch",
            evidence=(f"{line(script, epochs[0])}: {head(script, epochs[0])}",),
            help="call sampler.set_epoch(epoch) at the start of each epoch",
        )


def _is_for_evaluation(script: Script, call: Call) -> bool:
    """Whether the statement's names say that it is not for training."""
    said = {word.lower() for word in words(script.flow.statement(call.node))}
    return any(part in word for word in said for part in ("val", "test", "eval"))


@rule(
    id="IL722",
    name="sampler-and-shuffle",
    family="training-script",
    severity=Severity.ERROR,
    subject=Script,
    summary="a DataLoader that is given a sampler and told to shuffle",
    why="The two exclude each other: DataLoader raises a ValueError. A DistributedSampler shuffles by itself.",
    bad=_SETUP + "loader = DataLoader(dataset, batch_size=8, shuffle=True, sampler=DistributedSampler(dataset))\n",
    good=_SETUP + "loader = DataLoader(dataset, batch_size=8, sampler=DistributedSampler(dataset))\n",
    sources=(Source("https://docs.pytorch.org/docs/stable/data.html", "with a sampler, shuffle must not be given"),),
)
def sampler_and_shuffle(script: Script, _context: Context) -> Iterator[Problem]:
    for call in script.calls_of(DATA_LOADER):
        shuffle, sampler = call.get("shuffle", 2), call.get("sampler", 3)
        if shuffle is None or sampler is None or script.values.of(shuffle) is not True:
            continue
        if script.names.one(sampler).endswith("()") and not isinstance(sampler, ast.IfExp):
            yield at(
                script,
                shuffle,
                "DataLoader raises a ValueError: shuffle=True and a sampler exclude each other",
                path="shuffle",
                evidence=(f"{line(script, sampler)}: sampler={shown(script, sampler)}",),
                help="take shuffle away: a DistributedSampler shuffles by itself",
            )


@rule(
    id="IL729",
    name="loader-in-main-process",
    family="training-script",
    severity=Severity.NOTE,
    subject=Script,
    summary="data is loaded in the training process itself",
    why="With num_workers=0, the default, reading and decoding a batch happens between two steps, in the process that "
    "issues them: the GPU waits for both. A few workers, with pin_memory=True, read ahead.",
    bad=_SETUP
    + """\
sampler = DistributedSampler(dataset)
loader = DataLoader(dataset, batch_size=8, sampler=sampler)
for epoch in range(3):
    sampler.set_epoch(epoch)
    for batch in loader:
"""
    + _STEP,
    good=_SETUP
    + """\
sampler = DistributedSampler(dataset)
loader = DataLoader(dataset, batch_size=8, sampler=sampler, num_workers=4, pin_memory=True)
for epoch in range(3):
    sampler.set_epoch(epoch)
    for batch in loader:
"""
    + _STEP,
    sources=(Source(f"{_TUNING}#enable-asynchronous-data-loading-and-augmentation", "num_workers and pin_memory"),),
)
def loader_in_main_process(script: Script, _context: Context) -> Iterator[Problem]:
    training = script.training
    if not training.wraps:
        return
    for loop in training.loops:
        source = _read(script, loop.iter) if not isinstance(loop, ast.While) else None
        call = next((call for call in script.calls if call.node is source and call.name == DATA_LOADER), None)
        if call is None or script.training.mentions_any("tensordataset", "iterabledataset"):
            continue
        if call.lacks("num_workers", 5):
            pinned = script.values.of(call.get("pin_memory", 7)) is True
            yield at(
                script,
                call.node,
                "this DataLoader reads in the training process: the GPU waits for every batch",
                path="num_workers",
                evidence=("num_workers is 0" + ("" if pinned or call.get("pin_memory", 7) else ", pin_memory False"),),
                help="pass num_workers and pin_memory=True",
                confidence=Confidence.LIKELY,
            )
