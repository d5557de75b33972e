"""Engine arguments in vLLM's spelling, for engines that are not vLLM.

A manifest that was made for vLLM on a GPU runs on these engines too: what has a meaning is taken over, what has none
is told once, what would change the answers is refused, and what vLLM does not know either is an error.
Source of the names: `vllm serve --help` (0.32).
"""

from __future__ import annotations

import difflib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from ironloom.errors import UsageError
from ironloom.serve.engines.programs.sampling_defaults import OVERRIDE, override

HONOURED_ANYWAY = frozenset({"--enable-prefix-caching", "--enable-auto-tool-choice", "--enable-chunked-prefill"})
VALUED_WITHOUT_MEANING = frozenset(
    {
        "--tensor-parallel-size", "-tp", "--pipeline-parallel-size", "-pp", "--data-parallel-size", "-dp",
        "--gpu-memory-utilization", "--swap-space", "--cpu-offload-gb", "--block-size", "--kv-cache-dtype",
        "--load-format", "--distributed-executor-backend", "--num-gpu-blocks-override", "--compilation-config",
        "--cuda-graph-sizes", "--max-parallel-loading-workers", "--uvicorn-log-level", "--max-log-len",
        "--tokenizer-mode", "--seed", "--download-dir", "--revision", "--tokenizer-revision", "--code-revision",
        "--device", "--config-format", "--model-impl", "--max-seq-len-to-capture",
    }
)  # fmt: skip
SWITCHES_WITHOUT_MEANING = frozenset(
    {
        "--enforce-eager", "--disable-log-requests", "--no-enable-log-requests", "--disable-log-stats",
        "--disable-custom-all-reduce", "--enable-expert-parallel", "--async-scheduling",
        "--disable-frontend-multiprocessing", "--disable-uvicorn-access-log", "--enable-sleep-mode",
        "--no-enable-chunked-prefill", "--enable-force-include-usage",
    }
)  # fmt: skip
REFUSED = {
    "--quantization": "the weights are taken in the form that the model has",
    "-q": "the weights are taken in the form that the model has",
    "--enable-lora": "adapters cannot be loaded",
    "--lora-modules": "adapters cannot be loaded",
    "--speculative-config": "there is no speculative decoding",
    "--api-key": "keys are checked by the gateway: ironloom key create",
    "--hf-overrides": "the model's config cannot be changed",
    "--rope-scaling": "the model's config cannot be changed",
    "--tokenizer": "the model's own tokenizer is used",
}


@dataclass(frozen=True, slots=True)
class Translated:
    """Arguments for the engine's program, and those that mean nothing to it."""

    args: tuple[str, ...]
    ignored: tuple[str, ...]


def translate(
    engine_args: Sequence[str],
    *,
    engine: str,
    valued: Mapping[str, str],
    switches: Mapping[str, str],
    choices: Mapping[str, Mapping[str, tuple[str, ...]]] | None = None,
    ignored_switches: Collection[str] = (),
) -> Translated:
    """`valued` and `switches` give the program's own name for each argument that it honours; `choices` the program's
    arguments for each value of an argument whose values are few.

    Raises UsageError for an argument that cannot be honoured, has a value that it cannot have, or is not known.
    """
    choices = choices or {}
    args: list[str] = []
    ignored: list[str] = []
    rest = list(engine_args)
    while rest:
        name, joined, value = rest.pop(0).partition("=")
        if name.startswith("--"):
            head, dot, key = name.partition(".")
            name = head.replace("_", "-") + dot + key
        is_override = name.startswith(f"{OVERRIDE}.")
        if is_override or name in valued or name in choices or name in VALUED_WITHOUT_MEANING:
            if not joined and not rest:
                raise UsageError(f"the engine argument {name} has no value")
            value = value if joined else rest.pop(0)
        if is_override:
            args += [OVERRIDE, override(name, value)]
        elif name.startswith("-O"):
            ignored.append(name + joined + value)
        elif name in valued:
            args += [valued[name], value]
        elif name in choices:
            if value not in choices[name]:
                raise UsageError(f"{name} is {value!r}; the {engine} engine knows {', '.join(choices[name])}")
            args += choices[name][value]
        elif name in switches:
            args.append(switches[name])
        elif name in HONOURED_ANYWAY:
            continue
        elif name in VALUED_WITHOUT_MEANING:
            ignored.append(f"{name} {value}")
        elif name in SWITCHES_WITHOUT_MEANING or name in ignored_switches:
            ignored.append(name)
        elif name in REFUSED:
            raise UsageError(f"the {engine} engine cannot honour {name}: {REFUSED[name]}")
        else:
            known = [*valued, *choices, *switches, *HONOURED_ANYWAY, *VALUED_WITHOUT_MEANING, *REFUSED]
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {near[0]}?" if near else "docs/concepts/other-engines.md lists the arguments"
            raise UsageError(f"the {engine} engine knows no argument {name}", hint=hint)
    return Translated(tuple(args), tuple(ignored))
