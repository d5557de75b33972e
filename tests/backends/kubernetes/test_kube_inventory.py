"""What there is of a namespace's objects: one by one, or as a list where many are asked for."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest
from tests.backends.kubernetes.conftest import WriteKubeconfig
from tests.fakes.kube_api import Answer, KubeApi, status

from ironloom.backends.kubernetes import kubeconfig
from ironloom.backends.kubernetes.client import Client
from ironloom.backends.kubernetes.inventory import KEPT_S, MAX_KEPT_S, NUM_SINGLY, Inventory
from ironloom.errors import ClusterError

FOLDER = "/api/v1/configmaps"
NAMES = [f"c{number}" for number in range(10)]


def config_map(name: str, **metadata: Any) -> dict[str, Any]:
    return {"metadata": {"name": name, "labels": {"is": name}, **metadata}}


class Clock:
    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def api() -> Iterator[KubeApi]:
    made = KubeApi({FOLDER: [config_map(name) for name in NAMES]}, max_page=3)
    for name in NAMES:
        made.always[f"{FOLDER}/{name}"] = Answer(200, json.dumps(config_map(name)).encode())
    with made.running():
        yield made


def tell(
    write_kubeconfig: WriteKubeconfig, api: KubeApi, story: Callable[[Inventory, Clock], Awaitable[None]]
) -> list[str]:
    """The paths that are asked for while the story is told."""
    write_kubeconfig(api.url)
    clock = Clock()

    async def run() -> None:
        async with Client(kubeconfig.load().target("prod")) as client:
            await story(Inventory(client, now=clock), clock)

    asyncio.run(run())
    return api.paths()


async def labels(inventory: Inventory, name: str) -> dict[str, str] | None:
    found = await inventory.find(FOLDER, name)
    return found.labels if found is not None else None


def test_one_object_is_asked_for_by_itself(write_kubeconfig: WriteKubeconfig, api: KubeApi) -> None:
    async def story(inventory: Inventory, _: Clock) -> None:
        assert await labels(inventory, "c1") == {"is": "c1"}
        assert await labels(inventory, "none") is None

    assert tell(write_kubeconfig, api, story) == [f"{FOLDER}/c1", f"{FOLDER}/none"]


def test_many_are_read_as_one_list(write_kubeconfig: WriteKubeconfig, api: KubeApi) -> None:
    async def story(inventory: Inventory, _: Clock) -> None:
        found = await asyncio.gather(*(labels(inventory, name) for name in [*NAMES, "none"]))
        assert found == [*({"is": name} for name in NAMES), None]

    paths = tell(write_kubeconfig, api, story)
    assert sum(path != FOLDER for path in paths) == NUM_SINGLY
    assert paths.count(FOLDER) == 4  # pages of three


def test_what_was_read_counts_for_a_moment(write_kubeconfig: WriteKubeconfig, api: KubeApi) -> None:
    async def story(inventory: Inventory, clock: Clock) -> None:
        for name in NAMES:
            await inventory.find(FOLDER, name)
        api.asked.clear()
        clock.now_s += KEPT_S
        assert await labels(inventory, "c1") == {"is": "c1"}

    assert tell(write_kubeconfig, api, story) == [f"{FOLDER}/c1"]


def test_a_list_counts_while_many_go_on_asking_and_is_read_anew_at_last(
    write_kubeconfig: WriteKubeconfig, api: KubeApi
) -> None:
    async def story(inventory: Inventory, clock: Clock) -> None:
        for name in NAMES:
            await inventory.find(FOLDER, name)
        api.asked.clear()
        for _ in range(int(1.5 * MAX_KEPT_S)):
            clock.now_s += 0.9 * KEPT_S
            assert await labels(inventory, "c1") == {"is": "c1"}

    assert tell(write_kubeconfig, api, story) == [FOLDER] * 4 * 2  # pages of three


def test_what_was_written_meanwhile_is_asked_for_again(write_kubeconfig: WriteKubeconfig, api: KubeApi) -> None:
    async def story(inventory: Inventory, _: Clock) -> None:
        for name in NAMES:
            await inventory.find(FOLDER, name)
        inventory.note(f"{FOLDER}/made")
        api.always[f"{FOLDER}/made"] = Answer(200, json.dumps(config_map("made")).encode())
        api.asked.clear()
        assert await labels(inventory, "made") == {"is": "made"}
        assert await labels(inventory, "c1") == {"is": "c1"}

    assert tell(write_kubeconfig, api, story) == [f"{FOLDER}/made"]


def test_after_others_may_have_written_nothing_that_was_read_counts(
    write_kubeconfig: WriteKubeconfig, api: KubeApi
) -> None:
    async def story(inventory: Inventory, _: Clock) -> None:
        for name in NAMES:
            await inventory.find(FOLDER, name)
        inventory.forget()
        api.asked.clear()
        assert await labels(inventory, "c1") == {"is": "c1"}

    assert tell(write_kubeconfig, api, story) == [f"{FOLDER}/c1"]


def test_where_lists_are_forbidden_each_is_asked_for_by_itself(write_kubeconfig: WriteKubeconfig, api: KubeApi) -> None:
    api.always[FOLDER] = status(403, "Forbidden", "configmaps is forbidden")

    async def story(inventory: Inventory, _: Clock) -> None:
        for name in NAMES:
            assert await labels(inventory, name) == {"is": name}

    assert tell(write_kubeconfig, api, story).count(FOLDER) == 1


def test_a_kind_that_is_not_served_has_no_objects(write_kubeconfig: WriteKubeconfig, api: KubeApi) -> None:
    async def story(inventory: Inventory, _: Clock) -> None:
        for name in NAMES:
            assert await inventory.find("/apis/none/v1/nones", name) is None

    tell(write_kubeconfig, api, story)


def test_what_a_controller_made_is_told_apart(write_kubeconfig: WriteKubeconfig, api: KubeApi) -> None:
    owned = config_map("c1", ownerReferences=[{"kind": "X", "name": "x", "uid": "1", "controller": True}])
    api.always[f"{FOLDER}/c1"] = Answer(200, json.dumps(owned).encode())

    async def story(inventory: Inventory, _: Clock) -> None:
        made, other = await inventory.find(FOLDER, "c1"), await inventory.find(FOLDER, "c2")
        assert made is not None
        assert made.is_made_by_controller
        assert other is not None
        assert not other.is_made_by_controller

    tell(write_kubeconfig, api, story)


def test_an_answer_that_is_no_object_is_told(write_kubeconfig: WriteKubeconfig, api: KubeApi) -> None:
    api.always[f"{FOLDER}/c1"] = Answer(200, b"<html>")

    async def story(inventory: Inventory, _: Clock) -> None:
        with pytest.raises(ClusterError, match="no object"):
            await inventory.find(FOLDER, "c1")

    tell(write_kubeconfig, api, story)
