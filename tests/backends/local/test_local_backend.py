"""The local backend with real processes: the fake engine, spawned and forked."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from dataclasses import replace
from pathlib import Path

import pytest
from tests.backends.local.world import QUICK, gpus, is_alive, run, world
from tests.fakes.fake_engine import FakePreparer, fake_serving

from ironloom.backends.local.probe import ask
from ironloom.serve.engines.base import Launch, LaunchOrder
from ironloom.serve.engines.fake import FakeEngine
from ironloom.serve.replica import ReplicaState as State
from ironloom.units import GIB
from ironloom.workload.serving import Resources, Scaling

HEARD_WITHIN_S = 3.0
"""A deadline that a machine under load too starts an engine in: what is tested is what was heard until then."""


@pytest.mark.parametrize("preload", [True, False], ids=["forked by a launcher", "spawned"])
def test_a_replica_starts_serves_parks_wakes_and_stops(preload: bool, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with world(tmp_path) as w:
            await w.apply(fake_serving(preload=preload), ready=1)
            (replica,) = await w.ready()
            assert replica.id.startswith("a-")
            assert replica.engine == "fake"
            assert replica.devices == ("cpu",)
            assert replica.max_concurrency == 16
            status, body = await ask(replica.port, "GET", "/v1/models", timeout_s=5)
            assert (status, json.loads(body)["data"][0]["id"]) == (200, "a")
            assert os.getsid(replica.pid or 0) == replica.pid != os.getsid(0)

            w.order("a", 0, 1)
            await w.until(lambda: w.in_state(State.PARKED))
            assert json.loads((await ask(replica.port, "GET", "/is_sleeping", timeout_s=5))[1]) == {"is_sleeping": True}
            assert w.replicas()[0].devices == ()
            assert w.drained == [replica.id]

            w.order("a", 1)
            (awake,) = await w.ready()
            assert (awake.pid, awake.devices) == (replica.pid, ("cpu",))

            w.order("a", 0)
            await w.gone()
            assert not is_alive(replica.pid or 0)
            assert w.drained == [replica.id] * 2
            assert w.processes() == []
            assert await w.rows() == []
            assert w.kinds() == [
                "replica.starting",
                "replica.ready",
                "replica.parking",
                "replica.parked",
                "replica.waking",
                "replica.ready",
                "replica.stopping",
                "replica.stopped",
            ]

    run(scenario)


def test_a_replica_is_written_down_before_its_process_starts(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with world(tmp_path) as w:
            store = w.backend._ground.store
            put, seen = store.put, []

            async def spy(row):  # type: ignore[no-untyped-def]
                seen.append((row.pid, [replica for replica in w.processes() if replica]))
                await put(row)

            store.put = spy  # type: ignore[method-assign]
            await w.apply(fake_serving(preload=False), ready=1)
            (replica,) = await w.ready()
            assert seen[0] == (None, [])
            (row,) = await w.rows()
            assert (row.pid, row.port, row.state) == (replica.pid, replica.port, "ready")

    run(scenario)


def test_a_forked_engine_does_nothing_before_its_pid_is_written_down(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with world(tmp_path) as w:
            await w.apply(fake_serving(preload=True), ready=1)
            await w.ready()  # the launcher is there
            store = w.backend._ground.store
            put, gate = store.put, asyncio.Event()

            async def slow(row):  # type: ignore[no-untyped-def]
                if row.pid is not None:
                    await gate.wait()
                await put(row)

            store.put = slow  # type: ignore[method-assign]
            w.order("a", 2)
            await w.until(lambda: len(w.processes()) == 2)
            await asyncio.sleep(0.2)
            (row,) = [row for row in await w.rows() if row.state == "starting"]
            assert row.pid is None
            with pytest.raises(OSError, match="111"):
                await ask(row.port, "GET", "/health", timeout_s=1)
            gate.set()
            await w.ready(2)

    run(scenario)


def test_engines_carry_marks_that_proc_shows(tmp_path: Path) -> None:
    """A forked one too, and ps shows its own arguments and not the launcher's."""

    async def scenario() -> None:
        async with world(tmp_path) as w:
            for name, preload in (("forked", True), ("spawned", False)):
                await w.apply(fake_serving(name, preload=preload), ready=1)
                (replica,) = await w.ready(name=name)
                assert w.processes(replica.id) == [replica.pid]
                shown = Path(f"/proc/{replica.pid}/cmdline").read_bytes().rstrip(b"\0").split(b"\0")
                assert shown[2:6] == [
                    b"ironloom.serve.engines.programs.fake_server",
                    b"--name",
                    name.encode(),
                    b"--port",
                ]

    run(scenario)


