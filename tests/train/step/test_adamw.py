"""AdamW: torch's own results, with clipping inside and fp32 parameters beside bf16 ones."""

from __future__ import annotations

from typing import Any

import pytest

pytestmark = pytest.mark.train
torch = pytest.importorskip("torch")

from ironloom.train.step.adamw import AdamW, decay_groups, global_norm  # noqa: E402
from ironloom.train.step.masters import Masters  # noqa: E402


def net() -> Any:
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(7, 5), torch.nn.Linear(5, 3))


def train(model: Any, optimizer: Any, num_steps: int, clip: float = 0.0) -> list[float]:
    """Steps on the same data for all; returns the norms."""
    generator = torch.Generator().manual_seed(1)
    norms = []
    for _ in range(num_steps):
        optimizer.zero_grad()
        x = torch.randn(4, 7, generator=generator).to(next(model.parameters()).dtype)
        model(x).square().sum().backward()
        if clip:
            norms.append(float(torch.nn.utils.clip_grad_norm_(model.parameters(), clip)))
            optimizer.step()
        else:
            norms.append(float(optimizer.step()))
    return norms


def test_it_is_torchs_adamw_with_clipping() -> None:
    ours, theirs = net(), net()
    found = train(ours, AdamW(decay_groups(ours, 0.1), learning_rate=1e-2, max_grad_norm=0.5), 6)
    peer = torch.optim.AdamW(decay_groups(theirs, 0.1), lr=1e-2, betas=(0.9, 0.95))
    assert found == pytest.approx(train(theirs, peer, 6, clip=0.5), rel=1e-5)
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-5)


def test_gradients_of_a_sum_are_scaled_before_the_norm_is_taken() -> None:
    ours, scaled = net(), net()
    plain = AdamW(decay_groups(ours, 0.0), learning_rate=1e-2, max_grad_norm=1.0)
    summed = AdamW(decay_groups(scaled, 0.0), learning_rate=1e-2, max_grad_norm=1.0)
    x = torch.ones(2, 7)
    (ours(x).sum() / 8).backward()
    scaled(x).sum().backward()
    assert float(summed.step(scale=torch.tensor(1 / 8))) == pytest.approx(float(plain.step()))
    for a, b in zip(ours.parameters(), scaled.parameters(), strict=True):
        torch.testing.assert_close(a, b)


def test_vectors_decay_where_asked() -> None:
    module = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.LayerNorm(3))
    assert [group["weight_decay"] for group in decay_groups(module, 0.1, is_vector_decayed=True)] == [0.1, 0.1]


def test_vectors_do_not_decay() -> None:
    groups = decay_groups(net(), 0.1)
    assert [group["weight_decay"] for group in groups] == [0.1, 0.0]
    assert {p.ndim for p in groups[1]["params"]} == {1}


def test_small_steps_are_kept_in_fp32_and_seen_in_bf16_once_they_add_up() -> None:
    model = net()
    masters = Masters(model, torch.bfloat16)
    optimizer = AdamW(decay_groups(model, 0.0), learning_rate=1e-5, masters=masters)
    before = {name: wide.clone() for name, wide in model.state_dict().items()}
    train(model, optimizer, 3)
    after = model.state_dict()
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    assert {wide.dtype for wide in after.values()} == {torch.float32}
    assert all(not torch.equal(before[name], after[name]) for name in before)
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter.data, after[name].to(torch.bfloat16))


def test_state_dicts_of_fp32_parameters_go_into_a_model_without_them_and_back() -> None:
    model, other = net(), net()
    masters = Masters(model, torch.bfloat16)
    train(model, AdamW(decay_groups(model, 0.0), learning_rate=1e-2, masters=masters), 2)
    other.load_state_dict(model.state_dict())
    fresh = net()
    kept = Masters(fresh, torch.bfloat16)
    fresh.load_state_dict(other.state_dict())
    for (name, a), b in zip(model.named_parameters(), fresh.parameters(), strict=True):
        wide, again = masters.of(a), kept.of(b)
        assert wide is not None, name
        assert again is not None, name
        assert torch.equal(wide, again)
        assert torch.equal(a, b)


def test_micro_batches_are_summed_in_fp32() -> None:
    model = net()
    masters = Masters(model, torch.bfloat16)
    weight = model[0].weight
    for number in (256.0, 1.0, 1.0):
        weight.grad = torch.full_like(weight, number)
        masters.accumulate(model.parameters())
    total = masters.gradient_of(weight)
    assert total is not None
    assert weight.grad is None
    assert float(total[0, 0]) == 258.0  # in bf16 256 + 1 is 256
    masters.drop_gradients()
    assert masters.gradient_of(weight) is None


def test_the_moments_can_be_kept_narrower_than_the_parameters() -> None:
    model = net()
    optimizer = AdamW(decay_groups(model, 0.0), learning_rate=1e-2, state_dtype=torch.bfloat16)
    train(model, optimizer, 1)
    assert optimizer.state[model[0].weight]["exp_avg"].dtype == torch.bfloat16


def test_the_norm_of_no_gradients_is_zero() -> None:
    assert float(global_norm([])) == 0
