"""Engines of a script and the GPUs that they are to run on: how many, how large, and how many engines on each."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from ironloom.catalog import accelerators
from ironloom.check.finding import Confidence, Severity
from ironloom.check.rule import Context, Problem, Source, rule
from ironloom.check.rules.memory import not_judged
from ironloom.check.scripts import at, line, shown
from ironloom.plan.memory import ServingMemory, Verdict, serving_memory
from ironloom.workload.scripts.model import Script
from ironloom.workload.scripts.terms import OWN, UNKNOWN, VLLM
from ironloom.workload.shapes.find import find, refusal
from ironloom.workload.shapes.model import ModelShape

if TYPE_CHECKING:
    from ironloom.workload.scripts.serving import Engine

_VLLM = frozenset({VLLM, OWN, "vllm.EngineArgs", "vllm.AsyncEngineArgs"})
_DEFAULT_UTILIZATION = 0.9
"""vLLM's before 0.20; 0.92 since."""
_SHARES = (
    "process",
    "shutdown",
    "destroy",
    "cleanup",
    "sleep",
    "cuda_visible_devices",
    "ray",
    "collect",
    "empty_cache",
)
"""What a script says that gives each engine its own GPU or time."""


@rule(
    id="IL763",
    name="parallel-size-of-script",
    family="serving-script",
    severity=Severity.ERROR,
    subject=Script,
    summary="a tensor-parallel size that the model or the nodes cannot have",
    why="Tensor parallelism gives each GPU whole attention heads, so their number must divide by it; and vLLM's own "
    "processes find only the GPUs of their node. The engine stops in either case.",
    bad="""\
from vllm import LLM

llm = LLM(model="Qwen/Qwen2.5-7B-Instruct", tensor_parallel_size=3)
""",
    good="""\
from vllm import LLM

llm = LLM(model="Qwen/Qwen2.5-7B-Instruct", tensor_parallel_size=4)
""",
    sources=(
        Source(
            "https://github.com/vllm-project/vllm/issues/2652", "heads must be divisible by the tensor parallel size"
        ),
        Source("https://github.com/NVIDIA-NeMo/Skills/issues/1059", "larger than the number of available GPUs"),
    ),
    options={"shapes": find},
)
def parallel_size_of_script(script: Script, context: Context) -> Iterator[Problem]:
    for engine in script.serving.engines:
        name = "tensor_parallel_size" if engine.is_vllm else "tp_size"
        size = script.serving.number(engine, name)
        if type(size) is not int or size <= 1:
            continue
        place = engine.call.arguments.places[name]
        shape = _shape(engine, context)
        if shape is not None and shape.num_heads % size:
            fitting = [str(number) for number in (1, 2, 4, 8, 16) if shape.num_heads % number == 0]
            yield at(
                script,
                place,
                f"{size} GPUs do not divide the {shape.num_heads} attention heads of {shape.name}",
                path=name,
                help=f"{', '.join(fitting)} do",
                confidence=Confidence.LIKELY if engine.is_default else Confidence.CERTAIN,
            )
        largest = max((node.num_gpus for node in context.fleet.nodes), default=0) if context.fleet is not None else 0
        backend = engine.call.get("distributed_executor_backend")
        if context.fleet is not None and 0 < largest < size and backend is None:
            counts = sorted({node.num_gpus for node in context.fleet.nodes if node.num_gpus}, reverse=True)
            yield at(
                script,
                place,
                f"the engine wants {size} GPUs of one node, and no node of the fleet has more than {largest}",
                path=name,
                evidence=(f"GPUs a node: {', '.join(map(str, counts))}",),
                help="use pipeline_parallel_size over several nodes, or a smaller model",
            )


