"""Whether a model and its KV cache have room on the GPUs, and its files on the disks and in the memory of the pod.

The arithmetic is plan.memory's; docs/concepts/memory.md has the formulas.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

from ironloom.catalog import accelerators
from ironloom.catalog.accelerators import Accelerator
from ironloom.check import look
from ironloom.check.engines import Engine, engines
from ironloom.check.finding import Confidence, Severity
from ironloom.check.rule import Context, Problem, Source, problem, rule
from ironloom.check.rules.serving_examples import serving
from ironloom.plan.memory import Band, ServingMemory, Verdict, dtype_bytes, gib, span, thousands, whole
from ironloom.plan.weights import Division, checkpoint_bytes, weight_bytes
from ironloom.units import GIB, format_bytes, parse_bytes
from ironloom.workload.manifests.schema import Path
from ironloom.workload.shapes.quantization import named
from ironloom.workload.workload import Workload

H100 = "nvidia.com/gpu.product: NVIDIA-H100-80GB-HBM3"
L4 = "nvidia.com/gpu.product: NVIDIA-L4"
BUDGET = Source(
    "https://docs.vllm.ai/en/latest/configuration/conserving_memory.html",
    "weights, activations and KV cache share gpu_memory_utilization of the GPU",
)
NO_BLOCKS = Source(
    "https://github.com/vllm-project/vllm/issues/2418",
    "`The model's max seq len is larger than the maximum number of tokens that can be stored in KV cache`",
)
SGLANG_LENGTH = Source(
    "https://github.com/sgl-project/sglang/blob/main/python/sglang/srt/managers/tp_worker.py",
    "max_req_len is at most what the token pool holds",
)
TRTLLM_WINDOW = Source(
    "https://github.com/NVIDIA/TensorRT-LLM/blob/main/tensorrt_llm/commands/serve.py",
    "--fail_fast_on_attention_window_too_large: what happens without it where a sequence has no room",
)
LENGTHS = frozenset({"--context-length", "--max-seq-len"})
"""What SGLang and TensorRT-LLM call the longest sequence."""
_ON_HUB = re.compile(r"(hf://)?[A-Za-z0-9][\w.-]*/[\w.-]+")
LARGEST = max(accelerators.ACCELERATORS.values(), key=lambda one: one.memory_bytes)


@rule(
    id="IL451",
    name="weights-do-not-fit",
    family="memory",
    severity=Severity.ERROR,
    subject=Workload,
    summary="a model whose weights have no room on the GPUs",
    why="Each GPU of a tensor-parallel group holds its part of every matrix. Where that, and what the engine needs to "
    "work, is more than the GPU has, loading ends in an out-of-memory error after minutes of download.",
    bad=serving("--model=meta-llama/Llama-3.1-70B-Instruct", gpus=1, selector=H100),
    good=serving("--model=meta-llama/Llama-3.1-70B-Instruct", "--tensor-parallel-size=4", gpus=4, selector=H100),
    sources=(
        BUDGET,
        Source("https://github.com/vllm-project/vllm/issues/6746", "405B in FP8: 57.75 GiB a GPU of eight"),
    ),
)
def weights_do_not_fit(workload: Workload, context: Context) -> Iterator[Problem]:
    for engine in engines(workload, context):
        memory, shape = engine.memory, engine.shape
        if memory is not None:
            if not memory.weights_fit and shape is not None:
                yield engine.model_problem(
                    f"{shape.name} does not fit: its weights take {gib(memory.weights_bytes)} a GPU, "
                    f"of {gib(memory.total_bytes.high)}",
                    evidence=engine.memory_evidence,
                    help=_more_gpus(engine),
                )
        elif not engine.is_spread_unknown and (lack := _beyond(engine)) is not None and shape is not None:
            weights, accelerator, why = lack
            yield engine.model_problem(
                f"{shape.name} does not fit: its weights take {gib(weights)} a GPU, of {gib(accelerator.memory_bytes)}",
                evidence=(f"{accelerator.name} ({why})", *shape.notes),
                help=_more_gpus(engine),
            )


@rule(
    id="IL452",
    name="no-room-for-one-sequence",
    family="memory",
    severity=Severity.ERROR,
    subject=Workload,
    summary="a KV cache smaller than one sequence of the longest length",
    why="vLLM makes sure at its start that one sequence of max_model_len fits the KV cache that is left, and stops "
    "where it does not. Without --max-model-len that is the model's whole context, 131,072 tokens with many. SGLang "
    "and TensorRT-LLM start all the same, and refuse requests longer than what is left.",
    bad=serving("--model=meta-llama/Llama-3.1-8B-Instruct", gpus=1, selector=L4),
    good=serving("--model=meta-llama/Llama-3.1-8B-Instruct", "--max-model-len=8192", gpus=1, selector=L4),
    sources=(NO_BLOCKS, BUDGET, SGLANG_LENGTH, TRTLLM_WINDOW),
)
def no_room_for_one_sequence(workload: Workload, context: Context) -> Iterator[Problem]:
    for engine in engines(workload, context):
        memory, shape = engine.memory, engine.shape
        if memory is None or shape is None or not memory.weights_fit or _is_fitted_by_engine(engine):
            continue
        if memory.sequences.high >= 1 or not (engine.max_model_len or shape.max_position):
            continue
        if not engine.is_vllm:
            yield _longer_than_the_cache(engine, memory)
            continue
        given = "" if engine.max_model_len else ", the model's whole context"
        message = (
            f"a sequence of {memory.max_model_len} tokens{given} wants {gib(memory.kv_bytes_per_sequence)} of KV cache "
            f"a GPU, and {_room(memory.kv_room_bytes.low, memory.kv_room_bytes.high)} are left"
        )
        tell = partial(engine.problem, "--max-model-len") if engine.max_model_len else engine.model_problem
        yield tell(
            message,
            evidence=engine.memory_evidence,
            help=f"set --max-model-len to at most {_round_down(memory.kv_tokens.low)}"
            if memory.kv_tokens.low >= 1024
            else _more_gpus(engine),
        )


def _longer_than_the_cache(engine: Engine, memory: ServingMemory) -> Problem:
    """Of an engine that starts though its longest sequence has no room: a warning where someone asked for it."""
    asked = next((option for option in engine.launch.options if option.name in LENGTHS), None)
    message = (
        f"a sequence of {memory.max_model_len} tokens wants {gib(memory.kv_bytes_per_sequence)} of KV cache a GPU, and "
        f"at most {gib(memory.kv_room_bytes.high)} are left: requests of more than "
        f"{thousands(Band(low=memory.kv_tokens.high, high=memory.kv_tokens.high))} tokens are refused"
    )
    words: dict[str, Any] = {
        "severity": Severity.WARNING if asked is not None else Severity.NOTE,
        "confidence": Confidence.LIKELY,
        "evidence": engine.memory_evidence,
        "help": _more_gpus(engine),
    }
    if asked is not None:
        return engine.option_problem(asked, message, **words)
    return engine.model_problem(message, **words)


@rule(
    id="IL453",
    name="fits-barely",
    family="memory",
    severity=Severity.NOTE,
    subject=Workload,
    summary="a model that fits, with little room for the KV cache",
    why="What the weights leave is the KV cache, and with it the number of requests that run at once. With little of "
    "it requests wait or are preempted, and the GPUs' speed is not reached, though nothing fails.",
    bad=serving(
        "--model=meta-llama/Llama-3.1-70B-Instruct",
        "--tensor-parallel-size=2",
        "--max-model-len=4096",
        gpus=2,
        selector=H100,
    ),
    good=serving(
        "--model=meta-llama/Llama-3.1-70B-Instruct",
        "--tensor-parallel-size=4",
        "--max-model-len=4096",
        gpus=4,
        selector=H100,
    ),
    sources=(
        BUDGET,
        Source(
            "https://docs.vllm.ai/en/latest/configuration/optimization.html",
            "preemption, when there is not enough KV cache",
        ),
    ),
)
def fits_barely(workload: Workload, context: Context) -> Iterator[Problem]:
    for engine in engines(workload, context):
        memory, shape = engine.memory, engine.shape
        if memory is None or shape is None or memory.verdict is not Verdict.BARELY:
            continue
        if not (engine.max_model_len or shape.max_position):
            continue
        may_fail = engine.is_vllm and memory.sequences.low < 1 and not _is_fitted_by_engine(engine)
        yield engine.model_problem(
            f"{shape.name} fits, barely: room for {thousands(memory.kv_tokens)} tokens of KV cache, "
            f"{whole(memory.sequences)} sequences of {memory.max_model_len}"
            + (", so that it may not start" if may_fail else ""),
            severity=Severity.WARNING if may_fail else None,
            confidence=Confidence.LIKELY,
            evidence=engine.memory_evidence,
            help=_more_gpus(engine),
        )


@rule(
    id="IL454",
    name="model-larger-than-its-storage",
    family="memory",
    severity=Severity.ERROR,
    subject=Workload,
    summary="a volume or a limit that the model's files do not fit",
    why="A model that is fetched at the start lies on a volume or in the container's own layer. A pod that takes more "
    "than its ephemeral-storage limit or the sizeLimit of an emptyDir is evicted in the middle of the download; a full "
    "claim ends it with `No space left on device`.",
    bad=serving(
        "--model=Qwen/Qwen3-32B",
        gpus=2,
        container="volumeMounts:\n- name: cache\n  mountPath: /root/.cache/huggingface\n",
        pod="volumes:\n- name: cache\n  emptyDir:\n    sizeLimit: 50Gi\n",
    ),
    good=serving(
        "--model=Qwen/Qwen3-32B",
        gpus=2,
        container="volumeMounts:\n- name: cache\n  mountPath: /root/.cache/huggingface\n",
        pod="volumes:\n- name: cache\n  emptyDir:\n    sizeLimit: 100Gi\n",
    ),
    sources=(
        Source(
            "https://kubernetes.io/docs/concepts/storage/ephemeral-storage/#ephemeral-storage-consumption-management",
            "a pod above its limit is evicted",
        ),
        Source("https://kubernetes.io/docs/concepts/storage/volumes/#emptydir", "sizeLimit, and medium Memory"),
    ),
)
def model_larger_than_its_storage(workload: Workload, context: Context) -> Iterator[Problem]:
    for engine in engines(workload, context):
        shape = engine.shape
        folder = cache_folder(engine)
        if shape is None or not folder:
            continue
        size = checkpoint_bytes(shape)
        for limit, path, what in _storage(engine, folder, context):
            if limit < size:
                yield problem(
                    workload.document,
                    path,
                    f"the files of {shape.name} take {format_bytes(size)}, and {what} is {format_bytes(limit)}",
                    evidence=(f"{folder} is where they are fetched to", *shape.notes),
                    help=f"give it at least {_gib_up(size * 1.1)}Gi",
                )


@rule(
    id="IL455",
    name="offload-beyond-the-memory-limit",
    family="memory",
    severity=Severity.ERROR,
    subject=Workload,
    summary="weights or KV cache put into host memory that the container may not use",
    why="--cpu-offload-gb puts that much of the weights into pinned host memory, on each GPU's side. It counts to the "
    "container's memory limit and cannot be swapped out: above it the kernel ends the process.",
    bad=serving("--model=Qwen/Qwen3-32B", "--cpu-offload-gb=60", gpus=1, memory="48Gi"),
    good=serving("--model=Qwen/Qwen3-32B", "--cpu-offload-gb=60", gpus=1, memory="96Gi"),
    sources=(
        Source(
            "https://docs.vllm.ai/en/latest/configuration/engine_args.html",
            "--cpu-offload-gb is the space in GiB to offload to CPU, per GPU",
        ),
    ),
)
def offload_beyond_the_memory_limit(workload: Workload, context: Context) -> Iterator[Problem]:
    for engine in engines(workload, context):
        limit = engine.container.limits.get("memory")
        amount = engine.fraction("--cpu-offload-gb")
        if limit is None or amount is None or not engine.is_vllm or engine.spans_pods:
            continue
        wanted = amount * GIB * engine.tensor_parallel * engine.pipeline_parallel
        if wanted >= limit:
            ranks = engine.tensor_parallel * engine.pipeline_parallel
            yield engine.problem(
                "--cpu-offload-gb",
                f"{gib(wanted)} of weights in host memory are more than the container's limit of {gib(limit)}",
                evidence=(f"{amount:g} GiB × {ranks} GPUs",),
            )


@rule(
    id="IL456",
    name="memory-limit-below-the-weights",
    family="memory",
    severity=Severity.NOTE,
    subject=Workload,
    summary="a memory limit that is smaller than the files that are read through it",
    why="Weights are read through the page cache, which counts to the container's limit. The kernel gives such pages "
    "back, so a smaller limit works where the format is safetensors on a local disk; loading is slower, and a loader "
    "that keeps copies (a streamer, pickles, GPUs whose driver pins what it copies) is killed.",
    bad=serving("--model=meta-llama/Llama-3.1-70B-Instruct", "--tensor-parallel-size=4", gpus=4, memory="64Gi"),
    good=serving("--model=meta-llama/Llama-3.1-70B-Instruct", "--tensor-parallel-size=4", gpus=4, memory="256Gi"),
    sources=(
        Source(
            "https://github.com/vllm-project/vllm/issues/28923",
            "a container that is killed for its memory limit while the model is loading",
        ),
        Source(
            "https://docs.kernel.org/admin-guide/cgroup-v2.html#memory-ownership",
            "the page cache is charged to the cgroup that touches it first",
        ),
    ),
)
def memory_limit_below_the_weights(workload: Workload, context: Context) -> Iterator[Problem]:
    for engine in engines(workload, context):
        limit, shape = engine.container.limits.get("memory"), engine.shape
        if limit is None or shape is None or not engine.num_gpus or engine.spans_pods:
            continue
        size = checkpoint_bytes(shape)
        if limit < size:
            yield problem(
                workload.document,
                (*engine.container.path, "resources", "limits", "memory"),
                f"the files of {shape.name} take {format_bytes(size)}, and are read through {format_bytes(limit)}",
                confidence=Confidence.POSSIBLE,
                evidence=shape.notes,
                help=f"{_gib_up(size * 1.15)}Gi hold them and the process",
            )


@rule(
    id="IL457",
    name="memory-not-judged",
    family="memory",
    severity=Severity.NOTE,
    subject=Workload,
    summary="a model whose memory is not judged, and why",
    why="Whether a model fits is worked out from its tensors. State-space models (Mamba, Jamba, RWKV and others) keep "
    "a state of fixed size in place of a KV cache, which is not modelled; of a family or a name that is not known, and "
    "of a file that is damaged, the tensors are not known. No word about memory is then no word that it fits.",
    bad=serving("--model=state-spaces/mamba-2.8b-hf", gpus=1, selector=L4),
    good=serving("--model=meta-llama/Llama-3.2-1B-Instruct", "--max-model-len=8192", gpus=1, selector=L4),
    sources=(
        Source(
            "https://github.com/vllm-project/vllm/issues/11382",
            "what Mamba layers keep is another memory than the KV cache, in Jamba and Bamba too",
        ),
    ),
)
def memory_not_judged(workload: Workload, context: Context) -> Iterator[Problem]:
    for engine in engines(workload, context):
        if why := not_judged(engine.launch.model, context, is_sized=bool(engine.gpus)):
            yield engine.model_problem(f"the memory of {engine.launch.model} is not judged: {why}")


def not_judged(model: str, context: Context, *, is_sized: bool) -> str:
    """Why nothing is said of a model's memory; empty where something is, or could not be for want of an accelerator.

    `is_sized` is whether an accelerator is known: without one, an unknown name keeps nothing back.
    """
    if not model or context.shapes(model) is not None:
        return ""
    if refused := context.refusals(model):
        return refused
    if is_sized and _ON_HUB.fullmatch(model):
        return "it is none of the models that are known without a network; a folder that is here is read"
    return ""


def cache_folder(engine: Engine) -> str:
    """Where the container fetches its model to; empty where it is on the machine, or the kind's own doing."""
    model = engine.launch.model
    if not model or model.startswith(("/", ".")) or "://" in model or not engine.pod_set.is_written:
        return ""
    given = engine.launch.value("--download-dir")
    env = engine.container.env
    for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"):
        given = given or env.get(name)
    home = env.get("HF_HOME")
    if given is None and any(name in env and env[name] is None for name in ("HF_HOME", "HF_HUB_CACHE")):
        return ""
    if given or home:
        return str(given or f"{home}/hub")
    return "/data" if engine.program == "tgi" else "/root/.cache/huggingface/hub"


