"""Whether a server's parallelism fits the GPUs of its pod, and its model."""

from __future__ import annotations

from collections.abc import Iterator

from ironloom.check.engines import Engine, engines
from ironloom.check.finding import Confidence, Severity
from ironloom.check.rule import Context, Problem, Source, rule
from ironloom.check.rules.serving_examples import serving
from ironloom.workload.shapes.model import AttentionKind, ModelShape, Split
from ironloom.workload.workload import Workload

TENSOR = "--tensor-parallel-size"
MODEL = "--model=Qwen/Qwen3-32B"


@rule(
    id="IL406",
    name="more-parallel-than-gpus",
    family="engine",
    severity=Severity.ERROR,
    subject=Workload,
    summary="a server that is to run on more GPUs than its pod asks for",
    why="Each rank of tensor and pipeline parallelism wants a GPU of its own. A server that sees fewer stops at its "
    "start, or waits for ranks that never come.",
    bad=serving(MODEL, "--tensor-parallel-size=4", gpus=2),
    good=serving(MODEL, "--tensor-parallel-size=4", gpus=4),
    sources=(
        Source(
            "https://github.com/NVIDIA-NeMo/Skills/issues/1059",
            "`Tensor parallel size (16) cannot be larger than the number of available GPUs (8)`",
        ),
        Source(
            "https://docs.vllm.ai/en/latest/serving/parallelism_scaling.html",
            "tensor_parallel_size is the number of GPUs of a node",
        ),
    ),
)
def more_parallel_than_gpus(workload: Workload, context: Context) -> Iterator[Problem]:
    for engine in engines(workload, context):
        if not _is_alone(engine):
            continue
        wanted = num_ranks(engine)
        if wanted > engine.num_gpus:
            yield engine.problem(
                _largest(engine),
                f"the server runs on {wanted} GPUs, and its container asks for {engine.num_gpus}",
                evidence=(_product(engine),),
                help=f"ask for {wanted} GPUs, or set {_tensor_as_written(engine)} to {engine.num_gpus}",
            )


def _tensor_as_written(engine: Engine) -> str:
    """The option of tensor parallelism in the writer's spelling."""
    option = engine.launch.option(TENSOR)
    return (option.written or option.name) if option is not None else TENSOR


@rule(
    id="IL407",
    name="gpus-that-nothing-uses",
    family="engine",
    severity=Severity.WARNING,
    subject=Workload,
    summary="GPUs that the pod asks for and its server does not use",
    why="vLLM and SGLang run on one GPU unless they are told otherwise. The others of the pod are taken, billed, and "
    "idle; and the model has less room than was meant.",
    bad=serving(MODEL, gpus=4),
    good=serving(MODEL, "--tensor-parallel-size=4", gpus=4),
    sources=(
        Source(
            "https://github.com/vllm-project/vllm/issues/3525",
            "vLLM uses several GPUs only with a tensor-parallel size above 1",
        ),
    ),
)
def gpus_that_nothing_uses(workload: Workload, context: Context) -> Iterator[Problem]:
    for engine in engines(workload, context):
        if not _is_alone(engine) or not engine.launch.model or _is_sized_elsewhere(engine):
            continue
        used = num_ranks(engine)
        if used >= engine.num_gpus or engine.program not in {"vllm", "sglang"} or _shares(engine):
            continue
        if engine.is_spread_unknown:
            continue  # IL402 tells of the option that is misspelt
        if engine.is_on("--omni"):
            continue  # vllm-omni lays its stages on the GPUs by a file of its own
        idle = engine.num_gpus - used
        yield engine.problem(
            _largest(engine),
            f"the server uses {used} of the {engine.num_gpus} GPUs that its container asks for, and {idle} "
            f"{'stays' if idle == 1 else 'stay'} idle",
            evidence=(_product(engine),),
            help=f"set {TENSOR} to {wider}, or ask for {used}"
            if (wider := _wider(engine, used))
            else f"ask for {used}",
        )


def _wider(engine: Engine, used: int) -> int:
    """The tensor-parallel size with which all GPUs are used; 0 where there is none that the model's heads divide by."""
    size, rest = divmod(engine.num_gpus * engine.tensor_parallel, used)
    return 0 if rest or (engine.shape is not None and undivided(engine.shape, size)) else size


