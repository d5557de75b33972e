"""What a training script keeps: checkpoints, who writes them, and how they are read."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from ironloom.check.finding import Confidence, Severity
from ironloom.check.rule import Context, Problem, Source, rule
from ironloom.check.scripts import at, head, line, replace, shown
from ironloom.workload.scripts.model import Call, Script
from ironloom.workload.scripts.ranks import is_about_rank, is_for_first_rank, is_rank_name, words
from ironloom.workload.scripts.terms import DDP, FSDP1

_FSDP1_DOCS = "https://docs.pytorch.org/docs/stable/fsdp.html"
_DCP_DOCS = "https://docs.pytorch.org/docs/stable/distributed.checkpoint.html"
_DDP_TUTORIAL = "https://docs.pytorch.org/tutorials/intermediate/ddp_tutorial.html#save-and-load-checkpoints"
_SAVES = re.compile(r"save|checkpointer|upload|push_to_hub|dump|export|write_model", re.I)
_FEW_NUMBERS = re.compile(r"scaler|sched|sampler|loader|stateful", re.I)
_COLLECTIVE_STATES = frozenset(
    {
        f"{FSDP1}().state_dict",
        f"{FSDP1}.optim_state_dict",
        f"{FSDP1}.full_optim_state_dict",
        f"{FSDP1}.sharded_optim_state_dict",
        "torch.distributed.checkpoint.state_dict.get_model_state_dict",
        "torch.distributed.checkpoint.state_dict.get_optimizer_state_dict",
        "torch.distributed.checkpoint.state_dict.get_state_dict",
        "torch.distributed.checkpoint.save",
        "torch.distributed.checkpoint.save_state_dict",
    }
)
"""Calls that talk to every rank."""
_ADAPTERS = frozenset({"peft.get_peft_model", "peft.prepare_model_for_kbit_training"})
_SETUP = """\
import os

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel as DDP

dist.init_process_group("nccl")
local_rank = int(os.environ["LOCAL_RANK"])
torch.cuda.set_device(local_rank)
model = DDP(torch.nn.Linear(8, 8).to(local_rank), device_ids=[local_rank])
"""
_LOOP = """\
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
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
"""


@rule(
    id="IL731",
    name="no-checkpoint",
    family="training-script",
    severity=Severity.WARNING,
    subject=Script,
    summary="a sharded training run that saves nothing",
    why="A run over many GPUs ends early more often than not: a node is drained, a GPU falls off the bus, a rank runs "
    "out of memory. Without a checkpoint all of its work is lost, and at its end so is the model. "
    "torch.distributed.checkpoint writes from all ranks at once, and loads on another number of them.",
    bad=_LOOP,
    good=_LOOP
    + """\
    torch.distributed.checkpoint.save({"model": model.state_dict()}, checkpoint_id="step")
""",
    sources=(
        Source(_DCP_DOCS, "saving and loading from many ranks"),
        Source("https://arxiv.org/abs/2407.21783", "466 interruptions in 54 days of training Llama 3"),
    ),
)
def no_checkpoint(script: Script, _context: Context) -> Iterator[Problem]:
    training = script.training
    wraps = [*training.fsdp1, *training.fsdp2]
    if not wraps or not training.loops or not training.is_whole:
        return
    if all(training.is_toy(training.module(wrap)) for wrap in wraps) or any(map(_SAVES.search, training.mentions)):
        return
    yield at(
        script,
        training.loops[0],
        "this run saves no checkpoint: if one rank fails, all of its work is lost",
        path="checkpoint",
        evidence=("nothing in the script saves a model or its state",),
        help="save with torch.distributed.checkpoint every so many steps, and at the end",
    )


@rule(
    id="IL732",
    name="state-dict-on-some-ranks",
    family="training-script",
    severity=Severity.ERROR,
    subject=Script,
    summary="a sharded state that only rank 0 asks for",
    why="The state of a sharded model is gathered from all ranks, so all of them must ask for it. Under `if rank == "
    "0` the others never do, and rank 0 waits until the timeout. Ask on every rank, and let rank 0 write. Of an FSDP2 "
    "model state_dict gives the rank's own shards without asking anybody: what rank 0 writes then is a part of the "
    "model.",
    bad="""\
