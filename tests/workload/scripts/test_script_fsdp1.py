"""What an FSDP1 script's settings are here, whichever way it writes them."""

from __future__ import annotations

import pytest

from ironloom.workload.scripts.fsdp1 import mapped
from ironloom.workload.scripts.read import read_script

HEAD = """\
import torch
from torch.optim import Adam, AdamW
from torch.distributed.fsdp import CPUOffload, FullyShardedDataParallel as FSDP, MixedPrecision, ShardingStrategy
"""


def told(text: str) -> dict[str, str]:
    """What is written, and the setting that it is here."""
    return {one.written: one.here for one in mapped(read_script(HEAD + text, "train.py"))}


@pytest.mark.parametrize(
    ("text", "written", "here"),
    [
        (
            "FSDP(model, None, ShardingStrategy._HYBRID_SHARD_ZERO2, None)",
            "sharding_strategy=ShardingStrategy._HYBRID_SHARD_ZERO2",
            "compute.sharding=_HYBRID_SHARD_ZERO2",
        ),
        (
            "how = {'sharding_strategy': ShardingStrategy.NO_SHARD}\nFSDP(model, **how)",
            "sharding_strategy=ShardingStrategy.NO_SHARD",
            "compute.sharding=NO_SHARD",
        ),
        ("FSDP(model, **read_settings())", "**read_settings()", ""),
        ("FSDP(*parts)", "*parts", ""),
        ("FSDP(model, None, strategy)", "sharding_strategy=strategy", ""),
        ("FSDP(model)", "(no sharding_strategy)", "compute.sharding=FULL_SHARD"),
        ("FSDP(model, sharding_strategy=None)", "(no sharding_strategy)", "compute.sharding=FULL_SHARD"),
        (
            "FSDP(model, None, None, CPUOffload(True))",
            "cpu_offload=CPUOffload(True)",
            "compute.is_cpu_offload=true",
        ),
        (
            "FSDP(model, mixed_precision=MixedPrecision(torch.bfloat16, torch.float32))",
            "MixedPrecision(reduce_dtype=torch.float32)",
            "compute.reduce_dtype=float32",
        ),
    ],
)
def test_an_argument_of_the_wrap_is_read_by_name_by_position_and_from_a_dictionary(
    text: str, written: str, here: str
) -> None:
    assert told(text)[written] == here


@pytest.mark.parametrize("text", ["FSDP(model, **read_settings())", "FSDP(*parts)", "FSDP(model, None, strategy)"])
def test_a_strategy_that_is_not_written_out_is_not_taken_for_the_default(text: str) -> None:
    assert not any(here.startswith("compute.sharding") for here in told(text).values())


@pytest.mark.parametrize(
    ("text", "settings"),
    [
        (
            "AdamW(model.parameters(), lr=1e-5)",
            {"AdamW(lr=1e-5)": "optimizer.learning_rate=1e-05", "AdamW(betas=0.9,0.999)": "optimizer.betas=0.9,0.999",
             "AdamW(eps=1e-08)": "optimizer.eps=1e-08", "AdamW(weight_decay=0.01)": "optimizer.weight_decay=0.01"},
        ),
        (
            "rate = 3e-4\ntorch.optim.AdamW(model.parameters(), rate, (0.9, 0.95), weight_decay=0.1)",
            {"AdamW(lr=rate)": "optimizer.learning_rate=0.0003", "AdamW(betas=(0.9, 0.95))": "optimizer.betas=0.9,0.95",
             "AdamW(eps=1e-08)": "optimizer.eps=1e-08", "AdamW(weight_decay=0.1)": "optimizer.weight_decay=0.1"},
        ),
        (
            "AdamW(model.parameters(), lr=rate(), **others)",
            {"AdamW(lr=rate())": "", "**others": ""},
        ),
        (
            "Adam(model.parameters(), weight_decay=0.1, lr=1e-4, betas=(0, 0.9), eps=1e-6)",
            {"Adam(lr=1e-4)": "optimizer.learning_rate=0.0001", "Adam(weight_decay=0.1)": "",
             "Adam(betas=(0, 0.9))": "optimizer.betas=0,0.9", "Adam(eps=1e-6)": "optimizer.eps=1e-06"},
        ),
    ],
)  # fmt: skip
def test_adamws_settings_are_told_with_the_defaults_that_are_not_ours(text: str, settings: dict[str, str]) -> None:
    found = told(f"FSDP(model)\n{text}")
    del found["(no sharding_strategy)"]
    assert found == settings


def test_a_script_without_a_wrap_has_nothing_to_map() -> None:
    assert told("AdamW(model.parameters(), lr=1e-5)\nmodel.clip_grad_norm_(1.0)") == {}
