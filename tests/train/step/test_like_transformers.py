"""Steps of ours beside Transformers' model with torch's AdamW and clipping, from the same weights."""

from __future__ import annotations

from typing import Any, NamedTuple

import pytest

pytestmark = pytest.mark.train
torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from ironloom.train.model.decoder import build  # noqa: E402
from ironloom.train.model.names import to_hf  # noqa: E402
from ironloom.train.parallel.model import shard_model  # noqa: E402
from ironloom.train.step.step import Step, make_optimizer  # noqa: E402
from ironloom.workload.training import Checkpointing, Compute, Dtype, OptimizerSettings  # noqa: E402

CONFIG: dict[str, Any] = {
    "model_type": "llama", "vocab_size": 256, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16, "tie_word_embeddings": False,
}  # fmt: skip
NUM_STEPS = 30
LEARNING_RATE = 3e-3


class Batch(NamedTuple):
    tokens_BL: Any
    targets_BL: Any
    documents_BL: Any = None
    positions_BL: Any = None


@pytest.mark.parametrize("is_vector_decayed", [False, True])
def test_thirty_steps_in_float32_have_the_losses_of_transformers_with_adamw_and_clipping(
    is_vector_decayed: bool,
) -> None:
    torch.manual_seed(0)
    ours = build(CONFIG, dtype=torch.float32)
    ours.reset(0)
    theirs = transformers.AutoModelForCausalLM.from_config(
        transformers.AutoConfig.for_model(**CONFIG), dtype=torch.float32
    )
    weights = {name: part for own, p in ours.named_parameters() for name, part in to_hf(own, p.detach(), ours.config)}
    theirs.load_state_dict({name: part.clone() for name, part in weights.items()})
    plain = Compute(compute_dtype=Dtype.FLOAT32, checkpointing=Checkpointing.NONE, is_compiled=False)
    shard_model(ours, plain)
    settings = OptimizerSettings(
        learning_rate=LEARNING_RATE, weight_decay=0.1, is_vector_decayed=is_vector_decayed, max_grad_norm=1.0
    )
    step = Step(ours, make_optimizer(ours, settings, plain), num_chunks=1)
    matrices = [p for p in theirs.parameters() if p.ndim > 1]
    vectors = [p for p in theirs.parameters() if p.ndim <= 1]
    adamw = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.1 * is_vector_decayed}],
        lr=LEARNING_RATE,
        betas=settings.betas,
        eps=settings.eps,
    )
    rows = torch.randint(64, (4, 4, 33)).repeat(NUM_STEPS // 4 + 1, 1, 1)  # few rows, so that there is what to learn
    losses = []
    for row_BL in rows[:NUM_STEPS]:
        tokens_BL, targets_BL = row_BL[:, :-1].contiguous(), row_BL[:, 1:].contiguous()
        logits_BLV = theirs(tokens_BL).logits
        loss = torch.nn.functional.cross_entropy(logits_BLV.flatten(0, 1), targets_BL.flatten())
        adamw.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(theirs.parameters(), 1.0)
        adamw.step()
        found = step([Batch(tokens_BL, targets_BL)], LEARNING_RATE).loss
        losses.append((float(torch.as_tensor(found).detach()), loss.item()))
    assert losses[-1][1] < losses[0][1] - 1
    assert max(abs(one - other) for one, other in losses) < 1e-4
