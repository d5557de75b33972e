"""The loop of a training script: what happens to the loss and the gradients."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from ironloom.check.finding import Confidence, Severity
from ironloom.check.rule import Context, Problem, Source, rule
from ironloom.check.scripts import at, head, line, shown
from ironloom.workload.scripts.model import Call, Script
from ironloom.workload.scripts.terms import FSDP1, LOOPS

_TUNING = "https://docs.pytorch.org/tutorials/recipes/recipes/tuning_guide.html"
_AMP = "https://docs.pytorch.org/docs/stable/amp.html"
_HALF = frozenset({"torch.float16", "torch.half"})
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
_FSDP1 = """\
import torch
from torch.distributed.fsdp import FullyShardedDataParallel as FSDP


def train(model: FSDP, optimizer, loader):
    for batch in loader:
        optimizer.zero_grad()
        model(batch).loss.backward()
"""


@rule(
    id="IL723",
    name="clip-of-shards",
    family="training-script",
    severity=Severity.WARNING,
    subject=Script,
    summary="FSDP1 gradients clipped by the norm of one rank's shard",
    why="Under FSDP1 each rank holds a piece of every gradient. torch.nn.utils.clip_grad_norm_ takes the norm of that "
    "piece alone: each rank scales by another factor, and the threshold means something else on every number of GPUs. "
    "The module's own clip_grad_norm_ sums over the ranks. FSDP2 has no need of it: its parameters are DTensors.",
    bad=_FSDP1
    + """\
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
""",
    good=_FSDP1
    + """\
        model.clip_grad_norm_(1.0)
        optimizer.step()
""",
    sources=(
        Source("https://github.com/pytorch/pytorch/issues/72548", "why the plain function is incorrect for FSDP"),
        Source(
            "https://docs.pytorch.org/docs/stable/fsdp.html#torch.distributed.fsdp.FullyShardedDataParallel.clip_grad_norm_",
            "the method, and when the plain function will do (NO_SHARD)",
        ),
    ),
)
def clip_of_shards(script: Script, _context: Context) -> Iterator[Problem]:
    clips = script.calls_of("torch.nn.utils.clip_grad_norm_")
    if not clips or script.training.mentions_any("no_shard"):
        return
    for call in clips:
        first = call.get("parameters", 0)
        if not isinstance(first, ast.Call) or not isinstance(first.func, ast.Attribute):
            continue
        if first.func.attr == "parameters" and script.names.of(first.func.value) == {f"{FSDP1}()"}:
            yield at(
                script,
                call.node,
                "this clips by the norm of each rank's own shard: the ranks scale by different factors",
                path="clip_grad_norm_",
                help=f"{shown(script, first.func.value)}.clip_grad_norm_(max_norm) takes the norm over all ranks",
            )


_BARE_LOOP = """\
from torch.distributed.fsdp import fully_shard
from transformers import AutoModelForCausalLM
import torch

model = AutoModelForCausalLM.from_pretrained("Qwen/Qwen2.5-7B", torch_dtype=torch.bfloat16)
for layer in model.model.layers:
    fully_shard(layer)
fully_shard(model)
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5)
for batch in torch.load("batches.pt"):
    optimizer.zero_grad()
    model(**batch).loss.backward()
"""


@rule(
    id="IL724",
    name="no-gradient-clipping",
    family="training-script",
    severity=Severity.NOTE,
    subject=Script,
    summary="a sharded model trained without gradient clipping",
    why="Large language models are trained with the norm of the gradient clipped, most of them at 1.0: a single bad "
    "batch otherwise throws the weights far off, and the loss with them. Small models do well without.",
    bad=_BARE_LOOP + "    optimizer.step()\n",
    good=_BARE_LOOP
    + """\
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
""",
    sources=(
        Source("https://arxiv.org/abs/2307.09288", "Llama 2 was trained with gradients clipped at 1.0"),
        Source(
            "https://github.com/pytorch/torchtitan/blob/main/torchtitan/config/configs.py",
            "max_norm = 1.0 as the default of PyTorch's own trainer",
        ),
    ),
)
def no_gradient_clipping(script: Script, _context: Context) -> Iterator[Problem]:
    training = script.training
    wraps = [*training.fsdp1, *training.fsdp2]
    if not wraps or not training.is_whole or training.mentions_any("clip"):
        return
    if any(training.is_toy(training.module(wrap)) for wrap in wraps):
        return
    for step in training.steps[:1]:
        if any(script.flow.loops(step.node)):
            yield at(
                script,
                step.node,
                "the optimizer steps with gradients that were never clipped",
                path="clip_grad_norm_",
                evidence=("nothing in the script clips gradients",),
                help="clip them before the step: model.clip_grad_norm_(1.0) under FSDP1, "
                "torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0) under FSDP2",
            )


@rule(
    id="IL725",
    name="gradients-never-cleared",
    family="training-script",
    severity=Severity.ERROR,
    subject=Script,
    summary="a training loop without zero_grad",
    why="backward adds to the gradients that are there. Where nothing clears them, each step goes in the direction of "
    "the sum of all batches so far, and training diverges.",
    bad="""\