def volume_at(engine: Engine, folder: str) -> tuple[Path, Mapping[str, Any]] | None:
    """The volume that holds a folder of the container, with its place in the document; None for the own layer."""
    best: tuple[int, str] = (-1, "")
    for mount in look.entries(engine.container.spec, ("volumeMounts",)):
        path = look.text(mount, ("mountPath",)).rstrip("/")
        if path and (folder == path or folder.startswith(f"{path}/")) and len(path) > best[0]:
            best = (len(path), look.text(mount, ("name",)))
    for number, volume in enumerate(look.entries(engine.pod_set.spec, ("volumes",))):
        if best[1] and look.text(volume, ("name",)) == best[1]:
            return (*engine.pod_set.path, "volumes", number), volume
    return ((), {}) if best[1] else None


def _storage(engine: Engine, folder: str, context: Context) -> Iterator[tuple[int, Path, str]]:
    """Limits of where the model's files come to lie: bytes, where it is written, and what it is."""
    found = volume_at(engine, folder)
    if found is None:
        limit = engine.container.limits.get("ephemeral-storage")
        if limit is not None:
            path = (*engine.container.path, "resources", "limits", "ephemeral-storage")
            yield limit, path, "the container's limit of ephemeral storage"
        return
    path, volume = found
    size = look.at(volume, ("emptyDir", "sizeLimit"))
    if (limit := _bytes(size)) is not None:
        yield limit, (*path, "emptyDir", "sizeLimit"), "the sizeLimit of their volume"
    if look.text(volume, ("emptyDir", "medium")) == "Memory":
        limit = engine.container.limits.get("memory")
        if limit is not None:
            yield limit, (*engine.container.path, "resources", "limits", "memory"), "the container's memory limit"
    name = look.text(volume, ("persistentVolumeClaim", "claimName"))
    claim = context.named("PersistentVolumeClaim", name, engine.workload.namespace) if name else None
    if claim is not None:
        asked = _bytes(look.at(claim.obj, ("spec", "resources", "requests", "storage")))
        modes = look.entries(claim.obj, ("spec", "accessModes"))
        if asked is not None and "ReadWriteMany" not in modes:  # a shared file system's claim is often no bound
            yield asked, path, f"the claim {name}"
    template = look.at(volume, ("ephemeral", "volumeClaimTemplate", "spec", "resources", "requests", "storage"))
    if (limit := _bytes(template)) is not None:
        yield limit, (*path, "ephemeral"), "their volume"


