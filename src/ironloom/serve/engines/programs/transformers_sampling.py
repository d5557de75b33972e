"""The next token of each row of a batch, each row with its own settings. Names and order are vLLM's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch

from ironloom.serve.engines.programs.generation import Likely, Sampling


@dataclass(slots=True)
class Row:
    """One sequence, as the sampler sees it."""

    sampling: Sampling
    prompt_ids: Sequence[int]
    output_ids: list[int] = field(default_factory=list)
    generator: Any = None
    """torch.Generator, where a seed was given."""

    def __post_init__(self) -> None:
        if self.sampling.seed is not None:
            self.generator = torch.Generator()
            self.generator.manual_seed(self.sampling.seed % 2**63)


class Next(NamedTuple):
    """A row's next token, with what was asked for of the model's own log probabilities."""

    token_id: int = 0
    logprob: float = 0.0
    likely: Likely = ()


def next_tokens(logits: Any, rows: Sequence[Row | None], end_ids: Sequence[int]) -> list[Next]:
    """A token for each row.

    `logits` has one line for each row; a row that is None has ended, and gets token 0. `end_ids` are held back while a
    row is shorter than its min_tokens.
    """
    logits = logits.float()
    found = [Next()] * len(rows)
    plain = torch.argmax(logits, dim=-1).tolist()
    for index, row in enumerate(rows):
        if row is None:
            continue
        line = logits[index]
        token_id = _next_token(line, row, end_ids, greedy=plain[index])
        logprob, likely = _logprobs(line, token_id, row.sampling) if row.sampling.logprobs else (0.0, ())
        found[index] = Next(token_id, logprob, likely)
    return found


def _logprobs(line: Any, token_id: int, sampling: Sampling) -> tuple[float, Likely]:
    whole = torch.logsumexp(line, dim=-1)
    logprob = min(0.0, float(line[token_id] - whole))
    if not sampling.num_top_logprobs:
        return logprob, ()
    best = torch.topk(line, min(sampling.num_top_logprobs, line.numel()))
    values = (best.values - whole).clamp(max=0.0).tolist()
    return logprob, list(zip(best.indices.tolist(), values, strict=True))


def _next_token(line: Any, row: Row, end_ids: Sequence[int], *, greedy: int) -> int:
    sampling = row.sampling
    holds_back = len(row.output_ids) < sampling.min_tokens
    if sampling.temperature <= 0.0 and not holds_back and not _has_penalties(sampling):
        return greedy
    line = line.clone()
    if holds_back:
        line[[*end_ids, *sampling.stop_token_ids]] = -torch.inf
    if _has_penalties(sampling):
        _penalise(line, row)
    if sampling.temperature <= 0.0:
        return int(torch.argmax(line))
    line /= sampling.temperature
    return int(torch.multinomial(_kept(line, sampling), 1, generator=row.generator))


def _has_penalties(sampling: Sampling) -> bool:
    return (sampling.presence_penalty, sampling.frequency_penalty, sampling.repetition_penalty) != (0.0, 0.0, 1.0)


def _penalise(line: Any, row: Row) -> None:
    """Repetition counts prompt and output, as the paper has it; presence and frequency the output alone, as OpenAI."""
    sampling = row.sampling
    if sampling.repetition_penalty != 1.0:
        seen = torch.tensor(sorted({*row.prompt_ids, *row.output_ids}))
        scores = line[seen]
        factor = sampling.repetition_penalty
        line[seen] = torch.where(scores > 0, scores / factor, scores * factor)
    if row.output_ids:
        ids, counts = torch.unique(torch.tensor(row.output_ids), return_counts=True)
        line[ids] -= sampling.frequency_penalty * counts + sampling.presence_penalty


def _kept(line: Any, sampling: Sampling) -> Any:
    """Probabilities after min_p, top_k and top_p, not normalised."""
    probs = torch.softmax(line, dim=-1)
    if sampling.min_p > 0.0:
        probs[probs < sampling.min_p * probs.max()] = 0.0
    if 0 < sampling.top_k < probs.numel():
        probs[probs < torch.topk(probs, sampling.top_k).values[-1]] = 0.0
    if sampling.top_p < 1.0:
        ordered, order = torch.sort(probs, descending=True)
        before = torch.cumsum(ordered, dim=-1) - ordered
        probs[order[before >= sampling.top_p * ordered.sum()]] = 0.0
    return probs
