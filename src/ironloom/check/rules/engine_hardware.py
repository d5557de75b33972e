"""Whether the GPU can compute in the number format that a server is told to use."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ironloom.catalog.accelerators import Accelerator
from ironloom.check.engines import Engine, engines
from ironloom.check.finding import Severity
from ironloom.check.rule import Context, Problem, Source, rule
from ironloom.check.rules.serving_examples import serving
from ironloom.workload.workload import Workload

NOT_ON_VOLTA = frozenset(
    {"awq", "awq_marlin", "gptq_marlin", "fp8", "fbgemm_fp8", "ptpc_fp8", "modelopt", "modelopt_fp4", "mxfp4", "nvfp4"}
)
"""Methods whose kernels want compute capability 7.5 or more: vLLM's table of supported hardware."""
QUANTIZATION_DOCS = Source(
    "https://docs.vllm.ai/en/latest/features/quantization/", "which method runs on which generation of GPUs"
)


@rule(
    id="IL411",
    name="bfloat16-on-an-old-gpu",
    family="engine",
    severity=Severity.ERROR,
    subject=Workload,
    summary="bfloat16 on a GPU that has none",
    why="The tensor cores of Volta and Turing (V100, T4) have no bfloat16. vLLM refuses to start with it there; "
    "`--dtype half` or `auto` run the same checkpoint in float16.",
    bad=serving("--model=Qwen/Qwen3-8B", "--dtype=bfloat16", selector="nvidia.com/gpu.product: Tesla-V100-SXM2-32GB"),
    good=serving("--model=Qwen/Qwen3-8B", "--dtype=half", selector="nvidia.com/gpu.product: Tesla-V100-SXM2-32GB"),
    sources=(
        Source(
            "https://github.com/vllm-project/vllm/issues/1157",
            "`Bfloat16 is only supported on GPUs with compute capability of at least 8.0`",
        ),
    ),
)
def bfloat16_on_an_old_gpu(workload: Workload, context: Context) -> Iterator[Problem]:
    for engine in engines(workload, context):
        if (
            engine.program not in {"vllm", "huggingfaceserver", "sglang"}
            or engine.launch.value("--dtype") != "bfloat16"
        ):
            continue
        if engine.gpus and all(one.bf16_flops is None for one, _ in engine.gpus):
            one, why = engine.gpus[0]
            yield engine.problem(
                "--dtype",
                f"the {one.name} has no bfloat16, and the server stops",
                evidence=(f"{one.name} ({why}) is of the {one.architecture} generation",),
                help="write half, or auto",
            )


@rule(
    id="IL412",
    name="quantization-that-the-gpu-lacks",
    family="engine",
    severity=Severity.ERROR,
    subject=Workload,
    summary="a quantization whose kernels do not run on the GPU",
    why="Each quantization needs kernels for the GPU's generation, and those of AWQ, FP8 and the 4-bit floats want one "
    "later than Volta. vLLM looks at the compute capability as it loads, and stops.",
    bad=serving("--model=Qwen/Qwen2.5-7B-Instruct-AWQ", selector="nvidia.com/gpu.product: Tesla-V100-SXM2-32GB"),
    good=serving("--model=Qwen/Qwen2.5-7B-Instruct-AWQ", selector="nvidia.com/gpu.product: NVIDIA-L4"),
    sources=(
        QUANTIZATION_DOCS,
        Source(
            "https://github.com/vllm-project/vllm/issues/4202",
            "`The quantization method awq is not supported for the current GPU. Minimum capability: 75`",
        ),
    ),
)
def quantization_that_the_gpu_lacks(workload: Workload, context: Context) -> Iterator[Problem]:
    for engine in engines(workload, context):
        method = _method(engine)
        if not engine.is_vllm or method not in NOT_ON_VOLTA or not engine.gpus:
            continue
        if all(one.architecture == "Volta" for one, _ in engine.gpus):
            one, why = engine.gpus[0]
            yield _at_method(
                engine,
                f"{method} does not run on the {one.name}, and the server stops",
                evidence=(f"{one.name} ({why}) is of the {one.architecture} generation",),
                help="take a GPTQ or bitsandbytes form of the model, or a later GPU",
            )


@rule(
    id="IL413",
    name="fp8-without-fp8-cores",
    family="engine",
    severity=Severity.NOTE,
    subject=Workload,
    summary="FP8 on a GPU that computes in 16 bits",
    why="Tensor cores compute in FP8 from Ada and Hopper on. On Ampere vLLM keeps the weights in FP8 and computes in "
    "16 bits: the model takes half the memory, and large batches are no faster than with 16-bit weights.",
    bad=serving("--model=Qwen/Qwen3-32B-FP8", gpus=1, selector="nvidia.com/gpu.product: NVIDIA-A100-SXM4-80GB"),
    good=serving("--model=Qwen/Qwen3-32B-FP8", gpus=1, selector="nvidia.com/gpu.product: NVIDIA-H100-80GB-HBM3"),
    sources=(
        QUANTIZATION_DOCS,
        Source("https://github.com/vllm-project/vllm/pull/5975", "FP8 weights on Ampere through Marlin kernels"),
    ),
)
def fp8_without_fp8_cores(workload: Workload, context: Context) -> Iterator[Problem]:
    for engine in engines(workload, context):
        if not engine.is_vllm or _method(engine) != "fp8" or not engine.gpus:
            continue
        if all(_computes_in_16_bits(one) for one, _ in engine.gpus):
            one, why = engine.gpus[0]
            yield _at_method(
                engine,
                f"the {one.name} has no FP8 cores: the weights take half the memory, and are computed in 16 bits",
                evidence=(f"{one.name} ({why}) is of the {one.architecture} generation",),
            )


def _at_method(engine: Engine, message: str, **more: Any) -> Problem:
    """At the option that asks for it, or at the model that is stored so."""
    if engine.quantization:
        return engine.problem("--quantization", message, **more)
    return engine.model_problem(message, **more)


def _computes_in_16_bits(accelerator: Accelerator) -> bool:
    return accelerator.architecture == "Ampere" and accelerator.fp8_flops is None


def _method(engine: Engine) -> str:
    """The quantization that is asked for, or that of the checkpoint; empty for none that is known."""
    if engine.quantization:
        return engine.quantization.lower()
    shape = engine.shape
    return shape.quantization.method if shape is not None and shape.quantization is not None else ""
