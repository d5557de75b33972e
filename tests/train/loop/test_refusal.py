"""What a rank that fails says, and where."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ironloom.train.loop.refusal import ERROR_FILE, tell


def test_a_rank_that_fails_says_so_on_stderr(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv(ERROR_FILE, raising=False)
    tell("It does not fit.", rank=1)
    assert capsys.readouterr().err == "It does not fit.\n"


@pytest.mark.parametrize(("rank", "said"), [(0, "It does not fit.\n"), (1, "")])
def test_under_torchrun_the_report_has_the_sentence_of_each_rank_and_stderr_that_of_the_first(
    rank: int, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "error.json"
    monkeypatch.setenv(ERROR_FILE, str(file))
    tell("It does not fit.", rank=rank)
    assert capsys.readouterr().err == said
    message = json.loads(file.read_text())["message"]
    assert message["message"] == message["extraInfo"]["py_callstack"] == "It does not fit."


def test_a_report_that_cannot_be_written_loses_the_report_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(ERROR_FILE, str(tmp_path / "nowhere/error.json"))
    tell("It does not fit.", rank=0)
    assert capsys.readouterr().err == "It does not fit.\n"
