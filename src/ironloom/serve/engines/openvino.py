"""The OpenVINO engine: openvino-genai's continuous batching behind our own server. The default on a CPU."""

from __future__ import annotations

import sys
from importlib.metadata import PackageNotFoundError
from importlib.util import find_spec
from pathlib import Path

from ironloom.errors import UsageError
from ironloom.fleet.machine import this_machine
from ironloom.fleet.node import Node
from ironloom.serve.engines.base import (
    ARGPARSE_STATUS,
    Conversion,
    Launch,
    LaunchOrder,
    LocalModel,
    ModelFormat,
    Refusal,
    Task,
)
from ironloom.serve.engines.openvino_args import translate
from ironloom.serve.engines.programs import openvino_start
from ironloom.serve.engines.programs.model_facts import read_facts
from ironloom.serve.engines.programs.openvino_pipeline import DEFAULT_CONTEXT_TOKENS, default_kv_cache_bytes
from ironloom.serve.engines.sampling_notes import sampling_notes
from ironloom.serve.models.cache import converted_dir
from ironloom.units import MIB, parse_bytes
from ironloom.workload.serving import Serving

_PROGRAMS = "ironloom.serve.engines.programs"
GGUF_ARCHITECTURES = frozenset({"llama", "qwen2", "qwen3"})
"""GGUF architectures that openvino-genai reads itself (its own list, as of 2026.4)."""
MAX_CONCURRENCY = 32
"""Sequences that one replica runs at once to good use: throughput still grows from 8 to 32 streams on two cores."""
_BASE_BYTES = 300 * MIB
_FOLDER = "openvino"
_SWAP_FOLDER = "swap"
"""In the cache, which is on a disk: parked models are in unnamed files there, gone when their process is."""


class OpenVinoEngine:
    """Runs OpenVINO's form of a model; GGUF and safetensors are converted once."""

    name = "openvino"
    parks = True

    def missing(self) -> str | None:
        if find_spec("openvino_genai") is None:
            return "openvino-genai is not installed: pip install 'ironloom[cpu]'"
        if find_spec("jinja2") is None:
            return "jinja2 is not installed: pip install 'ironloom[cpu]'"
        return None

    def refuses(self, model: LocalModel, serving: Serving, node: Node) -> str | None:
        try:
            translate(serving.engine_args)
        except UsageError as error:
            return Refusal.of(error)
        if node.architecture not in {"x86_64", "AMD64", "arm64", "aarch64"}:
            return f"OpenVINO has no build for {node.architecture}"
        if model.format is ModelFormat.GGUF:
            if model.task is Task.EMBED:
                return "it reads no embedding model in GGUF"
            if model.architecture not in GGUF_ARCHITECTURES:
                known = ", ".join(sorted(GGUF_ARCHITECTURES))
                return f"it reads GGUF of the architectures {known}, and this is {model.architecture}"
        if model.format is ModelFormat.SAFETENSORS:
            if find_spec("optimum") is None:
                return "safetensors must be converted for it, by optimum-intel: pip install 'ironloom[convert]'"
            if model.own_code is not None:
                return f"the model needs code of its own ({model.own_code}), which a conversion does not run"
        needed = self.memory_bytes(model)
        if needed > node.memory_bytes:
            return f"it needs about {needed // MIB} MiB of memory, and this machine has {node.memory_bytes // MIB} MiB"
        return None

    def conversion(self, model: LocalModel, cache_dir: Path) -> Conversion | None:
        if model.format is ModelFormat.OPENVINO:
            return None
        result = self.folder(model, cache_dir)
        lean = self.lean_folder(model, cache_dir)
        if result.exists() and (lean is None or lean.exists()):
            return None
        if model.format is ModelFormat.GGUF:
            return Conversion(
                description=f"{model.path.name} to OpenVINO's form",
                module=f"{_PROGRAMS}.convert_gguf",
                args=("--model", str(model.path), "--out", str(result), *(("--lean", str(lean)) if lean else ())),
                result=lean or result,
                requires=("openvino-genai",),
            )
        return Conversion(
            description=f"{model.path.name} to OpenVINO's form, weights in 8 bits",
            module=f"{_PROGRAMS}.convert_safetensors",
            args=("--model", str(model.path), "--out", str(result), "--task", model.task.value, *_weights(model)),
            result=result,
            requires=("optimum-intel", "openvino-genai"),
        )

    def launch(self, order: LaunchOrder) -> Launch:
        model, serving = order.model, order.serving
        folder = model.path if model.format is ModelFormat.OPENVINO else self.folder(model, order.cache_dir)
        translated = translate(serving.engine_args)
        args = [
            "--model", str(folder), "--served-name", serving.name, "--port", str(order.port),
            "--task", model.task.value,
        ]  # fmt: skip
        if order.num_threads:
            args += ["--threads", str(order.num_threads)]
        if serving.max_model_len is not None and "--max-model-len" not in translated.args:
            args += ["--max-model-len", str(serving.max_model_len)]
        _check_context(model, args + list(translated.args))
        lean = self.lean_folder(model, order.cache_dir)
        if lean is not None and openvino_start.is_lean(lean):
            args += ["--lean", str(lean)]
        memory_bytes = self.memory_bytes(model)
        if model.task is Task.GENERATE:
            args += ["--swap-dir", str(order.cache_dir / _SWAP_FOLDER)]
            kv_cache_bytes = _kv_cache_bytes(folder, args + list(translated.args), serving, memory_bytes)
            args += ["--kv-cache-bytes", str(kv_cache_bytes)]
            memory_bytes += kv_cache_bytes
        args += translated.args
        module = f"{_PROGRAMS}.openvino_server"
        return Launch(
            argv=(sys.executable, "-m", module, *args),
            env={"OPENBLAS_NUM_THREADS": "1", **serving.env},
            module=module,
            args=tuple(args),
            preload=(f"{_PROGRAMS}.openvino_preload",),
            max_concurrency=MAX_CONCURRENCY,
            memory_bytes=memory_bytes,
            ignored=translated.ignored,
            notes=sampling_notes(serving.engine_args, folder) if model.task is Task.GENERATE else (),
            usage_status=ARGPARSE_STATUS,
        )

    def memory_bytes(self, model: LocalModel) -> int:
        """Host memory of one replica without its KV cache: interpreter, libraries, the weights and their packed copy.

        A first estimate; a replica of SmolLM2 135M (98 MB of weights) was measured at 430 to 570 MB, cache in use
        included.
        """
        return _BASE_BYTES + int(2.5 * model.size_bytes)

    def folder(self, model: LocalModel, cache_dir: Path) -> Path:
        """Where the converted form of a GGUF or safetensors model is or will be."""
        return converted_dir(cache_dir, model) / _FOLDER

    def lean_folder(self, model: LocalModel, cache_dir: Path) -> Path | None:
        """Where the form that loads faster is or will be; None for models of which none is made.

        Only for GGUF: graphs that optimum-intel writes are others. A new version of OpenVINO has one of its own.
        """
        if model.format is not ModelFormat.GGUF or model.task is not Task.GENERATE:
            return None
        try:
            return converted_dir(cache_dir, model) / openvino_start.folder_name()
        except PackageNotFoundError:
            return None


