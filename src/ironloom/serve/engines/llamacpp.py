"""The llama.cpp engine: GGUF models of every architecture that llama.cpp knows, by xllamacpp's wheel."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path

from ironloom.errors import UsageError
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
from ironloom.serve.engines.programs.sampling_defaults import ARGUMENTS
from ironloom.serve.engines.sampling_notes import sampling_notes
from ironloom.serve.engines.vllm_arguments import Translated, translate
from ironloom.serve.models.cache import converted_dir
from ironloom.units import GIB, MIB
from ironloom.workload.serving import Serving
from ironloom.workload.shapes.gguf_header import FLOAT_TYPES

_PROGRAMS = "ironloom.serve.engines.programs"
DEFAULT_SLOTS = 8
MAX_DEQUANTISED_BYTES = 1 * GIB
"""Quantised files up to this size are written out in F16 once. llama.cpp rounds activations to 8 bits wherever weights
are quantised, which large models bear and small ones do not: SmolLM2 135M in Q4_1 and Q8_0 then names the wrong capital
of France, in F16 the right one (docs/decisions/0005-models.md)."""
_F16_GROWTH = 4
"""At most: 16 bits in place of 4."""
_BASE_BYTES = 120 * MIB
_CACHE_BYTES = (768 * MIB, 8 * GIB)
"""The KV cache of all slots: half of the weights as they are loaded, within these bounds. Eight slots of 4096 tokens
of SmolLM2 135M need 720 MiB. An argument that asks for a context or a size has no such bound."""

_VALUED = {
    "--max-model-len": "--max-model-len",
    "--max-num-seqs": "--max-num-seqs",
    "--max-num-batched-tokens": "--max-num-batched-tokens",
    "--kv-cache-memory-bytes": "--kv-cache-bytes",
    "--chat-template": "--chat-template",
    "--tool-call-parser": "--tool-call-parser",
    "--reasoning-parser": "--reasoning-parser",
    "--threads": "--threads",
    **ARGUMENTS,
}
_SWITCHES = {"--no-enable-prefix-caching": "--no-enable-prefix-caching"}
_CHOICES: dict[str, dict[str, tuple[str, ...]]] = {"--dtype": {"auto": (), "half": (), "float16": ()}}


class LlamaCppEngine:
    """Starts programs/llamacpp_server.py."""

    name = "llamacpp"
    parks = True

    def missing(self) -> str | None:
        for module, distribution in (("xllamacpp", "xllamacpp"), ("jinja2", "jinja2")):
            if find_spec(module) is None:
                return f"{distribution} is not installed: pip install 'ironloom[cpu]'"
        return None

    def refuses(self, model: LocalModel, serving: Serving, node: Node) -> str | None:
        if model.format is not ModelFormat.GGUF:
            return f"it reads GGUF files, and this model is {model.format.value}"
        if model.task is not Task.GENERATE:
            return "here it serves models that generate text, and this one makes embeddings"
        try:
            _translated(serving)
        except UsageError as error:
            return Refusal.of(error)
        needed = self.memory_bytes(model)
        if needed > node.memory_bytes:
            return f"it needs about {needed // MIB} MiB of memory, and this machine has {node.memory_bytes // MIB} MiB"
        return None

    def conversion(self, model: LocalModel, cache_dir: Path) -> Conversion | None:
        if not _is_dequantised(model):
            return None
        result = _f16_file(model, cache_dir)
        if result.exists():
            return None
        return Conversion(
            description=f"{model.path.name} from {model.form} to F16, in which small models answer right",
            module=f"{_PROGRAMS}.dequantise_gguf",
            args=("--model", str(model.path), "--out", str(result)),
            result=result,
            requires=("gguf",),
        )

    def launch(self, order: LaunchOrder) -> Launch:
        model, serving = order.model, order.serving
        file = _f16_file(model, order.cache_dir) if _is_dequantised(model) else model.path
        translated = _translated(serving)
        args = ["--model", str(file), "--served-name", serving.name, "--port", str(order.port)]
        if order.num_threads and "--threads" not in translated.args:
            args += ["--threads", str(order.num_threads)]
        if serving.max_model_len is not None and "--max-model-len" not in translated.args:
            args += ["--max-model-len", str(serving.max_model_len)]
        args += translated.args
        if "--max-model-len" not in args and "--kv-cache-bytes" not in args:
            args += ["--kv-cache-bytes", str(_cache_bytes(model))]
        module = f"{_PROGRAMS}.llamacpp_server"
        return Launch(
            argv=(sys.executable, "-m", module, *args),
            env=dict(serving.env),
            module=module,
            args=tuple(args),
            preload=(f"{_PROGRAMS}.llamacpp_preload",),
            max_concurrency=_num_slots(translated),
            memory_bytes=self.memory_bytes(model),
            ignored=translated.ignored,
            notes=sampling_notes(serving.engine_args, None),
            usage_status=ARGPARSE_STATUS,
        )

    def memory_bytes(self, model: LocalModel) -> int:
        """Host memory of one replica: libraries, weights as they are loaded with a fifth more for buffers, KV cache.

        Measured on SmolLM2 135M in F16: see docs/decisions/0005-models.md.
        """
        return _BASE_BYTES + int(1.2 * _weights_bytes(model)) + _cache_bytes(model)


def _is_dequantised(model: LocalModel) -> bool:
    return model.form not in FLOAT_TYPES and model.size_bytes <= MAX_DEQUANTISED_BYTES


def _weights_bytes(model: LocalModel) -> int:
    return model.size_bytes * (_F16_GROWTH if _is_dequantised(model) else 1)


def _cache_bytes(model: LocalModel) -> int:
    least, most = _CACHE_BYTES
    return max(least, min(most, _weights_bytes(model) // 2))


def _f16_file(model: LocalModel, cache_dir: Path) -> Path:
    return converted_dir(cache_dir, model) / "f16.gguf"


def _translated(serving: Serving) -> Translated:
    return translate(
        serving.engine_args,
        engine="llamacpp",
        valued=_VALUED,
        switches=_SWITCHES,
        choices=_CHOICES,
        ignored_switches=("--trust-remote-code",),
    )


def _num_slots(translated: Translated) -> int:
    args = translated.args
    try:
        return int(args[args.index("--max-num-seqs") + 1])
    except ValueError:
        return DEFAULT_SLOTS


ENGINE = LlamaCppEngine()