def _beyond(engine: Engine) -> tuple[int, Accelerator, str] | None:
    """(weights a GPU, accelerator, why) where weights alone are more than any GPU that it may land on has."""
    shape = engine.shape
    if shape is None or not engine.num_gpus or engine.has_other_devices or engine.has_config_file:
        return None
    given = {option.name for option in engine.launch.options}
    if given & {"--cpu-offload-gb", "--hf-overrides", "--config", "--quantize"} or engine.is_cpu:
        return None
    known = engine.gpus or ((LARGEST, "the largest GPU of the catalogue"),)
    accelerator, why = max(known, key=lambda one: one[0].memory_bytes)
    quantization = shape.quantization or named(engine.quantization)
    if engine.quantization and quantization is None:
        return None
    weights = max(
        weight_bytes(
            shape,
            Division(
                tensor_parallel=engine.tensor_parallel,
                pipeline_parallel=min(engine.pipeline_parallel, shape.num_layers),
                expert_parallel=engine.is_on("--enable-expert-parallel"),
            ),
            dtype_bytes=dtype_bytes(shape, engine.launch.value("--dtype") or "auto"),
            quantization=quantization,
        )
    )
    return (weights, accelerator, why) if weights > accelerator.memory_bytes else None


def _is_fitted_by_engine(engine: Engine) -> bool:
    """Whether the engine itself takes what length has room: `--max-model-len auto`."""
    value = engine.launch.value("--max-model-len")
    return value is not None and value.strip().lower() in {"auto", "-1"}


