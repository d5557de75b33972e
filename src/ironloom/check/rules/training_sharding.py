"""FSDP: how a model is divided over the GPUs, and what of it each GPU holds when."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from ironloom.check.finding import Confidence, Severity
from ironloom.check.rule import Context, Problem, Source, rule
from ironloom.check.scripts import at, line, replace, shown
from ironloom.workload.scripts.model import Call, Script
from ironloom.workload.scripts.terms import FSDP1

_FSDP1_DOCS = "https://docs.pytorch.org/docs/stable/fsdp.html"
_FSDP2_DOCS = "https://docs.pytorch.org/docs/stable/distributed.fsdp.fully_shard.html"
_TUTORIAL = "https://docs.pytorch.org/tutorials/intermediate/FSDP_tutorial.html"
_STRATEGY = "torch.distributed.fsdp.ShardingStrategy."
_PRECISIONS = frozenset({"torch.distributed.fsdp.MixedPrecision", "torch.distributed.fsdp.MixedPrecisionPolicy"})
_LOW = frozenset({"torch.bfloat16", "torch.float16", "torch.half"})
_SETUP = """\
import os

import torch
import torch.distributed as dist
from torch.distributed.fsdp import FullyShardedDataParallel as FSDP
from transformers import AutoModelForCausalLM

dist.init_process_group("nccl")
local_rank = int(os.environ["LOCAL_RANK"])
torch.cuda.set_device(local_rank)
model = AutoModelForCausalLM.from_pretrained("Qwen/Qwen2.5-7B", torch_dtype=torch.float32)
"""
_POLICY = """\
import functools

from torch.distributed.fsdp.wrap import transformer_auto_wrap_policy
from transformers.models.qwen2.modeling_qwen2 import Qwen2DecoderLayer

