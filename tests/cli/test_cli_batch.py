from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from fake_control import FakeControl, Run, service
from hypothesis import given
from hypothesis import strategies as st

from ironloom.cli import batch as batch_module
from ironloom.cli.batch_file import ENDPOINTS, BatchFile, multipart, prepare
from ironloom.errors import UsageError


def row(custom_id: str, **changes: Any) -> dict[str, Any]:
    body = {"messages": [{"role": "user", "content": "Hi ü"}]}
    return {"custom_id": custom_id, "method": "POST", "url": "/v1/chat/completions", "body": body} | changes


def write(path: Path, *rows: object) -> Path:
    path.write_text("".join((r if isinstance(r, str) else json.dumps(r)) + "\n" for r in rows))
    return path


def state(status: str, completed: int = 0, **changes: Any) -> dict[str, Any]:
    return {
        "id": "batch_1", "status": status, "created_at": 100, "in_progress_at": 110,
        "request_counts": {"total": 2, "completed": completed, "failed": 0},
        "usage": {"input_tokens": 20, "output_tokens": 50 * completed},
    } | changes  # fmt: skip


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(batch_module, "POLL_S", 0)
    monkeypatch.chdir(tmp_path)


def test_a_batch_is_sent_followed_and_its_answers_written(fake: FakeControl, run: Run, tmp_path: Path) -> None:
    fake.services = {"chat": service()}
    done = state("completed", 2, completed_at=120, output_file_id="file-out")
    fake.batches = [state("validating"), state("in_progress"), state("in_progress", 1), done]
    fake.files["file-out"] = b'{"custom_id": "1"}\n{"custom_id": "2"}\n'
    file = write(tmp_path / "in.jsonl", row("1"), row("2", body={"model": "gpt-4o", "messages": []}))
    result = run("batch", "chat", str(file))
    assert result.status == 0
    assert result.out == ""
    assert result.err == (
        "1 row named another model; every row goes to chat.\n"
        "Batch batch_1: 2 rows to chat.\n"
        "Batch batch_1 completed: 2 of 2 rows answered in 10s, 20 tokens in and 100 out (10 out a second); "
        "the answers stand in in.out.jsonl.\n"
    )
    assert (tmp_path / "in.out.jsonl").read_bytes() == fake.files["file-out"]
    made = next(body for method, path, body in fake.calls if (method, path) == ("POST", "/v1/batches"))
    assert made == {"input_file_id": "file-in", "endpoint": "/v1/chat/completions", "completion_window": "24h"}
    sent = fake.files["file-in"]
    assert b'name="purpose"\r\n\r\nbatch\r\n' in sent
    rows = [json.loads(line) for line in sent.splitlines() if line.startswith(b'{"custom_id"')]
    assert [(r["custom_id"], r["body"]["model"]) for r in rows] == [("1", "chat"), ("2", "chat")]


def test_a_quick_batch_tells_how_long_it_took_although_the_daemon_counts_whole_seconds(
    fake: FakeControl, run: Run, tmp_path: Path
) -> None:
    fake.services = {"chat": service()}
    fake.batches = [state("completed", 2, completed_at=110)]
    told = run("batch", "chat", str(write(tmp_path / "in.jsonl", row("1"), row("2")))).err
    assert re.search(r"2 of 2 rows answered in [1-9][0-9]*ms, 20 tokens in and 100 out \([0-9]+ out a second\)", told)
    assert "answered in 1.0s, " in run("batch", "--follow", "batch_1").err


def test_the_model_may_be_named_by_what_a_service_serves(fake: FakeControl, run: Run, tmp_path: Path) -> None:
    file = str(write(tmp_path / "in.jsonl", row("1")))
    fake.services = {"chat": service(), "twin": service("twin", model={"uri": "hf://a/b", "note": None})}
    fake.batches = [state("validating")]
    assert run("batch", "a/b", file, "--no-wait").out == "batch_1\n"
    assert run("batch", "hf://a/b", file, "--no-wait").out == "batch_1\n"
    result = run("batch", "nope", file)
    assert (result.status, result.err) == (2, "There is no service 'nope'.\n\nhint: `ironloom serve nope` makes one.\n")


def test_rows_that_failed_are_in_a_file_of_their_own_and_in_the_exit_status(
    fake: FakeControl, run: Run, tmp_path: Path
) -> None:
    fake.services = {"chat": service()}
    counts = {"total": 2, "completed": 1, "failed": 1}
    fake.batches = [
        state("completed", 1, request_counts=counts, output_file_id="o", error_file_id="e", completed_at=111)
    ]
    fake.files |= {"o": b"good\n", "e": b"bad\n"}
    result = run("batch", "chat", str(write(tmp_path / "in.jsonl", row("1"), row("2"))), "-O", "here.jsonl")
    assert result.status == 1
    assert (tmp_path / "here.jsonl").read_text() == "good\n"
    assert (tmp_path / "here.errors.jsonl").read_text() == "bad\n"
    assert "1 of 2 rows answered, 1 failed in " in result.err


