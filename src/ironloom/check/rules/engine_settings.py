"""Settings of a server that contradict each other, its model or its machine."""

from __future__ import annotations

from collections.abc import Iterator

from ironloom.check import look
from ironloom.check.engines import VLLM_LIKE, Engine, engines
from ironloom.check.finding import Confidence, Severity
from ironloom.check.rule import Context, Problem, Source, problem, rule
from ironloom.check.rules.serving_examples import serving
from ironloom.workload.workload import Workload

MODEL = "--model=Qwen/Qwen3-8B"
UTILIZATION = "--gpu-memory-utilization"
BATCHED, SEQS, LENGTH = "--max-num-batched-tokens", "--max-num-seqs", "--max-model-len"
CROWDED, FULL = 0.98, 0.995
"""From the second on what the GPU holds beside vLLM (the process's own context, some 0.4 GiB of 79.6) has no room."""
LONGER = ("VLLM_ALLOW_LONG_MAX_MODEL_LEN", "SGLANG_ALLOW_OVERWRITE_LONGER_CONTEXT_LEN")
SCALED = frozenset(
    {"--rope-scaling", "--hf-overrides", "--rope-theta", "--config-format", "--json-model-override-args"}
)
"""Options that may give the model other positions than its config does."""


@rule(
    id="IL414",
    name="memory-utilization-out-of-range",
    family="engine",
    severity=Severity.ERROR,
    subject=Workload,
    summary="a share of GPU memory that is none, or all of it",
    why="vLLM takes this share of the whole GPU for weights, activations and KV cache. It must be above 0 and at most "
    "1. At 1 nothing is left for what the process holds outside of that account: vLLM checks the free memory at its "
    "start and stops, or runs out later, under load.",
    bad=serving(MODEL, "--gpu-memory-utilization=95"),
    good=serving(MODEL, "--gpu-memory-utilization=0.95"),
    sources=(
        Source("https://github.com/vllm-project/vllm/blob/main/vllm/config/cache.py", "the range, and what it means"),
        Source(
            "https://github.com/vllm-project/vllm/pull/10511",
            "79.22 GiB are there for a process on an H100 of 79.65",
        ),
    ),
)
def memory_utilization_out_of_range(workload: Workload, context: Context) -> Iterator[Problem]:
    for engine in engines(workload, context):
        name = UTILIZATION if engine.is_vllm else "--mem-fraction-static" if engine.program == "sglang" else ""
        share = engine.fraction(name) if name else None
        if share is None or engine.is_cpu:
            continue
        if not 0 < share <= 1:
            near = f"; did you mean {share / 100:g}?" if 1 < share <= 100 else ""
            yield engine.problem(name, f"{name} is {share:g}, and must be above 0 and at most 1{near}")
        elif share >= CROWDED:
            left = "nothing" if share >= FULL else "next to nothing"
            yield engine.problem(
                name,
                f"{name} of {share:g} leaves {left} for what the process holds outside of it",
                severity=Severity.WARNING if share >= FULL else Severity.NOTE,
                help="0.90 to 0.95 is what is left on a GPU that nothing else uses",
            )


@rule(
    id="IL415",
    name="context-longer-than-the-model",
    family="engine",
    severity=Severity.ERROR,
    subject=Workload,
    summary="a longer context than the model was made for",
    why="A model knows positions up to the end of its context. vLLM and SGLang refuse a longer one, unless the config "
    f"scales the positions (rope_scaling) or {LONGER[0]} is set, with which answers beyond it are noise.",
    bad=serving("--model=meta-llama/Meta-Llama-3-8B-Instruct", "--max-model-len=32768"),
    good=serving("--model=meta-llama/Llama-3.1-8B-Instruct", "--max-model-len=32768"),
    sources=(
        Source(
            "https://github.com/vllm-project/vllm/blob/main/vllm/config/model.py",
            "_get_and_verify_max_len raises, and names the variable",
        ),
        Source("https://github.com/sgl-project/sglang/pull/1778", "SGLang checks it too"),
        Source(
            "https://huggingface.co/meta-llama/Meta-Llama-3-8B-Instruct/blob/main/config.json",
            "max_position_embeddings 8192",
        ),
    ),
)
def context_longer_than_the_model(workload: Workload, context: Context) -> Iterator[Problem]:
    for engine in engines(workload, context):
        shape, asked = engine.shape, engine.max_model_len
        if shape is None or asked is None or not shape.max_position or asked <= shape.max_position:
            continue
        given = {option.name.partition(".")[0] for option in engine.launch.options}
        if given & SCALED or engine.program not in {*VLLM_LIKE, "sglang"} or engine.has_config_file:
            continue
        if any(engine.container.env.get(name, "0") not in {"0", "false"} for name in LONGER):
            continue
        option = "--context-length" if engine.program == "sglang" else LENGTH
        yield engine.problem(
            option,
            f"a context of {asked} tokens is asked for, and {shape.name} has {shape.max_position}",
            evidence=(f"max_position_embeddings: {shape.max_position} ({shape.source})",),
            help=f"set {option} to at most {shape.max_position}",
        )


