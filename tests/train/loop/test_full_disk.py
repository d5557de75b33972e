"""A disk that is full in the middle of a checkpoint: the run goes on, says so, and its next checkpoint is whole."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.train
pytest.importorskip("torch")
pytest.importorskip("transformers")

from tests.train.loop.tiny import make_model, make_rows  # noqa: E402

from ironloom.train.checkpoint import storage  # noqa: E402
from ironloom.train.checkpoint.folder import steps  # noqa: E402
from ironloom.train.loop.exits import DONE  # noqa: E402
from ironloom.train.loop.rank import run_rank  # noqa: E402
from ironloom.train.loop.ranks import Ranks  # noqa: E402
from ironloom.train.loop.records import Kind, path_of, read_records  # noqa: E402
from ironloom.workload.training_settings import from_args  # noqa: E402


@pytest.fixture(autouse=True)
def _signals_and_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A run listens to signals in its process, which is the tests' here."""
    monkeypatch.setenv("IRONLOOM_CACHE", str(tmp_path / "cache"))
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("is_async", [True, False], ids=["beside the steps", "between steps"])
def test_a_run_goes_on_when_the_disk_is_full_in_the_middle_of_a_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_async: bool
) -> None:
    write = storage.write_safetensors
    refused: list[Path] = []

    def full_at_step_3(path: Path, *args: Any) -> Any:
        if "step-00000003" not in str(path):
            return write(path, *args)
        refused.append(path)
        path.write_bytes(b"half of a file")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(storage, "write_safetensors", full_at_step_3)
    model, rows = make_model(tmp_path / "model"), make_rows(tmp_path / "rows.jsonl")
    output = tmp_path / "out"
    settings = [
        f"--data.sources={rows}", "--data.seq_len=64", "--num_steps=6", "--global_batch_size=2",
        "--checkpoint.every_steps=3", f"--checkpoint.is_async={str(is_async).lower()}", "--watch.log_every_steps=1",
    ]  # fmt: skip
    training = from_args(settings, base={"name": "full", "model": str(model), "output": str(output)})
    assert run_rank(training, Ranks()) == DONE
    assert refused
    records, _ = read_records(path_of(output / "logs", 0))
    (told,) = (r["message"] for r in records if r["kind"] == Kind.NOTE and "No checkpoint of step 3" in r["message"])
    assert "No space left on device" in told
    assert [r["step"] for r in records if r["kind"] == Kind.STEP] == [1, 2, 3, 4, 5, 6]
    assert [r["step"] for r in records if r["kind"] == Kind.CHECKPOINTED] == [6]
    assert steps(output / "checkpoints") == [6]
    assert not list((output / "checkpoints").glob("*.partial"))
    assert (output / "model.safetensors").is_file()