import torch
import torch.distributed as dist
from torch.distributed.fsdp import FullyShardedDataParallel as FSDP


def save(model: FSDP):
    if dist.get_rank() == 0:
        torch.save(model.state_dict(), "model.pt")
""",
    good="""\
import torch
import torch.distributed as dist
from torch.distributed.fsdp import FullyShardedDataParallel as FSDP


def save(model: FSDP):
    state = model.state_dict()
    if dist.get_rank() == 0:
        torch.save(state, "model.pt")
""",
    sources=(
        Source("https://github.com/pytorch/pytorch/issues/143536", "a save of an FSDP model that hangs"),
        Source("https://github.com/huggingface/transformers/pull/10596", "the same mistake mended in the Trainer"),
        Source(_FSDP1_DOCS, "state_dict gathers from all ranks"),
    ),
)
def state_dict_on_some_ranks(script: Script, _context: Context) -> Iterator[Problem]:
    for call in dict.fromkeys((*script.calls_of(*_COLLECTIVE_STATES), *script.methods("state_dict"))):
        guard = script.flow.rank_guard(call.node)
        if guard is None or is_for_first_rank(guard) is not True:
            continue
        if call.name in _COLLECTIVE_STATES and _is_sharded(script, call):
            yield at(
                script,
                call.node,
                "the state of a sharded model is gathered from all ranks, and only rank 0 asks for it: the job hangs",
                path=call.attribute or call.name.rpartition(".")[2],
                evidence=(f"the condition is {shown(script, guard.test)}",),
                help="ask for it on every rank, and let rank 0 write it",
            )
        elif call.attribute == "state_dict" and (wrap := _shards(script, call)) is not None:
            yield at(
                script,
                call.node,
                "rank 0 writes its own shards alone: of a model that fully_shard divided, this is a part",
                path="state_dict",
                evidence=(
                    f"{line(script, wrap.node)}: {shown(script, wrap.node)}",
                    f"the condition is {shown(script, guard.test)}",
                ),
                help="gather it on all ranks with get_model_state_dict and full_state_dict=True, or save with "
                "torch.distributed.checkpoint",
            )


def _is_sharded(script: Script, call: Call) -> bool:
    """Whether the model behind a call is surely a sharded one."""
    is_fsdp1 = call.name.startswith(FSDP1)
    return is_fsdp1 or bool((script.training.fsdp1 or script.training.fsdp2) and call.lacks("no_dist"))


def _shards(script: Script, call: Call) -> Call | None:
    """The fully_shard call of the module whose state this is."""
    owner = call.node.func.value if isinstance(call.node.func, ast.Attribute) else None
    for wrap in script.training.fsdp2:
        module = script.training.module(wrap)
        if isinstance(owner, ast.Name) and isinstance(module, ast.Name) and owner.id == module.id:
            found, made = (script.scopes.of_node[node].find(node.id) for node in (owner, module))
            if found is made and not script.training.mentions_any("state_dict_type", "full_tensor"):
                return wrap
    return None


@rule(
    id="IL733",
    name="every-rank-saves",
    family="training-script",
    severity=Severity.WARNING,
    subject=Script,
    summary="every rank writes the same file",
    why="All ranks open the same path and write over each other. On a shared file system the file may end up cut or "
    "mixed, and is written as often as there are ranks. Under DDP all have the same model: rank 0 alone is to write.",
    bad=_SETUP + 'torch.save(model.module.state_dict(), "model.pt")\ndist.destroy_process_group()\n',
    good=_SETUP
    + """\
if dist.get_rank() == 0:
    torch.save(model.module.state_dict(), "model.pt")