policy = functools.partial(transformer_auto_wrap_policy, transformer_layer_cls={Qwen2DecoderLayer})
"""


@rule(
    id="IL710",
    name="whole-model-on-one-gpu",
    family="training-script",
    severity=Severity.WARNING,
    subject=Script,
    summary="a model that is put on one GPU whole before it is sharded",
    why="Sharding is for models that one GPU does not hold. Moved to the GPU before the wrap, the whole model stands "
    "there in its full precision first: 70 billion parameters in float32 are 282 GB, on every GPU at once. Left on "
    "the CPU or on the meta device, it is moved shard by shard: FSDP1 does so with device_id, fully_shard by itself.",
    bad=_SETUP + "model = FSDP(model.to(local_rank))\n",
    good=_SETUP + "model = FSDP(model, device_id=local_rank)\n",
    sources=(
        Source(_FSDP1_DOCS, "device_id moves the module unit by unit; a module on the CPU is sharded there"),
        Source(_TUTORIAL, "models are made on the meta device, sharded, then given their weights"),
    ),
)
def whole_model_on_one_gpu(script: Script, _context: Context) -> Iterator[Problem]:
    training = script.training
    seen: set[ast.AST] = set()
    for wrap in (*training.fsdp1, *training.fsdp2):
        module = training.module(wrap)
        move = training.move(module)
        if move is None or move in seen or script.flow.loops(wrap.node):
            continue
        seen.add(move)
        is_toy = training.is_toy(move.func.value) if isinstance(move.func, ast.Attribute) else False
        yield at(
            script,
            move,
            "the whole model is put on one GPU here, before it is sharded",
            evidence=(
                f"{line(script, move)}: {shown(script, move)}",
                f"{line(script, wrap.node)}: {shown(script, wrap.node.func)} shards it, after that",
            ),
            help="leave it on the CPU or the meta device: "
            + ("FSDP moves it unit by unit with device_id" if FSDP1 in wrap.names else "fully_shard moves the shards"),
            severity=Severity.NOTE if is_toy else None,
            confidence=Confidence.CERTAIN if not is_toy else Confidence.POSSIBLE,
        )


@rule(
    id="IL711",
    name="fsdp-one-unit",
    family="training-script",
    severity=Severity.WARNING,
    subject=Script,
    summary="FSDP without a wrap policy: the model is one unit",
    why="FSDP gathers the parameters of a unit whole before it computes with them. Without auto_wrap_policy, or with "
    "one fully_shard on the root alone, the model is a single unit: all of its parameters are on every GPU from the "
    "first layer to the last, and no gather overlaps with computation. A model that is larger than a GPU runs out of "
    "memory as it would without FSDP.",
    bad=_SETUP + "model = FSDP(model, device_id=local_rank)\n",
    good=_SETUP + _POLICY + "model = FSDP(model, auto_wrap_policy=policy, device_id=local_rank)\n",
    sources=(
        Source(_FSDP1_DOCS, "without a policy there is a single top-level instance"),
        Source(_FSDP2_DOCS, "each call makes one group, gathered at once; to be applied bottom-up"),
    ),
)
def fsdp_one_unit(script: Script, _context: Context) -> Iterator[Problem]:
    training = script.training
    yield from _one_fsdp1(script)
    wraps = training.fsdp2
    if len(wraps) == 1 and FSDP1 not in wraps[0].names and training.is_own and not _is_repeated(script, wraps[0]):
        yield _one_unit(script, wraps[0], ("fully_shard is called once, for the root",), "call it for each layer first")


def _one_fsdp1(script: Script) -> Iterator[Problem]:
    wraps = script.training.fsdp1
    if len(wraps) != 1 or _is_repeated(script, wraps[0]):
        return
    policy = wraps[0].get("auto_wrap_policy", 4)
    is_none = isinstance(policy, ast.Constant) and policy.value is None
    if not is_none and not wraps[0].lacks("auto_wrap_policy", 4):
        return
    if script.training.mentions_any("no_shard"):
        return  # nothing is gathered
    if script.training.mentions_any("enable_wrap", *(() if is_none else ("auto_wrap", "wrappolicy", "wrap_policy"))):
        return
    yield _one_unit(
        script,
        wraps[0],
        (f"auto_wrap_policy is {'None' if is_none else 'not passed'}, and no other module is wrapped",),
        "pass auto_wrap_policy, such as transformer_auto_wrap_policy with the class of the model's layer",
        is_chosen=is_none,
    )


def _is_repeated(script: Script, wrap: Call) -> bool:
    """Whether a wrap may be put around many modules: in a loop, or in a function that is called or handed on."""
    if script.flow.loops(wrap.node) or any(
        isinstance(above, ast.Lambda | ast.ListComp | ast.DictComp | ast.GeneratorExp)
        for above in script.flow.above(wrap.node)
    ):
        return True
    function = script.flow.function(wrap.node)
    if function is None:
        return False
    callers = script.names.calls_of_function.get(function, [])
    return len(callers) > 1 or any(script.flow.loops(caller) for caller in callers)


def _one_unit(
    script: Script, wrap: Call, evidence: tuple[str, ...], advice: str, *, is_chosen: bool = False
) -> Problem:
    is_toy = script.training.is_toy(script.training.module(wrap))
    return at(
        script,
        wrap.node.func,
        "the model is one FSDP unit: all its parameters are gathered on each GPU at once",
        evidence=evidence,
        help=advice,
        severity=Severity.NOTE if is_toy or is_chosen else None,
    )


@rule(
    id="IL712",
    name="fsdp-keeps-parameters",
    family="training-script",
    severity=Severity.NOTE,
    subject=Script,
    summary="a strategy that keeps all parameters from forward to backward",
    why="SHARD_GRAD_OP (ZeRO-2; reshard_after_forward=False in FSDP2) shards gradients and the optimizer's state. The "
    "parameters are gathered for the forward pass and stay whole on every GPU until the backward pass is done: less "
    "traffic, and no help for a model that one GPU does not hold. FULL_SHARD, the default, gives them up after use; "
    "HYBRID_SHARD does so within a node. NO_SHARD is what DDP does, and deprecated.",
    bad=_SETUP
    + """\
