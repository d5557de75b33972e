"""`ironloom fleet --parts`: what a cluster has, for a person and for a program."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from fake_control import Run
from tests.backends.kubernetes.conftest import kubeconfig_of
from tests.fakes.kube_api import Answer, KubeApi

QUEUES = "/apis/kueue.x-k8s.io/v1beta2/namespaces/{}/localqueues"
KINDS = {
    "/apis/kueue.x-k8s.io/v1beta2/workloads": ("Workload", True),
    "/apis/kueue.x-k8s.io/v1beta2/localqueues": ("LocalQueue", True),
}


@pytest.fixture
def api(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[KubeApi]:
    api = KubeApi(kinds=KINDS)
    for namespace in ("team", "other"):
        queue = {"metadata": {"name": f"of-{namespace}"}, "spec": {"clusterQueue": "all"}}
        api.always[QUEUES.format(namespace)] = Answer(200, json.dumps({"items": [queue]}).encode())
    (tmp_path / "config").write_text(json.dumps(kubeconfig_of(api.url, namespace="team")))
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "config"))
    with api.running():
        yield api


def test_parts_are_told_with_the_queues_of_the_contexts_namespace(run: Run, api: KubeApi) -> None:
    result = run("fleet", "--context", "prod", "--parts")
    assert result.status == 0
    lines = result.out.splitlines()
    assert "Kueue v1beta2: queues and quotas" in lines
    assert "  LocalQueues in namespace team: of-team (of ClusterQueue all)" in lines
    assert any(line.startswith("no KServe: an InferenceService becomes a Deployment") for line in lines)


def test_a_program_gets_them_as_a_list_and_of_the_namespace_that_is_named(run: Run, api: KubeApi) -> None:
    found = {one["name"]: one for one in json.loads(run("fleet", "--context", "prod", "--parts", "-n", "other",
                                                        "-o", "json").out)}  # fmt: skip
    assert (found["Kueue"]["state"], found["Kueue"]["version"]) == ("there", "v1beta2")
    assert "LocalQueues in namespace other: of-other (of ClusterQueue all)" in found["Kueue"]["details"]
    assert found["KEDA"]["state"] == "not there"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["fleet", "--parts"], "--parts are those of a live cluster"),
        (["fleet", "--context", "prod", "-n", "team"], "--namespace is of --parts"),
        (["fleet", "--context", "prod", "--parts", "-o", "svg"], "--parts have no picture"),
    ],
)
def test_what_makes_no_sense_is_refused(run: Run, api: KubeApi, words: list[str], said: str) -> None:
    result = run(*words)
    assert (result.status, result.out) == (2, "")
    assert said in result.err
    assert not api.asked