@rule(
    id="IL408",
    name="heads-do-not-divide",
    family="engine",
    severity=Severity.ERROR,
    subject=Workload,
    summary="a tensor-parallel size that the model's heads do not divide by",
    why="Tensor parallelism gives each GPU whole attention heads. vLLM stops where their number does not divide by it.",
    bad=serving("--model=Qwen/Qwen2.5-7B-Instruct", "--tensor-parallel-size=8", gpus=8),
    good=serving("--model=Qwen/Qwen2.5-7B-Instruct", "--tensor-parallel-size=4", gpus=4),
    sources=(
        Source(
            "https://github.com/vllm-project/vllm/issues/2652",
            "`Total number of attention heads (52) must be divisible by tensor parallel size (8)`",
        ),
        Source("https://github.com/vllm-project/vllm/issues/11797", "and the key-value heads likewise"),
    ),
)
def heads_do_not_divide(workload: Workload, context: Context) -> Iterator[Problem]:
    for engine in engines(workload, context):
        shape, size = engine.shape, engine.tensor_parallel
        if shape is None or size == 1 or engine.has_config_file or engine.is_on("--enable-dp-attention"):
            continue
        why = undivided(shape, size)
        if why:
            fitting = [str(number) for number in range(1, 17) if not undivided(shape, number)]
            yield engine.problem(
                TENSOR,
                f"a tensor-parallel size of {size} does not divide {why} of {shape.name}, and the server stops",
                help=f"{', '.join(fitting)} do",
            )


@rule(
    id="IL409",
    name="experts-of-a-dense-model",
    family="engine",
    severity=Severity.ERROR,
    subject=Workload,
    summary="expert parallelism for a model without experts",
    why="vLLM refuses to start: the number of experts in the model must be greater than 0 when expert parallelism is "
    "on.",
    bad=serving(MODEL, "--tensor-parallel-size=2", "--enable-expert-parallel", gpus=2),
    good=serving("--model=Qwen/Qwen3-30B-A3B", "--tensor-parallel-size=2", "--enable-expert-parallel", gpus=2),
    sources=(
        Source(
            "https://github.com/vllm-project/vllm/blob/main/vllm/config/model.py",
            "verify_with_parallel_config raises for it",
        ),
    ),
)
def experts_of_a_dense_model(workload: Workload, context: Context) -> Iterator[Problem]:
    for engine in engines(workload, context):
        shape = engine.shape
        if engine.is_vllm and shape is not None and not shape.num_experts and engine.is_on("--enable-expert-parallel"):
            yield engine.problem(
                "--enable-expert-parallel",
                f"{shape.name} has no experts, and vLLM stops where expert parallelism is on",
                help="leave it out",
            )


@rule(
    id="IL410",
    name="pipeline-is-longer-than-the-model",
    family="engine",
    severity=Severity.ERROR,
    subject=Workload,
    summary="more pipeline stages than the model has layers",
    why="Each stage of a pipeline holds at least one layer, so that a longer pipeline than the model has layers cannot "
    "start.",
    bad=serving("--model=Qwen/Qwen3-0.6B", "--pipeline-parallel-size=32", gpus=32),
    good=serving("--model=Qwen/Qwen3-0.6B", "--pipeline-parallel-size=2", gpus=2),
    sources=(
        Source(
            "https://github.com/vllm-project/vllm/blob/main/vllm/distributed/utils.py",
            "get_pp_indices divides the layers among the stages",
        ),
    ),
)
def pipeline_is_longer_than_the_model(workload: Workload, context: Context) -> Iterator[Problem]:
    for engine in engines(workload, context):
        shape = engine.shape
        if shape is not None and engine.pipeline_parallel > shape.num_layers:
            yield engine.problem(
                "--pipeline-parallel-size",
                f"{engine.pipeline_parallel} pipeline stages for the {shape.num_layers} layers of {shape.name}",
            )