dist.destroy_process_group()
""",
    sources=(Source(_DDP_TUTORIAL, "save in one process, and load in all"),),
)
def every_rank_saves(script: Script, _context: Context) -> Iterator[Problem]:
    training = script.training
    if not training.ddp or not training.is_whole:
        return
    for call in script.calls_of("torch.save"):
        path = call.get("f", 1)
        text = script.values.text(path)
        if path is None or text is None or "{}" in text or _is_by_rank(script, call.node):
            continue
        yield at(
            script,
            call.node,
            f"every rank writes {text!r}",
            path="torch.save",
            evidence=(f"{line(script, training.ddp[0].node)} makes the model one of many processes",),
            help="write on rank 0 alone: if torch.distributed.get_rank() == 0",
            confidence=Confidence.LIKELY,
        )


def _is_by_rank(script: Script, node: ast.AST) -> bool:
    """Whether who comes to a node may depend on the rank, here or where its function is called."""
    for _ in range(8):
        function = script.flow.function(node)
        if script.flow.rank_guard(node) is not None:
            return True
        inside = function if function is not None else script.tree
        if any(isinstance(one, ast.If) and is_about_rank(one.test) and _ends(one) for one in ast.walk(inside)):
            return True
        if any(is_rank_name(word) for guard in script.flow.guards(node) for word in words(guard.test)):
            return True
        if function is None:
            return False
        callers = script.names.calls_of_function.get(function, [])
        if len(callers) != 1:
            return bool(callers)
        node = callers[0]
    return True


def _ends(node: ast.If) -> bool:
    return any(isinstance(one, ast.Return | ast.Continue | ast.Raise) for one in node.body)


@rule(
    id="IL734",
    name="load-without-map-location",
    family="training-script",
    severity=Severity.WARNING,
    subject=Script,
    summary="every rank loads a checkpoint onto the GPU that it was saved from",
    why="torch.load puts each tensor back on the device that it came from. A checkpoint that rank 0 wrote is loaded "
    "to GPU 0 by all processes of a node: eight copies of the model on one GPU, which runs out of memory or keeps a "
    "context of each process.",
    bad=_SETUP + 'model.module.load_state_dict(torch.load("model.pt"))\n',
    good=_SETUP + 'model.module.load_state_dict(torch.load("model.pt", map_location="cpu"))\n',
    sources=(
        Source("https://github.com/pytorch/examples/issues/1078", "GPU 0 with far more memory in use, and why"),
        Source(_DDP_TUTORIAL, "map_location, so that no process steps on the devices of others"),
    ),
)
def load_without_map_location(script: Script, _context: Context) -> Iterator[Problem]:
    if not script.training.wraps:
        return
    for call in script.calls_of("torch.load"):
        if not call.lacks("map_location", 1) or _is_alternative(script, call.node):
            continue
        if _is_for_weights(script, call.node) and not _is_by_rank(script, call.node):
            patch = None
            if call.node.args and not call.node.keywords and len(call.node.args) == 1:
                first = call.node.args[0]
                patch = replace(script, first, f'{script.source(first)}, map_location="cpu"', "load to the CPU")
            yield at(
                script,
                call.node,
                "each rank loads this to the GPU that it was saved from, which is GPU 0 for what rank 0 wrote",
                path="map_location",
                evidence=(f"{line(script, script.training.wraps[0].node)} makes the model one of many processes",),
                help='pass map_location="cpu"',
                patch=patch,
                confidence=Confidence.LIKELY,
            )


def _is_alternative(script: Script, load: ast.Call) -> bool:
    """Whether another branch of a condition around it gives a device."""
    around = [above for above in script.flow.above(load) if isinstance(above, ast.If)]
    return any(isinstance(node, ast.keyword) and node.arg == "map_location" for one in around for node in ast.walk(one))


def _is_for_weights(script: Script, load: ast.Call) -> bool:
    """Whether what is loaded goes into load_state_dict."""
    above = script.parents.get(load)
    while isinstance(above, ast.Subscript | ast.Call):
        if (
            isinstance(above, ast.Call)
            and isinstance(above.func, ast.Attribute)
            and above.func.attr == "load_state_dict"
        ):
            return not _has_no_weights(above.func.value)
        above = script.parents.get(above)
    if not isinstance(above, ast.Assign) or not isinstance(above.targets[0], ast.Name):
        return False
    name = above.targets[0].id
    return any(
        isinstance(node, ast.Name) and node.id == name
        for call in script.methods("load_state_dict")
        if isinstance(call.node.func, ast.Attribute) and not _has_no_weights(call.node.func.value)
        for argument in call.node.args
        for node in ast.walk(argument)
    )


def _has_no_weights(owner: ast.expr) -> bool:
    """Whether it is a scaler, a scheduler or a sampler by its name: their states are a few numbers."""
    return any(_FEW_NUMBERS.search(word) for word in words(owner))


@rule(
    id="IL735",
    name="load-unpickles",
    family="training-script",
    severity=Severity.NOTE,
    subject=Script,
    summary="torch.load that runs whatever a file says",
    why="With weights_only=False the file is unpickled: it may call any function while it is loaded, with the rights "
    "of the job, its tokens and its volumes. Tensors, dictionaries and numbers load with weights_only=True, the "
    "default since PyTorch 2.6; safetensors holds nothing but tensors.",
    bad="""\
