"""The verbs with --context where there is no gateway yet, no service, no run, or no namespace: which of them it is."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from fake_control import Run
from tests.backends.kubernetes.conftest import kubeconfig_of
from tests.fakes.kube_api import Answer, KubeApi, status

JOBS = "/apis/batch/v1/namespaces/models/jobs"
PODS = "/api/v1/namespaces/models/pods"
NAMESPACE = "/api/v1/namespaces/models"
DEPLOYMENT = "/apis/apps/v1/namespaces/models/deployments/ironloom"
STATEFUL_SET = "/apis/apps/v1/namespaces/models/statefulsets/ironloom"
EVENTS = "/api/v1/namespaces/models/events"
KINDS = {"/api/v1/pods": ("Pod", True), "/apis/batch/v1/jobs": ("Job", True)}
LABELS = {"app.kubernetes.io/name": "ironloom", "app.kubernetes.io/managed-by": "ironloom"}
INSTALL = "`ironloom install --context prod -n models` makes"
NONE = f"there is no gateway of Ironloom in namespace models of context prod, which {INSTALL}"


@pytest.fixture
def api(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[KubeApi]:
    api = KubeApi(kinds=KINDS)
    api.always[JOBS] = Answer(200, b'{"items": []}')
    api.always[PODS] = Answer(200, b'{"items": []}')
    api.always[NAMESPACE] = Answer(200, b'{"metadata": {"name": "models"}}')
    (tmp_path / "config").write_text(json.dumps(kubeconfig_of(api.url, namespace="models")))
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "config"))
    monkeypatch.setenv("IRONLOOM_HOME", str(tmp_path / "home"))
    with api.running():
        yield api


def install(api: KubeApi, *pods: dict[str, object], **labels: str) -> None:
    """As it is right after an installation: a Deployment, and no Lease."""
    made = {"metadata": {"labels": labels or LABELS}, "spec": {"replicas": 2}}
    api.always[DEPLOYMENT] = Answer(200, json.dumps(made).encode())
    api.always[PODS] = Answer(200, json.dumps({"items": pods}).encode())


RUN: dict[str, object] = {"metadata": {"name": "tune", "uid": "u", "creationTimestamp": "2026-01-01T00:00:00Z"}}
UNPLACED: dict[str, object] = {
    "metadata": {"name": "ironloom-x"},
    "status": {"conditions": [{"type": "PodScheduled", "status": "False", "message": "0/4 nodes are available"}]},
}


@pytest.mark.parametrize("command", [("scale", "chat", "1"), ("key", "list"), ("get", "services")])
def test_an_installed_gateway_without_pods_that_answer_is_told_as_that(
    run: Run, api: KubeApi, command: tuple[str, ...]
) -> None:
    install(api, UNPLACED)
    result = run(*command, "--context", "prod")
    assert result.status != 0
    assert "A gateway of Ironloom is installed in namespace models, and none of its pods answers yet: " in result.err
    assert "0/4 nodes are available" in result.err
    assert "`kubectl --context prod -n models get pods -l app.kubernetes.io/name=ironloom`" in result.err
    assert "There is no gateway" not in result.err


def test_one_with_volumes_is_told_as_that_too(run: Run, api: KubeApi) -> None:
    install(api, UNPLACED)
    api.always[STATEFUL_SET] = api.always.pop(DEPLOYMENT)
    assert "0/4 nodes are available" in run("key", "list", "--context", "prod").err


def test_one_with_volumes_that_may_not_be_made_is_told_why(run: Run, api: KubeApi) -> None:
    install(api)
    api.always[STATEFUL_SET] = api.always.pop(DEPLOYMENT)
    events = [
        {
            "lastTimestamp": "2026-01-01T00:00:02Z",
            "message": "create Claim state-ironloom-0 failed: exceeded quota: few",
        },
        {"lastTimestamp": "2026-01-01T00:00:01Z", "message": "an older one"},
    ]
    api.always[EVENTS] = Answer(200, json.dumps({"items": events}).encode())
    assert "create Claim state-ironloom-0 failed: exceeded quota: few." in run("key", "list", "--context", "prod").err
    api.always[EVENTS] = status(403, "Forbidden", "no role")
    assert "its pods are being made" in run("key", "list", "--context", "prod").err


@pytest.mark.parametrize(
    "command",
    [("get",), ("get", "-o", "json"), ("get", "chat"), ("describe", "chat"), ("logs", "chat"), ("delete", "chat"),
     ("delete", "chat", "--ignore-not-found")],
)  # fmt: skip
def test_a_silent_gateway_is_why_nothing_is_known_where_there_is_no_run_either(
    run: Run, api: KubeApi, command: tuple[str, ...]
) -> None:
    install(api, UNPLACED)
    result = run(*command, "--context", "prod")
    assert (result.status, result.out) == (1, "")
    assert result.err.startswith("A gateway of Ironloom is installed in namespace models, and none of its pods answers")
    assert "training run" not in result.err


def test_runs_that_are_there_are_listed_beside_a_silent_gateway(run: Run, api: KubeApi) -> None:
    install(api, UNPLACED)
    api.always[JOBS] = Answer(200, json.dumps({"items": [RUN]}).encode())
    api.always[PODS] = Answer(200, b'{"items": []}')
    result = run("get", "--context", "prod")
    assert result.status == 0
    assert result.out.splitlines()[1].split()[:2] == ["tune", "Job"]
    assert (
        "note: A gateway of Ironloom is installed in namespace models, and none of its pods answers yet: " in result.err
    )


@pytest.mark.parametrize(
    ("command", "hint"),
    [
        (("get",), "`ironloom train … --context prod -n models` makes a run"),
        (("get", "runs"), "`ironloom train … --context prod -n models` makes a run"),
        (("describe", "chat"), "`ironloom get runs --context prod -n models` lists those that are there"),
        (("delete",), "`ironloom get --context prod -n models` lists them"),
    ],
)
def test_a_hint_names_the_cluster_and_the_namespace(
    run: Run, api: KubeApi, command: tuple[str, ...], hint: str
) -> None:
    assert f"hint: {hint}" in run(*command, "--context", "prod", "-n", "models").err


def test_pods_that_may_not_be_listed_leave_the_deployment_s_word(run: Run, api: KubeApi) -> None:
    install(api)
    api.always[PODS] = status(403, "Forbidden", "no role")
    assert "its pods are being made" in run("key", "list", "--context", "prod").err


@pytest.mark.parametrize("may_look", [True, False])
def test_a_deployment_of_that_name_that_another_made_is_no_gateway(run: Run, api: KubeApi, may_look: bool) -> None:
    install(api, app="ironloom")
    if not may_look:
        api.always[DEPLOYMENT] = status(403, "Forbidden", "no role")
    result = run("scale", "chat", "1", "--context", "prod")
    assert result.status == 2
    assert "There is no gateway of Ironloom in namespace models of context prod." in result.err
    assert f"hint: {INSTALL} one; --namespace names another" in result.err


def test_where_there_is_nothing_both_services_and_runs_are_named(run: Run, api: KubeApi) -> None:
    result = run("get", "--context", "prod")
    assert (result.status, result.out) == (0, "")
    assert f"No training runs, and no services: {NONE}." in result.err
    assert run("get", "--context", "prod", "-o", "json").out.strip() == "[]"
    assert run("get", "runs", "--context", "prod").err.startswith("No training runs.\n")


@pytest.mark.parametrize("verb", ["get", "describe", "logs", "delete"])
def test_a_name_that_is_nothing_s_is_told_as_neither_run_nor_service(run: Run, api: KubeApi, verb: str) -> None:
    result = run(verb, "chat", "--context", "prod")
    assert (result.status, result.out) == (2, "")
    assert f"There is no training run chat in namespace models, and no such service: {NONE}." in result.err


@pytest.mark.parametrize(
    "command",
    [("get",), ("get", "runs"), ("describe", "chat"), ("logs", "chat"), ("delete", "chat"), ("scale", "chat", "1"),
     ("key", "list")],
)  # fmt: skip
def test_a_namespace_that_is_not_there_is_told_as_that(run: Run, api: KubeApi, command: tuple[str, ...]) -> None:
    api.always[NAMESPACE] = status(404, "NotFound", 'namespaces "models" not found')
    result = run(*command, "--context", "prod")
    assert (result.status, result.out) == (2, "")
    assert "There is no namespace models in the cluster of context prod." in result.err
    assert "`kubectl create namespace models` makes one" in result.err


def test_a_namespace_that_may_not_be_looked_at_counts_as_there(run: Run, api: KubeApi) -> None:
    api.always[NAMESPACE] = status(403, "Forbidden", "no role")
    assert run("get", "--context", "prod").status == 0


def test_a_daemon_ends_for_a_namespace_that_is_not_there_and_leaves_nothing_open(api: KubeApi) -> None:
    api.always[NAMESPACE] = status(404, "NotFound", 'namespaces "models" not found')
    done = subprocess.run(
        [sys.executable, "-W", "error::ResourceWarning", "-m", "ironloom.cli",
         "up", "--context", "prod", "--port", "0"],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (2, "")
    assert "There is no namespace models in the cluster of context prod." in done.stderr
