"""Checkpoints of one process: kills, full disks, damage, other models, policy, randomness."""

from __future__ import annotations

import json
import random
import resource
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.train
torch = pytest.importorskip("torch")

import numpy as np  # noqa: E402

from ironloom.errors import CheckpointError  # noqa: E402
from ironloom.train.checkpoint import checkpointer as module  # noqa: E402
from ironloom.train.checkpoint.checkpointer import Checkpointer, NotSaved, Saved  # noqa: E402
from ironloom.train.checkpoint.folder import steps  # noqa: E402
from ironloom.train.checkpoint.host_memory import CopyMemory, memory_wanted  # noqa: E402
from ironloom.train.checkpoint.index import read_index  # noqa: E402
from ironloom.train.checkpoint.state import tensors_of  # noqa: E402
from ironloom.train.step.masters import Masters  # noqa: E402
from ironloom.workload.training import CheckpointPolicy  # noqa: E402


def network(seed: int = 0, width: int = 5) -> Any:
    torch.manual_seed(seed)
    return torch.nn.Sequential(torch.nn.Linear(4, width), torch.nn.LayerNorm(width), torch.nn.Linear(width, 2))


def trained(model: Any, optimizer: Any, checkpointer: Any = None, *, num_steps: int = 1) -> list[float]:
    losses = []
    for _ in range(num_steps):
        loss = (model(torch.randn(3, 4)) ** 2).sum()
        loss.backward()
        if checkpointer is not None:
            checkpointer.before_update()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses


def adam(model: Any) -> Any:
    return torch.optim.AdamW(model.parameters(), lr=0.01)


