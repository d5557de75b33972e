"""A step beside Transformers' module with torch's AdamW and clipping: the same losses and weights."""

from __future__ import annotations

from typing import Any

import pytest

pytestmark = pytest.mark.train
torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from ironloom.train.loop.fits import state_of  # noqa: E402
from ironloom.train.model.decoder import build  # noqa: E402
from ironloom.train.model.names import state_from_hf, to_hf  # noqa: E402
from ironloom.train.step.adamw import decay_groups  # noqa: E402
from ironloom.train.step.step import Outcome, Step, make_optimizer  # noqa: E402
from ironloom.workload.shapes.config import shape_of_config  # noqa: E402
from ironloom.workload.training import Compute, Dtype, OptimizerSettings, Training  # noqa: E402

CONFIG: dict[str, Any] = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}

EPS = 1e-3
"""Large, so that AdamW does not make whole steps of gradients that are rounding alone."""


class Batch:
    def __init__(self, seed: int) -> None:
        self.tokens_BL = torch.randint(64, (2, 12), generator=torch.Generator().manual_seed(seed))
        self.targets_BL = self.tokens_BL.roll(-1, dims=1)
        self.targets_BL[:, -3:] = -100
        self.documents_BL = self.positions_BL = None


def pair() -> tuple[Any, Any, Step]:
    torch.manual_seed(0)
    theirs = transformers.AutoModelForCausalLM.from_config(transformers.AutoConfig.for_model("llama", **CONFIG))
    ours = build(theirs.config.to_dict())
    ours.load_state_dict(state_from_hf(theirs.state_dict(), ours.config, [n for n, _ in ours.named_parameters()]))
    compute = Compute(compute_dtype=Dtype.FLOAT32)
    optimizer = make_optimizer(ours, OptimizerSettings(learning_rate=1e-2, max_grad_norm=0.5, eps=EPS), compute)
    return theirs, ours, Step(ours, optimizer, num_chunks=3)


def test_twenty_steps_are_those_of_transformers_and_torchs_adamw() -> None:
    theirs, ours, step = pair()
    peer = torch.optim.AdamW(decay_groups(theirs, 0.1), lr=1e-2, betas=(0.9, 0.95), eps=EPS)
    for seed in range(20):
        batch = Batch(seed % 4)
        outcome = step([batch], 1e-2)
        peer.zero_grad()
        logits = theirs(batch.tokens_BL).logits
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), batch.targets_BL.flatten())
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(theirs.parameters(), 0.5)
        peer.step()
        assert float(outcome.loss) == pytest.approx(float(loss.detach()), abs=1e-5)
        assert float(outcome.grad_norm) == pytest.approx(float(norm), rel=1e-4)
    expected = dict(theirs.named_parameters())
    for name, parameter in ours.named_parameters():
        for hf_name, part in to_hf(name, parameter.detach(), ours.config):
            torch.testing.assert_close(part, expected[hf_name].detach(), atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("num_micro", [1, 2])
def test_a_step_over_fp32_weights_holds_the_bytes_that_are_told_before_it(num_micro: int) -> None:
    ours = build({"model_type": "llama", **CONFIG}, dtype=torch.float32)
    ours.reset(0)
    optimizer = make_optimizer(ours, OptimizerSettings(), Compute())
    masters = optimizer.masters
    assert masters is not None
    held: list[int] = []

    def count(part: str) -> None:
        if part == "backward":
            parameters = list(ours.parameters())
            kept = [*parameters, *masters._by_name.values(), *(p.grad for p in parameters), *masters._sums.values()]
            held.append(sum(tensor.nbytes for tensor in kept))

    Step(ours, optimizer, mark=count)([Batch(seed) for seed in range(num_micro)], 1e-3)
    states = sum(state[name].nbytes for state in optimizer.state.values() for name in ("exp_avg", "exp_avg_sq"))
    number = sum(parameter.numel() for parameter in ours.parameters())
    training = Training(name="run", model="m", output="o", global_batch_size=num_micro, micro_batch_size=1)
    told = state_of(training, shape_of_config({"model_type": "llama", "tie_word_embeddings": False, **CONFIG}), 1)
    assert held[-1] + states == told.total_bytes == number * (16 if num_micro == 1 else 20)


def test_a_step_that_is_not_kept_changes_nothing() -> None:
    _, ours, step = pair()
    before = {name: parameter.detach().clone() for name, parameter in ours.named_parameters()}
    seen: list[float] = []

    def refuse(outcome: Outcome) -> bool:
        seen.append(float(outcome.loss))
        return False

    outcome = step([Batch(0)], 1e-2, is_kept=refuse)
    assert seen == [pytest.approx(float(outcome.loss))]
    assert all(torch.equal(before[name], parameter) for name, parameter in ours.named_parameters())
    assert all(parameter.grad is None for parameter in ours.parameters())