def test_answers_can_go_to_stdout(fake: FakeControl, run: Run) -> None:
    fake.batches = [state("completed", 2, output_file_id="o", completed_at=111)]
    fake.files["o"] = b"answer\n"
    assert run("batch", "--follow", "batch_1", "-O", "-").out == "answer\n"


def test_a_batch_that_was_refused_names_its_lines(fake: FakeControl, run: Run) -> None:
    errors = {"data": [{"line": 3, "message": "no such model"}, {"line": None, "message": "too large"}]}
    fake.batches = [state("failed", errors=errors, failed_at=111)]
    result = run("batch", "--follow", "batch_1")
    assert (result.status, result.err) == (
        1,
        (
            "Batch batch_1 failed: line 3: no such model; too large.\n"
            "\nhint: nothing of it was run; mend the file and submit it again.\n"
        ),
    )


def test_interrupted_it_says_how_to_take_it_up_again(
    fake: FakeControl, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake.services = {"chat": service()}
    fake.batches = [state("in_progress")]

    def stop(_seconds: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(batch_module.time, "sleep", stop)
    result = run("batch", "chat", str(write(tmp_path / "in.jsonl", row("1"))))
    assert result.status == 130
    assert "Batch batch_1 goes on in the daemon.\n" in result.err
    assert "hint: `ironloom batch --follow batch_1 -O in.out.jsonl` takes it up again." in result.err


def test_a_batch_is_cancelled(fake: FakeControl, run: Run) -> None:
    fake.batches = [state("cancelling")]
    assert run("batch", "--cancel", "batch_1").out == "batch/batch_1 is being cancelled\n"
    assert fake.calls[-1][:2] == ("POST", "/v1/batches/batch_1/cancel")


def test_a_batch_for_programs_is_its_object_with_where_the_answers_lie(
    fake: FakeControl, run: Run, tmp_path: Path
) -> None:
    fake.services = {"chat": service()}
    fake.files |= {"file-out": b"{}\n", "file-err": b"{}\n"}
    done = state("completed", 2, completed_at=120, output_file_id="file-out", error_file_id="file-err")
    fake.batches = [state("validating"), done]
    data = json.loads(run("batch", "chat", str(write(tmp_path / "in.jsonl", row("1"))), "-o", "json").out)
    assert data == {**done, "took_s": 10.0, "output_path": "in.out.jsonl", "error_path": "in.out.errors.jsonl"}
    fake.batches = [state("in_progress")]
    for args in (["chat", "in.jsonl", "--no-wait"], ["--cancel", "batch_1"]):
        assert json.loads(run("batch", *args, "-o", "json").out) == state("in_progress")


def test_answers_and_summary_do_not_both_go_to_stdout(fake: FakeControl, run: Run) -> None:
    result = run("batch", "--follow", "batch_1", "-O", "-", "-o", "json")
    assert (result.status, result.out, fake.calls) == (2, "", [])
    assert result.err.startswith("-O - and -o json both write to stdout.")


@pytest.mark.parametrize("args", [[], ["chat"], ["--follow", "batch_1", "chat"]])
def test_bad_use(args: list[str], fake: FakeControl, run: Run) -> None:
    assert run("batch", *args).status == 2


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        (["not json"], ":1: this line is not JSON: "),
        (["[]"], ':1: this row has no "body" that is an object.'),
        ([row("1"), row("")], ":2: \"custom_id\" is '', and must be a text that is not empty."),
        ([row("1"), "", row("1")], ":3: custom_id '1' stands in line 1 already."),
        ([row("1", method="GET")], ':1: "method" is \'GET\', and must be "POST".'),
        ([row("1", url="/v1/images")], ":1: \"url\" is '/v1/images', and must be one of "),
        ([row("1"), row("2", url="/v1/embeddings")], ":2: url is '/v1/embeddings', and the rows before have "),
        ([], " has no rows."),
    ],
)
def test_a_row_that_is_none_is_named_with_its_line(rows: list[Any], said: str, tmp_path: Path) -> None:
    file = write(tmp_path / "in.jsonl", *rows)
    with pytest.raises(UsageError) as caught:
        prepare(file, "chat")
    assert caught.value.message.startswith(f"{file}{said}")


@given(
    st.lists(
        st.tuples(st.text(min_size=1), st.dictionaries(st.text(), st.integers())), min_size=1, unique_by=lambda r: r[0]
    ),
    st.sampled_from(ENDPOINTS),
)
def test_a_prepared_file_is_the_same_rows_with_the_model_set(rows: list[tuple[str, Any]], url: str) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "in.jsonl"
        file.write_text("".join(json.dumps(row(i, url=url, body=body)) + "\n" for i, body in rows))
        ready = prepare(file, "chat")
        with ready.content:
            body, headers = multipart(ready, 'a "name"\n.jsonl', "x" * 32)
            sent = b"".join(body)
    assert len(sent) == int(headers["Content-Length"])
    lines = [line for line in sent.split(b"\n") if line.startswith(b'{"custom_id"')]
    assert isinstance(ready, BatchFile)
    assert (ready.num_rows, ready.endpoint) == (len(rows), url)
    assert [json.loads(line) for line in lines] == [row(i, url=url, body={**body, "model": "chat"}) for i, body in rows]