from torch.distributed.fsdp import ShardingStrategy
"""
    + _POLICY
    + "model = FSDP(model, auto_wrap_policy=policy, sharding_strategy=ShardingStrategy.SHARD_GRAD_OP)\n",
    good=_SETUP + _POLICY + "model = FSDP(model, auto_wrap_policy=policy, device_id=local_rank)\n",
    sources=(
        Source(_FSDP1_DOCS, "what each sharding strategy keeps, and when"),
        Source(_FSDP2_DOCS, "reshard_after_forward"),
    ),
)
def fsdp_keeps_parameters(script: Script, _context: Context) -> Iterator[Problem]:
    for wrap in script.training.fsdp1:
        strategy = wrap.get("sharding_strategy", 2)
        name = script.names.one(strategy).removeprefix(_STRATEGY) if strategy is not None else ""
        if strategy is None or name not in {"SHARD_GRAD_OP", "_HYBRID_SHARD_ZERO2", "NO_SHARD"}:
            continue
        kept = "are never sharded" if name == "NO_SHARD" else "stay whole on every GPU from forward to backward"
        yield at(
            script,
            strategy,
            f"with {name} the parameters {kept}: it does not fit a model that one GPU does not hold",
            path="sharding_strategy",
            evidence=("it shards gradients and optimizer state" if name != "NO_SHARD" else "it is what DDP does",),
            help="FULL_SHARD, the default, gives the parameters up after each unit's forward pass",
        )
    # On the root, or on the layer that backward comes to first, False is what it should be.
    kept_by = [wrap.get("reshard_after_forward") for wrap in script.training.fsdp2]
    is_loop = any(script.flow.loops(wrap.node) for wrap in script.training.fsdp2)
    if is_loop and all(keeps is not None and script.values.of(keeps) is False for keeps in kept_by):
        for keeps in kept_by[:1]:
            assert keeps is not None
            yield at(
                script,
                keeps,
                "with reshard_after_forward=False the parameters stay whole on every GPU from forward to backward",
                path="reshard_after_forward",
                help="True gives them up after each unit's forward pass",
            )


@rule(
    id="IL713",
    name="limit-all-gathers-no-effect",
    family="training-script",
    severity=Severity.NOTE,
    subject=Script,
    summary="limit_all_gathers, which is on by default and no cure for running out of memory",
    why="limit_all_gathers keeps the CPU from issuing gathers far ahead of the GPU, which saves retries of the memory "
    "allocator. It is True by default since PyTorch 2.1 (False in 2.0), so that writing it changes nothing; it has no "
    "effect on what a unit needs, and with a single unit there is nothing to limit. False gives the memory back to "
    "gathers that run ahead.",
    bad=_SETUP + _POLICY + "model = FSDP(model, auto_wrap_policy=policy, limit_all_gathers=True)\n",
    good=_SETUP + _POLICY + "model = FSDP(model, auto_wrap_policy=policy, device_id=local_rank)\n",
    sources=(
        Source(_FSDP1_DOCS, "the argument, what it limits, and its default True"),
        Source("https://docs.pytorch.org/docs/2.0/fsdp.html", "its default False in 2.0"),
    ),
)
def limit_all_gathers_no_effect(script: Script, _context: Context) -> Iterator[Problem]:
    for wrap in script.training.fsdp1:
        value = script.values.of(wrap.get("limit_all_gathers", 12))
        place = wrap.arguments.places.get("limit_all_gathers")
        if place is None or not isinstance(value, bool):
            continue
        alone = wrap.lacks("auto_wrap_policy", 4) and len(script.training.fsdp1) == 1
        evidence = ["the default is True since PyTorch 2.1"] if value else []
        evidence += ["with a single unit there is one gather, and nothing to limit"] if alone else []
        yield at(
            script,
            place,
            "limit_all_gathers=True is the default and changes nothing; it does not prevent running out of memory"
            if value
            else "limit_all_gathers=False lets gathers run ahead of the computation, which costs memory",
            path="limit_all_gathers",
            evidence=tuple(evidence),
            help="what a unit needs follows from the wrap policy",
        )


@rule(
    id="IL714",
    name="fsdp1-dated",
    family="training-script",
    severity=Severity.NOTE,
    subject=Script,
    summary="FSDP1, which FSDP2 replaces",
    why="PyTorch's own documents send users of FullyShardedDataParallel to fully_shard: parameters stay parameters "
    "(DTensor) rather than pieces of one flat buffer, so that freezing, per-parameter types, and sharded checkpoints "
    "without gathers work; it needs less memory. limit_all_gathers, sync_module_states and use_orig_params have no "
    "successor: they are not needed.",
    bad="""\
from torch.distributed.fsdp import FullyShardedDataParallel as FSDP


def shard(model, policy):
    return FSDP(model, auto_wrap_policy=policy)
""",
    good="""\
from torch.distributed.fsdp import fully_shard


def shard(model):
    for layer in model.layers:
        fully_shard(layer)
    return fully_shard(model)
