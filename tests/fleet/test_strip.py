"""A snapshot has no secrets, and makes the fleet that the cluster is."""

from __future__ import annotations

import copy
import io
import json
from pathlib import Path

from tests.fleet.kube import Object, named, node, pod

from ironloom.fleet.build import build_fleet
from ironloom.fleet.snapshot import read_snapshot
from ironloom.fleet.strip import strip, write_snapshot

SECRET = "hunter2-s3cr3t"


def laden() -> list[Object]:
    """Objects with the secret wherever people put them."""
    made = pod("a", on="n1", gpu=4, labels={"jobset.sigs.k8s.io/jobset-name": "train"})
    made["metadata"]["managedFields"] = [{"manager": SECRET}]
    made["metadata"]["annotations"] = {
        "kubectl.kubernetes.io/last-applied-configuration": SECRET,
        "vault.example.com/token": SECRET,
        "kueue.x-k8s.io/podset-required-topology": "example.com/rack",
    }
    container = made["spec"]["containers"][0]
    container["env"] = [{"name": "TOKEN", "value": SECRET}]
    container["args"] = ["--api-key", SECRET]
    container["command"] = ["sh", "-c", f"export TOKEN={SECRET}"]
    container["livenessProbe"] = {"httpGet": {"httpHeaders": [{"name": "Authorization", "value": SECRET}]}}
    host = node("n1", labels={"example.com/rack": "r1"})
    host["metadata"]["annotations"]["kubectl.kubernetes.io/last-applied-configuration"] = SECRET
    deployment = named("apps/v1", "Deployment", "web", "team-a", spec={"template": {"spec": made["spec"]}})
    return [
        host,
        made,
        deployment,
        named("v1", "Secret", "token", "team-a", data={"t": SECRET}),
        named("v1", "ConfigMap", "settings", "team-a", data={"t": SECRET}),
        named("kueue.x-k8s.io/v1beta2", "LocalQueue", "q", "team-a", spec={"clusterQueue": "all"}),
    ]


def written(objects: list[Object], **options: object) -> bytes:
    out = io.BytesIO()
    write_snapshot(objects, out, **options)  # type: ignore[arg-type]
    return out.getvalue()


def test_no_secret_is_in_a_snapshot() -> None:
    text = written(laden())
    assert SECRET.encode() not in text
    assert b'"Secret"' not in text
    assert b"managedFields" not in text
    assert b'"TOKEN"' in text


def test_a_snapshot_is_a_kubernetes_list() -> None:
    read = json.loads(written(laden(), name="east", taken_at="2026-11-20T10:00:00Z"))
    assert (read["apiVersion"], read["kind"]) == ("v1", "List")
    assert [one["kind"] for one in read["items"]] == ["Node", "Pod", "Deployment", "ConfigMap", "LocalQueue"]


def test_a_snapshot_of_nothing_is_a_list_of_nothing() -> None:
    assert json.loads(written([]))["items"] == []


def test_stripping_changes_the_object_in_hand_nowhere() -> None:
    objects = laden()
    before = copy.deepcopy(objects)
    for one in objects:
        strip(one)
    assert objects == before


def test_the_fleet_of_a_snapshot_is_the_fleet_of_the_cluster(tmp_path: Path) -> None:
    path = tmp_path / "east.json"
    path.write_bytes(
        written(
            laden(),
            name="east",
            taken_at="2026-11-20T10:00:00Z",
            version="v1.36.2",
            kinds_served=["apps/v1/Deployment", "v1/Pod"],
            kinds_listed=["/Pod", "/Secret", "serving.kserve.io/InferenceService"],
        )
    )
    read = read_snapshot([path])
    live = build_fleet(laden(), name="east", source="context")
    assert (read.name, read.taken_at, read.version) == ("east", "2026-11-20T10:00:00Z", "v1.36.2")
    assert read.kinds_served == {"apps/v1/Deployment", "v1/Pod"}
    assert read.pods == live.pods
    assert [dict(one.allocated) for one in read.nodes] == [dict(one.allocated) for one in live.nodes]
    assert [dict(one.labels) for one in read.nodes] == [dict(one.labels) for one in live.nodes]
    assert read.local_queues == live.local_queues
    assert read.has("serving.kserve.io/InferenceService", "x", "team-a") is False
    assert read.has("/Secret", "token", "team-a") is None, "secrets are left out: nothing follows from their absence"
