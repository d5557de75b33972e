"""Samples at an evaluation: the tokens that the whole text, read anew for each, would be continued by."""

from __future__ import annotations

from typing import Any

import pytest

pytestmark = pytest.mark.train
torch = pytest.importorskip("torch")

from ironloom.train.loop.evaluate import continuation  # noqa: E402
from ironloom.train.model.decoder import build  # noqa: E402

SMALL: dict[str, Any] = {
    "vocab_size": 96,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "initializer_range": 0.3,
}
CASES: dict[str, dict[str, Any]] = {
    "all is seen": {"model_type": "llama"},
    "a window": {"model_type": "mistral", "sliding_window": 5},
    "layers without positions": {"model_type": "smollm3", "no_rope_layers": [1, 0, 1]},
    "windows and capped scores": {
        "model_type": "gemma2",
        "sliding_window": 5,
        "attn_logit_softcapping": 2.0,
        "tie_word_embeddings": False,
        "query_pre_attn_scalar": 16,
    },
}
PROMPT = [7, 3, 90, 4, 41, 8, 2]
CPU = torch.device("cpu")


def anew(model: Any, tokens: list[int], num_new: int) -> list[int]:
    """Without a cache."""
    so_far = list(tokens)
    with torch.no_grad():
        for _ in range(num_new):
            so_far.append(int(model(torch.tensor([so_far]))[0, -1].argmax()))
    return so_far[len(tokens) :]


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("length", [1, 7])
def test_a_text_is_continued_as_if_all_of_it_was_read_for_each_token(case: str, length: int) -> None:
    model = build({**SMALL, **CASES[case]})
    model.reset(3)
    wanted = anew(model, PROMPT[:length], 12)
    assert continuation(model.train(), PROMPT[:length], frozenset(), CPU, max_new=12) == wanted
    assert len(set(wanted)) > 2, "a text in which something changes"


def test_it_ends_at_an_end_token_and_at_the_number_asked_for() -> None:
    model = build({**SMALL, "model_type": "llama"})
    model.reset(3)
    whole = continuation(model, PROMPT, frozenset(), CPU, max_new=6)
    assert len(whole) == 6
    assert continuation(model, PROMPT, frozenset({whole[3]}), CPU, max_new=6) == whole[: whole.index(whole[3])]
    assert continuation(model, PROMPT, frozenset(), CPU, max_new=0) == []


def test_the_model_trains_on_as_before() -> None:
    model = build({**SMALL, "model_type": "llama"})
    model.reset(3)
    tokens = torch.tensor([PROMPT])
    before = model(tokens)
    continuation(model, PROMPT, frozenset(), CPU)
    assert torch.equal(model(tokens), before)
    assert model.training


def test_each_token_but_the_prompt_is_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    model = build({**SMALL, "model_type": "llama"})
    model.reset(3)
    read: list[int] = []
    model.embed.register_forward_pre_hook(lambda _, args: read.append(args[0].shape[1]))
    continuation(model, PROMPT, frozenset(), CPU, max_new=4)
    assert read == [len(PROMPT), 1, 1, 1]
