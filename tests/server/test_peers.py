"""What the gateway that decides makes of the others' reports: their load, and when a replica is drained everywhere."""

from __future__ import annotations

import asyncio

import pytest

from ironloom.serve.pool import LoadSample
from ironloom.server.control import PeerLoad, PeerReport
from ironloom.server.peers import FRESH_S, MAX_GATEWAYS, Peers, SharedLoad
from ironloom.server.service_store import SharedStore, StoredService, stored_of


class Clock:
    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


class Pool:
    """A service's own pool, as far as it is asked."""

    service = "chat"
    in_flight = 2
    num_held = 1

    def sample(self, now_s: float) -> LoadSample:
        return LoadSample(concurrency=3.0, rps=1.5)


def told(gateway: str, **load: object) -> PeerReport:
    return PeerReport(gateway=gateway, services={"chat": PeerLoad(**load)})  # type: ignore[arg-type]


def test_the_load_of_all_gateways_is_what_a_service_is_scaled_by() -> None:
    clock = Clock()
    peers = Peers(clock)
    load = SharedLoad(Pool(), peers)  # type: ignore[arg-type]
    peers.take(told("b", concurrency=4.0, rps=2.0, in_flight=3, held=1))
    peers.take(told("c", concurrency=1.0, in_flight=1))
    assert (load.in_flight, load.num_held) == (6, 2)
    assert load.sample(0.0) == LoadSample(concurrency=8.0, rps=3.5)
    peers.take(told("b"))  # the newest report of each counts
    assert (load.in_flight, load.num_held) == (3, 1)


def test_a_gateway_that_fell_silent_counts_no_more() -> None:
    clock = Clock()
    peers = Peers(clock)
    peers.take(told("b", in_flight=3))
    clock.now_s += FRESH_S
    assert peers.loads("chat") == []


def test_reports_are_kept_of_so_many_gateways_at_most() -> None:
    peers = Peers(Clock())
    for number in range(MAX_GATEWAYS + 5):
        peers.take(told(f"gateway-{number}", in_flight=1))
    assert len(peers.loads("chat")) == MAX_GATEWAYS


def test_a_replica_is_drained_once_every_gateway_has_said_that_nothing_is_in_flight_there() -> None:
    async def story() -> None:
        peers = Peers()
        peers.take(told("b", in_flight=1))  # it has not heard yet that the replica goes
        peers.take(told("c", draining={"pod": 0}))
        waits = asyncio.create_task(peers.drained("chat", "pod", asyncio.get_running_loop().time() + 60))
        for draining in ({}, {"pod": 1}):
            peers.take(told("b", draining=draining))
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            assert not waits.done()
        peers.take(told("b", draining={"pod": 0}))
        async with asyncio.timeout(30):
            await waits

    asyncio.run(story())


def test_a_replica_is_waited_for_no_longer_than_its_time() -> None:
    clock = Clock()
    peers = Peers(clock)
    peers.take(told("b", draining={"pod": 5}))
    asyncio.run(peers.drained("chat", "pod", clock.now_s))


class Documents:
    def __init__(self) -> None:
        self.kept: dict[str, object] = {}

    async def load(self) -> dict[str, object]:
        return dict(self.kept)

    async def has(self, name: str) -> bool:
        return name in self.kept

    async def save(self, name: str, document: object) -> None:
        self.kept[name] = document

    async def remove(self, name: str) -> None:
        self.kept.pop(name, None)


def test_a_shared_store_gives_back_what_was_put_in_and_leaves_out_what_nobody_can_read() -> None:
    async def story() -> None:
        documents = Documents()
        store = SharedStore(documents)
        one = StoredService(name="chat", generation=3, manifests=({"kind": "InferenceService"},), pinned=2)
        await store.save(one)
        documents.kept["spoilt"] = {"name": "spoilt", "generation": "many"}
        assert await store.load() == [one]
        await store.remove("chat")
        assert await store.load() == []

    asyncio.run(story())


@pytest.mark.parametrize(
    "document",
    [
        None,
        [],
        {"name": "other", "generation": 1, "manifests": [{}]},
        {"name": "chat", "generation": 1, "manifests": []},
    ],
    ids=["nothing", "a list", "of another name", "without an object"],
)
def test_a_document_that_is_no_service_is_none(document: object) -> None:
    assert stored_of("chat", document) is None
