"""The whole decoder, and how it is made from a config.json."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from ironloom.train.model.attention import Visibility
from ironloom.train.model.config import ModelConfig, read
from ironloom.train.model.layers import Block, Linear, RMSNorm
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

    @torch.no_grad()
    def reset(self, seed: int) -> None:
        """New weights: normal, and narrower at the end of each branch by the depth, as GPT-2
        (https://cdn.openai.com/better-language-models/language_models_are_unsupervised_multitask_learners.pdf, 2.3).
        """
        deviation = self.config.initializer_range
        torch.manual_seed(seed)
        nn.init.normal_(self.embed.weight, std=deviation)
        if self.head.weight is not None:
            nn.init.normal_(self.head.weight, std=deviation)
        for name, module in self.named_modules():
            if isinstance(module, RMSNorm):
                module.reset()
            elif isinstance(module, Linear):
                is_last = name.endswith((".out", ".down"))
                nn.init.normal_(module.weight, std=deviation / math.sqrt(2 * self.config.num_layers * is_last or 1))
                if module.bias is not None:
                    nn.init.zeros_(module.bias)


def _empty(config: ModelConfig) -> torch.Tensor:
    return torch.empty(config.vocab_size, config.hidden_size)


def build(
    config: Mapping[str, Any] | ModelConfig, *, device: str | torch.device = "cpu", dtype: torch.dtype | None = None
) -> LanguageModel:
    """A decoder of a config.json, its weights not yet filled; on `meta` they take no memory.

    Raises ModelRefused where the config is of no family that is known here.
    """
    with torch.device(device):
        model = LanguageModel(config if isinstance(config, ModelConfig) else read(config))
    return model.to(dtype) if dtype is not None else model
