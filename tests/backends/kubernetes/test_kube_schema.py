"""What a live cluster says of its kinds and fields, and what it does not."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.backends.kubernetes.conftest import kubeconfig_of
from tests.fakes.kube_api import Answer, KubeApi, status

from ironloom.backends.kubernetes.schema import INDEX, read_schema
from ironloom.errors import ClusterError

THING = {
    "x-kubernetes-group-version-kind": [{"group": "example.org", "version": "v1", "kind": "Thing"}],
    "properties": {field: {"type": "object"} for field in ("apiVersion", "kind", "metadata", "spec")},
}
PATHS = {
    "api/v1": "/openapi/v3/api/v1",
    "apis/example.org/v1": "/openapi/v3/apis/example.org/v1",
    "version": "/openapi/v3/version",
}


def answer(body: Any) -> Answer:
    return Answer(200, json.dumps(body).encode(), {"Content-Type": "application/json"})


@pytest.fixture
def api(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[KubeApi]:
    api = KubeApi()
    (tmp_path / "config").write_text(json.dumps(kubeconfig_of(api.url)))
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "config"))
    api.always[INDEX] = answer({"paths": {path: {"serverRelativeURL": url} for path, url in PATHS.items()}})
    api.always["/openapi/v3/api/v1"] = answer({"components": {"schemas": {}}})
    api.always["/openapi/v3/apis/example.org/v1"] = answer({"components": {"schemas": {"Thing": THING}}})
    with api.running():
        yield api


def test_each_group_s_description_is_read_and_nothing_else(api: KubeApi) -> None:
    table = read_schema(context="prod")
    assert table is not None
    assert table.known == {"example.org/v1/Thing"}
    assert table.source("example.org/v1") == "context prod"
    assert "/openapi/v3/version" not in api.paths()


@pytest.mark.parametrize("path", [INDEX, "/openapi/v3/api/v1"])
def test_a_cluster_that_does_not_describe_all_of_itself_has_no_table(api: KubeApi, path: str) -> None:
    for refusal in (status(404, "NotFound", "no"), status(403, "Forbidden", "no")):
        api.always[path] = refusal
        assert read_schema(context="prod") is None


def test_an_index_that_is_none_is_no_table(api: KubeApi) -> None:
    api.always[INDEX] = answer(["paths"])
    assert read_schema(context="prod") is None


def test_a_description_that_is_no_json_is_told(api: KubeApi) -> None:
    api.always["/openapi/v3/api/v1"] = Answer(200, b"<html>")
    with pytest.raises(ClusterError, match="JSON"):
        read_schema(context="prod")