@rule(
    id="IL416",
    name="batch-smaller-than-its-parts",
    family="engine",
    severity=Severity.ERROR,
    subject=Workload,
    summary="a batch that cannot hold what it is made of",
    why="A step works on at most max_num_batched_tokens tokens. vLLM stops where that is less than one token for each "
    "of max_num_seqs sequences, and without chunked prefill where it is less than a prompt of max_model_len.",
    bad=serving(MODEL, "--max-num-batched-tokens=128", "--max-num-seqs=256"),
    good=serving(MODEL, "--max-num-batched-tokens=8192", "--max-num-seqs=256"),
    sources=(
        Source(
            "https://github.com/vllm-project/vllm/blob/main/vllm/config/scheduler.py",
            "verify_max_model_len and __post_init__ raise for both",
        ),
    ),
)
def batch_smaller_than_its_parts(workload: Workload, context: Context) -> Iterator[Problem]:
    for engine in engines(workload, context):
        tokens = engine.number(BATCHED)
        if not engine.is_vllm or tokens is None:
            continue
        seqs = engine.number(SEQS)
        if seqs is not None and tokens < seqs:
            yield engine.problem(
                BATCHED, f"{tokens} tokens a step are fewer than the {seqs} sequences of {SEQS}, and the server stops"
            )
        length = engine.max_model_len or (engine.shape.max_position if engine.shape is not None else 0)
        if engine.is_off("--enable-chunked-prefill") and length > tokens:
            yield engine.problem(
                BATCHED,
                f"without chunked prefill a prompt of {length} tokens wants a step of as many, and has {tokens}",
                help=f"leave chunked prefill on, or set {BATCHED} to {length}",
            )


@rule(
    id="IL417",
    name="eager-mode",
    family="engine",
    severity=Severity.WARNING,
    subject=Workload,
    summary="CUDA graphs and compilation switched off",
    why="Without CUDA graphs each step launches its kernels one by one, and the GPU waits for the CPU. On an H100 with "
    "a model of 8 billion parameters vLLM 0.26 gave 8,900 tokens/s in place of 16,010 with 512 requests, and 39 in "
    "place of 149 with one. Slower GPUs and larger models lose less. It saves some memory and a minute of the start; "
    "it is for debugging.",
    bad=serving(MODEL, "--enforce-eager"),
    good=serving(MODEL),
    sources=(
        Source(
            "https://docs.vllm.ai/en/latest/configuration/conserving_memory.html",
            "what eager mode saves, and that graphs are the default",
        ),
    ),
)
def eager_mode(workload: Workload, context: Context) -> Iterator[Problem]:
    for engine in engines(workload, context):
        name = "--enforce-eager" if engine.is_vllm else "--disable-cuda-graph" if engine.program == "sglang" else ""
        if _needs_eager(engine) or engine.is_cpu or _is_prefill(engine) or _is_for_volta(engine):
            continue
        if name and engine.num_gpus and engine.is_on(name):
            yield engine.problem(
                name,
                f"{name} switches CUDA graphs off: "
                "a model of 8 billion parameters on an H100 gave 1.8 to 4.3 times fewer tokens a second",
                help="leave it out; where memory is short, fewer graphs do: `--compilation-config`",
            )