""",
    sources=(
        Source(_TUTORIAL, "how to move from FSDP1 to FSDP2, argument by argument"),
        Source("https://github.com/pytorch/pytorch/issues/114299", "the proposal of FSDP2 and its reasons"),
    ),
)
def fsdp1_dated(script: Script, _context: Context) -> Iterator[Problem]:
    wraps = script.training.fsdp1
    if not wraps or script.training.mentions_any("fully_shard", "fsdp2"):
        return
    imports = [
        node
        for node in script.nodes
        if isinstance(node, ast.ImportFrom) and any(alias.name == "FullyShardedDataParallel" for alias in node.names)
    ]
    yield at(
        script,
        imports[0] if imports else wraps[0].node.func,
        "this is FSDP1: PyTorch develops fully_shard (FSDP2) in its place",
        path="FullyShardedDataParallel",
        evidence=(f"used on {line(script, wraps[0].node)}",),
        help=f"the guide of PyTorch: {_TUTORIAL}",
    )


@rule(
    id="IL715",
    name="low-precision-reduce",
    family="training-script",
    severity=Severity.NOTE,
    subject=Script,
    summary="gradients are summed over the ranks in 16 bits",
    why="reduce_dtype is the type in which the gradients of all ranks are added up. bfloat16 has 8 bits of precision: "
    "the more ranks, the more of small gradients is lost in the sum. float32 costs twice the traffic of the "
    "reduce-scatter and is what large runs use. PyTorch permits either.",
    bad="""\
import torch
from torch.distributed.fsdp import MixedPrecisionPolicy

policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.bfloat16)
""",
    good="""\
import torch
from torch.distributed.fsdp import MixedPrecisionPolicy

policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
""",
    sources=(
        Source(_FSDP2_DOCS, "reduce_dtype, and its use for reductions in full precision"),
        Source(
            "https://github.com/pytorch/torchtitan/blob/main/torchtitan/config/configs.py",
            "reduction in float32 as the default of PyTorch's own trainer",
        ),
    ),
)
def low_precision_reduce(script: Script, _context: Context) -> Iterator[Problem]:
    for call in script.calls_of(*_PRECISIONS):
        reduce_type = call.get("reduce_dtype", 1)
        if reduce_type is not None and (name := script.names.one(reduce_type)) in _LOW:
            yield at(
                script,
                reduce_type,
                f"the gradients of all ranks are summed in {name.removeprefix('torch.')}",
                path="reduce_dtype",
                help="torch.float32 keeps small gradients, for twice the traffic of the reduce-scatter",
                patch=replace(script, reduce_type, "torch.float32", "reduce in float32", is_safe=False),
            )


@rule(
    id="IL716",
    name="fsdp-full-precision",
    family="training-script",
    severity=Severity.NOTE,
    subject=Script,
    summary="FSDP without mixed precision",
    why="Without mixed_precision (mp_policy in FSDP2), autocast or a model in 16 bits, parameters are gathered and "
    "products computed in float32: twice the traffic, twice the memory for activations, and a fraction of the speed "
    "of the tensor cores (H100: 989 TFLOPS in bfloat16, half of that in TF32, 67 in float32).",
    bad=_SETUP + _POLICY + "model = FSDP(model, auto_wrap_policy=policy, device_id=local_rank)\n",
    good=_SETUP
    + _POLICY
    + """\
from torch.distributed.fsdp import MixedPrecision

half = MixedPrecision(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
model = FSDP(model, auto_wrap_policy=policy, device_id=local_rank, mixed_precision=half)
""",
    sources=(
        Source(_FSDP1_DOCS, "mixed_precision"),
        Source("https://resources.nvidia.com/en-us-tensor-core/nvidia-tensor-core-gpu-datasheet", "speeds by type"),
    ),
)
def fsdp_full_precision(script: Script, _context: Context) -> Iterator[Problem]:
    training = script.training
    wraps = [*training.fsdp1, *training.fsdp2]
    if not wraps or not training.is_whole:
        return
    if training.mentions_any("autocast", "bfloat16", "float16", "bf16", "fp16", "half", "fp8", "float8", "mp_policy"):
        return
    if all(call.lacks("mixed_precision", 6) and not training.is_toy(training.module(call)) for call in wraps):
        yield at(
            script,
            wraps[0].node.func,
            "the model is trained in full precision: neither mixed precision nor autocast is used",
            help="pass MixedPrecision(param_dtype=torch.bfloat16), in FSDP2 mp_policy=MixedPrecisionPolicy(…)",
        )


@rule(
    id="IL717",
    name="optimizer-before-wrap",
    family="training-script",
    severity=Severity.ERROR,
    subject=Script,
    summary="an optimizer that is made before the model is sharded",
    why="Sharding replaces the parameters. An optimizer that was made before holds the old ones: it steps on tensors "
    "that the model no longer uses, and the model does not learn, or the step fails.",
    bad=_SETUP
    + _POLICY
    + """\
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5)
model = FSDP(model, auto_wrap_policy=policy, device_id=local_rank)
""",
    good=_SETUP
    + _POLICY
    + """\
