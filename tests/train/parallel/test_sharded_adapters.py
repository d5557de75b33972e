"""Adapters over ranks: those of one process, the base frozen and divided with them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.train
torch = pytest.importorskip("torch")

from ranks import on_ranks  # noqa: E402
from test_sharding import CONFIG, SEQUENCES, batches, compute_of  # noqa: E402

from ironloom.train.model.decoder import build  # noqa: E402
from ironloom.train.parallel.model import shard_model  # noqa: E402
from ironloom.train.step.lora import add_adapters, deltas, reset_adapters  # noqa: E402
from ironloom.train.step.step import Step, make_optimizer  # noqa: E402
from ironloom.workload.training import Lora, OptimizerSettings, Sharding  # noqa: E402


def whole(tensor: Any) -> Any:
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor


def adapted(micro: int) -> dict[str, Any]:
    is_group = torch.distributed.is_initialized()
    rank = torch.distributed.get_rank() if is_group else 0
    ranks = torch.distributed.get_world_size() if is_group else 1
    model = build(CONFIG, device="meta" if is_group else "cpu")
    add_adapters(model, Lora(rank=4, alpha=8.0, targets=("q_proj", "v_proj", "down_proj")))
    compute = compute_of(Sharding.FULL_SHARD)
    shard_model(model, compute)
    if is_group:
        model.to_empty(device="cpu")
    model.reset(0)
    reset_adapters(model, 0)
    step = Step(model, make_optimizer(model, OptimizerSettings(learning_rate=1e-2), compute))
    losses = [float(step(list(batches(number, rank, ranks, micro)), 1e-2).loss) for number in range(3)]
    return {"losses": losses, "deltas": {d.hf_name: d.product for d in deltas(model, whole)}}


def test_adapters_over_two_ranks_are_those_of_one_process(tmp_path: Path) -> None:
    expected = adapted(SEQUENCES)
    for found in on_ranks(2, adapted, tmp_path, SEQUENCES // 2):
        assert found["losses"] == pytest.approx(expected["losses"], abs=2e-6)
        for name, delta in expected["deltas"].items():
            torch.testing.assert_close(found["deltas"][name], delta, atol=1e-5, rtol=1e-3)