import torch

state = torch.load("model.pt", weights_only=False)
""",
    good="""\
import torch

state = torch.load("model.pt", weights_only=True)
""",
    sources=(
        Source("https://docs.pytorch.org/docs/stable/generated/torch.load.html", "the warning, and the default"),
        Source(
            "https://github.com/advisories/GHSA-53q9-r3pm-6pq6", "before 2.6, weights_only=True could be got around too"
        ),
    ),
)
def load_unpickles(script: Script, _context: Context) -> Iterator[Problem]:
    for call in script.calls_of("torch.load"):
        only = call.get("weights_only")
        if only is not None and script.values.of(only) is False:
            yield at(
                script,
                call.arguments.places["weights_only"],
                "this file may run any code while it is loaded",
                path="weights_only",
                help="weights_only=True loads tensors and plain values; trust the file, or convert it to safetensors",
            )


@rule(
    id="IL736",
    name="device-map-in-many-processes",
    family="training-script",
    severity=Severity.ERROR,
    subject=Script,
    summary='device_map="auto" in a script of many processes',
    why='device_map="auto" lays one copy of the model over all GPUs that a process sees. Where each GPU has a '
    "process of its own, each of them does so: they meet on the same GPUs, and run out of memory. DDP and FSDP want "
    "the model on one device, or on the CPU; accelerate refuses to prepare such a model for training.",
    bad=_SETUP
    + """\
from transformers import AutoModelForCausalLM

model = DDP(AutoModelForCausalLM.from_pretrained("Qwen/Qwen2.5-7B", device_map="auto"))
""",
    good=_SETUP
    + """\
from transformers import AutoModelForCausalLM

model = DDP(AutoModelForCausalLM.from_pretrained("Qwen/Qwen2.5-7B").to(local_rank), device_ids=[local_rank])
""",
    sources=(
        Source("https://github.com/huggingface/transformers/issues/31557", "accelerate refuses it for training"),
        Source("https://github.com/pacman100/LLM-Workshop/issues/9", "the same with FSDP"),
    ),
)
def device_map_in_many_processes(script: Script, _context: Context) -> Iterator[Problem]:
    training = script.training
    for call in script.methods("from_pretrained"):
        device_map = call.get("device_map")
        said = script.values.of(device_map)
        if device_map is None or said not in ("auto", "balanced", "sequential"):  # it may be a dictionary
            continue
        for wrap, module in [*((wrap, training.module(wrap)) for wrap in training.wraps), *_prepared(script)]:
            if training.model_class(_without_adapters(script, module)) in call.names:
                yield at(
                    script,
                    device_map,
                    f"device_map={said!r} lays the model over all GPUs, in each of the processes",
                    path="device_map",
                    evidence=(f"{line(script, wrap.node)}: {head(script, wrap.node)}",),
                    help="load it without device_map, and put it on the process's own GPU",
                    severity=None if DDP in wrap.names or FSDP1 in wrap.names else Severity.WARNING,
                    confidence=Confidence.LIKELY,
                )
                break


def _prepared(script: Script) -> Iterator[tuple[Call, ast.expr]]:
    """What Accelerate is given to wrap, where the script tells it to shard: then there are many processes."""
    plugins = ("fsdp_plugin", "deepspeed_plugin")
    if any(call.get(plugin) is not None for call in script.calls_of("accelerate.Accelerator") for plugin in plugins):
        for call in script.calls_of("accelerate.Accelerator().prepare"):
            yield from ((call, argument) for argument in call.node.args)


def _without_adapters(script: Script, module: ast.expr | None) -> ast.expr | None:
    """The model that PEFT's adapters are put on."""
    for _ in range(3):
        made = script.values.origin(module)
        if not isinstance(made, ast.Call) or script.names.one(made.func) not in _ADAPTERS or not made.args:
            break
        module = made.args[0]
    return module
