"""Which object a service's others go with."""

from __future__ import annotations

from typing import Any

import pytest

from ironloom.backends.kubernetes.inventory import Meta
from ironloom.backends.kubernetes.owners import owned, reference


def one(kind: str, **metadata: Any) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": kind, "metadata": {"name": "x", "namespace": "models", **metadata}}


OWNER = one("ConfigMap", uid="7", resourceVersion="1", labels={"a": "b"})


def test_an_object_names_its_owner_and_is_no_controllers_work() -> None:
    made = owned(one("Service"), reference(OWNER))
    (found,) = made["metadata"]["ownerReferences"]
    assert found == {"apiVersion": "v1", "kind": "ConfigMap", "name": "x", "uid": "7"}
    assert made["metadata"]["name"] == "x"
    assert not Meta(name="x").is_made_by_controller


@pytest.mark.parametrize(
    ("kind", "owner"),
    [("PersistentVolumeClaim", OWNER), ("Service", one("ConfigMap"))],
    ids=["what was fetched outlives its service", "one that is not there yet owns nothing"],
)
def test_what_has_no_owner_stays_as_it_is(kind: str, owner: dict[str, Any]) -> None:
    assert owned(one(kind), reference(owner)) == one(kind)


def test_the_object_that_is_given_is_not_changed() -> None:
    given = one("Service")
    owned(given, reference(OWNER))
    assert given == one("Service")