@rule(
    id="IL764",
    name="model-does-not-fit-script",
    family="serving-script",
    severity=Severity.ERROR,
    subject=Script,
    summary="a model that leaves no room for its KV cache",
    why="vLLM takes gpu_memory_utilization of each GPU, loads the weights, measures what a step needs, and gives the "
    "rest to the KV cache. Where nothing is left it stops; where little is, few sequences run at once and the others "
    "wait. The sum is the planner's: weights exact to the tensor, the rest in bands.",
    bad="""\
from vllm import LLM

llm = LLM(model="meta-llama/Meta-Llama-3-70B-Instruct", max_model_len=4096)
""",
    good="""\
from vllm import LLM

llm = LLM(model="meta-llama/Meta-Llama-3-70B-Instruct", tensor_parallel_size=4, max_model_len=4096)
""",
    sources=(
        Source(
            "https://docs.vllm.ai/en/latest/configuration/conserving_memory.html",
            "what takes memory, and what saves it",
        ),
        Source("https://github.com/vllm-project/vllm/blob/main/vllm/v1/worker/gpu_worker.py", "how the room is found"),
    ),
    options={"shapes": find, "accelerator": accelerators.find("H100-80GB")},
)
def model_does_not_fit_script(script: Script, context: Context) -> Iterator[Problem]:
    for engine in script.serving.engines:
        memory = _memory(script, engine, context)
        if memory is None or memory.verdict is Verdict.FITS or engine.model_node is None:
            continue
        assert context.accelerator is not None
        gpus = f"{memory.num_gpus} × {context.accelerator.name}"
        misses = memory.verdict is Verdict.DOES_NOT_FIT
        yield at(
            script,
            engine.model_node,
            f"{engine.model} does not fit {gpus}" if misses else f"{engine.model} fits {gpus}, barely",
            path="model",
            evidence=memory.arithmetic,
            help="more GPUs (tensor_parallel_size), a quantized form, or a shorter max_model_len",
            severity=None if misses else Severity.NOTE,
            confidence=Confidence.LIKELY if engine.is_default else Confidence.CERTAIN,
        )


@rule(
    id="IL766",
    name="memory-of-script-not-judged",
    family="serving-script",
    severity=Severity.NOTE,
    subject=Script,
    summary="a model of a script whose memory is not judged, and why",
    why="Whether a model fits is worked out from its tensors. State-space models (Mamba, Jamba, RWKV and others) keep "
    "a state of fixed size in place of a KV cache, which is not modelled; of a family or a name that is not known, and "
    "of a file that is damaged, the tensors are not known. No word about memory is then no word that it fits.",
    bad="""\
from vllm import LLM

llm = LLM(model="state-spaces/mamba-2.8b-hf")
""",
    good="""\
from vllm import LLM

llm = LLM(model="Qwen/Qwen2.5-7B-Instruct")
""",
    sources=(
        Source(
            "https://github.com/vllm-project/vllm/issues/11382",
            "what Mamba layers keep is another memory than the KV cache, in Jamba and Bamba too",
        ),
    ),
    options={"shapes": find, "refusals": refusal},
)
def memory_of_script_not_judged(script: Script, context: Context) -> Iterator[Problem]:
    for engine in script.serving.engines:
        why = not_judged(engine.model, context, is_sized=context.accelerator is not None)
        if why and engine.model_node is not None:
            yield at(
                script,
                engine.model_node,
                f"the memory of {engine.model} is not judged: {why}",
                path="model",
                confidence=Confidence.LIKELY if engine.is_default else Confidence.CERTAIN,
            )


def _shape(engine: Engine, context: Context) -> ModelShape | None:
    return context.shapes(engine.model) if engine.model else None


