"""A cluster with services and training runs: nothing of a delete goes before all names are known, and what may not be
seen is told as that."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from fake_control import FakeControl, Run, service
from tests.backends.kubernetes.conftest import kubeconfig_of
from tests.fakes.kube_api import Answer, Asked, KubeApi, status

from ironloom.cli import cluster_gateway
from ironloom.cli.client import Client

JOBS = "/apis/batch/v1/namespaces/models/jobs"


OTHERS_RUN = """\
apiVersion: kubeflow.org/v1
kind: PyTorchJob
metadata: {name: tune}
spec:
  pytorchReplicaSpecs:
    Worker:
      replicas: 2
      template:
        spec:
          containers:
          - {name: pytorch, image: "pytorch/pytorch:2.9.0", command: [torchrun, train.py]}
"""


class Jobs(KubeApi):
    """Has one run, `tune`, until it is deleted."""

    def _served(self, asked: Asked) -> Answer:
        made = {"metadata": {"name": "tune", "uid": "u", "creationTimestamp": "2026-01-01T00:00:00Z"}}
        if asked.path == f"{JOBS}/tune":
            return Answer(200, b"{}")
        if asked.path == JOBS:
            is_asked_for = asked.params.get("labelSelector", "").endswith("=tune")
            return Answer(200, json.dumps({"items": [made] if is_asked_for else []}).encode())
        return super()._served(asked)

    @property
    def num_deleted(self) -> int:
        return self.paths().count(f"{JOBS}/tune")


@pytest.fixture
def api(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fake: FakeControl) -> Iterator[Jobs]:
    api = Jobs(kinds={"/api/v1/pods": ("Pod", True), "/apis/batch/v1/jobs": ("Job", True)})
    api.always["/api/v1/namespaces/models"] = Answer(200, b'{"metadata": {"name": "models"}}')
    (tmp_path / "config").write_text(json.dumps(kubeconfig_of(api.url, namespace="models")))
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "config"))
    monkeypatch.setattr(cluster_gateway, "gateway_or_none", lambda *_: Client())
    fake.services["demo"] = service("demo")
    with api.running():
        yield api


@pytest.mark.parametrize("names", [("tune", "demo"), ("demo", "tune")])
def test_a_run_and_a_service_go_in_one_call(run: Run, api: Jobs, fake: FakeControl, names: tuple[str, ...]) -> None:
    result = run("delete", *names, "--context", "prod")
    assert (result.status, result.err) == (0, "")
    assert sorted(result.out.splitlines()) == ["run/tune deleted", "service/demo deleted"]
    assert not fake.services
    assert api.num_deleted == 1


def test_a_file_names_runs_of_any_program(run: Run, api: Jobs, fake: FakeControl, tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(OTHERS_RUN)
    result = run("delete", "-f", str(path), "--context", "prod")
    assert (result.status, result.out) == (0, "run/tune deleted\n"), result.err
    assert api.num_deleted == 1


@pytest.mark.parametrize("names", [("tune", "demo", "nope"), ("nope", "tune"), ("nope", "demo")])
def test_a_name_that_is_nothing_s_leaves_all_there(
    run: Run, api: Jobs, fake: FakeControl, names: tuple[str, ...]
) -> None:
    result = run("delete", *names, "--context", "prod")
    assert (result.status, result.out) == (2, "")
    assert "There is no training run nope in namespace models, and no such service: the gateway has none of that " in (
        result.err
    )
    assert "demo" in fake.services
    assert not api.num_deleted


def test_what_is_not_there_and_need_not_be_is_told_beside_what_went(run: Run, api: Jobs, fake: FakeControl) -> None:
    result = run("delete", "tune", "nope", "demo", "--ignore-not-found", "-o", "json", "--context", "prod")
    assert result.status == 0
    told = {one["name"]: one["deleted"] for one in json.loads(result.out)}
    assert told == {"demo": True, "tune": True, "nope": False}


def test_without_names_it_is_said_what_is_wanted(run: Run, api: Jobs) -> None:
    result = run("delete", "--context", "prod")
    assert result.status == 2
    assert "delete needs names of services or runs, or -f FILE." in result.err


@pytest.mark.parametrize("verb", ["get", "describe", "logs", "delete"])
def test_who_may_use_the_gateway_alone_is_told_that_there_is_no_such_service(run: Run, api: Jobs, verb: str) -> None:
    api.always[JOBS] = api.always["/api/v1/namespaces/models/pods"] = status(403, "Forbidden", "no role")
    result = run(verb, "nope", "--context", "prod")
    assert (result.status, result.out) == (2, "")
    assert result.err.startswith("There is no service nope, and runs are not looked for: The cluster of context prod ")


def test_who_may_use_the_gateway_alone_is_told_that_there_are_no_services(
    run: Run, api: Jobs, fake: FakeControl
) -> None:
    api.always[JOBS] = status(403, "Forbidden", "no role")
    fake.services.clear()
    result = run("get", "--context", "prod")
    assert (result.status, result.out) == (0, "")
    assert result.err.startswith("note: training runs are not listed: The cluster of context prod forbids user ada to")
    assert "No services." in result.err
    assert run("get", "--context", "prod", "-o", "json").out == "[]\n"
