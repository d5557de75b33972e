"""The settings of a training run: from JSON, from arguments, and what is said of those that mean nothing."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ironloom.workload.training import Dtype, Method, OnBadLoss, Schedule, Source, Training
from ironloom.workload.training_settings import (
    SettingError,
    check_ranks,
    from_args,
    from_json,
    read_args,
    settings,
    to_args,
    to_json,
)

BASE = {"name": "run", "model": "hf://owner/name", "output": "/out"}


def of(*args: str) -> Training:
    return from_args(args, base=BASE)


def test_arguments_say_settings_by_name_in_either_spelling() -> None:
    made = of("--optimizer.learning-rate=1e-4", "--num_steps", "7", "--compute.is_deterministic", "--method=lora")
    assert (made.optimizer.learning_rate, made.num_steps, made.method) == (1e-4, 7, Method.LORA)
    assert made.compute.is_deterministic
    assert not of("--compute.is_deterministic=false").compute.is_deterministic


def test_a_list_is_said_once_for_each_entry() -> None:
    made = of(
        "--data.sources=/a.jsonl", '--data.sources={"uri": "/b", "weight": 0.5}', "--watch.sample_prompts=Hi, you"
    )
    assert made.data.sources == (Source(uri="/a.jsonl"), Source(uri="/b", weight=0.5))
    assert made.watch.sample_prompts == ("Hi, you",)


def test_values_of_several_numbers_have_commas() -> None:
    made = of("--optimizer.betas=0.8,0.9", "--watch.profile_steps=3,5", "--optimizer.state_dtype=bfloat16")
    assert (made.optimizer.betas, made.watch.profile_steps) == ((0.8, 0.9), (3, 5))
    assert made.optimizer.state_dtype is Dtype.BFLOAT16
    assert of("--optimizer.state_dtype=none").optimizer.state_dtype is None


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["--optimizer.learning_rate=fast"], "optimizer.learning_rate = 'fast', must be a number above 0"),
        (["--optimizer.learning_rate=-1"], "optimizer.learning_rate = -1, must be a number above 0"),
        (["--optimizer.learning_rate=nan"], "optimizer.learning_rate = nan, must be a number above 0"),
        (["--data.seq_len=2.5"], "data.seq_len = '2.5', must be a whole number from 2 to 16777216"),
        (["--data.seq_len=1_000"], "data.seq_len = '1_000', must be a whole number from 2 to 16777216"),
        (["--method=lorra"], "method = 'lorra', must be one of full, lora, qlora"),
        (["--compute.is_compiled=maybe"], "compute.is_compiled = 'maybe', must be true or false"),
        (["--optimizer.betas=0.9"], "optimizer.betas = 0.9, must be two numbers from 0 to below 1"),
        (["--data.sources={"], "data.sources = {}, must be a path or URI, or an object with "),
        (["--num_steps"], "--num_steps has no value; it must be a whole number of at least 0"),
        (["--num_stps=3"], "there is no setting 'num_stps' of a training run; did you mean 'num_steps'?"),
        (["--learning-rate=1"], ("there is no setting 'learning-rate' of a training run; did you mean "
         "'optimizer.learning_rate'?")),
        (["--watch.early_stop_patience=2"], "watch.early_stop_patience = 2 needs evaluations to look at"),
        (["--watch.is_best_exported"], "watch.is_best_exported = true needs evaluations to look at"),
        (["--watch.is_best_exported=2"], "watch.is_best_exported = '2', must be true or false, or none"),
        (["--method=lora", "--is_from_scratch"], ("method = lora trains adapters of a model that is there; "
         "is_from_scratch starts from new weights")),
        (["--method=qlora", "--compute.is_float8"], "compute.is_float8 = true: the base of method = qlora has 4 bits"),
        (["rows.jsonl"], "'rows.jsonl' is no setting: they are written --name=value"),
    ],
)  # fmt: skip
def test_an_argument_that_means_nothing_is_told(args: list[str], said: str) -> None:
    with pytest.raises(SettingError) as told:
        of(*args)
    assert told.value.message.startswith(said)


def test_the_place_of_a_wrong_argument_is_known() -> None:
    with pytest.raises(SettingError) as told:
        read_args(["--num_steps=1", "--data.seq_len", "x"])
    assert (told.value.key, told.value.index) == ("data.seq_len", 1)


def test_what_a_run_cannot_do_without_is_asked_for() -> None:
    with pytest.raises(SettingError, match="model is not said, and a training run needs it"):
        from_args(["--name=a", "--output=/out"])


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"optimizer": {"learning_rate": "2e-5"}}, "optimizer.learning_rate = '2e-5', must be a number above 0"),
        ({"optimizer": 3}, "optimizer = 3, must be an object"),
        ({"num_steps": True}, "num_steps = True, must be a whole number of at least 0"),
        ({"data": {"sources": ["/a"], "lenght": 3}}, "there is no setting 'data.lenght' of a training run"),
        ({"data": {"sources": "/a"}}, "data.sources = '/a', must be a list"),
    ],
)
def test_json_of_the_wrong_type_is_told(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(SettingError) as told:
        from_json(BASE | changes)
    assert told.value.message.startswith(said)


def test_a_source_in_json_may_be_its_path_alone() -> None:
    assert from_json(BASE | {"data": {"sources": ["/a"]}}).data.sources == (Source(uri="/a"),)


_values = {
    "num_steps": st.integers(0, 10**6),
    "optimizer.learning_rate": st.floats(1e-9, 10),
    "optimizer.schedule": st.sampled_from(Schedule),
    "watch.on_bad_loss": st.sampled_from(OnBadLoss),
    "watch.sample_prompts": st.lists(st.text(min_size=1), max_size=3).map(tuple),
    "data.sources": st.lists(
        st.builds(Source, uri=st.text(min_size=1), weight=st.floats(0.01, 9), split=st.sampled_from(["train", "b"])),
        max_size=3,
    ).map(tuple),
    "compute.is_compiled": st.booleans(),
    "optimizer.state_dtype": st.none() | st.sampled_from(Dtype),
    "data.text_field": st.text(),
}


@given(st.fixed_dictionaries({}, optional=_values))
def test_arguments_and_json_bring_back_what_they_were_made_of(changes: dict[str, Any]) -> None:
    training = from_args((), base=BASE | changes)
    assert from_args(to_args(training), base={"name": "run"}) == training
    assert from_json(to_json(training)) == training


@given(st.lists(st.text() | st.sampled_from([f"--{key}" for key in settings()]), max_size=4))
def test_whatever_is_written_is_read_or_told(args: list[str]) -> None:
    with contextlib.suppress(SettingError):
        read_args(args)


def test_a_batch_that_does_not_divide_among_the_ranks_is_told_with_what_would() -> None:
    training = of("--global_batch_size=8")
    check_ranks(training, 4)
    with pytest.raises(SettingError) as told:
        check_ranks(training, 3)
    assert told.value.message == "global_batch_size = 8 does not divide by 3 ranks × micro_batch_size 1"
    assert told.value.hint == "2 ranks or global_batch_size=9 would"


@pytest.mark.parametrize(
    ("said", "is_best"),
    [
        ([], False),
        (["--watch.early_stop_patience=2"], True),
        (["--watch.early_stop_patience=2", "--watch.is_best_exported=none"], True),
        (["--watch.early_stop_patience=2", "--watch.is_best_exported=false"], False),
        (["--watch.is_best_exported"], True),
        (["--watch.is_best_exported", "--seed=3"], True),
    ],
)
def test_the_best_model_is_exported_where_a_run_ends_early_or_where_that_is_said(
    said: list[str], is_best: bool
) -> None:
    base = {"name": "a", "model": "hf://a/b", "output": "/out", "watch.eval_every_steps": 5, "data.eval_fraction": 0.1}
    training = from_args(said, base=base)
    assert training.watch.exports_best is is_best
    assert from_args(to_args(training), base={"name": "a"}) == training
