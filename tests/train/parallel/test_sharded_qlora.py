"""A base in NF4 over ranks: each holds its rows, and the losses and the export are those of one process."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.train
torch = pytest.importorskip("torch")

from ranks import on_ranks  # noqa: E402
from safetensors.torch import load_file, save_file  # noqa: E402
from test_sharding import CONFIG, SEQUENCES, batches  # noqa: E402

from ironloom.train.checkpoint.export import export  # noqa: E402
from ironloom.train.checkpoint.pretrained import load_pretrained  # noqa: E402
from ironloom.train.model.decoder import build  # noqa: E402
from ironloom.train.model.names import to_hf  # noqa: E402
from ironloom.train.model.nf4 import nf4_layers, to_nf4  # noqa: E402
from ironloom.train.parallel.model import shard_model  # noqa: E402
from ironloom.train.parallel.sharding import DTYPES  # noqa: E402
from ironloom.train.step.lora import add_adapters, reset_adapters  # noqa: E402
from ironloom.train.step.step import Step, make_optimizer  # noqa: E402
from ironloom.workload.training import Compute, Dtype, Lora, OptimizerSettings, Sharding  # noqa: E402


def base(folder: Path) -> Path:
    """A folder with a model to start from."""
    model = build(CONFIG)
    model.reset(0)
    tensors = {
        name: part.detach().contiguous()
        for ours, parameter in model.named_parameters()
        for name, part in to_hf(ours, parameter, model.config)
    }
    folder.mkdir()
    save_file(tensors, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({**CONFIG, "dtype": "float32"}))
    return folder


def trained(folder: Path, out: Path, sharding: Sharding, micro: int, compute_dtype: Dtype) -> dict[str, Any]:
    is_group = torch.distributed.is_initialized()
    rank = torch.distributed.get_rank() if is_group else 0
    ranks = torch.distributed.get_world_size() if is_group else 1
    compute = Compute(compute_dtype=compute_dtype, sharding=sharding, is_compiled=False, shard_group_size=2)
    model = to_nf4(build(CONFIG, device="meta", dtype=DTYPES[compute_dtype]))
    add_adapters(model, Lora(rank=4, alpha=8.0), dtype=torch.float32)
    shard_model(model, compute)
    model.to_empty(device="cpu")
    load_pretrained(model, folder)
    reset_adapters(model, 0)
    step = Step(model, make_optimizer(model, OptimizerSettings(learning_rate=1e-2), compute))
    losses = [float(step(list(batches(number, rank, ranks, micro)), 1e-2).loss) for number in range(3)]
    export(model, json.loads((folder / "config.json").read_text()), None, out)
    parts = [part for _, layer in nf4_layers(model) for part in (layer.codes, layer.scales, layer.ranges)]
    local = [part.to_local() if hasattr(part, "to_local") else part for part in parts]
    return {"losses": losses, "num_bytes": sum(part.numel() * part.element_size() for part in local)}


@pytest.mark.parametrize(
    ("ranks", "sharding"),
    [(2, Sharding.FULL_SHARD), (2, Sharding.SHARD_GRAD_OP), (2, Sharding.NO_SHARD), (4, Sharding.HYBRID_SHARD)],
)
def test_the_losses_and_the_export_are_those_of_one_process(tmp_path: Path, ranks: int, sharding: Sharding) -> None:
    folder = base(tmp_path / "base")
    expected = trained(folder, tmp_path / "one", sharding, SEQUENCES, Dtype.FLOAT32)
    found = on_ranks(ranks, trained, tmp_path, folder, tmp_path / "many", sharding, SEQUENCES // ranks, Dtype.FLOAT32)
    whole = expected["num_bytes"] if sharding is Sharding.NO_SHARD else expected["num_bytes"] / 2
    for one in found:
        assert one["losses"] == pytest.approx(expected["losses"], abs=2e-6)
        assert one["num_bytes"] == whole
    one, many = (load_file(tmp_path / name / "model.safetensors") for name in ("one", "many"))
    assert one.keys() == many.keys()
    for name, tensor in one.items():
        torch.testing.assert_close(many[name], tensor, atol=1e-5, rtol=1e-3)


def test_computed_in_bfloat16_the_codes_are_gathered_as_they_are(tmp_path: Path) -> None:
    folder = base(tmp_path / "base")
    expected = trained(folder, tmp_path / "one", Sharding.FULL_SHARD, SEQUENCES // 2, Dtype.BFLOAT16)
    args = (folder, tmp_path / "many", Sharding.FULL_SHARD, SEQUENCES // 2, Dtype.BFLOAT16)
    for one in on_ranks(2, trained, tmp_path, *args):
        assert one["losses"] == pytest.approx(expected["losses"], abs=0.02)
