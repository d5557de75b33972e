"""vLLM itself: starts a real `vllm serve`. The default on a GPU; on a CPU where its CPU build is installed.

Its arguments are passed through as they stand. Sources: docs.vllm.ai, `serve` and "sleep mode"; the CPU settings are
those of "CPU installation", environment variables. The sleep mode's argument, its variable and its three paths are the
same in vllm/entrypoints/serve/dev/sleep of 0.26.0 and 0.33.0.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path

from ironloom.errors import UsageError
from ironloom.fleet.node import Node
from ironloom.serve.engines.base import ARGPARSE_STATUS, Conversion, Launch, LaunchOrder, LocalModel, ModelFormat, Task
from ironloom.serve.engines.gguf_conversion import refuses_gguf, safetensors_folder, to_safetensors
from ironloom.serve.engines.own_code import refuses_own_code
from ironloom.serve.engines.sampling_notes import sampling_notes
from ironloom.units import GIB
from ironloom.workload.serving import Serving

COMMAND_VARIABLE = "IRONLOOM_VLLM"
"""The `vllm` command of another environment, for a vLLM that is not installed beside Ironloom."""
CPU_BATCH = 32
GPU_BATCH = 256
"""vLLM's own default of --max-num-seqs on most GPUs."""
CPU_KV_CACHE_GIB = 4
"""Unless told a size, it wants 92 % of the host memory (--gpu-memory-utilization on a CPU), and ends if it is taken."""
_CPU_BASE_BYTES = (2 + CPU_KV_CACHE_GIB) * GIB
"""torch, the compiled graph, the KV cache."""
_SIZES = ("--gpu-memory-utilization", "--kv-cache-memory-bytes")
_GPU_BASE_BYTES = 6 * GIB
SLEEP_S_PER_GIB = 3.0
"""Most of the first sleep is the allocation of pinned host memory for the weights: 0.8 s a GiB were measured on an H100
(bench/gpu/serve_vllm.py), and a host that has to make room first takes longer."""
_OURS = ("--host", "--port", "--served-model-name", "--model", "--uds", "--api-key")
_TENSOR_PARALLEL = ("--tensor-parallel-size", "-tp")
_SLEEP = ("--enable-sleep-mode", "--no-enable-sleep-mode")


class VllmEngine:
    """Starts `vllm serve` on one loopback port."""

    name = "vllm"
    parks = True
    """Where it holds a GPU. Its CPU build cannot sleep: see `launch`."""

    def missing(self) -> str | None:
        if command() is None:
            return (
                f"vLLM is not installed: pip install 'ironloom[gpu]', or set {COMMAND_VARIABLE} to the vllm command "
                "of another environment"
            )
        return None

    def refuses(self, model: LocalModel, serving: Serving, node: Node) -> str | None:
        if model.format is ModelFormat.OPENVINO:
            return "it reads safetensors, and this model is in OpenVINO's form"
        for why_not in (refuses_gguf(model), refuses_own_code(model, serving)):
            if why_not is not None:
                return why_not
        if not node.gpus and serving.runtime != self.name and not has_cpu_build():
            return "there is no GPU here, and its CPU build is used only when it is installed here or asked for by name"
        return None

    def conversion(self, model: LocalModel, cache_dir: Path) -> Conversion | None:
        return to_safetensors(model, cache_dir)

    def launch(self, order: LaunchOrder) -> Launch:
        serving, gpus = order.serving, order.gpu_indexes
        folder = safetensors_folder(order.model, order.cache_dir)
        options = {arg.partition("=")[0].replace("_", "-") for arg in serving.engine_args if arg.startswith("-")}
        for name in _OURS:
            if name in options:
                raise UsageError(f"the engine argument {name} is Ironloom's to set", hint="leave it out")
        args = [
            "serve", str(folder),
            "--served-model-name", serving.name, "--host", "127.0.0.1", "--port", str(order.port),
        ]  # fmt: skip
        if serving.max_model_len is not None and "--max-model-len" not in options:
            args += ["--max-model-len", str(serving.max_model_len)]
        if len(gpus) > 1 and options.isdisjoint(_TENSOR_PARALLEL):
            args += ["--tensor-parallel-size", str(len(gpus))]
        if gpus and options.isdisjoint(_SLEEP):
            args.append("--enable-sleep-mode")
        args += serving.engine_args
        weights_bytes = order.model.size_bytes * (6 if order.model.format is ModelFormat.GGUF else 1)
        return Launch(
            argv=(command() or "vllm", *args),
            env={**_environment(order, sized=not options.isdisjoint(_SIZES)), **serving.env},
            max_concurrency=_max_num_seqs(serving.engine_args) or (GPU_BATCH if gpus else CPU_BATCH),
            memory_bytes=(_GPU_BASE_BYTES if gpus else _CPU_BASE_BYTES) + weights_bytes,
            notes=_sampling_notes(serving.engine_args, folder) if order.model.task is Task.GENERATE else (),
            usage_status=ARGPARSE_STATUS,
            cannot_park=None if gpus and "--no-enable-sleep-mode" not in options else _cannot_park(gpus),
            park_extra_s=SLEEP_S_PER_GIB * weights_bytes / GIB if gpus else 0.0,
        )


def command(environ: Mapping[str, str] = os.environ) -> str | None:
    """The vllm command: the one that IRONLOOM_VLLM names, else the one beside this Python, else the one on PATH."""
    if named := environ.get(COMMAND_VARIABLE):
        return shutil.which(named)
    return shutil.which("vllm", path=str(Path(sys.executable).parent)) or shutil.which("vllm")


def has_cpu_build() -> bool:
    """True when the vLLM beside this Python was built for CPUs (its version ends in +cpu)."""
    try:
        return metadata.version("vllm").endswith("+cpu")
    except metadata.PackageNotFoundError:
        return False


def _environment(order: LaunchOrder, *, sized: bool) -> dict[str, str]:
    env = {
        "HF_HUB_OFFLINE": "1",  # the model is on this disk
        "VLLM_NO_USAGE_STATS": "1",
        "CUDA_VISIBLE_DEVICES": ",".join(map(str, order.gpu_indexes)),
    }
    if order.gpu_indexes:
        env["VLLM_SERVER_DEV_MODE"] = "1"  # /sleep, /wake_up and /is_sleeping; the port is loopback's
    else:
        # By default it keeps one core for its HTTP side: of two cores, half.
        env["VLLM_CPU_NUM_OF_RESERVED_CPU"] = "0"
        if not sized:
            env["VLLM_CPU_KVCACHE_SPACE"] = str(CPU_KV_CACHE_GIB)
    return env


def _cannot_park(gpus: tuple[int, ...]) -> str:
    return "the manifest turns vLLM's sleep mode off" if gpus else "vLLM's CPU build has no sleep mode"


def _sampling_notes(args: tuple[str, ...], folder: Path) -> tuple[str, ...]:
    try:
        return sampling_notes(args, folder)
    except UsageError:  # vLLM reads more than a folder there, and says itself what it cannot read
        return ()


def _max_num_seqs(args: tuple[str, ...]) -> int | None:
    for index, arg in enumerate(args):
        name, joined, value = arg.partition("=")
        if name.replace("_", "-") == "--max-num-seqs":
            text = value if joined else args[index + 1] if index + 1 < len(args) else ""
            return int(text) if text.isdigit() else None
    return None


ENGINE = VllmEngine()