import torch

model = torch.nn.Linear(8, 8)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
for _ in range(100):
    loss = model(torch.randn(4, 8)).sum()
    loss.backward()
    optimizer.step()
""",
    good="""\
import torch

model = torch.nn.Linear(8, 8)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
for _ in range(100):
    optimizer.zero_grad()
    loss = model(torch.randn(4, 8)).sum()
    loss.backward()
    optimizer.step()
""",
    sources=(
        Source(
            "https://docs.pytorch.org/tutorials/recipes/recipes/zeroing_out_gradients.html",
            "gradients are added up until they are cleared",
        ),
    ),
)
def gradients_never_cleared(script: Script, _context: Context) -> Iterator[Problem]:
    training = script.training
    if not training.backwards or not training.is_whole or training.mentions_any("zero_grad", "set_to_none"):
        return
    if training.mentions & {"grad", "zero_", "register_post_accumulate_grad_hook"}:
        return  # it has a way of its own
    steps = {loop for step in training.steps for loop in script.flow.loops(step.node)}
    for call in training.backwards:
        loops = script.flow.loops(call.node)
        if loops and loops[0] in steps:
            yield at(
                script,
                call.node,
                "nothing clears the gradients: each step adds to those of all steps before",
                path="zero_grad",
                help="call optimizer.zero_grad() in each round",
            )
            return


@rule(
    id="IL726",
    name="gradients-cleared-before-step",
    family="training-script",
    severity=Severity.ERROR,
    subject=Script,
    summary="zero_grad between backward and step",
    why="The gradients are cleared before the optimizer has used them: it steps with none, and the model does not "
    "learn.",
    bad="""\
import torch

model = torch.nn.Linear(8, 8)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
for _ in range(100):
    loss = model(torch.randn(4, 8)).sum()
    loss.backward()
    optimizer.zero_grad()
    optimizer.step()
""",
    good="""\
import torch

model = torch.nn.Linear(8, 8)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
for _ in range(100):
    loss = model(torch.randn(4, 8)).sum()
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
""",
    sources=(
        Source("https://docs.pytorch.org/docs/stable/optim.html#taking-an-optimization-step", "the order of a step"),
    ),
)
def gradients_cleared_before_step(script: Script, _context: Context) -> Iterator[Problem]:
    if not script.training.backwards or not script.methods("zero_grad"):
        return
    backwards = {script.flow.statement(call.node) for call in script.training.backwards}
    clears = {script.flow.statement(call.node): call for call in script.methods("zero_grad")}
    stepping = {above for step in script.training.steps for above in (step.node, *script.flow.above(step.node))}
    for block in _blocks(script):
        cleared: Call | None = None
        seen_backward = False
        for statement in block:
            if statement in backwards:
                seen_backward, cleared = True, None
            elif statement in clears and isinstance(statement, ast.Expr) and seen_backward:
                cleared = cleared or clears[statement]
            elif cleared is not None and _steps(script, statement, cleared):
                yield at(
                    script,
                    cleared.node,
                    f"the gradients are cleared before {line(script, statement)} steps with them",
                    path="zero_grad",
                    evidence=(f"{line(script, statement)}: {head(script, statement)}",),
                    help="clear them after the step, or before the backward pass",
                )
                break
            elif seen_backward and statement in stepping:
                seen_backward = False


def _blocks(script: Script) -> Iterator[list[ast.stmt]]:
    for node in script.nodes:
        for field in ("body", "orelse"):
            block = getattr(node, field, None)
            if isinstance(block, list) and len(block) > 2 and isinstance(block[0], ast.stmt):
                yield block


def _steps(script: Script, statement: ast.stmt, cleared: Call) -> bool:
    """Whether a statement is the step of the optimizer that was cleared."""
    func = statement.value.func if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Call) else None
    if not isinstance(func, ast.Attribute) or func.attr != "step" or not isinstance(cleared.node.func, ast.Attribute):
        return False
    return script.source(func.value) == script.source(cleared.node.func.value)


@rule(
    id="IL727",
    name="float16-without-scaler",
    family="training-script",
    severity=Severity.WARNING,
    subject=Script,
    summary="training in float16 without a gradient scaler",
    why="float16 has no numbers below 6e-8: small gradients become zero, and the model stops to learn without a word. "
    "A GradScaler (ShardedGradScaler under FSDP1) multiplies the loss before the backward pass. bfloat16 has the "
    "range of float32 and needs none.",
    bad="""\
import torch

model = torch.nn.Linear(8, 8).cuda()
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
for _ in range(100):
    optimizer.zero_grad()
    with torch.autocast("cuda", dtype=torch.float16):
        loss = model(torch.randn(4, 8, device="cuda")).sum()
    loss.backward()
    optimizer.step()
""",
    good="""\
import torch

model = torch.nn.Linear(8, 8).cuda()
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
for _ in range(100):
    optimizer.zero_grad()
    with torch.autocast("cuda", dtype=torch.bfloat16):
        loss = model(torch.randn(4, 8, device="cuda")).sum()
    loss.backward()
    optimizer.step()
