"""The decoder beside Transformers: equal logits for every family, and weights that come and go unchanged."""

from __future__ import annotations

from typing import Any

import pytest

pytestmark = pytest.mark.train
torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from ironloom.errors import ModelRefused  # noqa: E402
from ironloom.train.model.decoder import LanguageModel, build  # noqa: E402
from ironloom.train.model.names import hf_names, state_from_hf, to_hf  # noqa: E402

SMALL: dict[str, Any] = {
    "vocab_size": 128,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 64,
    "tie_word_embeddings": False,
}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}
CASES: dict[str, dict[str, Any]] = {
    "llama": {"model_type": "llama"},
    "llama, tied": {"model_type": "llama", "tie_word_embeddings": True},
    "llama 3.1's positions": {"model_type": "llama", "rope_parameters": LLAMA3},
    "llama with biases": {"model_type": "llama", "attention_bias": True, "mlp_bias": True},
    "mistral with a window": {"model_type": "mistral", "sliding_window": 5},
    "qwen2": {"model_type": "qwen2"},
    "qwen3": {"model_type": "qwen3", "tie_word_embeddings": True},
    "smollm3": {"model_type": "smollm3", "no_rope_layers": [1, 1, 1, 0], "pad_token_id": 0},
    "gemma": {"model_type": "gemma", "tie_word_embeddings": True},
    "gemma2": {
        "model_type": "gemma2",
        "tie_word_embeddings": True,
        "sliding_window": 5,
        "query_pre_attn_scalar": 16,
        "attn_logit_softcapping": 2.0,
        "final_logit_softcapping": 3.0,
    },
    "gemma3": {
        "model_type": "gemma3_text",
        "tie_word_embeddings": True,
        "sliding_window": 5,
        "query_pre_attn_scalar": 16,
        "sliding_window_pattern": 3,
    },
}


def pair(case: str) -> tuple[Any, LanguageModel]:
    """Transformers' module with weights that no switch leaves without effect, and ours with the same."""
    torch.manual_seed(0)
    config = transformers.AutoConfig.for_model(**{**SMALL, **CASES[case]})
    config._attn_implementation = "eager"
    theirs = transformers.AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    ours = build(config.to_dict())
    names = [name for name, _ in ours.named_parameters()]
    ours.load_state_dict(state_from_hf(theirs.state_dict(), ours.config, names))
    return theirs, ours


@pytest.mark.parametrize("case", CASES)
def test_logits_are_those_of_transformers(case: str) -> None:
    theirs, ours = pair(case)
    tokens = torch.randint(SMALL["vocab_size"], (2, 17))
    with torch.no_grad():
        torch.testing.assert_close(ours(tokens), theirs(tokens).logits, atol=2e-5, rtol=2e-4)


@pytest.mark.parametrize("case", CASES)
def test_weights_go_back_as_they_came(case: str) -> None:
    theirs, ours = pair(case)
    back = {
        hf_name: part
        for name, parameter in ours.named_parameters()
        for hf_name, part in to_hf(name, parameter, ours.config)
    }
    expected = dict(theirs.named_parameters())
    assert back.keys() == expected.keys()
    assert all(torch.equal(back[name], expected[name]) for name in expected)
    assert sorted(part for parts in hf_names(ours).values() for part in parts) == sorted(expected)


def test_documents_of_one_sequence_do_not_see_each_other() -> None:
    _, ours = pair("llama")
    tokens = torch.randint(SMALL["vocab_size"], (1, 12))
    documents = torch.tensor([[0] * 5 + [1] * 7], dtype=torch.int32)
    positions = torch.tensor([[*range(5), *range(7)]])
    with torch.no_grad():
        packed = ours(tokens, documents_BL=documents, positions_BL=positions)
        alone = torch.cat([ours(tokens[:, :5]), ours(tokens[:, 5:])], dim=1)
    torch.testing.assert_close(packed, alone, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("case", ["llama", "gemma2"])
@pytest.mark.parametrize("num_chunks", [1, 3, 40])
def test_the_chunked_loss_and_its_gradients_are_those_of_the_whole_logits(case: str, num_chunks: int) -> None:
    _, ours = pair(case)
    tokens = torch.randint(SMALL["vocab_size"], (2, 9))
    targets = torch.randint(SMALL["vocab_size"], (2, 9))
    targets[0, :4] = -100
    total, count = ours.loss(tokens, targets, num_chunks=num_chunks)
    (total / count).backward()
    found = {name: parameter.grad.clone() for name, parameter in ours.named_parameters()}
    ours.zero_grad()
    whole = torch.nn.functional.cross_entropy(ours(tokens).flatten(0, 1), targets.flatten())
    whole.backward()
    assert count == 14
    torch.testing.assert_close(total / count, whole)
    for name, parameter in ours.named_parameters():
        torch.testing.assert_close(found[name], parameter.grad, atol=1e-6, rtol=1e-4)


def test_evaluation_keeps_no_gradient() -> None:
    _, ours = pair("llama")
    tokens = torch.randint(SMALL["vocab_size"], (2, 9))
    expected, _ = ours.loss(tokens, tokens)
    with torch.no_grad():
        total, _ = ours.loss(tokens, tokens, num_chunks=2)
    assert not total.requires_grad
    torch.testing.assert_close(total, expected.detach())


def test_a_family_that_is_not_known_is_refused_with_those_that_are() -> None:
    with pytest.raises(ModelRefused, match="mamba") as refused:
        build({**SMALL, "model_type": "mamba"})
    assert "llama" in str(refused.value.hint)


def test_new_weights_are_the_same_for_the_same_seed() -> None:
    first, second = build({**SMALL, "model_type": "llama"}), build({**SMALL, "model_type": "llama"})
    first.reset(3)
    second.reset(3)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    layer = first.layers[0].mlp
    assert layer.down.weight.detach().std() < layer.gate_up.weight.detach().std()