@rule(
    id="IL418",
    name="tool-choice-without-parser",
    family="engine",
    severity=Severity.ERROR,
    subject=Workload,
    summary="tool calls switched on without a parser for them",
    why="Each model writes tool calls in a form of its own, and vLLM refuses to start with --enable-auto-tool-choice "
    "where no --tool-call-parser says which.",
    bad=serving(MODEL, "--enable-auto-tool-choice"),
    good=serving(MODEL, "--enable-auto-tool-choice", "--tool-call-parser=hermes"),
    sources=(
        Source("https://docs.vllm.ai/en/latest/features/tool_calling.html", "both options are needed"),
        Source(
            "https://github.com/vllm-project/vllm/blob/main/vllm/entrypoints/openai/cli_args.py",
            "validate_parsed_serve_args raises: --enable-auto-tool-choice requires --tool-call-parser",
        ),
    ),
)
def tool_choice_without_parser(workload: Workload, context: Context) -> Iterator[Problem]:
    for engine in engines(workload, context):
        name = "--enable-auto-tool-choice"
        if engine.program != "vllm" or engine.has_config_file or not engine.is_on(name):
            continue
        if engine.launch.option("--tool-call-parser") is None:
            yield engine.problem(name, f"{name} wants --tool-call-parser beside it, and the server stops without")


@rule(
    id="IL419",
    name="command-in-the-arguments",
    family="engine",
    severity=Severity.ERROR,
    subject=Workload,
    summary="a command in args of an image that begins it itself",
    why="args are added to the image's entrypoint. That of vLLM's image is `vllm serve` (the server's module in older "
    "ones), so a `vllm serve` in args is taken for the model, and the rest is refused.",
    bad=serving("vllm", "serve", "Qwen/Qwen3-8B"),
    good=serving("Qwen/Qwen3-8B"),
    sources=(
        Source("https://github.com/vllm-project/vllm/issues/37133", "`unrecognized arguments: serve …`"),
        Source("https://github.com/vllm-project/vllm/issues/27389", "the same of an earlier entrypoint"),
    ),
)
def command_in_the_arguments(workload: Workload, context: Context) -> Iterator[Problem]:
    for engine in engines(workload, context):
        spec = engine.container.spec
        args = [str(one) for one in look.entries(spec, ("args",))]
        if spec.get("command") or not args or "vllm-openai" not in engine.container.image.rpartition("/")[2]:
            continue
        is_vllm = args[0] == "vllm" and args[1:2] == ["serve"]
        if is_vllm or args[0] in {"python", "python3"}:
            yield _at_first(engine, f"the image's entrypoint is the server itself, and takes {args[0]!r} for a model")


def _needs_eager(engine: Engine) -> bool:
    """Whether its experts' exchange runs without graphs: DeepEP's high-throughput kernels, of prefill.

    Source: https://docs.vllm.ai/en/latest/serving/expert_parallel_deployment.html
    """
    backend = engine.launch.value("--all2all-backend") or engine.container.env.get("VLLM_ALL2ALL_BACKEND") or ""
    return engine.is_on("--enable-expert-parallel") or "deepep" in backend or "pplx" in backend


def _is_prefill(engine: Engine) -> bool:
    """Whether it reads prompts for others that write: steps of thousands of tokens gain little by graphs."""
    roles = {value for key, value in engine.pod_set.labels.items() if key.rpartition("/")[2] == "role"}
    transfer = (engine.launch.value("--kv-transfer-config") or "").replace(" ", "")
    return "prefill" in roles or '"kv_role":"kv_producer"' in transfer


def _is_for_volta(engine: Engine) -> bool:
    """Whether it is written for cards before Ampere, where float16 is asked for and the capture of graphs is not sure.

    Source: https://github.com/vllm-project/production-stack/blob/main/tutorials/25-v100-legacy-gpu-deployment.md
    """
    if engine.gpus:
        return all(accelerator.bf16_flops is None for accelerator, _ in engine.gpus)
    return engine.launch.value("--dtype") in ("half", "float16")


def _at_first(engine: Engine, message: str) -> Problem:
    return problem(
        engine.workload.document,
        (*engine.container.path, "args", 0),
        message,
        confidence=Confidence.LIKELY,
        help="write it as `command`, or leave the command out of args",
    )
