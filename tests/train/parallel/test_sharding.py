"""Every strategy on gloo ranks: the losses and weights of one process, and one unit a block."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

pytestmark = pytest.mark.train
torch = pytest.importorskip("torch")

from ranks import on_ranks  # noqa: E402
from torch.distributed.fsdp import FSDPModule  # noqa: E402

from ironloom.errors import UsageError  # noqa: E402
from ironloom.train.model.decoder import build  # noqa: E402
from ironloom.train.parallel.mesh import mesh_for  # noqa: E402
from ironloom.train.parallel.model import shard_model  # noqa: E402
from ironloom.train.step.step import Step, make_optimizer  # noqa: E402
from ironloom.workload.training import Checkpointing, Compute, Dtype, OptimizerSettings, Sharding  # noqa: E402

CONFIG: dict[str, Any] = {
    "model_type": "llama",
    "vocab_size": 96,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
SEQUENCES, LENGTH, STEPS = 8, 12, 3


class Batch(NamedTuple):
    tokens_BL: Any
    targets_BL: Any
    documents_BL: Any = None
    positions_BL: Any = None


def batches(step: int, rank: int, ranks: int, micro: int) -> Iterator[Batch]:
    """A rank's share of a step's sequences; unequally many targets count on each."""
    generator = torch.Generator().manual_seed(step)
    tokens = torch.randint(CONFIG["vocab_size"], (SEQUENCES, LENGTH), generator=generator)
    targets = tokens.roll(-1, dims=1)
    targets[: SEQUENCES // 2, :7] = -100
    own = slice(rank * SEQUENCES // ranks, (rank + 1) * SEQUENCES // ranks)
    for rows, wanted in zip(tokens[own].split(micro), targets[own].split(micro), strict=True):
        yield Batch(rows, wanted)


def train(compute: Compute, micro: int, *, is_tied: bool = False) -> dict[str, Any]:
    """Three steps; the losses, the norms, and the whole weights at the end."""
    is_group = torch.distributed.is_initialized()
    rank = torch.distributed.get_rank() if is_group else 0
    ranks = torch.distributed.get_world_size() if is_group else 1
    model = build({**CONFIG, "tie_word_embeddings": is_tied}, device="meta" if is_group else "cpu")
    shard_model(model, compute)
    if is_group:
        model.to_empty(device="cpu")
    model.reset(0)
    settings = OptimizerSettings(learning_rate=1e-2, max_grad_norm=0.5)
    step = Step(model, make_optimizer(model, settings, compute), num_chunks=2)
    found = [step(list(batches(number, rank, ranks, micro)), 1e-2) for number in range(STEPS)]
    weights = {
        name: tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor
        for name, tensor in model.state_dict().items()
    }
    return {
        "losses": [float(outcome.loss) for outcome in found],
        "norms": [float(outcome.grad_norm) for outcome in found],
        "weights": weights,
        "units": [name for name, module in model.named_modules() if isinstance(module, FSDPModule)],
    }


def compute_of(sharding: Sharding, **others: Any) -> Compute:
    settings: dict[str, Any] = {"compute_dtype": Dtype.FLOAT32, "is_compiled": False, **others}
    return Compute(sharding=sharding, **settings)


@pytest.fixture(scope="module")
def alone() -> dict[bool, dict[str, Any]]:
    """One process, by whether head and embedding are tied."""
    compute = compute_of(Sharding.FULL_SHARD)
    return {is_tied: train(compute, SEQUENCES, is_tied=is_tied) for is_tied in (False, True)}


CASES = {
    "FULL_SHARD": (4, compute_of(Sharding.FULL_SHARD), 2, False),
    "HYBRID_SHARD": (4, compute_of(Sharding.HYBRID_SHARD, shard_group_size=2), 1, False),
    "_HYBRID_SHARD_ZERO2": (4, compute_of(Sharding.HYBRID_SHARD_ZERO2, shard_group_size=2), 2, True),
    "FULL_SHARD, tied": (2, compute_of(Sharding.FULL_SHARD), 4, True),
    "SHARD_GRAD_OP, micro-batches": (2, compute_of(Sharding.SHARD_GRAD_OP), 2, True),
    "NO_SHARD": (2, compute_of(Sharding.NO_SHARD), 4, False),
    "FULL_SHARD, micro-batches, all checkpointed": (
        2,
        compute_of(Sharding.FULL_SHARD, checkpointing=Checkpointing.FULL, num_whole_blocks=0),
        1,
        False,
    ),
    "FULL_SHARD on the CPU": (2, compute_of(Sharding.FULL_SHARD, is_cpu_offload=True), 4, False),
}


def _train_all(cases: dict[str, tuple[int, Compute, int, bool]]) -> dict[str, Any]:
    return {case: train(compute, micro, is_tied=tied) for case, (_, compute, micro, tied) in cases.items()}


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[dict[str, Any]]]:
    """What each case came to on each of its ranks; cases of as many ranks share their processes."""
    by_case: dict[str, list[dict[str, Any]]] = {}
    for ranks in (2, 4):
        cases = {case: settings for case, settings in CASES.items() if settings[0] == ranks}
        results = on_ranks(ranks, _train_all, tmp_path_factory.mktemp("ranks"), cases)
        by_case |= {case: [result[case] for result in results] for case in cases}
    return by_case


@pytest.mark.parametrize("case", CASES)
def test_ranks_have_the_losses_and_weights_of_one_process(case: str, alone: Any, found: Any) -> None:
    expected = alone[CASES[case][3]]
    for result in found[case]:
        assert result["losses"] == pytest.approx(expected["losses"], abs=2e-6)
        assert result["norms"] == pytest.approx(expected["norms"], rel=1e-5)
        for name, weight in expected["weights"].items():
            torch.testing.assert_close(result["weights"][name], weight, atol=5e-6, rtol=1e-4)


def test_each_block_is_a_unit_and_norm_and_head_are_one(found: Any) -> None:
    assert found["FULL_SHARD"][0]["units"] == ["", "embed", "layers.0", "layers.1", "layers.2", "head"]


def test_tied_weights_are_the_roots(found: Any) -> None:
    assert found["FULL_SHARD, tied"][0]["units"] == ["", "layers.0", "layers.1", "layers.2"]


def test_micro_batches_of_one_process_are_one_batch(alone: Any) -> None:
    found = train(compute_of(Sharding.FULL_SHARD), 2)
    assert found["losses"] == pytest.approx(alone[False]["losses"], abs=2e-6)


def test_a_group_that_does_not_divide_the_ranks_is_refused(tmp_path: Path) -> None:
    assert on_ranks(2, _refused, tmp_path) == ["compute.shard_group_size: 3 ranks of a group do not divide 2 ranks"] * 2


def _refused() -> str:
    try:
        mesh_for(compute_of(Sharding.HYBRID_SHARD, shard_group_size=3), "cpu")
    except UsageError as error:
        return error.message
    return ""