def test_a_kill_at_any_call_that_changes_the_disk_leaves_a_checkpoint_that_loads(tmp_path: Path) -> None:
    program = Path(__file__).with_name("killed_program.py")
    done = subprocess.run([sys.executable, program, tmp_path / "c"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    loaded = json.loads(done.stdout)
    assert len(loaded) > 30
    assert loaded == sorted(loaded), "a later kill never loses what an earlier one kept"
    assert set(loaded) == {1, 2, 3}


@pytest.mark.parametrize("is_async", [True, False])
def test_a_run_that_goes_on_is_the_run_that_was_not_cut(tmp_path: Path, is_async: bool) -> None:
    policy = CheckpointPolicy(is_async=is_async)
    model, torch_seed = network(), 5
    optimizer = adam(model)
    checkpointer = Checkpointer(tmp_path, policy)
    assert checkpointer.load(model, optimizer) is None
    checkpointer.prepare(model, optimizer)
    torch.manual_seed(torch_seed)
    trained(model, optimizer, num_steps=3)
    checkpointer.save(3, model, optimizer, {"place": 12})
    whole = trained(model, optimizer, checkpointer, num_steps=4)
    saved = checkpointer.close()
    assert isinstance(saved, Saved)
    assert saved.step == 3
    again = network(seed=9)
    other = adam(again)
    assert Checkpointer(tmp_path, policy).load(again, other) == {"place": 12}
    assert trained(again, other, num_steps=4) == whole


def test_preparing_changes_nothing(tmp_path: Path) -> None:
    plain, prepared = network(), network()
    optimizers = adam(plain), adam(prepared)
    Checkpointer(tmp_path, CheckpointPolicy()).prepare(prepared, optimizers[1])
    torch.manual_seed(1)
    losses = trained(plain, optimizers[0], num_steps=3)
    torch.manual_seed(1)
    assert trained(prepared, optimizers[1], num_steps=3) == losses


def test_numpys_and_pythons_random_numbers_go_on_too(tmp_path: Path) -> None:
    model = network()
    random.seed(3)
    np.random.seed(3)
    checkpointer = Checkpointer(tmp_path, CheckpointPolicy(is_async=False))
    checkpointer.save(1, model, adam(model))
    wanted = random.random(), np.random.rand(), torch.rand(1).item()
    model = network(seed=8)
    Checkpointer(tmp_path, CheckpointPolicy()).load(model, adam(model))
    assert (random.random(), np.random.rand(), torch.rand(1).item()) == wanted


def test_the_checkpoint_is_of_the_state_when_it_was_taken_however_long_it_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = network()
    optimizer = adam(model)
    checkpointer = Checkpointer(tmp_path, CheckpointPolicy())
    checkpointer.prepare(model, optimizer)
    wanted = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    begin = Checkpointer._begin

    def late(*args: Any) -> Any:
        while steps_made == 0:
            pass
        return begin(*args)

    steps_made = 0
    monkeypatch.setattr(Checkpointer, "_begin", late)
    checkpointer.save(1, model, optimizer)
    trained(model, optimizer, checkpointer, num_steps=2)
    steps_made = 2
    assert isinstance(checkpointer.close(), Saved)
    again = network(seed=4)
    Checkpointer(tmp_path, CheckpointPolicy()).load(again, adam(again))
    assert all(torch.equal(tensor, wanted[name]) for name, tensor in again.state_dict().items())


@contextmanager
def files_of_at_most(num_bytes: int) -> Iterator[None]:
    """The kernel refuses to make a file longer than this: a disk that fills up, as write() tells it."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("is_async", [True, False])
def test_a_disk_that_refuses_in_the_middle_ends_no_run_and_leaves_the_older_one(tmp_path: Path, is_async: bool) -> None:
    model = network(width=400)
    optimizer = adam(model)
    checkpointer = Checkpointer(tmp_path, CheckpointPolicy(is_async=is_async))
    checkpointer.save(1, model, optimizer)
    assert isinstance(checkpointer.wait(), Saved)
    with files_of_at_most(4096):
        checkpointer.save(2, model, optimizer)
        trained(model, optimizer, checkpointer)
        outcome = checkpointer.wait()
    assert isinstance(outcome, NotSaved)
    assert outcome.step == 2
    assert "cannot be written: File too large" in outcome.reason
    assert [entry.name for entry in tmp_path.iterdir()] == ["step-00000001"]
    checkpointer.save(3, model, optimizer)
    assert isinstance(checkpointer.close(), Saved)
    assert steps(tmp_path) == [1, 3]


def test_without_memory_for_a_copy_checkpoints_are_synchronous_and_it_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = module.memory_of
    monkeypatch.setattr(module, "memory_of", lambda state: replace(memory(state), available_bytes=100))
    model = network()
    optimizer = adam(model)
    checkpointer = Checkpointer(tmp_path, CheckpointPolicy())
    checkpointer.prepare(model, optimizer)
    assert "which has 100 B available" in checkpointer.note
    checkpointer.save(1, model, optimizer)
    assert isinstance(checkpointer.poll(), Saved), "it is written when save returns"


def test_ranks_of_one_machine_share_its_memory() -> None:
    ranks = [CopyMemory("a", 60, 100), CopyMemory("b", 90, 100), CopyMemory("a", 50, 100)]
    assert "takes 110 B of a's memory, which has 100 B available" in memory_wanted(ranks)
    assert memory_wanted(ranks[:2]) == ""


def test_a_disk_without_room_is_told_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = module.shutil.disk_usage(tmp_path)
    monkeypatch.setattr(module.shutil, "disk_usage", lambda _: usage._replace(free=100))
    model = network()
    checkpointer = Checkpointer(tmp_path, CheckpointPolicy())
    checkpointer.save(1, model, adam(model))
    outcome = checkpointer.close()
    assert isinstance(outcome, NotSaved)
    assert "has 100 B free, and a checkpoint takes" in outcome.reason
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_checkpoint_is_set_aside_and_the_one_before_it_taken(tmp_path: Path) -> None:
    model = network()
    optimizer = adam(model)
    checkpointer = Checkpointer(tmp_path, CheckpointPolicy(is_async=False))
    for step in (1, 2):
        checkpointer.save(step, model, optimizer, {"step": step})
    file = sorted((tmp_path / "step-00000002").glob("*.safetensors"))[0]
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    loading = Checkpointer(tmp_path, CheckpointPolicy(is_async=False))
    assert loading.load(model, optimizer) == {"step": 1}
    (told,) = loading.damaged
    assert "has not the CRC-32 that it was written with" in told
    assert steps(tmp_path) == [1]
    loading.save(2, model, optimizer)
    assert steps(tmp_path) == [1, 2]
    assert not list(tmp_path.glob("*.damaged"))


def test_where_all_are_damaged_nothing_begins_from_nothing(tmp_path: Path) -> None:
    model = network()
    Checkpointer(tmp_path, CheckpointPolicy(is_async=False)).save(1, model, adam(model))
    (tmp_path / "step-00000001" / "checkpoint.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"no checkpoint of .* can be loaded: .* is damaged"):
        Checkpointer(tmp_path, CheckpointPolicy()).load(model, adam(model))


@pytest.mark.parametrize("is_async", [True, False])
def test_the_checkpoint_of_the_lowest_loss_stays_while_it_is_the_lowest(tmp_path: Path, is_async: bool) -> None:
    model = network()
    optimizer = adam(model)
    checkpointer = Checkpointer(tmp_path, CheckpointPolicy(keep_last=1, is_async=is_async))
    losses: dict[int, float] = {}
    left = []
    for step, loss in enumerate((3.0, 1.0, 2.0, 2.0, 0.5, 0.7), start=1):
        losses[step] = loss
        checkpointer.save(step, model, optimizer, losses=losses)
        checkpointer.wait()
        left.append(steps(tmp_path))
    assert left == [[1], [2], [2, 3], [2, 4], [5], [5, 6]]
    checkpointer.close()


def test_the_model_alone_is_read_of_the_first_step_that_is_there_and_whole(tmp_path: Path) -> None:
    model = network()
    optimizer = adam(model)
    checkpointer = Checkpointer(tmp_path, CheckpointPolicy(keep_last=9))
    weights = {}
    for step in (1, 2, 3, 4):
        trained(model, optimizer)
        checkpointer.save(step, model, optimizer, {"step": step})
        checkpointer.before_update()
        weights[step] = [parameter.detach().clone() for parameter in model.parameters()]
    checkpointer.close()

    def is_at(step: int) -> bool:
        return all(torch.equal(one, other) for one, other in zip(model.parameters(), weights[step], strict=True))

    moments = {name: tensor.clone() for name, tensor in tensors_of(model, [optimizer]).items() if "optimizer." in name}
    random = torch.get_rng_state()
    for step in (1, 2):  # of the model's tensors the one that is read last
        folder = tmp_path / f"step-0000000{step}"
        of_model = [one.chunks[0] for name, one in read_index(folder).tensors.items() if name.startswith("model.")]
        chunk = max(of_model, key=lambda one: (one.file, one.begin))
        content = bytearray((folder / chunk.file).read_bytes())
        content[chunk.begin] ^= 1
        (folder / chunk.file).write_bytes(content)
    assert checkpointer.load_model([9, 1, 2], model) is None
    assert is_at(4), "nothing is changed where none is whole"
    assert len(checkpointer.damaged) == 2
    assert steps(tmp_path) == [3, 4], "they are set aside"
    assert checkpointer.load_model([1, 3, 4], model) == 3
    assert is_at(3)
    assert checkpointer.damaged == ()
    assert torch.equal(random, torch.get_rng_state())
    now = tensors_of(model, [optimizer])
    assert all(torch.equal(tensor, now[name]) for name, tensor in moments.items())


def test_another_models_checkpoint_is_refused_by_its_first_difference(tmp_path: Path) -> None:
    model = network()
    Checkpointer(tmp_path, CheckpointPolicy(is_async=False), identity={"layers": 2}).save(1, model, adam(model))
    other = network(width=6)
    before = {name: tensor.clone() for name, tensor in other.state_dict().items()}
    with pytest.raises(
        CheckpointError, match=r"another model's checkpoint: model\.0\.weight is \[5, 4\] there and \[6, 4\] here"
    ):
        Checkpointer(tmp_path, CheckpointPolicy()).load(other, adam(other))
    assert all(torch.equal(tensor, before[name]) for name, tensor in other.state_dict().items())
    with pytest.raises(CheckpointError, match="layers is 2 there and 3 here"):
        Checkpointer(tmp_path, CheckpointPolicy(), identity={"layers": 3}).load(model, adam(model))
    with pytest.raises(CheckpointError, match=r"another optimizer's checkpoint: it has optimizer\.0\.weight\.step"):
        Checkpointer(tmp_path, CheckpointPolicy()).load(model, torch.optim.SGD(model.parameters(), lr=0.1))
    assert steps(tmp_path) == [1]


def test_an_optimizer_of_another_model_is_told(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"the optimizer has a parameter of shape \[5, 4\]"):
        Checkpointer(tmp_path, CheckpointPolicy()).save(1, network(), adam(network()))


def test_a_folder_of_pickles_is_refused(tmp_path: Path) -> None:
    torch.save({}, tmp_path / "model.pt")
    model = network()
    with pytest.raises(CheckpointError, match=r"model\.pt is a pickle"):
        Checkpointer(tmp_path, CheckpointPolicy()).load(model, adam(model))


def test_frozen_weights_are_not_the_runs_own_and_names_are_those_without_wrappers(tmp_path: Path) -> None:
    model = network()
    model[0].requires_grad_(False)
    compiled = torch.compile(model, backend="eager")
    Checkpointer(tmp_path, CheckpointPolicy(is_async=False)).save(1, compiled, adam(model[1]))
    names = set(read_index(tmp_path / "step-00000001").tensors)
    assert {name for name in names if name.startswith("model.")} == {
        "model.1.weight",
        "model.1.bias",
        "model.2.weight",
        "model.2.bias",
    }


def test_wide_forms_are_kept_and_the_computing_ones_follow(tmp_path: Path) -> None:
    model = network()
    Masters(model, torch.bfloat16)
    wide = model.state_dict()["0.weight"].clone()
    assert wide.dtype == torch.float32
    Checkpointer(tmp_path, CheckpointPolicy(is_async=False)).save(1, model)
    again = network(seed=7)
    Masters(again, torch.bfloat16)
    Checkpointer(tmp_path, CheckpointPolicy()).load(again)
    assert torch.equal(again.state_dict()["0.weight"], wide)
    assert torch.equal(again[0].weight, wide.bfloat16())


def test_torchs_own_reader_of_safetensors_reads_the_files(tmp_path: Path) -> None:
    from torch.distributed.checkpoint import HuggingFaceStorageReader

    model = network()
    Checkpointer(tmp_path, CheckpointPolicy(is_async=False)).save(1, model, adam(model))
    metadata = HuggingFaceStorageReader(str(tmp_path / "step-00000001")).read_metadata()
    assert metadata.state_dict_metadata["model.0.weight"].size == torch.Size([5, 4])
