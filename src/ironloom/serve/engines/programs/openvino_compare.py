"""Compares two forms of one model in OpenVINO, run as they are served: how they weigh texts, and what they write.

A text's log-probabilities, token by token, say what logits are to the sampler, at each position of the text and not
only at those that generation happens to reach.
"""

from __future__ import annotations

import gc
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ironloom.serve.engines.programs.openvino_start import hide_telemetry

MAX_DIFFERENCE = 0.001
"""Largest difference of a log-probability that is taken as rounding. Measured for SmolLM2-135M's Q4_1: none at
all; an 8-bit KV cache by itself moves the same numbers by 0.1."""
TEXTS = (
    "The capital of France is Paris, and the capital of Italy is Rome. The largest planet of the solar system is",
    "def fibonacci(n):\n    if n < 2:\n        return n\n    return",
    "Q: A train leaves at 09:40 and arrives at 11:15. How many minutes does it take?\nA:",
    "Once upon a time there was a baker who could not sleep. Every night he walked through the town, and one night he",
    "Zwölf Boxkämpfer jagen Viktor quer über den großen Sylter Deich. 东京是日本的首都。",
)
NUM_NEW_TOKENS = 24
_NUM_BLOCKS = 64
"""Of the KV cache: room for all texts at once."""


@dataclass(frozen=True, slots=True)
class Difference:
    """Between two forms."""

    same_tokens: bool
    """Greedy decoding writes the same."""
    max_logprob: float
    """Largest absolute difference of a log-probability, over texts and what was written."""


def compare(one: Path, other: Path, other_arguments: Mapping[str, Any]) -> Difference:
    """Load and run both, one after the other. Raises RuntimeError, OpenVINO's, when one cannot be run."""
    return difference(run(one, {}), run(other, other_arguments))


Answer = tuple[list[int], list[float]]
"""Token ids of text and continuation, and their log-probabilities."""


def difference(one: list[Answer], other: list[Answer]) -> Difference:
    """How far two runs are apart."""
    if [ids for ids, _ in one] != [ids for ids, _ in other]:
        return Difference(False, float("inf"))
    pairs = [pair for (_, a), (_, b) in zip(one, other, strict=True) for pair in zip(a, b, strict=True)]
    gaps = [abs(a - b) for a, b in pairs]
    worst = max(gaps, default=0.0)
    return Difference(True, float("nan") if any(map(math.isnan, gaps)) else worst)


def run(folder: Path, arguments: Mapping[str, Any]) -> list[Answer]:
    """What the model makes of the first of TEXTS alone, and of all in one batch. Raises RuntimeError."""
    hide_telemetry()
    import openvino_genai

    scheduler = openvino_genai.SchedulerConfig()
    scheduler.num_kv_blocks = _NUM_BLOCKS
    scheduler.enable_prefix_caching = False
    tokenizer = openvino_genai.Tokenizer(str(folder))
    pipeline = openvino_genai.ContinuousBatchingPipeline(
        str(folder),
        tokenizer,
        scheduler,
        "CPU",
        INFERENCE_PRECISION_HINT="f32",
        KV_CACHE_PRECISION="f32",
        **arguments,
    )
    prompts = [tokenizer.encode(text).input_ids for text in TEXTS]
    answers = _generate(pipeline, prompts[:1]) + _generate(pipeline, prompts)
    del pipeline, tokenizer, prompts
    gc.collect()
    return answers


def _generate(pipeline: Any, prompts: list[Any]) -> list[Answer]:
    import openvino_genai

    config = openvino_genai.GenerationConfig()
    config.max_new_tokens = NUM_NEW_TOKENS
    config.ignore_eos = True
    config.logprobs = 1
    config.echo = True
    handles = [pipeline.add_request(index, prompt, config) for index, prompt in enumerate(prompts)]
    answers: list[Answer] = [([], []) for _ in handles]
    while pipeline.has_non_finished_requests():
        pipeline.step()
        for handle, (ids, logprobs) in zip(handles, answers, strict=True):
            while handle.can_read():
                for output in handle.read().values():
                    ids += output.generated_ids
                    logprobs += output.generated_log_probs
    return answers
