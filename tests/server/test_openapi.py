"""The OpenAPI description: it is true to the routes, its page is current, and nothing made from it gets a 5xx."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fake_daemon import Running, running, service_view
from starlette.routing import Route

from ironloom.server.api import ControlApi
from ironloom.server.files_api import FilesApi
from ironloom.server.openapi import OPERATIONS, description, reference_markdown
from ironloom.server.security import Guard

REFERENCE = Path(__file__).parents[2] / "docs" / "reference" / "http-api.md"


def test_every_route_is_described_and_every_described_route_is_there() -> None:
    nothing: Any = None
    guard = Guard(loopback=True, keys_required=False)
    routes = [
        *ControlApi(nothing, nothing, guard).routes(),
        *FilesApi(nothing, nothing, nothing, guard).routes(),
    ]
    served = {
        (method, route.path)
        for route in routes
        if isinstance(route, Route) and not route.path.startswith("/openai")
        for method in (route.methods or set()) - {"HEAD"}
    }
    described = {(one.method, one.path) for one in OPERATIONS if one.tag in ("control", "files")}
    assert served == described


def test_operation_ids_are_unique_and_references_resolve() -> None:
    ids = [operation.id for operation in OPERATIONS]
    assert len(ids) == len(set(ids))
    document = description()

    def references(node: Any) -> Iterator[str]:
        if isinstance(node, dict):
            if isinstance(node.get("$ref"), str):
                yield node["$ref"]
            for value in node.values():
                yield from references(value)
        elif isinstance(node, list):
            for value in node:
                yield from references(value)

    names = {reference.removeprefix("#/components/schemas/") for reference in references(document)}
    assert names <= set(document["components"]["schemas"])


def test_the_reference_page_is_current() -> None:
    assert REFERENCE.read_text().endswith(reference_markdown()), "run `make docs`"


def test_it_is_served(tmp_path: Path) -> None:
    with running(tmp_path) as daemon:
        status, body, _ = daemon.ask("GET", "/openapi.json")
    assert status == 200
    assert body["openapi"].startswith("3.1")
    assert "/api/v1/services/{name}/scale" in body["paths"]


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with running(tmp_path_factory.mktemp("openapi"), services=[service_view("small")]) as daemon:
        yield daemon


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # schemathesis's own
def test_nothing_made_from_the_description_gets_a_5xx(daemon: Running) -> None:
    import schemathesis
    from hypothesis import HealthCheck, Phase, given, settings

    bounded = settings(
        max_examples=20,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
        derandomize=True,
        database=None,
    )

    def check(case: Any) -> None:
        if case.query and "follow" in case.query:
            case.query["follow"] = "0"  # a log that is followed has no end
        response = case.call(base_url=daemon.url, timeout=10)
        assert response.status_code < 500, f"{case.method} {case.formatted_path}: {response.text}"

    num_checked = 0
    schema = schemathesis.openapi.from_dict(description())
    for result in schema.get_all_operations():
        operation = result.ok()
        if operation.path == "/api/v1/stream" or operation.path in ("/healthz", "/readyz", "/metrics"):
            continue  # a stream has no end; the probes are the gateway's
        modes = [schemathesis.GenerationMode.POSITIVE]
        if operation.body or operation.query:
            modes.append(schemathesis.GenerationMode.NEGATIVE)
        for mode in modes:
            bounded(given(case=operation.as_strategy(generation_mode=mode))(check))()
            num_checked += 1
    assert num_checked > 40