_SIZES = {"vllm": "--tensor-parallel-size", "sglang": "--tp-size", "trtllm": "--tp_size"}
"""What each calls tensor parallelism; KServe's server takes the GPUs that it is given."""


def _more_gpus(engine: Engine) -> str:
    """What would make room: the least tensor-parallel size at which it fits with some."""
    shape = engine.shape
    for size in (2, 4, 8, 16):
        if shape is None or size <= engine.tensor_parallel or shape.num_heads % size:
            continue
        memory = engine.memory_on(size)
        if memory is not None and memory.verdict is Verdict.FITS:
            how = f" {option} {size} on" if (option := _SIZES.get(engine.program)) else ""
            return f"it fits with{how} {size} GPUs, or quantized, or on larger GPUs"
    return "take more GPUs, larger ones, or a quantized form of the model"


def _room(low: float, high: float) -> str:
    return f"{span(low / GIB, high / GIB, '{:.1f}')} GiB"


def _round_down(tokens: float) -> int:
    return int(tokens) // 1024 * 1024


def _gib_up(num_bytes: float) -> int:
    return -(-int(num_bytes) // GIB)


def _bytes(text: object) -> int | None:
    try:
        return parse_bytes(text) if isinstance(text, str | int | float) else None
    except ValueError:
        return None
