"""The shape of a language model: every tensor of its weights, and what a token keeps in its KV cache.

A shape is exact: its tensors are those of the published checkpoint, under their names there. Equal tensors of many
layers or experts are one `Weight` here, so that a model of 48,000 tensors is some twenty entries.
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import StrEnum
from functools import cached_property
from math import prod

import msgspec

from ironloom.workload.shapes.quantization import Quantization

DTYPE_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2, "float8_e4m3fn": 1}
"""Bytes of one number, by torch's name of its type."""


class Split(StrEnum):
    """How tensor parallelism divides a tensor, as vLLM's layers do.

    Source: https://github.com/vllm-project/vllm/blob/main/vllm/model_executor/layers/linear.py and
    vocab_parallel_embedding.py beside it.
    """

    ROWS = "rows"
    """By its first dimension: query heads, the wide side of an MLP."""
    COLUMNS = "columns"
    """By its second dimension: the way back to the hidden size."""
    KV_ROWS = "kv-rows"
    """By its first dimension in whole KV heads; with more GPUs than heads, each head is on several GPUs."""
    QKV_ROWS = "qkv-rows"
    """Queries, keys and values in one tensor: the first as ROWS, the others as KV_ROWS."""
    VOCABULARY = "vocabulary"
    """By its first dimension, which is padded to a multiple of 64 first."""
    WHOLE = "whole"
    """On every GPU: norms, routers, the biases that are added after the sum."""


class Part(StrEnum):
    """Where in the model a weight stands."""

    EMBEDDING = "embedding"
    """Before the first layer."""
    LAYERS = "layers"
    HEAD = "head"
    """After the last layer."""
    VISION = "vision"


class AttentionKind(StrEnum):
    FULL = "full"
    SLIDING = "sliding window"
    """Sees the last `window` tokens, and needs to keep no others."""
    LATENT = "latent (MLA)"
    """Keeps one compressed vector a token for all heads; each GPU of a tensor-parallel group holds it whole."""


class Weight(msgspec.Struct, frozen=True, kw_only=True):
    """Tensors that are equal but for the layer and the expert they belong to."""

    name: str
    """As in the checkpoint, with `{layer}` and `{expert}` where their numbers stand."""
    shape: tuple[int, ...]
    part: Part = Part.LAYERS
    layers: tuple[int, ...] = ()
    """The layers that have it; empty for one that stands outside of the layers."""
    num_experts: int = 0
    """Experts of a layer that have it each; 0 for one that is no expert's."""
    split: Split = Split.WHOLE
    is_linear: bool = False
    """A matrix product inside a layer: what quantization converts."""
    stored_bytes: int = 0
    """Of one copy, as a file's header says; 0 where it follows from the type and the quantization."""
    is_stacked: bool = False
    """All experts' in one tensor of the checkpoint; `num_experts` is then the first dimension of `shape`."""

    @property
    def num_copies(self) -> int:
        """Tensors that it stands for, in the whole model."""
        experts = 1 if self.is_stacked else max(1, self.num_experts)
        return experts * (len(self.layers) if self.is_in_layers else 1)

    @property
    def is_in_layers(self) -> bool:
        return self.part is Part.LAYERS

    @property
    def num_parameters(self) -> int:
        """Of all its copies."""
        return prod(self.shape) * self.num_copies


class Attention(msgspec.Struct, frozen=True, kw_only=True):
    """Layers that keep the same for each token."""

    kind: AttentionKind
    layers: tuple[int, ...]
    num_kv_heads: int
    """1 for latent attention."""
    key_dim: int
    """Numbers of one head's key; of the latent vector with its rotary part for latent attention."""
    value_dim: int
    """Numbers of one head's value; 0 for latent attention, whose values are part of the latent vector."""
    window: int = 0
    """Tokens; 0 where there is no window."""

    def kv_numbers(self, tensor_parallel: int = 1) -> int:
        """Numbers that one token keeps in one layer, on one GPU of a tensor-parallel group."""
        heads = max(1, -(-self.num_kv_heads // tensor_parallel))
        return heads * (self.key_dim + self.value_dim)


class ModelShape(msgspec.Struct, frozen=True, kw_only=True, dict=True):
    """A language model, as far as memory and speed ask."""

    name: str
    """Of the model, or of where its shape was read; may be empty."""
    model_type: str
    """`llama`, `deepseek_v3`: transformers' word."""
    architecture: str
    """`LlamaForCausalLM`; empty where the config names none."""
    num_layers: int
    hidden_size: int
    vocab_size: int
    num_heads: int
    """Query heads of a layer."""
    max_position: int
    """Tokens of context that the model itself knows; 0 where its config does not say."""
    native_dtype: str
    """Of the checkpoint: bfloat16, float16, float32."""
    is_tied: bool
    """One tensor is the embedding and the head."""
    attention: tuple[Attention, ...]
    weights: tuple[Weight, ...]
    draft_weights: tuple[Weight, ...] = ()
    """Of layers that guess tokens ahead (multi-token prediction): in the files, and loaded with speculation alone."""
    quantization: Quantization | None = None
    """Of the checkpoint; None for one in its native type."""
    num_experts: int = 0
    num_experts_per_token: int = 0
    intermediate_size: int = 0
    """Width of the MLP of a dense layer; of one expert where all layers have experts."""
    source: str = ""
    """Where the shape was read."""
    checkpoint_bytes: int = 0
    """Of all tensors as they lie in the files, where headers say so; 0 where only the config is known."""
    notes: tuple[str, ...] = ()

    @property
    def num_kv_heads(self) -> int:
        return self.attention[0].num_kv_heads

    @property
    def head_dim(self) -> int:
        return self.attention[0].key_dim

    @cached_property
    def num_parameters(self) -> int:
        """All of them, a tied tensor counted once."""
        return sum(weight.num_parameters for weight in self.weights)

    @cached_property
    def num_active_parameters(self) -> int:
        """That one token meets: of the experts of a layer only those that it is sent to."""
        total = 0
        for weight in self.weights:
            met = weight.num_parameters
            if weight.num_experts:
                met = met * min(self.num_experts_per_token, weight.num_experts) // weight.num_experts
            total += met
        return total

    def parameters(self) -> Iterator[tuple[str, tuple[int, ...]]]:
        """Name and shape of every tensor of the checkpoint."""
        for weight in self.weights:
            for layer in weight.layers if weight.is_in_layers else (0,):
                if weight.num_experts and not weight.is_stacked:
                    for expert in range(weight.num_experts):
                        yield weight.name.replace("{layer}", str(layer)).replace("{expert}", str(expert)), weight.shape
                else:
                    yield weight.name.replace("{layer}", str(layer)), weight.shape

    def kv_bytes_per_token(self, dtype_bytes: int = 2) -> int:
        """Bytes that one token keeps over all layers, summed over the GPUs of one group without copies.

            sum over layers of num_kv_heads * (key_dim + value_dim) * dtype_bytes

        Layers with a window are counted as if they kept every token: see `plan.memory` for what a long sequence needs.
        Source: vLLM's AttentionSpec.real_page_size_bytes and MLAAttentionSpec (vllm/v1/kv_cache_interface.py).
        """
        return sum(len(group.layers) * group.kv_numbers() * dtype_bytes for group in self.attention)
