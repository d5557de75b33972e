"""FSDP1's names: every argument that torch's own classes take is told of in the reference, no-ops among them."""

from __future__ import annotations

import dataclasses
import inspect

import pytest

pytestmark = pytest.mark.train
torch = pytest.importorskip("torch")

from torch.distributed.fsdp import FullyShardedDataParallel, MixedPrecision, ShardingStrategy  # noqa: E402

from ironloom.train.parallel.unknown import NO_OPS  # noqa: E402
from ironloom.workload.scripts import fsdp1  # noqa: E402
from ironloom.workload.training_reference import reference_page  # noqa: E402

TOLD = {name for name, _, _ in fsdp1.names()}


def test_every_argument_of_fsdp1_s_class_is_in_the_table() -> None:
    arguments = set(inspect.signature(FullyShardedDataParallel).parameters) - {"module", "mixed_precision"}
    told = {name.partition("=")[0] for name in TOLD if not name.startswith("MixedPrecision")}
    assert told - arguments == {"ignored_parameters"}, "torch's older name of ignored_states"
    assert arguments <= told


def test_every_strategy_and_every_type_of_mixed_precision_is_in_the_table() -> None:
    assert {f"sharding_strategy={strategy.name}" for strategy in ShardingStrategy} <= TOLD
    fields = {field.name for field in dataclasses.fields(MixedPrecision)}
    told = {name.split("(")[1].partition("=")[0] for name in TOLD if name.startswith("MixedPrecision")}
    assert fields - {"_module_classes_to_ignore"} == told


def test_what_shard_takes_without_effect_is_said_in_the_reference() -> None:
    page = reference_page()
    assert [name for name in NO_OPS if f"`{name}`" not in page] == []
