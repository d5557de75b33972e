"""`shard` in a loop of one's own: blocks found, memory refused, an article's FSDP1 script with three lines changed."""

from __future__ import annotations

import difflib
import re
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.train
torch = pytest.importorskip("torch")

from ranks import on_ranks  # noqa: E402
from torch import nn  # noqa: E402

from ironloom.errors import CapacityError, UsageError  # noqa: E402
from ironloom.train import shard, share  # noqa: E402
from ironloom.train.parallel.unknown import units_of  # noqa: E402
from ironloom.workload.training import Compute, Sharding  # noqa: E402

LISTING = Path(__file__).resolve().parents[4] / "shared/data/article_listings/fsdp_train.py"
FILLED = """
device_id, RATE = 0, 1e-2
class Layer(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(16, 32), nn.Linear(32, 16)
    def forward(self, x):
        return x + self.second(torch.tanh(self.first(x)))
class MyLargeLanguageModel(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.embed, self.layers = nn.Embedding(40, 16), nn.ModuleList(Layer() for _ in range(3))
        self.head = nn.Linear(16, 40)
    def forward(self, ids):
        x = self.embed(ids)
        for layer in self.layers:
            x = layer(x)
        return self.head(x)
tokens = torch.randint(40, (6, 8, 9), generator=torch.Generator().manual_seed(1))
dataloader = [{"input_ids": part[:, :-1], "labels": part[:, 1:]} for part in tokens]
losses = []
def criterion(outputs, labels):
    losses.append(nn.functional.cross_entropy(outputs.flatten(0, 1), labels.flatten()))
    return losses[-1]
"""
CHANGES = {
    'model = MyLargeLanguageModel().to(f"cuda:{device_id}")': "from ironloom.train import shard, share",
    "fsdp_model = setup_fsdp_model(model, device_id)": 'fsdp_model = shard(MyLargeLanguageModel(), "SHARD_GRAD_OP")',
    "for batch in dataloader:": "for batch in share(dataloader):",
}


def filled() -> str:
    """The listing with the names that it does not define: a small model, data and a criterion."""
    if not LISTING.exists():
        pytest.skip("the article's listing is not here")
    begin, loop = LISTING.read_text().split("# Standard PyTorch", 1)
    return f"{begin}{FILLED}# Standard PyTorch{loop}"


def changed(text: str) -> str:
    for old, new in CHANGES.items():
        assert old in text
        text = text.replace(old, new)
    return text


def run(text: str) -> tuple[list[float], Any]:
    names: dict[str, Any] = {}
    exec(compile(text, "fsdp_train.py", "exec"), names)
    model = names["fsdp_model"]
    assert model.units.blocks == ("layers.0", "layers.1", "layers.2")
    weights = {n: p.full_tensor() if hasattr(p, "full_tensor") else p for n, p in model.named_parameters()}
    return [float(loss.detach()) for loss in names["losses"]], {n: w.detach() for n, w in weights.items()}


def test_the_articles_script_runs_on_four_ranks_with_three_lines_changed(tmp_path: Path) -> None:
    before = filled()
    after = changed(before)
    lines = difflib.unified_diff(before.splitlines(), after.splitlines(), n=0, lineterm="")
    assert sum(line.startswith("+") and not line.startswith("+++") for line in lines) <= 3
    alone_losses, alone = run(after)
    results = on_ranks(4, run, tmp_path, after)
    mean = [sum(losses) / 4 for losses in zip(*(losses for losses, _ in results), strict=True)]
    assert mean == pytest.approx(alone_losses, abs=1e-5)
    for _, weights in results:
        for name, weight in alone.items():
            torch.testing.assert_close(weights[name], weight, atol=1e-5, rtol=1e-4)


def test_what_a_rank_holds_follows_the_strategy() -> None:
    module = nn.Sequential(*(nn.Linear(100, 100, bias=False) for _ in range(4)))

    def bytes_of(sharding: Sharding) -> int:
        return units_of(module, Compute(sharding=sharding), 4).rank_bytes

    assert bytes_of(Sharding.FULL_SHARD) == 10_000 * 16 + 2 * 10_000 * 2
    assert bytes_of(Sharding.SHARD_GRAD_OP) == 10_000 * 16 + 40_000 * 2
    assert bytes_of(Sharding.NO_SHARD) == 40_000 * 16 + 40_000 * 2


