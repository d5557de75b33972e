"""What an API server would make of an object, as a file that can be applied."""

from __future__ import annotations

from typing import Any

import pytest

from ironloom.backends.kubernetes.backend import as_file

SERVERS_OWN = {"uid": "1", "resourceVersion": "2", "managedFields": [{"manager": "ironloom"}], "generation": 1}


def service(**spec: Any) -> dict[str, Any]:
    return {
        "kind": "Service",
        "metadata": {"name": "far", **SERVERS_OWN},
        "spec": {"type": "ClusterIP", **spec},
        "status": {"loadBalancer": {}},
    }


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"clusterIP": "10.0.0.0", "clusterIPs": ["10.0.0.0"]}, {"type": "ClusterIP"}),
        (
            {"clusterIP": "None", "clusterIPs": ["None"]},
            {"type": "ClusterIP", "clusterIP": "None", "clusterIPs": ["None"]},
        ),
        ({}, {"type": "ClusterIP"}),
    ],
    ids=["an address that a dry run makes up is left out", "a headless Service stays one", "no address stays none"],
)
def test_a_service_of_a_dry_run_as_a_file(given: dict[str, Any], expected: dict[str, Any]) -> None:
    made = as_file(service(**given))
    assert made == {"kind": "Service", "metadata": {"name": "far"}, "spec": expected}