@rule(
    id="IL420",
    name="shard-smaller-than-a-block",
    family="engine",
    severity=Severity.ERROR,
    subject=Workload,
    summary="a tensor-parallel size that cuts through the blocks of FP8 weights",
    why="FP8 checkpoints of DeepSeek and Qwen3 have one scale for 128 × 128 weights. A piece of a matrix that is no "
    "whole number of such blocks cannot be scaled, and vLLM stops as it loads. With expert parallelism experts stay "
    "whole, so that the larger size works.",
    bad=serving("--model=Qwen/Qwen3-235B-A22B-FP8", "--tensor-parallel-size=8", gpus=8),
    good=serving("--model=Qwen/Qwen3-235B-A22B-FP8", "--tensor-parallel-size=8", "--enable-expert-parallel", gpus=8),
    sources=(
        Source(
            "https://github.com/vllm-project/vllm/issues/17569",
            "`output_size of gate's and up's weight = 192 is not divisible by weight quantization block_n = 128`",
        ),
        Source("https://github.com/vllm-project/vllm/issues/12256", "DeepSeek-V3 with tensor parallel 32"),
        Source("https://github.com/vllm-project/vllm/issues/52997", "shards smaller than a block fail to load"),
    ),
)
def shard_smaller_than_a_block(workload: Workload, context: Context) -> Iterator[Problem]:
    for engine in engines(workload, context):
        shape, size = engine.shape, engine.tensor_parallel
        if shape is None or size == 1 or not engine.is_vllm or engine.has_config_file:
            continue
        piece = _cut_block(shape, size, experts_whole=engine.is_on("--enable-expert-parallel"))
        if piece:
            whole = [str(number) for number in (2, 4, 8, 16) if not _cut_block(shape, number, experts_whole=False)]
            yield engine.problem(
                TENSOR,
                f"a tensor-parallel size of {size} cuts the FP8 blocks of {shape.name}, and the server stops",
                confidence=Confidence.LIKELY,
                evidence=(piece,),
                help=f"sizes of {', '.join(whole)} do not"
                + (", nor does this one with --enable-expert-parallel" if shape.num_experts else ""),
            )


def num_ranks(engine: Engine) -> int:
    """GPUs that the servers of a container run on."""
    ranks = engine.tensor_parallel * engine.pipeline_parallel
    if engine.program == "sglang" and engine.is_on("--enable-dp-attention"):
        return ranks
    return ranks * engine.data_parallel


def _is_alone(engine: Engine) -> bool:
    """Whether the server is one container's alone, and that asks for whole GPUs."""
    if not engine.num_gpus or engine.has_other_devices or engine.spans_pods or engine.has_config_file:
        return False
    if any("$" in (option.value or "") or "{{" in (option.value or "") for option in engine.launch.options):
        return False
    return engine.program in {"vllm", "huggingfaceserver", "sglang", "tgi", "trtllm"} and not engine.is_cpu


def _is_sized_elsewhere(engine: Engine) -> bool:
    """Whether the engine's size may come from what is not in the command line."""
    return engine.program == "trtllm" or not engine.pod_set.is_written


def _shares(engine: Engine) -> bool:
    """Whether more than one server of the container may use the GPUs: a script that starts several."""
    starts = sum(engine.text.count(start) for start in ("vllm serve", "api_server", "launch_server"))
    return starts > 1 or "CUDA_VISIBLE_DEVICES" in engine.text or "CUDA_VISIBLE_DEVICES" in engine.container.env


def _largest(engine: Engine) -> str:
    """The option that says most of how many GPUs it takes."""
    names = (TENSOR, "--num-shard", "--pipeline-parallel-size", "--data-parallel-size")
    given = [name for name in names if engine.launch.option(name) is not None]
    return max(given, key=lambda name: engine.number(name) or 0, default=TENSOR)


def _product(engine: Engine) -> str:
    parts = [("tensor", engine.tensor_parallel), ("pipeline", engine.pipeline_parallel), ("data", engine.data_parallel)]
    return " × ".join(f"{name} {size}" for name, size in parts) + f" = {num_ranks(engine)}"


def undivided(shape: ModelShape, size: int) -> str:
    """What of a model's heads does not divide by a tensor-parallel size, in words; empty where all do."""
    if shape.num_heads % size:
        return f"the {shape.num_heads} attention heads"
    for group in shape.attention:
        heads = group.num_kv_heads
        if group.kind is not AttentionKind.LATENT and heads % size and size % heads:
            return f"the {heads} key-value heads"
    return ""


def _cut_block(shape: ModelShape, size: int, *, experts_whole: bool) -> str:
    """The first matrix of block-scaled weights whose pieces are no whole blocks, in words; empty where all are."""
    blocks = shape.quantization
    if blocks is None or blocks.block_rows < 2 or blocks.group_size < 2:
        return ""
    for weight in shape.weights:
        if not weight.is_linear or weight.is_stacked or (weight.num_experts and experts_whole):
            continue
        if not blocks.takes(weight.name, is_expert=bool(weight.num_experts)):
            continue
        block, side = {Split.ROWS: (blocks.block_rows, 0), Split.COLUMNS: (blocks.group_size, 1)}.get(
            weight.split, (1, 0)
        )
        if weight.shape[side] % size == 0 and weight.shape[side] // size % block:
            name = weight.name.rpartition("{layer}.")[2]
            return f"{name}: {weight.shape[side]} / {size} = {weight.shape[side] // size}, in blocks of {block}"
    return ""