def _memory(script: Script, engine: Engine, context: Context) -> ServingMemory | None:
    """The planner's sum for an engine; None where it cannot be made."""
    shape = _shape(engine, context)
    if shape is None or context.accelerator is None or engine.name not in _VLLM:
        return None
    if engine.call.arguments.is_open or not engine.call.lacks("cpu_offload_gb"):
        return None
    names = {
        "tensor_parallel_size": "tensor_parallel", "pipeline_parallel_size": "pipeline_parallel", "dtype": "dtype",
        "gpu_memory_utilization": "gpu_memory_utilization", "max_model_len": "max_model_len",
        "kv_cache_dtype": "kv_dtype", "max_num_seqs": "max_num_seqs", "quantization": "quantization",
        "max_num_batched_tokens": "max_num_batched_tokens", "enforce_eager": "enforce_eager",
    }  # fmt: skip
    given: dict[str, Any] = {}
    for name, ours in names.items():
        value = script.serving.number(engine, name)
        if value is UNKNOWN:
            return None
        if value is not None:
            given[ours] = value
    try:
        return serving_memory(shape, accelerator=context.accelerator, **given)
    except (ValueError, TypeError, KeyError, ZeroDivisionError):
        return None  # what is wrong with the values is another rule's


@rule(
    id="IL765",
    name="engines-share-a-gpu",
    family="serving-script",
    severity=Severity.ERROR,
    subject=Script,
    summary="two engines in one process that each want most of the GPU",
    why="An engine takes gpu_memory_utilization of the GPU when it is made, 0.9 or more where it is not given, and "
    "keeps it as long as it lives. The second one finds no room and stops. Give each a share, or shut the first one "
    "down before the second is made.",
    bad="""\
from vllm import LLM

judge = LLM(model="Qwen/Qwen2.5-7B-Instruct")
writer = LLM(model="Qwen/Qwen2.5-3B-Instruct")
""",
    good="""\
from vllm import LLM

judge = LLM(model="Qwen/Qwen2.5-7B-Instruct", gpu_memory_utilization=0.5)
writer = LLM(model="Qwen/Qwen2.5-3B-Instruct", gpu_memory_utilization=0.4)
""",
    sources=(
        Source("https://github.com/vllm-project/vllm/issues/6544", "the second LLM of a script runs out of memory"),
        Source("https://github.com/vllm-project/vllm/issues/4678", "the same, with the same variable"),
    ),
)
def engines_share_a_gpu(script: Script, _context: Context) -> Iterator[Problem]:
    engines = [engine for engine in script.serving.engines if engine.name == VLLM]
    if len(engines) < 2 or script.training.mentions_any(*_SHARES) or "ray" in script.packages:
        return
    if any(isinstance(node, ast.Delete) for node in script.nodes):
        return
    for number, second in enumerate(engines[1:], start=1):
        for first in engines[:number]:
            held, wanted = _share(script, first), _share(script, second)
            if held is not None and wanted is not None and held + wanted > 1 and _both_live(script, first, second):
                yield at(
                    script,
                    second.call.node,
                    "this engine finds no room: the one before it holds the same GPU's memory",
                    path="gpu_memory_utilization",
                    evidence=(
                        f"{line(script, first.call.node)} takes {held:.2f} of it: {shown(script, first.call.node)}",
                        f"this one wants {wanted:.2f}",
                    ),
                    help="give each a gpu_memory_utilization, together at most 0.95, or shut the first one down before",
                    confidence=Confidence.LIKELY,
                )
                break


def _share(script: Script, engine: Engine) -> float | None:
    """Of the GPU's memory that an engine takes; None where it is not known, or where it is said in bytes."""
    if engine.call.get("kv_cache_memory_bytes") is not None:
        return None
    value = script.serving.number(engine, "gpu_memory_utilization")
    if value is None:
        return _DEFAULT_UTILIZATION
    return float(value) if isinstance(value, int | float) and 0 < value <= 1 else None


def _both_live(script: Script, first: Engine, second: Engine) -> bool:
    """Whether one run surely makes both: in one scope, one after the other, neither in a branch that the other is not
    in."""
    nodes = first.call.node, second.call.node
    homes = [script.scopes.of_node[node].home for node in nodes]
    return homes[0] is homes[1] and script.scopes.branches(nodes[0]) == script.scopes.branches(nodes[1])
