"""The loss on held-out data, and what the model makes of a few prompts."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import torch

from ironloom.train.data.loader import Batch
from ironloom.train.loop.agree import total

MAX_NEW_TOKENS = 32


@torch.no_grad()
def evaluation_loss(model: Any, batches: Iterable[Batch], device: torch.device, *, num_chunks: int) -> float:
    """The mean over all counted targets of all ranks; NaN where there is none."""
    model.eval()
    loss = torch.zeros((), dtype=torch.float64, device=device)
    count = torch.zeros((), dtype=torch.float64, device=device)
    for batch in batches:
        documents = batch.documents_BL
        summed, counted = model.loss(
            batch.tokens_BL.to(device),
            batch.targets_BL.to(device),
            None if documents is None else documents.to(device),
            positions_BL=batch.positions_BL.to(device),
            num_chunks=num_chunks,
        )
        loss += summed
        count += counted
    model.train()
    sums = total([float(loss), float(count)])
    return sums[0] / sums[1] if sums[1] else math.nan


def prompt_tokens(tokenizer: Any, prompt: str) -> list[int]:
    """A prompt as the model reads it: a user's turn by its chat template, plain text without one."""
    if getattr(tokenizer, "chat_template", None):
        text = tokenizer.apply_chat_template(
            [{"role": "user", "content": prompt}], tokenize=False, add_generation_prompt=True
        )
        return list(tokenizer(text, add_special_tokens=False)["input_ids"])
    return list(tokenizer(prompt)["input_ids"])


@torch.no_grad()
def continuation(
    model: Any, tokens: Sequence[int], ends: frozenset[int], device: torch.device, *, max_new: int = MAX_NEW_TOKENS
) -> list[int]:
    """The most probable next tokens, one after the other. Every rank calls it, and each has the same result."""
    model.eval()
    made: list[int] = []
    unread, begin = list(tokens), 0
    with model.caching():
        while len(made) < max_new:
            positions_BL = torch.arange(begin, begin + len(unread), device=device)[None]
            logits_BLV = model(torch.tensor([unread], dtype=torch.int64, device=device), positions_BL=positions_BL)
            token = int(logits_BLV[0, -1].argmax())
            if token in ends:
                break
            begin += len(unread)
            unread = [token]
            made.append(token)
    model.train()
    return made


def end_tokens(tokenizer: Any, config: dict[str, Any]) -> frozenset[int]:
    """Tokens after which nothing follows."""
    said = config.get("eos_token_id")
    named = said if isinstance(said, list) else [said]
    own = getattr(tokenizer, "eos_token_id", None)
    return frozenset(one for one in (*named, own) if isinstance(one, int))
