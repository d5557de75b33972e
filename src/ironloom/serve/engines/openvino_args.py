"""What engine arguments in vLLM's spelling mean to the OpenVINO engine.

A manifest made for vLLM on a GPU runs here too: what has a meaning on a CPU is taken over, what has none is said once,
and what vLLM does not know either is an error with the nearest name.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass

from ironloom.errors import UsageError
from ironloom.serve.engines.programs.sampling_defaults import ARGUMENTS, OVERRIDE, override

_VALUED = {
    "--max-model-len": "--max-model-len",
    "--max-num-seqs": "--max-num-seqs",
    "--max-num-batched-tokens": "--max-num-batched-tokens",
    "--kv-cache-memory-bytes": "--kv-cache-bytes",
    "--kv-cache-bytes": "--kv-cache-bytes",
    "--chat-template": "--chat-template",
    "--tool-call-parser": "--tool-call-parser",
    "--reasoning-parser": "--reasoning-parser",
    "--precision": "--precision",
    "--threads": "--threads",
    **ARGUMENTS,
}
"""Taken over with their value."""
_DTYPES = {"auto": None, "float32": "f32", "float": "f32", "bfloat16": "bf16"}
_TRUE_FLAGS = frozenset({"--enable-prefix-caching", "--enable-auto-tool-choice", "--enable-chunked-prefill"})
"""What is done anyway."""
_MEANINGLESS = {
    "--tensor-parallel-size": True, "-tp": True, "--pipeline-parallel-size": True, "-pp": True,
    "--data-parallel-size": True, "-dp": True, "--gpu-memory-utilization": True, "--swap-space": True,
    "--cpu-offload-gb": True, "--block-size": True, "--kv-cache-dtype": True, "--load-format": True,
    "--max-seq-len-to-capture": True, "--distributed-executor-backend": True, "--num-gpu-blocks-override": True,
    "--compilation-config": True, "--cuda-graph-sizes": True, "--max-parallel-loading-workers": True,
    "--uvicorn-log-level": True, "--max-log-len": True, "--tokenizer-mode": True, "--seed": True,
    "--download-dir": True, "--revision": True, "--tokenizer-revision": True, "--code-revision": True,
    "--device": True, "--config-format": True, "--model-impl": True,
    "--enforce-eager": False, "--disable-log-requests": False, "--no-enable-log-requests": False,
    "--disable-log-stats": False, "--disable-custom-all-reduce": False, "--trust-remote-code": False,
    "--enable-expert-parallel": False, "--async-scheduling": False, "--disable-frontend-multiprocessing": False,
    "--disable-uvicorn-access-log": False, "--enable-force-include-usage": False,
    "--no-enable-chunked-prefill": False,
}  # fmt: skip
"""vLLM's arguments that mean nothing here; True where a value follows."""
_REFUSED = {
    "--quantization": "the weights' form is chosen when the model is converted",
    "-q": "the weights' form is chosen when the model is converted",
    "--enable-lora": "adapters cannot be loaded here",
    "--lora-modules": "adapters cannot be loaded here",
    "--speculative-config": "there is no speculative decoding here",
    "--api-key": "keys are checked by the gateway: ironloom key create",
    "--hf-overrides": "the model's config cannot be changed here",
    "--rope-scaling": "the model's config cannot be changed here",
    "--tokenizer": "the model's own tokenizer is used",
}
"""vLLM's arguments that would change the answers, and cannot be honoured."""


@dataclass(frozen=True, slots=True)
class Translated:
    """Arguments for openvino_server, and those that mean nothing here."""

    args: tuple[str, ...]
    ignored: tuple[str, ...]


def translate(engine_args: tuple[str, ...]) -> Translated:
    """Raises UsageError for an argument that cannot be honoured or is not known."""
    args: list[str] = []
    ignored: list[str] = []
    rest = list(engine_args)
    while rest:
        name, joined, value = rest.pop(0).partition("=")
        if name.startswith("--"):
            head, dot, key = name.partition(".")
            name = head.replace("_", "-") + dot + key

        def taken(name: str = name, joined: str = joined, value: str = value) -> str:
            if joined:
                return value
            if not rest:
                raise UsageError(f"the engine argument {name} has no value")
            return rest.pop(0)

        if name.startswith(f"{OVERRIDE}."):
            args += [OVERRIDE, override(name, taken())]
        elif name.startswith("-O"):
            ignored.append(name + joined + value)
        elif name in _VALUED:
            args += [_VALUED[name], taken()]
        elif name == "--dtype":
            args += _precision(taken())
        elif name == "--no-enable-prefix-caching":
            args.append(name)
        elif name in _TRUE_FLAGS:
            continue
        elif name in _MEANINGLESS:
            ignored.append(f"{name} {taken()}" if _MEANINGLESS[name] else name)
        elif name in _REFUSED:
            raise UsageError(f"the openvino engine cannot honour {name}: {_REFUSED[name]}")
        else:
            raise _unknown(name)
    return Translated(tuple(args), tuple(ignored))


def _precision(dtype: str) -> list[str]:
    if dtype in {"half", "float16"}:
        raise UsageError(f"the openvino engine does not compute in {dtype} on a CPU; there are auto, bfloat16, float32")
    if dtype not in _DTYPES:
        raise UsageError(f"--dtype is {dtype!r}; it must be auto, bfloat16 or float32")
    precision = _DTYPES[dtype]
    return [] if precision is None else ["--precision", precision]


def _unknown(name: str) -> UsageError:
    known = [*_VALUED, "--dtype", *_TRUE_FLAGS, *_MEANINGLESS, *_REFUSED]
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean {near[0]}?" if near else "docs/concepts/engines.md lists the arguments"
    return UsageError(f"the openvino engine knows no argument {name}", hint=hint)