def test_a_start_that_crashes_fails_with_the_last_lines_and_backs_off(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with world(tmp_path) as w:
            await w.apply(fake_serving(crash_at_start=3, crash_lines=25), ready=1)
            failure = await w.failed()
            assert failure.startswith("the engine exited with status 3; its last lines:\n")
            lines = failure.splitlines()[1:]
            assert lines == [f"fake engine: line {n} before the crash" for n in range(6, 26)]
            await w.until(lambda: w.kinds().count("replica.failed") >= 3)
            assert any(report.retry_at_s for report in w.history)
            failed = next(event for event in w.events if event.kind == "replica.failed")
            assert (failed.reason, failed.data["exit_status"]) == ("EngineExited", 3)

    run(scenario)


def test_a_start_that_works_again_clears_the_failure(tmp_path: Path) -> None:
    async def scenario() -> None:
        knobs = tmp_path / "fake.json"
        knobs.write_text('{"crash_at_start": 3}')
        async with world(tmp_path / "state") as w:
            from dataclasses import replace

            await w.apply(replace(fake_serving(), model_uri=f"file://{knobs}"), ready=1)
            await w.failed()
            knobs.write_text("{}")
            await w.ready()
            assert w.reports["a"].failure is None

    (tmp_path / "state").mkdir()
    run(scenario)


def test_one_that_hangs_before_it_is_ready_fails_at_its_deadline(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with world(tmp_path) as w:
            await w.apply(fake_serving(hang_before_ready=True, start_deadline_s=HEARD_WITHIN_S), ready=1)
            failure = await w.failed()
            assert failure.startswith("the engine was not ready after 3.0s: /health does not answer; its last lines:")
            assert "listens on" in failure
            w.order("a", 0)
            await w.gone()
            assert w.processes() == []

    run(scenario)


@pytest.mark.parametrize(
    ("knobs", "heard"),
    [
        ({"garbage": True}, "is no HTTP"),
        ({"start_delay_s": 60}, "nothing listens on its port"),
        ({"health_delay_s": 60}, "/health answers 503"),
    ],
    ids=["garbage", "never listens", "loads for ever"],
)
def test_the_deadline_says_what_was_heard(knobs: dict[str, object], heard: str, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with world(tmp_path) as w:
            await w.apply(fake_serving(start_deadline_s=HEARD_WITHIN_S, **knobs), ready=1)
            assert heard in await w.failed()

    run(scenario)


@pytest.mark.parametrize("preload", [True, False], ids=["forked", "spawned"])
def test_a_killed_engine_is_seen_at_once_and_replaced(preload: bool, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with world(tmp_path) as w:
            await w.apply(fake_serving(preload=preload), ready=1)
            (replica,) = await w.ready()
            os.kill(replica.pid or 0, signal.SIGKILL)
            await w.until(lambda: w.in_state(State.READY) and w.in_state(State.READY)[0].id != replica.id)
            (failed,) = [event for event in w.events if event.kind == "replica.failed"]
            assert failed.replica == replica.id
            assert failed.data["exit_status"] == -signal.SIGKILL
            assert failed.data["pid"] == replica.pid
            assert failed.message.startswith("the engine was killed by SIGKILL")
            assert failed.devices == ()

    run(scenario)


@pytest.mark.parametrize("preload", [True, False], ids=["forked", "spawned"])
@pytest.mark.parametrize("leak", ["leak_child", "leak_session"])
def test_a_child_that_the_engine_leaks_dies_with_it(leak: str, preload: bool, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with world(tmp_path) as w:
            await w.apply(fake_serving(preload=preload, **{leak: True}), ready=1)
            (replica,) = await w.ready()
            await w.until(lambda: len(w.processes(replica.id)) == 2)
            leaked = next(pid for pid in w.processes(replica.id) if pid != replica.pid)
            w.order("a", 0)
            await w.gone()
            await w.until(lambda: not is_alive(leaked))  # what was killed takes a moment to end
            # And when the engine crashes instead.
            w.order("a", 1)
            (second,) = await w.ready()
            await w.until(lambda: len(w.processes(second.id)) == 2)
            leaked = next(pid for pid in w.processes(second.id) if pid != second.pid)
            os.kill(second.pid or 0, signal.SIGSEGV)
            await w.until(lambda: "replica.failed" in w.kinds(second.id))
            await w.until(lambda: not is_alive(leaked))  # what was killed takes a moment to end

    run(scenario)


@pytest.mark.parametrize("preload", [True, False], ids=["forked", "spawned"])
def test_one_that_ignores_sigterm_is_killed_after_its_grace(preload: bool, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with world(tmp_path) as w:
            await w.apply(fake_serving(preload=preload, ignore_sigterm=True), ready=1)
            (replica,) = await w.ready()
            w.order("a", 0)
            await w.gone()
            assert not is_alive(replica.pid or 0)
            assert w.events[-1].message == "test; it did not end within 300ms and was killed"

    run(scenario)


def test_a_port_that_another_takes_first_is_given_up_for_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario() -> None:
        async with world(tmp_path) as w:
            # Another server that answers every /health with 200: it must not pass for the engine.
            async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
                await reader.readuntil(b"\r\n\r\n")
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
                writer.close()

            other = await asyncio.start_server(answer, "127.0.0.1", 0)
            taken = other.sockets[0].getsockname()[1]
            take = w.backend._ground.ports.take
            offers = iter([taken])
            monkeypatch.setattr(w.backend._ground.ports, "take", lambda: next(offers, None) or take())
            await w.apply(fake_serving(preload=False), ready=1)
            (replica,) = await w.ready()
            assert replica.port != taken
            assert "replica.failed" not in w.kinds()
            other.close()
            await other.wait_closed()

    run(scenario)


def test_a_stop_in_the_middle_of_a_start_ends_it_at_once(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with world(tmp_path) as w:
            await w.apply(fake_serving(start_delay_s=30), ready=1)
            await w.until(lambda: w.replicas() and w.replicas()[0].pid)
            w.order("a", 0)
            await w.gone()
            assert w.processes() == []
            assert w.drained == []
            assert w.kinds() == ["replica.starting", "replica.stopping", "replica.stopped"]

    run(scenario)


@pytest.mark.parametrize("knobs", [{"fail_park": True}, {"park_delay_s": 30}], ids=["says no", "takes too long"])
def test_one_that_cannot_be_parked_is_stopped(knobs: dict[str, object], tmp_path: Path) -> None:
    async def scenario() -> None:
        async with world(tmp_path) as w:
            await w.apply(fake_serving(**knobs), ready=1)
            await w.ready()
            w.order("a", 0, 1)
            await w.gone()
            assert w.kinds()[-2:] == ["replica.stopping", "replica.stopped"]
            assert "could not be parked: POST /sleep?level=1" in w.events[-2].message

    run(scenario)


class SlowSleep(FakeEngine):
    """An engine whose model is so large that parking it takes longer than others may."""

    def launch(self, order: LaunchOrder) -> Launch:
        return replace(super().launch(order), park_extra_s=20.0)


class SlowSleepPreparer(FakePreparer):
    engine = SlowSleep()


def test_the_parking_of_a_large_model_is_waited_for(tmp_path: Path) -> None:
    async def scenario() -> None:
        timing = replace(QUICK, park_timeout_s=0.1)
        async with world(tmp_path, prepare=SlowSleepPreparer(), timing=timing) as w:
            await w.apply(fake_serving(park_delay_s=0.4), ready=1)
            await w.ready()
            w.order("a", 0, 1)
            await w.until(lambda: w.in_state(State.PARKED))
            assert [row.launch["park_extra_s"] for row in await w.rows() if row.launch] == [20.0]

    run(scenario)


class NoSleep(FakeEngine):
    """An engine that parks, but not as it is started here."""

    def launch(self, order: LaunchOrder) -> Launch:
        return replace(super().launch(order), cannot_park="its CPU build has no sleep mode")


class NoSleepPreparer(FakePreparer):
    engine = NoSleep()


def test_one_whose_start_says_that_it_cannot_park_is_stopped_without_being_asked_to(tmp_path: Path) -> None:
    async def scenario() -> None:
        serving = fake_serving(scaling=Scaling(park_for_s=600.0))
        async with world(tmp_path, prepare=NoSleepPreparer()) as w:
            await w.apply(serving, ready=1)
            await w.ready()
            assert w.backend.can_park("a") == "its CPU build has no sleep mode"
            assert [row.launch["cannot_park"] for row in await w.rows() if row.launch] == [w.backend.can_park("a")]
            w.order("a", 0, 1)
            await w.gone()
            assert "replica.parking" not in w.kinds()
            assert w.events[-2].message == "test; its CPU build has no sleep mode"
            w.order("a", 1)
            await w.ready()
            assert w.reports["a"].notes == (
                "At zero it is stopped at once, not parked: its CPU build has no sleep mode.",
            )

    run(scenario)


def test_one_that_cannot_be_woken_fails_and_a_fresh_one_starts(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with world(tmp_path) as w:
            await w.apply(fake_serving(fail_wake=True), ready=1)
            (first,) = await w.ready()
            w.order("a", 0, 1)
            await w.until(lambda: w.in_state(State.PARKED))
            w.order("a", 1)
            await w.until(lambda: w.in_state(State.READY) and w.in_state(State.READY)[0].id != first.id)
            assert "could not be woken: POST /wake_up answered 500" in next(
                event.message for event in w.events if event.kind == "replica.failed"
            )

    run(scenario)


def test_a_ready_one_is_drained_before_it_stops_and_reported_as_stopping_first(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with world(tmp_path) as w:
            await w.apply(fake_serving(), ready=1)
            (replica,) = await w.ready()
            w.hold_drain = asyncio.Event()
            w.order("a", 0)
            await w.until(lambda: w.drained)
            assert [r.state for r in w.replicas()] == [State.STOPPING]
            await asyncio.sleep(0.05)
            assert is_alive(replica.pid or 0)
            w.hold_drain.set()
            await w.gone()

    run(scenario)


def test_a_changed_manifest_rolls_out_and_the_old_drains_after_the_new_is_ready(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with world(tmp_path) as w:
            await w.apply(fake_serving(), ready=2)
            old = {replica.id for replica in await w.ready(2)}
            await w.apply(fake_serving(num_tokens=3), 2)
            await w.until(lambda: {r.generation for r in w.in_state(State.READY)} == {2} and len(w.replicas()) == 2)
            for report in w.history:  # from the first two on, two are ready at every moment
                ready = [r for r in report.replicas if r.state is State.READY]
                if old <= {r.id for r in report.replicas if r.state is State.READY}:
                    seen_both = True
                elif not old & {r.id for r in ready} and len(ready) < 2 and "seen_both" in locals():
                    raise AssertionError(report)

    run(scenario)


def test_a_new_generation_that_fails_leaves_the_old(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with world(tmp_path) as w:
            await w.apply(fake_serving(), ready=1)
            (old,) = await w.ready()
            await w.apply(fake_serving(crash_at_start=9), 2)
            failure = await w.failed()
            assert "exited with status 9" in failure
            await w.until(lambda: w.kinds().count("replica.failed") >= 2)
            assert [r.id for r in w.in_state(State.READY)] == [old.id]
            assert is_alive(old.pid or 0)
            await w.apply(fake_serving(num_tokens=2), 3)
            await w.until(lambda: [r.generation for r in w.in_state(State.READY)] == [3])
            assert w.reports["a"].failure is None

    run(scenario)


def test_gpus_are_given_whole_and_the_next_waits_with_the_numbers(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with world(tmp_path, inventory=gpus(1)) as w:
            one = Resources(num_gpus=1)
            await w.apply(fake_serving("a", resources=one, preload=False), ready=1)
            (first,) = await w.ready()
            assert first.devices == ("gpu:0",)
            environ = Path(f"/proc/{first.pid}/environ").read_bytes()
            assert b"\0CUDA_VISIBLE_DEVICES=0\0" in environ
            await w.apply(fake_serving("b", resources=one), ready=1)
            await w.until(lambda: w.replicas("b") and "queued" in w.replicas("b")[0].phase)
            assert w.replicas("b")[0].phase == f"queued: needs 1 GPU; 0 of 1 free (held: gpu:0 by {first.id})"
            assert w.replicas("b")[0].pid is None
            w.order("a", 0)
            (second,) = await w.ready(name="b")
            assert second.devices == ("gpu:0",)

    run(scenario)


def test_a_parked_replica_gives_its_gpu_to_another_and_waits_to_get_it_back(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with world(tmp_path, inventory=gpus(1)) as w:
            one = Resources(num_gpus=1)
            await w.apply(fake_serving("a", resources=one), ready=1)
            (first,) = await w.ready()
            w.order("a", 0, 1)
            await w.until(lambda: w.in_state(State.PARKED))
            await w.apply(fake_serving("b", resources=one), ready=1)
            await w.ready(name="b")
            w.order("a", 1)
            await w.until(lambda: w.in_state(State.WAKING) and "queued" in w.replicas()[0].phase)
            w.order("b", 0)
            (again,) = await w.ready()
            assert (again.id, again.devices) == (first.id, ("gpu:0",))

    run(scenario)


def test_what_can_never_fit_is_a_failure_with_the_numbers(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with world(tmp_path, inventory=gpus(1)) as w:
            await w.apply(fake_serving(resources=Resources(num_gpus=4)), ready=1)
            assert "needs 4 GPUs; this machine has 1" in await w.failed()
            await w.apply(fake_serving("b", memory_mib=64 * 1024), ready=1)
            assert "needs 64.0 GiB of memory; this machine has 32.0 GiB" in await w.failed("b")

    run(scenario)


def test_two_starts_do_not_take_the_same_free_memory(tmp_path: Path) -> None:
    """16 GiB are free; the first is promised 10 of them and has taken none, so the second with 10 must wait."""

    async def scenario() -> None:
        async with world(tmp_path) as w:
            await w.apply(fake_serving("a", memory_mib=10 * 1024, start_delay_s=30), ready=1)
            await w.until(lambda: w.replicas() and w.replicas()[0].pid)
            await w.apply(fake_serving("b", memory_mib=10 * 1024), ready=1)
            await w.until(lambda: w.replicas("b") and "queued" in w.replicas("b")[0].phase)
            assert "promised to replicas that are starting" in w.replicas("b")[0].phase
            w.order("a", 0)
            await w.ready(name="b")

    run(scenario)


def test_gpus_that_are_not_here_are_said_once_and_the_service_runs_on_the_cpu(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with world(tmp_path) as w:
            await w.apply(fake_serving(resources=Resources(num_gpus=2, memory_bytes=4 * GIB)), ready=2)
            ready = await w.ready(2)
            assert {replica.devices for replica in ready} == {("cpu",)}
            assert w.reports["a"].notes == (
                "2 GPUs (nvidia.com/gpu) asked for; this machine has none, so it runs on the CPU",
            )

    run(scenario)


def test_a_hung_engine_is_found_out_by_its_health(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with world(tmp_path) as w:
            await w.apply(fake_serving(), ready=1)
            (replica,) = await w.ready()
            os.kill(replica.pid or 0, signal.SIGSTOP)
            await w.until(lambda killed=replica.id: "replica.failed" in w.kinds(killed))
            (failed,) = [event for event in w.events if event.kind == "replica.failed"]
            assert "the engine hangs: /health does not answer" in failed.message
            await w.until(lambda: w.in_state(State.READY))

    run(scenario)


def test_logs_are_read_and_followed_over_a_replacement(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with world(tmp_path) as w:
            await w.apply(fake_serving(), ready=1)
            (first,) = await w.ready()
            told = w.backend.logs("a", None, follow=False, tail=10)
            assert [line async for line in told] == [(first.id, f"fake engine: a listens on {first.port}")]
            seen: list[tuple[str, str]] = []

            async def read() -> None:
                async for line in w.backend.logs("a", None, follow=True, tail=10):
                    seen.append(line)  # noqa: PERF401 (it never ends)

            reader = asyncio.create_task(read())
            await w.until(lambda: len(seen) == 1)
            os.kill(first.pid or 0, signal.SIGKILL)
            await w.until(lambda: len(seen) == 2)
            assert seen[1][0] != first.id
            reader.cancel()
            await asyncio.gather(reader, return_exceptions=True)

    run(scenario)


def test_delete_stops_everything_of_the_service_and_forgets_it(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with world(tmp_path) as w:
            await w.apply(fake_serving(), ready=2)
            await w.ready(2)
            await w.backend.delete("a")
            await w.backend.delete("never was")
            assert w.processes() == []
            assert w.replicas() == ()
            assert not (tmp_path / "logs" / "a").exists()

    run(scenario)


def test_a_broken_launcher_is_done_without(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from ironloom.backends.local import launcher

    async def broken(*args: object, **kwargs: object) -> None:
        raise launcher.LauncherFailed

    async def scenario() -> None:
        async with world(tmp_path) as w:
            monkeypatch.setattr(launcher.Launcher, "start", broken)
            await w.apply(fake_serving(preload=True), ready=1)
            await w.ready()

    run(scenario)


def test_a_launcher_that_dies_leaves_its_children_and_the_next_start_works(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with world(tmp_path) as w:
            await w.apply(fake_serving(preload=True), ready=1)
            (first,) = await w.ready()
            (launcher,) = w.backend._ground.launchers._launchers.values()
            os.kill(launcher.result().process.pid, signal.SIGKILL)
            await w.until(lambda: not launcher.result().alive)
            w.order("a", 2)
            await w.ready(2)
            assert is_alive(first.pid or 0)
            os.kill(first.pid or 0, signal.SIGKILL)
            await w.until(lambda: "replica.failed" in w.kinds(first.id))

    run(scenario)


@pytest.mark.parametrize("state", [State.PARKING, State.WAKING])
def test_one_that_is_killed_on_its_way_failed_by_that_signal_and_nothing_else(tmp_path: Path, state: State) -> None:
    async def scenario() -> None:
        async with world(tmp_path) as w:
            await w.apply(fake_serving(park_delay_s=0.3, wake_delay_s=0.3), ready=1)
            for _ in range(3):
                (replica,) = await w.ready()
                w.order("a", 0, parked=1)
                if state is State.WAKING:
                    await w.until(lambda: w.in_state(State.PARKED))
                    w.order("a", 1)
                await w.until(lambda: w.in_state(state))
                await asyncio.sleep(0.1)
                assert replica.pid is not None
                os.kill(replica.pid, signal.SIGKILL)
                await w.until(lambda killed=replica.id: "replica.failed" in w.kinds(killed))
                (failed,) = [e for e in w.events if e.replica == replica.id and e.kind.value == "replica.failed"]
                assert failed.data["exit_status"] == -signal.SIGKILL, failed
                w.order("a", 1)

    run(scenario)
