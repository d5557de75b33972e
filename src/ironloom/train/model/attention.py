"""Causal attention over packed documents and windows, by the quickest kernel that serves.

Without documents and windows: scaled_dot_product_attention, cuDNN's kernel first on a GPU. With them on a GPU:
FlexAttention, which skips blocks that nobody sees (https://arxiv.org/abs/2412.05496). Elsewhere a mask of truth values.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import torch
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.attention.flex_attention import create_block_mask, flex_attention

BACKENDS = [SDPBackend.CUDNN_ATTENTION, SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]
"""In order of preference; on Hopper cuDNN's is the quickest."""


class Seen(NamedTuple):
    """What each query sees: everything before it (both None), or what a mask says."""

    dense: torch.Tensor | None = None
    """B × 1 × L × L truth values."""
    blocks: Any = None
    """FlexAttention's BlockMask."""

    @property
    def is_plain(self) -> bool:
        return self.dense is None and self.blocks is None


class KvCache:
    """Keys and values of what a layer has read so far, for a continuation token by token."""

    def __init__(self, window: int) -> None:
        """`window`: so many tokens are seen, the newest among them; 0 is all."""
        self._window = window
        self._kept: tuple[torch.Tensor, torch.Tensor] | None = None

    def with_new(self, k_BLKD: torch.Tensor, v_BLKD: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """What the new tokens attend to: those of the beginning to each other, a later one to all that it sees."""
        if self._kept is None:
            self._kept = (k_BLKD[:, -self._window :], v_BLKD[:, -self._window :])
            return k_BLKD, v_BLKD
        k, v = (torch.cat((old, new), dim=1) for old, new in zip(self._kept, (k_BLKD, v_BLKD), strict=True))
        self._kept = (k[:, -self._window :], v[:, -self._window :])
        return self._kept


class Visibility:
    """The masks of one forward, made once for each window that the layers ask for."""

    def __init__(self, length: int, device: torch.device, documents_BL: torch.Tensor | None) -> None:
        self._length, self._device, self._documents = length, device, documents_BL
        self._made: dict[int, Seen] = {}

    def of(self, window: int) -> Seen:
        """For layers whose queries see `window` tokens; 0 is all."""
        window = 0 if window >= self._length else window
        if window not in self._made:
            self._made[window] = self._make(window)
        return self._made[window]

    def _make(self, window: int) -> Seen:
        if not window and self._documents is None:
            return Seen()
        if self._device.type == "cuda":
            return Seen(blocks=_blocks(self._documents, window, self._length, self._device))
        return Seen(dense=_dense(self._documents, window, self._length, self._device))


def _dense(documents_BL: torch.Tensor | None, window: int, length: int, device: torch.device) -> torch.Tensor:
    at = torch.arange(length, device=device)
    ahead = at[:, None] - at[None, :]
    seen = ahead >= 0
    if window:
        seen = seen & (ahead < window)
    if documents_BL is None:
        return seen[None, None]
    return seen[None, None] & (documents_BL[:, None, :, None] == documents_BL[:, None, None, :])


def _blocks(documents_BL: torch.Tensor | None, window: int, length: int, device: torch.device) -> Any:
    def sees(b: Any, _: Any, query: Any, key: Any) -> Any:
        seen = query >= key
        if window:
            seen = seen & (query - key < window)
        if documents_BL is not None:
            seen = seen & (documents_BL[b, query] == documents_BL[b, key])
        return seen

    batch = None if documents_BL is None else documents_BL.shape[0]
    return _make_blocks()(sees, batch, None, length, length, device=device)


@cache
def _make_blocks() -> Callable[..., Any]:
    return torch.compile(create_block_mask)


def attend(
    q_BLHD: torch.Tensor, k_BLKD: torch.Tensor, v_BLKD: torch.Tensor, seen: Seen, *, scale: float, softcap: float = 0
) -> torch.Tensor:
    """B × L × H × D: each query's sum of the values it sees. A KV head serves several query heads."""
    q, k, v = q_BLHD.transpose(1, 2), k_BLKD.transpose(1, 2), v_BLKD.transpose(1, 2)
    is_grouped = q.shape[1] != k.shape[1]
    if q.shape[2] == 1 and k.shape[2] > 1:  # a token after those of a cache, which holds what it sees
        if softcap:
            seen = Seen(dense=torch.ones(1, 1, 1, k.shape[2], dtype=torch.bool, device=q.device))
            return _by_hand(q, k, v, seen, scale=scale, softcap=softcap).transpose(1, 2)
        out = functional.scaled_dot_product_attention(q, k, v, scale=scale, enable_gqa=is_grouped)
    elif q.is_cuda and (softcap or seen.blocks is not None):
        out = _flex(q, k, v, seen, scale=scale, softcap=softcap)
    elif softcap:
        out = _by_hand(q, k, v, seen, scale=scale, softcap=softcap)
    elif q.is_cuda:
        with sdpa_kernel(BACKENDS, set_priority=True):
            out = functional.scaled_dot_product_attention(q, k, v, is_causal=True, scale=scale, enable_gqa=is_grouped)
    else:
        out = functional.scaled_dot_product_attention(
            q, k, v, attn_mask=seen.dense, is_causal=seen.dense is None, scale=scale, enable_gqa=is_grouped
        )
    return out.transpose(1, 2)


@cache
def _compiled_flex() -> Callable[..., Any]:
    return torch.compile(flex_attention)


def _flex(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, seen: Seen, *, scale: float, softcap: float) -> Any:
    def capped(score: Any, *_: Any) -> Any:
        return softcap * torch.tanh(score / softcap)

    blocks = seen.blocks
    if blocks is None:
        blocks = _blocks(None, 0, q.shape[2], q.device)
    attention = flex_attention if torch.compiler.is_compiling() else _compiled_flex()
    return attention(
        q,
        k,
        v,
        score_mod=capped if softcap else None,
        block_mask=blocks,
        scale=scale,
        enable_gqa=q.shape[1] != k.shape[1],
    )


def _by_hand(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, seen: Seen, *, scale: float, softcap: float) -> Any:
    """With capped scores, where no kernel has them."""
    repeats = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(repeats, dim=1), v.repeat_interleave(repeats, dim=1)
    scores = softcap * torch.tanh(q @ k.transpose(-1, -2) * scale / softcap)
    dense = seen.dense if seen.dense is not None else _dense(None, 0, q.shape[2], q.device)
    return functional.softmax(scores.masked_fill(~dense, float("-inf")).float(), dim=-1).to(q.dtype) @ v
