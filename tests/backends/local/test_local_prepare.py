"""Preparing a model: once for a generation, its progress shown, its failure told; real models by a child program."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
from tests.backends.local.world import NODE, QUICK, run, world
from tests.fakes.fake_engine import FakePreparer, fake_serving

from ironloom.backends.local.prepare import Preparation, Prepared, Say
from ironloom.backends.local.prepare_model import ModelPreparer, describe
from ironloom.errors import (
    EngineUnavailable,
    IronloomError,
    ModelCorrupt,
    ModelError,
    ModelNotFound,
    ModelRefused,
    UsageError,
)
from ironloom.fleet.node import Node
from ironloom.serve.engines.base import Conversion, Engine, Launch, LaunchOrder, LocalModel, ModelFormat
from ironloom.serve.engines.fake import ENGINE, FakeEngine
from ironloom.serve.models import prepare as program
from ironloom.serve.models.prepare_lines import encode_line
from ironloom.serve.models.progress import Progress
from ironloom.units import MIB
from ironloom.workload.serving import Serving


class SlowPreparer(FakePreparer):
    """Takes until it is let through, saying so."""

    def __init__(self) -> None:
        self.through = asyncio.Event()
        self.num_runs = 0
        self.num_cancelled = 0
        self.failures: list[ModelError] = []

    async def __call__(self, serving: Serving, say: Say) -> Prepared:
        self.num_runs += 1
        say("pulling 1 of 2")
        try:
            await self.through.wait()
        except asyncio.CancelledError:
            self.num_cancelled += 1
            raise
        if self.failures:
            raise self.failures.pop(0)
        return await super().__call__(serving, say)

    async def is_quick(self, serving: Serving) -> bool:
        return False


def test_two_replicas_wait_for_one_preparing_and_show_its_progress(tmp_path: Path) -> None:
    async def scenario() -> None:
        slow = SlowPreparer()
        async with world(tmp_path, prepare=slow) as w:
            await w.apply(fake_serving(), ready=2)
            await w.until(lambda: [replica.phase for replica in w.replicas()] == ["pulling 1 of 2"] * 2)
            assert w.events == []
            slow.through.set()
            await w.ready(2)
            w.order("a", 3)
            await w.ready(3)
            assert slow.num_runs == 1

    run(scenario)


def test_zero_ends_a_preparing_that_nobody_waits_for(tmp_path: Path) -> None:
    async def scenario() -> None:
        slow = SlowPreparer()
        async with world(tmp_path, prepare=slow) as w:
            await w.apply(fake_serving(), ready=2)
            await w.until(lambda: slow.num_runs)
            w.order("a", 1)
            await w.until(lambda: len(w.replicas()) == 1)
            assert slow.num_cancelled == 0
            w.order("a", 0)
            await w.gone()
            assert slow.num_cancelled == 1
            assert w.events == []

    run(scenario)


def test_a_failed_preparing_is_told_and_tried_again_after_a_while(tmp_path: Path) -> None:
    async def scenario() -> None:
        slow = SlowPreparer()
        slow.through.set()
        slow.failures.append(ModelError("The hub does not answer.", hint="try again later"))
        async with world(tmp_path, prepare=slow) as w:
            await w.apply(fake_serving(), ready=1)
            assert await w.failed() == "The hub does not answer. (try again later)"
            await w.ready()
            assert (slow.num_runs, w.reports["a"].failure) == (2, None)
            failed = w.events[0]
            assert (failed.kind, failed.reason, failed.devices) == ("replica.failed", "ModelError", ())

    run(scenario)


@pytest.mark.parametrize(
    "error",
    [
        ModelNotFound("there is no such folder"),
        ModelRefused("it holds pickles alone"),
        ModelCorrupt("it is cut short"),
        UsageError("--dtype is 'x'"),
        EngineUnavailable("no engine here can run it"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_what_would_fail_again_is_not_tried_again_until_it_is_applied_again(
    tmp_path: Path, error: IronloomError
) -> None:
    async def scenario() -> None:
        slow = SlowPreparer()
        slow.through.set()
        slow.failures += [error, error]
        async with world(tmp_path, prepare=slow) as w:
            await w.apply(fake_serving(), ready=1)
            assert await w.failed() == f"{error.message}; it is not tried again until it is applied again"
            w.order("a", 2)
            await asyncio.sleep(10 * QUICK.backoff.first_s)
            report = w.reports["a"]
            assert (slow.num_runs, report.is_final, report.retry_at_s) == (1, True, None)
            await w.apply(fake_serving(), ready=1)
            await w.until(lambda: slow.num_runs == 2)
            await w.failed()
            await w.apply(fake_serving(token_delay_s=0.001), generation=2, ready=1)
            await w.ready()
            assert (slow.num_runs, w.reports["a"].failure, w.reports["a"].is_final) == (3, None, False)

    run(scenario)


class RefusingEngine(FakeEngine):
    """Its launch says which exit status refuses arguments."""

    def launch(self, order: LaunchOrder) -> Launch:
        return replace(super().launch(order), usage_status=2)


class RefusingPreparer(FakePreparer):
    engine = RefusingEngine()


@pytest.mark.parametrize(("status", "is_final"), [(2, True), (1, False)])
def test_an_engine_that_refuses_its_arguments_is_not_started_again(tmp_path: Path, status: int, is_final: bool) -> None:
    async def scenario() -> None:
        async with world(tmp_path, prepare=RefusingPreparer()) as w:
            await w.apply(fake_serving(crash_at_start=status, crash_lines=2), ready=1)
            failure = await w.failed()
            assert w.reports["a"].is_final is is_final
            if is_final:
                assert failure.startswith(
                    "the engine refused its arguments; it is not tried again until it is applied again; its last lines:"
                )
                assert w.events[-1].data["code"] == "usage"

    run(scenario)


@pytest.mark.parametrize(
    ("uri", "is_final"), [("s3://bucket/model", False), ("hf://a/b", False), ("file:///nowhere/model.gguf", True)]
)
def test_what_came_damaged_may_come_whole_the_next_time(tmp_path: Path, uri: str, is_final: bool) -> None:
    line = encode_line(ModelCorrupt("a file is cut short"))
    python = tmp_path / "python"
    python.write_text(f"#!/bin/sh\ncat <<'END'\n{line.decode()}END\nexit 1\n")
    python.chmod(0o755)
    preparer = ModelPreparer(
        python=str(python),
        engines=lambda: (),
        cache_dir=tmp_path,
        node=lambda: NODE,
        claims=lambda _: {},
        env=dict,
    )

    async def scenario() -> None:
        with pytest.raises(ModelCorrupt) as caught:
            await preparer._run(replace(fake_serving(), model_uri=uri), lambda _: None, engine_name=None)
        assert caught.value.is_final is is_final

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("uri", "error", "said"),
    [
        ("file://{folder}/nowhere", ModelNotFound, "there is no folder or file"),
        ("{folder}/pickles", ModelRefused, "holds its weights as pickles alone"),
        ("{folder}/cut.gguf", ModelCorrupt, "cut.gguf"),
        ("pvc://claim/model", UsageError, "no folder is given for it"),
        ("ftp://host/model", UsageError, 'has the scheme "ftp"'),
    ],
)
def test_a_bad_model_of_this_machine_is_known_before_it_is_applied(
    tmp_path: Path, uri: str, error: type[IronloomError], said: str
) -> None:
    (tmp_path / "pickles").mkdir()
    (tmp_path / "pickles" / "pytorch_model.bin").write_bytes(b"\x80\x04.")
    (tmp_path / "cut.gguf").write_bytes(b"GGUF\x03\x00")
    preparer = ModelPreparer(
        python="/nowhere", engines=lambda: (), cache_dir=tmp_path, node=lambda: NODE, claims=lambda _: {}, env=dict
    )
    serving = replace(fake_serving(), model_uri=uri.format(folder=tmp_path), runtime=None)
    with pytest.raises(error, match=said):
        asyncio.run(preparer.check(serving))
    for elsewhere in ("hf://owner/name", "s3://bucket/prefix"):
        asyncio.run(preparer.check(replace(serving, model_uri=elsewhere)))


def test_a_late_listener_hears_the_last_progress() -> None:
    async def scenario() -> None:
        through, heard = asyncio.Event(), list[str]()

        async def prepare(say: Say) -> Prepared:
            say("pulling")
            await through.wait()
            return Prepared(model=ENGINE.own_model(fake_serving()), engine=ENGINE)

        preparation = Preparation(prepare)
        first = asyncio.create_task(preparation.get(lambda _: None))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        second = asyncio.create_task(preparation.get(heard.append))
        await asyncio.sleep(0)
        assert heard == ["pulling"]
        assert preparation.result is None
        through.set()
        assert await first is await second is preparation.result

    run(scenario)


# The child program, played by scripts.


class PlainEngine:
    """Takes anything; needs a conversion if told."""

    name = "openvino"
    parks = False

    def __init__(self, *, converts: bool = False, refuses: str | None = None) -> None:
        self._converts = converts
        self._refuses = refuses

    def missing(self) -> str | None:
        return None

    def refuses(self, model: LocalModel, serving: Serving, node: Node) -> str | None:
        return self._refuses

    def conversion(self, model: LocalModel, cache_dir: Path) -> Conversion | None:
        if not self._converts:
            return None
        return Conversion(description="x", module="x", args=(), result=cache_dir / "x")

    def launch(self, order: LaunchOrder) -> Launch:
        return Launch(argv=("true",))


def preparer(tmp_path: Path, script: str, monkeypatch: pytest.MonkeyPatch, *engines: Engine) -> ModelPreparer:
    """A preparer whose child program is this Python text; its arguments are left in `arguments.json`."""
    folder = tmp_path / "programs"
    folder.mkdir()
    keep = f"import json, sys, os, time\njson.dump(sys.argv[1:], open({str(tmp_path / 'arguments.json')!r}, 'w'))\n"
    (folder / "played_program.py").write_text(keep + script)
    monkeypatch.setattr(program, "MODULE", "played_program")

    def env() -> Mapping[str, str]:
        return {"PYTHONPATH": str(folder), "PATH": "/usr/bin:/bin", "TOKEN": "secret"}

    return ModelPreparer(
        python=sys.executable,
        engines=lambda: engines or (PlainEngine(),),
        cache_dir=tmp_path / "cache",
        node=lambda: NODE,
        claims=lambda name: {"weights": Path("/mnt") / name},
        env=env,
    )


REAL = replace(fake_serving(), runtime=None, model_uri="hf://nobody/nothing", engine_args=("--trust-remote-code",))
MODEL = {"uri": "hf://nobody/nothing", "path": "/m", "format": "safetensors", "architecture": "X", "task": "generate"}
SAYS_MODEL = f"print(json.dumps({{'model': {MODEL!r}}}))\n"


def test_the_child_programs_progress_and_model_come_through(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = (
        "print('a library says something')\n"
        "print(json.dumps({'progress': {'phase': 'pulling', 'done_bytes': 1048576, 'total_bytes': 2097152}}))\n"
    )
    prepare = preparer(tmp_path, script + SAYS_MODEL, monkeypatch)
    heard: list[str] = []
    prepared = asyncio.run(prepare(REAL, heard.append))
    assert heard == ["pulling 1.0 MiB of 2.0 MiB"]
    assert prepared.model == LocalModel(
        uri="hf://nobody/nothing", path=Path("/m"), format=ModelFormat.SAFETENSORS, architecture="X"
    )
    arguments = json.loads((tmp_path / "arguments.json").read_text())
    assert arguments == [
        "hf://nobody/nothing",
        "--cache-dir",
        str(tmp_path / "cache"),
        "--pvc",
        "weights=/mnt/a",
        "--own-code",
    ]


def test_a_conversion_is_a_second_run_for_the_engine_that_was_chosen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = PlainEngine(converts=True)
    prepared = asyncio.run(preparer(tmp_path, SAYS_MODEL, monkeypatch, engine)(REAL, lambda _: None))
    assert prepared.engine is engine
    assert json.loads((tmp_path / "arguments.json").read_text())[-3:-1] == ["--engine", "openvino"]


@pytest.mark.parametrize(
    ("script", "error", "message"),
    [
        (
            "print(json.dumps({'error': {'code': 'model_not_found', 'message': 'There is none.'}})); sys.exit(1)",
            ModelNotFound,
            "There is none.",
        ),
        (
            "print('out of luck', file=sys.stderr); sys.exit(7)",
            ModelError,
            "ended with status 7; its last lines:\nout of luck",
        ),
        ("os.kill(os.getpid(), 9)", ModelError, "ended with status -9"),
    ],
    ids=["it says why", "it dies with lines", "it is killed"],
)
def test_failures_of_the_child_are_told(
    script: str, error: type[ModelError], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(error) as caught:
        asyncio.run(preparer(tmp_path, script, monkeypatch)(REAL, lambda _: None))
    assert message in str(caught.value)


def test_a_cancelled_preparing_leaves_no_child(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = f"open({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid()))\ntime.sleep(60)\n"
    prepare = preparer(tmp_path, script, monkeypatch)

    async def scenario() -> None:
        task = asyncio.create_task(prepare(REAL, lambda _: None))
        file = tmp_path / "pid"
        while not (file.exists() and file.read_text()):  # noqa: ASYNC110 (another process writes it)
            await asyncio.sleep(0.01)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert not Path(f"/proc/{file.read_text()}").exists()

    run(scenario)


def test_no_engine_for_the_model_is_an_error_with_the_reasons(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = PlainEngine(refuses="it is too large")
    prepare = preparer(tmp_path, SAYS_MODEL, monkeypatch, engine)
    with pytest.raises(EngineUnavailable, match="openvino: it is too large"):
        asyncio.run(prepare(REAL, lambda _: None))


def test_progress_is_described_for_a_person() -> None:
    assert describe(Progress(phase="checking")) == "checking"
    assert describe(Progress(phase="pulling", message="a.gguf", done_bytes=MIB, total_bytes=3 * MIB)) == (
        "pulling a.gguf 1.0 MiB of 3.0 MiB"
    )
