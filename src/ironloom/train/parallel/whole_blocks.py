"""How many blocks may keep all their activations at no cost: where the gradients of the others will be.

As a backward begins there are no gradients yet, and as it ends there are no activations any more. A rank must have room
for all its gradients in any case; until they are there, the last blocks' activations fit into it, which are asked for
first and then go. Pure.
"""

from __future__ import annotations

from ironloom.train.model.config import ModelConfig
from ironloom.workload.training import Checkpointing, Compute, Method, Training

BESIDE = 1.15
"""What a compiled block keeps in all, by what its matrix products and its attention read: statistics of norms and of
attention, and copies in another layout. Without checkpointing a block of an 8B took 0.77 GiB more than under
`selective` at 4096 × 4 (bench/results/gpu/train-race.json), by which it is 1.1."""


def whole_blocks_of(training: Training, config: ModelConfig, num_ranks: int) -> int:
    """Of a run: as said; else the last block alone where gradients leave no room (adapters' own, gradients that are
    divided, or that stay from one micro-batch to the next), and as many as `num_free_blocks` elsewhere."""
    compute = training.compute
    if compute.num_whole_blocks is not None:
        return compute.num_whole_blocks
    is_kept = compute.param_dtype is compute.compute_dtype and training.global_batch_size > training.micro_batch_size
    if training.method is not Method.FULL or num_ranks > 1 or is_kept or not compute.is_compiled:
        return 1
    return num_free_blocks(config, compute, num_tokens=training.micro_batch_size * training.data.seq_len)


def num_free_blocks(config: ModelConfig, compute: Compute, *, num_tokens: int) -> int:
    """How many of the last blocks keep their activations at no cost on one rank that trains all weights, of which
    there are none as a backward begins. At least one: the last one's are asked for at once. `num_tokens` are those of a
    micro-batch."""
    number = num_tokens * compute.compute_dtype.num_bytes
    whole, kept = number * BESIDE * _read(config), number * _kept(config, compute.checkpointing)
    if compute.checkpointing is Checkpointing.NONE or whole <= kept:
        return 1
    each = compute.compute_dtype.num_bytes
    head = each * config.vocab_size * config.hidden_size
    gradients = (0 if config.is_tied else head) + each * config.num_layers * _parameters(config)
    logits = number * config.vocab_size / compute.loss_chunks
    room = gradients - max(logits, whole) - config.num_layers * kept
    return max(1, min(config.num_layers, int(room / (whole - kept))))


def _read(config: ModelConfig) -> int:
    """Numbers of a token that a block's products and its attention read, its input and the middle among them."""
    rows = config.query_rows + 2 * config.kv_rows
    return 4 * config.hidden_size + config.query_rows + rows + 3 * config.intermediate_size


def _kept(config: ModelConfig, kind: Checkpointing) -> int:
    """Numbers of a token that a block under checkpointing keeps."""
    if kind is Checkpointing.FULL:
        return config.hidden_size
    if kind is Checkpointing.ATTENTION:
        return config.hidden_size + config.query_rows
    rows = config.query_rows + 2 * config.kv_rows
    return 3 * config.hidden_size + config.query_rows + rows + 2 * config.intermediate_size


def _parameters(config: ModelConfig) -> int:
    """Of a block's matrices."""
    rows = config.query_rows + 2 * config.kv_rows
    return config.hidden_size * (rows + config.query_rows + 3 * config.intermediate_size)