def _argument(args: list[str], name: str) -> str | None:
    """The last value of an argument."""
    found = [args[at + 1] for at, argument in enumerate(args[:-1]) if argument == name]
    return found[-1] if found else None


def _check_context(model: LocalModel, args: list[str]) -> None:
    wanted = _argument(args, "--max-model-len")
    if wanted is None:
        return
    if not wanted.isdigit() or int(wanted) < 1:
        raise UsageError(f"--max-model-len is {wanted!r}; it must be a whole number of tokens")
    if model.context_length and int(wanted) > model.context_length:
        raise UsageError(f"--max-model-len is {wanted}; {model.uri} has a context of {model.context_length} tokens")


def _kv_cache_bytes(folder: Path, args: list[str], serving: Serving, rest_bytes: int) -> int:
    """What was asked for; else from the model's shape, the free memory and the memory that the manifest allows.

    `rest_bytes` is what the replica takes beside it.
    """
    asked = _argument(args, "--kv-cache-bytes")
    try:
        if asked is not None:
            return parse_bytes(asked)
        facts = read_facts(folder)
    except ValueError as error:
        raise UsageError(str(error)) from error
    context = int(_argument(args, "--max-model-len") or facts.context_length or DEFAULT_CONTEXT_TOKENS)
    wanted = default_kv_cache_bytes(facts, context, this_machine(gpus=tuple).available_memory_bytes)
    if serving.resources.memory_bytes:
        wanted = min(wanted, max(serving.resources.memory_bytes - rest_bytes, wanted // 8))
    return wanted


def _weights(model: LocalModel) -> tuple[str, str]:
    """Embedding models keep 16 bits or more: their vectors are compared, and small errors show."""
    return ("--weight-format", "fp32" if model.task is Task.EMBED else "int8")


ENGINE = OpenVinoEngine()
