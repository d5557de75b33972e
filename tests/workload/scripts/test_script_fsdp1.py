"""What an FSDP1 script's settings are here, whichever way it writes them."""

from __future__ import annotations

import pytest

from ironloom.workload.scripts.fsdp1 import mapped
from ironloom.workload.scripts.mapping import agreed
from ironloom.workload.scripts.read import read_script
from ironloom.workload.training_settings import from_args

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
            "is_on = True\nFSDP(model, cpu_offload=CPUOffload(offload_params=is_on))",
            "cpu_offload=CPUOffload(offload_params=is_on)",
            "compute.is_cpu_offload=true",
        ),
        ("FSDP(model, cpu_offload=CPUOffload())", "cpu_offload=CPUOffload()", "compute.is_cpu_offload=false"),
        ("FSDP(model, cpu_offload=CPUOffload(wish()))", "cpu_offload=CPUOffload(wish())", ""),
        ("FSDP(model, cpu_offload=CPUOffload(**wish))", "cpu_offload=CPUOffload(**wish)", ""),
        ("FSDP(model, cpu_offload=wish())", "cpu_offload=wish()", ""),
        ("FSDP(model, mixed_precision=policy(torch.bfloat16))", "mixed_precision=policy(torch.bfloat16)", ""),
        (
            "from torch.distributed import fsdp\nFSDP(model, mixed_precision=fsdp.MixedPrecision(torch.bfloat16))",
            "MixedPrecision(param_dtype=torch.bfloat16)",
            "compute.compute_dtype=bfloat16",
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
             "AdamW(eps=1e-08)": "optimizer.eps=1e-08", "AdamW(weight_decay=0.01)": "optimizer.weight_decay=0.01",
             "AdamW(model.parameters())": "optimizer.is_vector_decayed=true"},
        ),
        (
            "rate = 3e-4\ntorch.optim.AdamW(groups, rate, (0.9, 0.95), weight_decay=0.1)",
            {"AdamW(lr=rate)": "optimizer.learning_rate=0.0003", "AdamW(betas=(0.9, 0.95))": "optimizer.betas=0.9,0.95",
             "AdamW(eps=1e-08)": "optimizer.eps=1e-08", "AdamW(weight_decay=0.1)": "optimizer.weight_decay=0.1",
             "AdamW(groups)": ""},
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
    assert {written: here for written, here in found.items() if not written.startswith("(no ")} == settings


def test_a_script_without_a_wrap_has_nothing_to_map() -> None:
    assert told("AdamW(model.parameters(), lr=1e-5)\nmodel.clip_grad_norm_(1.0)") == {}


WHOLE = "model = FSDP(model)\noptimizer = AdamW(model.parameters(), lr=1e-4, weight_decay=0)\n"
SCHEDULERS = "from torch.optim.lr_scheduler import CosineAnnealingLR, StepLR\n"
OF_TRANSFORMERS = "from transformers import get_constant_schedule, get_linear_schedule_with_warmup\n"


@pytest.mark.parametrize(
    ("text", "settings"),
    [
        ("", {"(no schedule)": "optimizer.schedule=constant", "(no clipping)": "optimizer.max_grad_norm=0",
              "(no mixed_precision)": "compute.compute_dtype=float32"}),
        ("make_scheduler(optimizer)",
         {"(no schedule that can be read)": "", "(no clipping)": "optimizer.max_grad_norm=0"}),
        ("torch.nn.utils.clip_grad_value_(model.parameters(), 1.0)", {"(no clip_grad_norm_ that can be read)": ""}),
        ("torch.nn.utils.clip_grad_norm_(model.parameters(), 0.5)",
         {"clip_grad_norm_(0.5)": "optimizer.max_grad_norm=0.5"}),
        ("model.clip_grad_norm_(bound())", {"clip_grad_norm_(bound())": ""}),
        ("with torch.autocast('cuda'): pass", {"(no mixed_precision)": ""}),
        ("import accelerate", {"(no schedule that can be read)": "", "(no clip_grad_norm_ that can be read)": "",
                               "(no mixed_precision)": ""}),
        (SCHEDULERS + "CosineAnnealingLR(optimizer, 100)", {"CosineAnnealingLR(…)": "optimizer.schedule=cosine"}),
        (SCHEDULERS + "CosineAnnealingLR(optimizer, 100, eta_min=1e-5)",
         {"CosineAnnealingLR(…)": "optimizer.schedule=cosine", "eta_min=1e-5": "optimizer.min_lr_fraction=0.1"}),
        (SCHEDULERS + "CosineAnnealingLR(optimizer, 100, least())", {"eta_min=least()": ""}),
        (SCHEDULERS + "StepLR(optimizer, 30)", {"StepLR(…)": ""}),
        (SCHEDULERS + "CosineAnnealingLR(optimizer, 9)\nStepLR(optimizer, 30)",
         {"CosineAnnealingLR(…)": "", "StepLR(…)": ""}),
        (OF_TRANSFORMERS + "get_constant_schedule(optimizer)",
         {"get_constant_schedule(…)": "optimizer.schedule=constant"}),
        (OF_TRANSFORMERS + "get_linear_schedule_with_warmup(optimizer, 10, steps)",
         {"get_linear_schedule_with_warmup(…)": "optimizer.schedule=linear",
          "num_warmup_steps=10": "optimizer.warmup_steps=10"}),
        (OF_TRANSFORMERS + "get_linear_schedule_with_warmup(optimizer, warmup(), steps)",
         {"num_warmup_steps=warmup()": ""}),
    ],
)  # fmt: skip
def test_schedule_clipping_and_precision_are_told_with_what_the_script_lacks(
    text: str, settings: dict[str, str]
) -> None:
    found = told(WHOLE + text)
    assert {written: found.get(written) for written in settings} == settings


@pytest.mark.parametrize("name", ["SGD", "Adagrad", "RMSprop"])
def test_another_optimizer_is_told_and_nothing_of_it_is_taken(name: str) -> None:
    found = told(f"model = FSDP(model)\ntorch.optim.{name}(model.parameters(), lr=0.1)")
    assert found[f"{name}(…)"] == ""
    assert not any(here.startswith(("optimizer.learning_rate", "optimizer.weight_decay")) for here in found.values())


def test_of_a_module_without_an_optimizer_nothing_is_taken_to_be_absent() -> None:
    found = told("def wrapped(model):\n    return FSDP(model)")
    assert found["(no optimizer that can be read)"] == ""
    assert {here for here in found.values() if here} == {"compute.sharding=FULL_SHARD"}


def test_a_setting_that_the_script_says_twice_is_taken_where_both_are_one_value() -> None:
    text = WHOLE + "FSDP(other)\nmodel.clip_grad_norm_(1.0)\nmodel.clip_grad_norm_(0.5)"
    settings, several = agreed(mapped(read_script(HEAD + text, "train.py")))
    assert settings.count("compute.sharding=FULL_SHARD") == 1
    assert not any(one.startswith("optimizer.max_grad_norm") for one in settings)
    assert several == ["optimizer.max_grad_norm is left to you: the script says 1 (line 7) and 0.5 (line 8)"]


def test_the_settings_are_ones_that_training_takes() -> None:
    text = WHOLE + SCHEDULERS + "CosineAnnealingLR(optimizer, 100, eta_min=1e-5)\nAdamW(model.parameters(), lr=1e-4)"
    settings, _ = agreed(mapped(read_script(HEAD + text, "train.py")))
    training = from_args([f"--{one}" for one in settings], base={"name": "run", "model": "m", "output": "/out"})
    assert training.optimizer.min_lr_fraction == 0.1
    assert training.optimizer.max_grad_norm == 0
    assert training.optimizer.is_vector_decayed


def test_a_variant_of_adamw_that_is_not_here_is_told_and_how_it_is_computed_is_not() -> None:
    found = told("FSDP(model)\nAdamW(groups, 1e-4, (0.9, 0.95), 1e-8, 0.1, True, maximize=False, fused=True)")
    assert found["AdamW(amsgrad=True)"] == ""
    assert not any("maximize" in written or "fused" in written for written in found)
    assert told("FSDP(model)\nAdamW(groups, maximize=wish())")["AdamW(maximize=wish())"] == ""
