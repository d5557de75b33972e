"""The Transformers engine: the plain baseline, for what the others do not take."""

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
from ironloom.serve.engines.gguf_conversion import refuses_gguf, safetensors_folder, to_safetensors
from ironloom.serve.engines.own_code import FLAG, refuses_own_code
from ironloom.serve.engines.programs.sampling_defaults import ARGUMENTS
from ironloom.serve.engines.sampling_notes import sampling_notes
from ironloom.serve.engines.vllm_arguments import Translated, translate
from ironloom.units import GIB, MIB
from ironloom.workload.serving import Serving

_PROGRAMS = "ironloom.serve.engines.programs"
DEFAULT_BATCH = 32
_BASE_BYTES = 1 * GIB
"""The interpreter with torch and Transformers imported, and buffers."""
_VALUED = {
    "--max-model-len": "--max-model-len",
    "--max-num-seqs": "--max-num-seqs",
    "--chat-template": "--chat-template",
    "--tool-call-parser": "--tool-call-parser",
    "--reasoning-parser": "--reasoning-parser",
    "--threads": "--threads",
    **ARGUMENTS,
}
_DTYPES = {"auto": "auto", "bfloat16": "bfloat16", "half": "float16", "float16": "float16"} | dict.fromkeys(
    ("float", "float32"), "float32"
)
_CHOICES = {"--dtype": {name: ("--dtype", dtype) for name, dtype in _DTYPES.items()}}


class TransformersEngine:
    """Starts programs/transformers_server.py."""

    name = "transformers"
    parks = True

    def missing(self) -> str | None:
        for module in ("torch", "transformers", "jinja2"):
            if find_spec(module) is None:
                return f"{module} is not installed: pip install 'ironloom[train]'"
        return None

    def refuses(self, model: LocalModel, serving: Serving, node: Node) -> str | None:
        if model.format is ModelFormat.OPENVINO:
            return "it reads safetensors, and this model is in OpenVINO's form"
        if model.task is not Task.GENERATE:
            return "here it serves models that generate text, and this one makes embeddings"
        for why_not in (refuses_gguf(model), refuses_own_code(model, serving)):
            if why_not is not None:
                return why_not
        try:
            _translated(serving)
        except UsageError as error:
            return Refusal.of(error)
        needed = self.memory_bytes(model)
        if not node.gpus and needed > node.memory_bytes:
            return f"it needs about {needed // MIB} MiB of memory, and this machine has {node.memory_bytes // MIB} MiB"
        return None

    def conversion(self, model: LocalModel, cache_dir: Path) -> Conversion | None:
        return to_safetensors(model, cache_dir)

    def launch(self, order: LaunchOrder) -> Launch:
        serving = order.serving
        translated = _translated(serving)
        folder = safetensors_folder(order.model, order.cache_dir)
        args = ["--model", str(folder), "--served-name", serving.name, "--port", str(order.port)]
        if order.num_threads and "--threads" not in translated.args:
            args += ["--threads", str(order.num_threads)]
        if serving.max_model_len is not None and "--max-model-len" not in translated.args:
            args += ["--max-model-len", str(serving.max_model_len)]
        if order.gpu_indexes:
            args += ["--device", "cuda"]
        args += translated.args
        module = f"{_PROGRAMS}.transformers_server"
        env = {"CUDA_VISIBLE_DEVICES": ",".join(map(str, order.gpu_indexes)), "HF_HUB_OFFLINE": "1", **serving.env}
        return Launch(
            argv=(sys.executable, "-m", module, *args),
            env=env,
            module=module,
            args=tuple(args),
            max_concurrency=_batch(translated),
            memory_bytes=self.memory_bytes(order.model),
            ignored=translated.ignored,
            notes=sampling_notes(serving.engine_args, folder),
            usage_status=ARGPARSE_STATUS,
        )

    def memory_bytes(self, model: LocalModel) -> int:
        """Host memory of one replica: libraries, weights in 16 bits, a KV cache of about half that."""
        growth = 6.0 if model.format is ModelFormat.GGUF else 1.5
        return _BASE_BYTES + int(growth * model.size_bytes)


def _translated(serving: Serving) -> Translated:
    return translate(
        serving.engine_args, engine="transformers", valued=_VALUED, switches={FLAG: FLAG}, choices=_CHOICES
    )


def _batch(translated: Translated) -> int:
    args = translated.args
    try:
        return int(args[args.index("--max-num-seqs") + 1])
    except ValueError:
        return DEFAULT_BATCH


ENGINE = TransformersEngine()
