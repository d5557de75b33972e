"""The whole decoder, and how it is made from a config.json."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from ironloom.train.model.attention import KvCache, Visibility
from ironloom.train.model.config import ModelConfig, read
from ironloom.train.model.layers import Block, RMSNorm
from ironloom.train.model.loss import IGNORED, cross_entropy_sum
from ironloom.train.model.rope import Rotation


class Head(nn.Module):
    """The last norm and the way to the vocabulary. A tied head has no matrix of its own."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.norm = RMSNorm(config.hidden_size, eps=config.norm_eps, offset=config.norm_offset)
        self.weight: nn.Parameter | None = None
        if not config.is_tied:
            self.weight = nn.Parameter(torch.empty(config.vocab_size, config.hidden_size))
        self.softcap = config.logit_softcap

    def forward(
        self,
        x_BLD: torch.Tensor,
        tied_VD: torch.Tensor | None = None,
        targets_BL: torch.Tensor | None = None,
        num_chunks: int = 8,
    ) -> torch.Tensor:
        """Logits, or with targets the summed loss."""
        x_BLD = self.norm(x_BLD)
        weight = self.weight if tied_VD is None else tied_VD
        assert weight is not None
        if targets_BL is not None:
            return cross_entropy_sum(
                x_BLD.flatten(0, 1), weight, targets_BL.flatten(), num_chunks=num_chunks, softcap=self.softcap
            )
        logits = functional.linear(x_BLD, weight)
        return self.softcap * torch.tanh(logits / self.softcap) if self.softcap else logits


class LanguageModel(nn.Module):
    """A decoder of the Llama family."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.embed = nn.Embedding(config.vocab_size, config.hidden_size, _weight=_empty(config))
        self.layers = nn.ModuleList(Block(config, layer) for layer in config.layers)
        self.head = Head(config)
        self.is_residual_wide = False
        """Whether what runs from block to block is kept in fp32."""
        self._rotation = Rotation(config.rope, config.head_dim)
        self._local_rotation = Rotation(config.local_rope, config.head_dim) if config.local_rope else self._rotation

    def forward(
        self,
        tokens_BL: torch.Tensor,
        *,
        positions_BL: torch.Tensor | None = None,
        documents_BL: torch.Tensor | None = None,
        targets_BL: torch.Tensor | None = None,
        num_chunks: int = 8,
    ) -> torch.Tensor:
        """Logits of B × L × V; with targets the summed loss instead.

        `documents_BL` numbers the document of each token: none sees another's. `positions_BL` are 0 … L-1 where they
        are not given.
        """
        length, device = tokens_BL.shape[1], tokens_BL.device
        x_BLD = self.embed(tokens_BL)
        if self.config.embedding_scale != 1.0:
            x_BLD = x_BLD * torch.tensor(self.config.embedding_scale, dtype=x_BLD.dtype, device=device)
        if self.is_residual_wide:
            x_BLD = x_BLD.float()
        turn = self._rotation.of(length, device, positions_BL)
        local = turn
        if self._local_rotation is not self._rotation:
            local = self._local_rotation.of(length, device, positions_BL)
        seen = Visibility(length, device, documents_BL)
        for block, layer in zip(self.layers, self.config.layers, strict=True):
            x_BLD = block(x_BLD, local if layer.is_local else turn, seen.of(layer.window))
        tied = self.embed.weight if self.config.is_tied else None
        return self.head(x_BLD, tied, targets_BL, num_chunks)

    def loss(
        self,
        tokens_BL: torch.Tensor,
        targets_BL: torch.Tensor,
        documents_BL: torch.Tensor | None = None,
        *,
        positions_BL: torch.Tensor | None = None,
        num_chunks: int = 8,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The summed loss in fp32, and the number of targets that are not -100; both stay on the device."""
        total = self(
            tokens_BL,
            positions_BL=positions_BL,
            documents_BL=documents_BL,
            targets_BL=targets_BL,
            num_chunks=num_chunks,
        )
        return total, (targets_BL != IGNORED).sum()

    @contextmanager
    def caching(self) -> Iterator[None]:
        """Within it a first call reads a prompt, and each further one a token, whose position is given, after it. The
        blocks are not compiled meanwhile: each length would be compiled anew."""
        attentions = [block.attention for block in self.layers]
        for attention in attentions:
            attention.cache = KvCache(attention.window)
        try:
            with torch.compiler.set_stance("force_eager"):
                yield
        finally:
            for attention in attentions:
                attention.cache = None

    @torch.no_grad()
    def reset(self, seed: int) -> None:
        """New weights, the same however the model is laid out: normal, and narrower at the end of each branch by the
        depth, as GPT-2
        (https://cdn.openai.com/better-language-models/language_models_are_unsupervised_multitask_learners.pdf, 2.3).
        """
        deviation, depth = self.config.initializer_range, math.sqrt(2 * self.config.num_layers)
        for number, (name, parameter) in enumerate(self.named_parameters()):
            if parameter.ndim > 1:
                is_last = name.endswith(("out.weight", "down.weight"))
                generator = torch.Generator(parameter.device).manual_seed(seed * 1_000_003 + number)
                made = torch.empty(parameter.shape, device=parameter.device, dtype=parameter.dtype)
                fill(parameter, made.normal_(std=deviation / (depth if is_last else 1), generator=generator))
            elif "norm" in name:
                nn.init.constant_(parameter, 1.0 - self.config.norm_offset)
            else:
                nn.init.zeros_(parameter)


def fill(parameter: Any, whole: torch.Tensor) -> None:
    """Puts a whole tensor into a parameter, or the rank's own part of it into one that is sharded."""
    from torch.distributed.tensor import DTensor, distribute_tensor

    if isinstance(parameter, DTensor):
        mesh = parameter.device_mesh
        whole = distribute_tensor(whole.to(mesh.device_type), mesh, parameter.placements, src_data_rank=None)
        parameter.to_local().copy_(whole.to_local())
    else:
        parameter.copy_(whole)


def _empty(config: ModelConfig) -> torch.Tensor:
    return torch.empty(config.vocab_size, config.hidden_size)


def build(
    config: Mapping[str, Any] | ModelConfig, *, device: str | torch.device = "cpu", dtype: torch.dtype | None = None
) -> LanguageModel:
    """A decoder of a config.json, its weights not yet filled; on `meta` they take no memory.

    Raises ModelRefused where the config is of no family that is known here.
    """
    usual = torch.get_default_dtype()
    torch.set_default_dtype(dtype or usual)
    try:
        with torch.device(device):
            return LanguageModel(config if isinstance(config, ModelConfig) else read(config))
    finally:
        torch.set_default_dtype(usual)