def test_a_hybrid_group_is_the_ranks_of_one_machine_where_no_size_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    module = nn.Sequential(*(nn.Linear(100, 100, bias=False) for _ in range(4)))
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "8")
    said = units_of(module, Compute(sharding=Sharding.HYBRID_SHARD, shard_group_size=8), 16)
    assert units_of(module, Compute(sharding=Sharding.HYBRID_SHARD), 16) == said
    assert said.rank_bytes == 40_000 * 16 / 8 + 2 * 10_000 * 4 / 2


def test_one_process_says_that_it_offloads_nothing_and_is_held_against_its_memory() -> None:
    module = nn.Linear(1000, 1000)
    with pytest.warns(UserWarning, match="cpu_offload changes nothing in one process"):
        shard(module, cpu_offload=True)
    with pytest.warns(UserWarning, match="cpu_offload"), pytest.raises(CapacityError) as refused:
        shard(module, cpu_offload=True, free_bytes=1000)
    assert "cpu_offload" not in (refused.value.hint or "")


def test_what_cannot_fit_is_refused_with_the_numbers() -> None:
    module = nn.Sequential(*(nn.Linear(1000, 1000) for _ in range(4)))
    with pytest.raises(
        CapacityError, match=r"4\.0 million parameters in 4 blocks .*0\.06 GiB a rank, and 0\.01 GiB"
    ) as refused:
        shard(module, free_bytes=10_000_000)
    assert refused.value.hint == "64 ranks that have as much each would fit"
    with pytest.raises(CapacityError) as refused:
        shard(module, "SHARD_GRAD_OP", free_bytes=10_000_000)
    assert refused.value.hint == "64 ranks that have as much each, with FULL_SHARD, would fit"
    with pytest.raises(CapacityError) as refused:
        shard(module, free_bytes=1_000_000)
    assert refused.value.hint == "a smaller module, or 0.06 GiB for each rank, would fit"


def test_without_a_gpu_a_rank_has_its_share_of_the_machines_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    with torch.device("meta"):
        module = nn.Sequential(*(nn.Linear(400_000, 400_000) for _ in range(2)))
    with pytest.raises(CapacityError, match="GiB are free"):
        shard(module)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(1 << 40))
    with torch.device("meta"):
        module = nn.Linear(100, 100)
    with pytest.raises(CapacityError, match=r"and 0\.00 GiB are free"):
        shard(module)


@pytest.mark.parametrize(
    ("blocks", "said"),
    [
        (("layer.0",), r"no part 'layer\.0'\n\nhint: did you mean layers\.0\?"),
        (("nope",), "no part 'nope'\n\nhint: names as"),
        (("",), "no part ''"),
        (("layers",), r"layers is a list and has no forward\n\nhint: its members: 'layers\.0', 'layers\.1'"),
        ("layers.0", r"'layers\.0' is one name\n\nhint: a tuple"),
        (("head",), "head shares a parameter with a part outside of it"),
    ],
)
def test_blocks_that_cannot_be_units_are_refused(blocks: Any, said: str) -> None:
    module = nn.Module()
    module.embed, module.head = nn.Embedding(40, 16), nn.Linear(16, 40, bias=False)
    module.layers = nn.ModuleList(nn.Linear(16, 16) for _ in range(2))
    module.head.weight = module.embed.weight
    with pytest.raises(UsageError) as raised:
        shard(module, blocks=blocks)
    assert re.search(said, f"{raised.value}\n\nhint: {raised.value.hint}")


@pytest.mark.parametrize("name", ["FULL_SHARD", "_HYBRID_SHARD_ZERO2", "NO_SHARD"])
def test_the_strategies_have_fsdp1s_names_and_one_process_stays_as_it_is(name: str) -> None:
    module = nn.Linear(2, 2)
    assert shard(module, name, limit_all_gathers=True, sync_module_states=True) is module


def test_unknown_strategies_options_and_types_are_refused() -> None:
    with pytest.raises(UsageError, match="ZERO9"):
        shard(nn.Linear(2, 2), "ZERO9")
    with pytest.raises(UsageError, match="auto_warp"):
        shard(nn.Linear(2, 2), auto_warp=True)
    with pytest.raises(UsageError, match="float16"):
        shard(nn.Linear(2, 2), mixed_precision=torch.distributed.fsdp.MixedPrecisionPolicy(param_dtype=torch.float16))


def test_one_process_has_all_rows_of_a_batch() -> None:
    batch = {"x": torch.arange(3), "names": ("a", torch.arange(3))}
    assert torch.equal(next(share([batch]))["x"], torch.arange(3))
