"""How one object is applied: not at all where it is as it is wanted, by force where only a person stands against it."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, cast

import msgspec
import pytest

from ironloom.backends.kubernetes.applier import Applier
from ironloom.backends.kubernetes.client import Client
from ironloom.backends.kubernetes.inventory import Inventory

OURS = {"f:spec": {"f:paused": {}, "f:minReadySeconds": {}}}
WANTED: dict[str, Any] = {
    "apiVersion": "apps/v1",
    "kind": "Deployment",
    "metadata": {"name": "x", "namespace": "models"},
    "spec": {"paused": False, "minReadySeconds": 1},
}


class FakeServer:
    """Answers an apply with what was asked for; `asked` is how."""

    def __init__(self) -> None:
        self.asked: list[dict[str, Any]] = []

    async def apply(self, path: str, body: Mapping[str, Any], **how: Any) -> bytes:
        assert path == "/apis/apps/v1/namespaces/models/deployments/x"
        self.asked.append(how)
        return msgspec.json.encode(body)


def live(seconds: int = 1, manager: str = "", operation: str = "Update") -> dict[str, Any]:
    """As it was applied, or with a field that another manager has changed."""
    entries = [{"manager": "ironloom", "operation": "Apply", "fieldsV1": OURS}]
    if manager:
        theirs = {"f:spec": {"f:minReadySeconds": {}}}
        entries = [
            {"manager": "ironloom", "operation": "Apply", "fieldsV1": {"f:spec": {"f:paused": {}}}},
            {"manager": manager, "operation": operation, "fieldsV1": theirs},
        ]
    metadata = {**WANTED["metadata"], "managedFields": entries}
    return {**WANTED, "metadata": metadata, "spec": {"paused": False, "minReadySeconds": seconds}}


def put(before: dict[str, Any] | None, **how: Any) -> tuple[FakeServer, tuple[str, ...]]:
    server = FakeServer()
    applier = Applier(cast("Client", server), Inventory(cast("Client", server)))
    _, told = asyncio.run(applier.put(WANTED, before, was_whole=True, **how))
    return server, told


def test_what_is_as_it_is_wanted_is_not_written() -> None:
    server, told = put(live())
    assert (server.asked, told) == ([], ())


@pytest.mark.parametrize(
    ("before", "forces"),
    [
        (None, False),
        (live(2), False),
        (live(2, "kubectl-edit"), True),
        (live(2, "operator"), False),
        (live(2, "kubectl", "Apply"), False),
    ],
    ids=["a new one", "an own change", "a person's", "a controller's", "a file's elsewhere"],
)
def test_only_what_a_person_wrote_is_overruled(before: dict[str, Any] | None, forces: bool) -> None:
    server, _ = put(before)
    assert server.asked == [{"manager": "ironloom", "forces": forces, "is_trial": False}]


def test_a_trial_says_what_would_be_put_back() -> None:
    server, told = put(live(2, "kubectl-edit"), is_trial=True)
    assert server.asked == [{"manager": "ironloom", "forces": True, "is_trial": True}]
    assert told == ("deployment/x is changed by kubectl-edit (spec.minReadySeconds): an apply puts it back",)