model = FSDP(model, auto_wrap_policy=policy, device_id=local_rank)
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5)
""",
    sources=(
        Source(_FSDP1_DOCS, "the optimizer must be made after the module was wrapped"),
        Source(_FSDP2_DOCS, "the optimizer must be made with the DTensor parameters"),
    ),
)
def optimizer_before_wrap(script: Script, _context: Context) -> Iterator[Problem]:
    if not (script.training.fsdp1 or script.training.fsdp2):
        return
    scopes = script.scopes
    for optimizer in script.training.optimizers:
        first = optimizer.get("params", 0)
        held = {node.id for node in ast.walk(first) if isinstance(node, ast.Name)} if first is not None else set()
        for wrap in (*script.training.fsdp1, *script.training.fsdp2):
            module = script.training.module(wrap)
            if not isinstance(module, ast.Name) or module.id not in held or script.flow.loops(wrap.node):
                continue
            is_same = scopes.of_node[module].home is scopes.of_node[optimizer.node].home
            is_later = (wrap.node.lineno, wrap.node.col_offset) > (optimizer.node.lineno, optimizer.node.col_offset)
            way = scopes.branches(wrap.node)
            is_on_the_way = all(way.get(above, part) == part for above, part in scopes.branches(optimizer.node).items())
            if is_same and is_later and is_on_the_way and not _is_made_again(script, optimizer, wrap):
                yield at(
                    script,
                    optimizer.node,
                    f"this optimizer holds the parameters that {module.id} had before it is sharded",
                    evidence=(f"{line(script, wrap.node)}: {shown(script, wrap.node)}",),
                    help="make the optimizer after the model is wrapped",
                )
                break


def _is_made_again(script: Script, optimizer: Call, wrap: Call) -> bool:
    """Whether an optimizer is made after the wrap too, or the model is another one by then."""
    module = script.training.module(wrap)
    if isinstance(module, ast.Name):
        between = [
            binding
            for binding in script.scopes.definitions(module)
            if (optimizer.node.lineno, optimizer.node.col_offset)
            < binding.at
            < (wrap.node.lineno, wrap.node.col_offset)
        ]
        if between:
            return True
    return any(
        (other.node.lineno, other.node.col_offset) > (wrap.node.lineno, wrap.node.col_offset)
        for other in script.training.optimizers
    )


@rule(
    id="IL718",
    name="compile-without-orig-params",
    family="training-script",
    severity=Severity.WARNING,
    subject=Script,
    summary="torch.compile on an FSDP1 module without use_orig_params",
    why="With use_orig_params=False, the default, FSDP1 hides the parameters in a flat buffer that torch.compile "
    "cannot see through. PyTorch asks for use_orig_params=True where both are used.",
    bad=_SETUP
    + _POLICY
    + """\
model = FSDP(model, auto_wrap_policy=policy, device_id=local_rank)
model = torch.compile(model)
""",
    good=_SETUP
    + _POLICY
    + """\
model = FSDP(model, auto_wrap_policy=policy, device_id=local_rank, use_orig_params=True)
model = torch.compile(model)
""",
    sources=(Source(_FSDP1_DOCS, "torch.compile needs use_orig_params=True"),),
)
def compile_without_orig_params(script: Script, _context: Context) -> Iterator[Problem]:
    instance = f"{FSDP1}()"
    for call in script.calls_of("torch.compile"):
        module = call.get("model", 0)
        if module is None or script.names.one(module) != instance:
            continue
        wraps = [wrap for wrap in script.training.fsdp1 if wrap.lacks("use_orig_params", 13)]
        if wraps and len(wraps) == len(script.training.fsdp1):
            yield at(
                script,
                call.node,
                "torch.compile does not see through an FSDP1 module without use_orig_params=True",
                evidence=(f"{line(script, wraps[0].node)}: {shown(script, wraps[0].node)}",),
                help="pass use_orig_params=True to FullyShardedDataParallel, or use fully_shard",
            )
