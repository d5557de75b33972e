"""Which services there are, and how that changes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest

from ironloom.account.database import Database
from ironloom.account.log import EventLog
from ironloom.errors import ClusterError, RequestError
from ironloom.serve.gateway.app import Gateway
from ironloom.serve.gateway.keys import KeyRing
from ironloom.serve.replica import ReplicaBackend, Trial
from ironloom.server.runs import Runs
from ironloom.server.service_store import ServiceStore
from ironloom.server.services import NUM_A_TURN, Services
from ironloom.workload.manifests import serving_manifest
from ironloom.workload.serving import Serving


class FakeBackend:
    """Keeps what it was asked; `refusal` is raised at a delete."""

    name = "fake"

    def __init__(self) -> None:
        self.asked: list[tuple[str, str]] = []
        self.refusal: Exception | None = None
        self.put_back: tuple[str, ...] = ()
        self.refuses: dict[str, Exception] = {}
        """By service: what its apply raises."""

    async def open(self, *, on_change: Callable[[Any], None], drain: Callable[[Any], Any]) -> None:
        self.asked.append(("open", ""))

    async def check(self, serving: Serving) -> None:
        self.asked.append(("check", serving.name))

    async def apply(self, serving: Serving, generation: int) -> tuple[str, ...]:
        self.asked.append((f"apply {generation}", serving.name))
        if serving.name in self.refuses:
            raise self.refuses[serving.name]
        return self.put_back

    async def trial(self, serving: Serving, generation: int) -> Trial:
        self.asked.append((f"trial {generation}", serving.name))
        return Trial(objects=({"kind": "Deployment"},), notes=("tried",), put_back=self.put_back)

    def scale(self, service: str, order: Any) -> None:
        pass

    def notes(self, serving: Serving) -> tuple[str, ...]:
        return ()

    def can_park(self, service: str) -> str | None:
        return "it cannot"

    async def close(self, *, stop_replicas: bool) -> None:
        self.asked.append(("close", "stops" if stop_replicas else "leaves"))

    async def delete(self, service: str) -> None:
        if self.refusal is not None:
            raise self.refusal
        self.asked.append(("delete", service))


def manifest(name: str = "chat", **words: Any) -> dict[str, Any]:
    return serving_manifest(name, "hf://owner/name", **words)


def story(
    tmp_path: Path, told: Callable[[Services, FakeBackend], Any], *, refuses: dict[str, Exception] | None = None
) -> None:
    """With an owner of the set over a database of its own. `refuses` is what its backend does from the start."""

    async def run() -> None:
        database, backend = Database.open(tmp_path / "a.db"), FakeBackend()
        backend.refuses = refuses or {}
        log = await EventLog.open(database, tmp_path / "journal")
        gateway = Gateway(log=log, keys=await KeyRing.open(database))
        services = Services(
            backend=cast("ReplicaBackend", backend),
            gateway=gateway,
            log=log,
            runs=Runs(database, None, log.event),
            store=ServiceStore(database),
            has_gpus=False,
        )
        try:
            await services.take_up()
            await told(services, backend)
        except ClusterError:
            assert backend.asked[-1] == ("close", "leaves"), "nothing of a backend that opened stays open"
            raise
        finally:
            await log.close()
            database.close()

    asyncio.run(run())


def test_what_is_applied_again_changes_nothing_and_another_manifest_is_a_new_generation(tmp_path: Path) -> None:
    async def told(services: Services, backend: FakeBackend) -> None:
        def applied(one: dict[str, Any], *, dry_run: bool = False) -> Any:
            return services.apply([one], {}, dry_run=dry_run)

        (tried,) = (await applied(manifest(), dry_run=True)).services
        assert (tried.action, len(services)) == ("created", 0)
        assert (tried.objects, tried.notes) == ([{"kind": "Deployment"}], ["tried"])
        assert [(await applied(manifest())).services[0].action for _ in range(2)] == ["created", "unchanged"]
        (changed,) = (await applied(manifest(args=["--max-num-seqs=4"]))).services
        assert (changed.action, changed.generation) == ("configured", 2)
        (scaled,) = (await applied(manifest(args=["--max-num-seqs=4"], min_replicas=2))).services
        assert (scaled.action, scaled.generation) == ("configured", 2)
        applies = [what for what, _ in backend.asked if what.startswith("apply")]
        assert applies == ["apply 1", "apply 1", "apply 2", "apply 2"], "the backend sees whether it is all there still"

    story(tmp_path, told)


def test_a_service_is_reached_where_its_gateway_is_and_is_in_its_cluster_s_namespace(tmp_path: Path) -> None:
    async def told(services: Services, backend: FakeBackend) -> None:
        services.url, services.namespace = "http://ironloom.models.svc", "models"
        (applied,) = (await services.apply([manifest()], {}, dry_run=False)).services
        for view in (services.view("chat"), *services.views()):
            assert (view.url, view.namespace) == (applied.url, "models")
        assert applied.url == "http://ironloom.models.svc/v1"

    story(tmp_path, told)


def test_what_others_had_changed_of_a_service_is_told_by_the_apply_that_puts_it_back(tmp_path: Path) -> None:
    async def told(services: Services, backend: FakeBackend) -> None:
        await services.apply([manifest()], {}, dry_run=False)
        backend.put_back = ("deployment/chat was gone: made again",)
        (tried,) = (await services.apply([manifest()], {}, dry_run=True)).services
        assert (tried.action, tried.notes) == ("configured", ["deployment/chat was gone: made again", "tried"])
        (done,) = (await services.apply([manifest()], {}, dry_run=False)).services
        assert (done.action, done.generation) == ("configured", 1)
        assert done.notes == ["deployment/chat was gone: made again"]

    story(tmp_path, told)


def test_a_service_whose_deletion_failed_takes_no_manifest_until_it_is_gone(tmp_path: Path) -> None:
    async def told(services: Services, backend: FakeBackend) -> None:
        await services.apply([manifest()], {}, dry_run=False)
        backend.refusal = ClusterError("The API server is away")
        with pytest.raises(ClusterError):
            await services.delete("chat")
        assert services.view("chat").state == "deleting"
        with pytest.raises(RequestError) as refused:
            await services.apply([manifest()], {}, dry_run=False)
        error = refused.value
        assert (error.status, error.error_code, error.retry_after_s) == (409, "service_deleting", 1.0)
        backend.refusal = None
        await services.delete("chat")
        assert "chat" not in services
        (again,) = (await services.apply([manifest()], {}, dry_run=False)).services
        assert (again.action, again.generation) == ("created", 1)

    story(tmp_path, told)


def test_a_service_that_cannot_be_taken_up_says_why_and_keeps_no_other_from_being_taken_up(tmp_path: Path) -> None:
    async def first(services: Services, _: FakeBackend) -> None:
        await services.apply([manifest(), manifest("other")], {}, dry_run=False)

    async def second(services: Services, backend: FakeBackend) -> None:
        assert ("apply 1", "other") in backend.asked
        assert [(one.name, one.reason) for one in services.views() if one.state == "failed"] == [("chat", "refused")]

    story(tmp_path, first)
    story(tmp_path, second, refuses={"chat": ClusterError("refused", status=409)})


@pytest.mark.parametrize("status", [0, 401, 503])
def test_a_daemon_whose_cluster_is_away_does_not_begin(tmp_path: Path, status: int) -> None:
    async def first(services: Services, _: FakeBackend) -> None:
        await services.apply([manifest()], {}, dry_run=False)

    story(tmp_path, first)
    with pytest.raises(ClusterError):
        story(tmp_path, first, refuses={"chat": ClusterError("away", status=status)})


def test_a_deletion_that_a_daemon_left_half_done_is_finished_by_the_next(tmp_path: Path) -> None:
    async def first(services: Services, backend: FakeBackend) -> None:
        await services.apply([manifest(), manifest("other")], {}, dry_run=False)
        backend.refusal = ClusterError("The API server is away")
        with pytest.raises(ClusterError):
            await services.delete("chat")

    async def second(services: Services, backend: FakeBackend) -> None:
        assert [view.name for view in services.views()] == ["other"]
        assert ("delete", "chat") in backend.asked
        assert ("apply 1", "other") in backend.asked

    story(tmp_path, first)
    story(tmp_path, second)


def test_requests_get_their_turn_between_the_decisions_of_many_scalers(tmp_path: Path) -> None:
    async def told(services: Services, _: FakeBackend) -> None:
        num_services, num_turns = 10 * NUM_A_TURN, 0
        await services.apply([manifest(f"s{number}") for number in range(num_services)], {}, dry_run=False)
        before = [one.scaler.decision for one in services.by_name.values()]
        ticking = asyncio.create_task(services.tick())
        while not ticking.done():
            num_turns += 1
            await asyncio.sleep(0)
        await ticking
        assert num_turns >= num_services / NUM_A_TURN
        assert all(one.scaler.decision is not was for one, was in zip(services.by_name.values(), before, strict=True))

    story(tmp_path, told)


def test_a_scaler_that_fails_keeps_no_other_from_deciding(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def told(services: Services, _: FakeBackend) -> None:
        await services.apply([manifest("first"), manifest("second")], {}, dry_run=False)
        was = services.by_name["second"].scaler.decision

        def fails(_: float) -> None:
            raise ZeroDivisionError

        monkeypatch.setattr(services.by_name["first"].scaler, "tick", fails)
        await services.tick()
        assert services.by_name["second"].scaler.decision is not was
        assert "the autoscaler of first failed" in caplog.text

    story(tmp_path, told)