""",
    sources=(Source(f"{_AMP}#gradient-scaling", "why gradients underflow in float16, and what scaling does"),),
)
def float16_without_scaler(script: Script, _context: Context) -> Iterator[Problem]:
    training = script.training
    if not training.backwards or not training.is_own or training.mentions_any("scaler", "loss_scale", "amp.initialize"):
        return
    precision = "torch.distributed.fsdp.MixedPrecision"
    for call in script.calls_of("torch.autocast", "torch.amp.autocast", "torch.cuda.amp.autocast", precision,
                                f"{precision}Policy"):  # fmt: skip
        name = "param_dtype" if call.name.startswith(precision) else "dtype"
        kind = call.get(name, 0 if name == "param_dtype" else None)
        if kind is not None and script.names.one(kind) in _HALF:
            yield at(
                script,
                kind,
                "training in float16 without a gradient scaler: small gradients become zero",
                path=name,
                evidence=(f"{line(script, training.backwards[0].node)}: {shown(script, training.backwards[0].node)}",),
                help="use torch.bfloat16, or a torch.amp.GradScaler",
            )


@rule(
    id="IL728",
    name="loss-read-every-step",
    family="training-script",
    severity=Severity.NOTE,
    subject=Script,
    summary="the loss is read back to the CPU in every step",
    why="item() waits until the GPU has done all that was issued before it. In every step it keeps the CPU from "
    "running ahead, and the GPU idles while the next step is issued: the smaller the step, the more of it. Sum up on "
    "the GPU and read every few steps.",
    bad=_SETUP
    + """\
sampler = DistributedSampler(dataset)
loader = DataLoader(dataset, batch_size=8, sampler=sampler)
total = 0.0
for epoch in range(3):
    sampler.set_epoch(epoch)
    for batch in loader:
"""
    + _STEP
    + "        total += loss.item()\n",
    good=_SETUP
    + """\
sampler = DistributedSampler(dataset)
loader = DataLoader(dataset, batch_size=8, sampler=sampler)
total = torch.zeros((), device="cuda")
for epoch in range(3):
    sampler.set_epoch(epoch)
    for batch in loader:
"""
    + _STEP
    + "        total += loss.detach()\n",
    sources=(Source(f"{_TUNING}#avoid-unnecessary-cpu-gpu-synchronization", "item() among the calls to avoid"),),
)
def loss_read_every_step(script: Script, _context: Context) -> Iterator[Problem]:
    training = script.training
    if not training.wraps:
        return
    lost = {
        node.id
        for call in training.backwards
        if isinstance(call.node.func, ast.Attribute)
        for node in [call.node.func.value]
        if isinstance(node, ast.Name)
    }
    for call in script.methods("item"):
        owner = call.node.func.value if isinstance(call.node.func, ast.Attribute) else None
        while isinstance(owner, ast.Call) and isinstance(owner.func, ast.Attribute):
            owner = owner.func.value
        loops = script.flow.loops(call.node)
        is_lost = isinstance(owner, ast.Name) and owner.id in lost
        if is_lost and loops and loops[0] in training.loops and not _is_sometimes(script, call.node, loops[0]):
            yield at(
                script,
                call.node,
                "this waits for the GPU in every step",
                path="item",
                help="sum loss.detach() on the GPU, and read it every few steps",
            )
            return


def _is_sometimes(script: Script, node: ast.AST, loop: ast.stmt) -> bool:
    """Whether a node inside a loop stands under a condition, and so may run in few rounds."""
    for above in script.flow.above(node):
        if above is loop:
            return False
        if isinstance(above, (ast.If, ast.IfExp, ast.Try, *LOOPS)):
            return True
        if isinstance(above, ast.FunctionDef | ast.AsyncFunctionDef):
            return False
    return False


@rule(
    id="IL730",
    name="find-unused-parameters",
    family="training-script",
    severity=Severity.NOTE,
    subject=Script,
    summary="DDP searches for unused parameters in every step",
    why="With find_unused_parameters=True DDP walks the whole autograd graph after each forward pass. It is needed "
    "where parts of a model take no part in some steps; where all do, it is time lost in every step, and DDP warns of "
    "it.",
    bad=_SETUP + "model = DDP(model.module, device_ids=[local_rank], find_unused_parameters=True)\n",
    good=_SETUP + "model = DDP(model.module, device_ids=[local_rank])\n",
    sources=(
        Source(
            "https://docs.pytorch.org/docs/stable/notes/ddp.html#internal-design",
            "traversing the graph costs time, so it is to be used where it is needed",
        ),
    ),
)
def find_unused_parameters(script: Script, _context: Context) -> Iterator[Problem]:
    for wrap in script.training.ddp:
        place = wrap.arguments.places.get("find_unused_parameters")
        if place is not None and script.values.of(wrap.get("find_unused_parameters")) is True:
            yield at(
                script,
                place,
                "DDP walks the autograd graph in every step to find parameters without a gradient",
                path="find_unused_parameters",
                help="leave it out where every parameter takes part in every step",
                confidence=Confidence.POSSIBLE,
            )
