"""Loads, parks and wakes a model in OpenVINO: the one place that knows how.

The KV cache is a number of blocks, worked out from a number of bytes and the model's shape.
"""

from __future__ import annotations

import ctypes
import gc
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ironloom.serve.engines.programs.model_facts import ModelFacts
from ironloom.serve.engines.programs.openvino_start import load_arguments
from ironloom.serve.engines.programs.openvino_untruncated import load_tokenizer
from ironloom.units import GIB, format_bytes

logger = logging.getLogger(__name__)

DEFAULT_CONTEXT_TOKENS = 4096
"""For a model that does not say how long its context is."""
BLOCK_TOKENS = 32
"""Tokens in a KV block of OpenVINO's CPU plugin."""
_U8_OVERHEAD_BYTES = 12
"""Scales and zero points that the CPU plugin keeps with each head's 8-bit row. Measured: 13,680 bytes a token for 30
layers of 3 heads of 64 (openvino 2026.4.1, PipelineMetrics.cache_size_in_bytes)."""
_MIN_TOKENS = 32 * 1024
_FULL_SEQUENCES = 4
_MAX_MEMORY_FRACTION = 0.25


@dataclass(frozen=True, kw_only=True, slots=True)
class LoadSettings:
    """How to load."""

    model: Path
    """A folder with openvino_model.xml and the tokenizer beside it."""
    max_model_len: int
    kv_cache_bytes: int
    max_num_seqs: int
    max_num_batched_tokens: int = 256
    num_threads: int = 0
    """0 leaves it to OpenVINO."""
    precision: str = "f32"
    """INFERENCE_PRECISION_HINT: f32, bf16, or auto for OpenVINO's own choice."""
    prefix_caching: bool = True
    lean: Path | None = None
    """The model's lean form (see openvino_lean), tried first."""


@dataclass(slots=True)
class Loaded:
    """A loaded model."""

    pipeline: Any
    """openvino_genai.ContinuousBatchingPipeline."""
    tokenizer: Any
    """openvino_genai.Tokenizer."""


def kv_bytes_per_token(facts: ModelFacts) -> int:
    """Bytes of KV cache that one token takes in 8 bits, all layers together; 0 when the shape is not known.

    2 * num_layers * num_kv_heads * (head_dim + overhead); the 2 is K and V.
    """
    return 2 * facts.num_layers * facts.num_kv_heads * (facts.head_dim + _U8_OVERHEAD_BYTES)


def default_kv_cache_bytes(facts: ModelFacts, max_model_len: int, available_memory_bytes: int) -> int:
    """Room for 4 sequences of full length and for at least 32,768 tokens, within a quarter of the free memory."""
    per_token = kv_bytes_per_token(facts)
    wanted = max(_FULL_SEQUENCES * max_model_len, _MIN_TOKENS) * per_token if per_token else GIB
    return min(wanted, int(available_memory_bytes * _MAX_MEMORY_FRACTION))


def kv_cache_tokens(facts: ModelFacts, kv_cache_bytes: int) -> int:
    """Tokens that fit into so many bytes, in whole blocks; 0 when the shape is not known."""
    per_token = kv_bytes_per_token(facts)
    return kv_cache_bytes // (per_token * BLOCK_TOKENS) * BLOCK_TOKENS if per_token else 0


def load(settings: LoadSettings, facts: ModelFacts) -> Loaded:
    """Load the model; blocks for a second or more. Raises RuntimeError, OpenVINO's, when it cannot."""
    import openvino_genai

    scheduler = openvino_genai.SchedulerConfig()
    scheduler.enable_prefix_caching = settings.prefix_caching
    scheduler.max_num_seqs = settings.max_num_seqs
    scheduler.max_num_batched_tokens = settings.max_num_batched_tokens
    num_tokens = kv_cache_tokens(facts, settings.kv_cache_bytes)
    if num_tokens:
        scheduler.num_kv_blocks = num_tokens // BLOCK_TOKENS
    else:
        scheduler.cache_size = max(1, -(-settings.kv_cache_bytes // GIB))
    properties: dict[str, object] = {"PERFORMANCE_HINT": "LATENCY", "KV_CACHE_PRECISION": "u8"}
    if settings.precision != "auto":
        properties["INFERENCE_PRECISION_HINT"] = settings.precision
    if settings.num_threads:
        properties["INFERENCE_NUM_THREADS"] = settings.num_threads
    tokenizer = load_tokenizer(settings.model)
    form, pipeline = "lean", None
    if settings.lean is not None:
        pipeline = _load_lean(settings.lean, tokenizer, scheduler, properties)
    if pipeline is None:
        form, folder = "plain", str(settings.model)
        pipeline = openvino_genai.ContinuousBatchingPipeline(folder, tokenizer, scheduler, "CPU", **properties)
    logger.info(
        "loaded the %s form of %s: context %d tokens, KV cache %s (%s tokens), %d sequences at once",
        form,
        settings.model,
        settings.max_model_len,
        format_bytes(settings.kv_cache_bytes),
        num_tokens or "?",
        settings.max_num_seqs,
    )
    return Loaded(pipeline, tokenizer)


def _load_lean(folder: Path, tokenizer: Any, scheduler: Any, properties: dict[str, object]) -> Any | None:
    """None when it cannot be loaded: the plain form is there."""
    import openvino_genai

    try:
        return openvino_genai.ContinuousBatchingPipeline(
            str(folder), tokenizer, scheduler, "CPU", **properties, **load_arguments()
        )
    except RuntimeError as error:
        logger.warning("the lean form in %s cannot be loaded, the plain one is taken: %s", folder, error)
        return None


def give_back_memory() -> None:
    """Collect what was dropped and hand freed pages back to the system. Call after the last reference is gone."""
    gc.collect()
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except (OSError, AttributeError):
        logger.info("no malloc_trim here: freed memory may stay with the process")
