"""The verbs with --context, where no gateway answers: what is said, once, and what is done without it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from fake_control import FakeControl, Run
from tests.backends.kubernetes.conftest import kubeconfig_of, node
from tests.fakes.kube_api import Answer, KubeApi, status

from ironloom import __version__
from ironloom.cli import cluster_gateway
from ironloom.cli.client import Client
from ironloom.cli.cluster_gateway import skew_note

LEASE = "/apis/coordination.k8s.io/v1/namespaces/models/leases/ironloom"
JOBS = "/apis/batch/v1/namespaces/models/jobs"
KINDS = {
    "/api/v1/nodes": ("Node", False),
    "/api/v1/pods": ("Pod", True),
    "/api/v1/services": ("Service", True),
    "/apis/apps/v1/deployments": ("Deployment", True),
    "/apis/batch/v1/jobs": ("Job", True),
}
SERVICE = """\
apiVersion: serving.kserve.io/v1beta1
kind: InferenceService
metadata: {name: chat}
spec:
  predictor:
    containers:
    - {name: kserve-container, image: "vllm/vllm-openai:v0.26.0", args: [--model, a/b]}
"""


@pytest.fixture
def api(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[KubeApi]:
    api = KubeApi(kinds=KINDS)
    api.always[JOBS] = Answer(200, b'{"items": []}')
    (tmp_path / "config").write_text(json.dumps(kubeconfig_of(api.url, namespace="models")))
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "config"))
    monkeypatch.setenv("IRONLOOM_HOME", str(tmp_path / "home"))
    with api.running():
        yield api


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "service.yaml"
    path.write_text(SERVICE)
    return path


@pytest.mark.parametrize("command", [("get",), ("describe", "chat"), ("logs", "chat"), ("delete", "chat")])
def test_a_refusal_is_told_once(run: Run, api: KubeApi, command: tuple[str, ...]) -> None:
    api.tokens = {"good"}
    result = run(*command, "--context", "prod")
    assert (result.status, result.out) == (2, "")
    assert result.err.count("answered 401") == 1


def test_a_cluster_that_cannot_be_reached_is_asked_once(run: Run, tmp_path: Path, api: KubeApi) -> None:
    (tmp_path / "config").write_text(json.dumps(kubeconfig_of("http://127.0.0.1:1")))
    for command in (("get",), ("apply", "-f", str(tmp_path / "service.yaml"), "--dry-run")):
        (tmp_path / "service.yaml").write_text(SERVICE)
        result = run(*command, "--context", "prod")
        assert (result.status, result.out) == (2, "")
        assert result.err.count("refuses connections") == 1


def test_where_neither_services_nor_runs_may_be_seen_the_services_refusal_is_told(run: Run, api: KubeApi) -> None:
    for path in (LEASE, JOBS):
        api.always[path] = status(403, "Forbidden", "no role")
    result = run("get", "--context", "prod")
    assert (result.status, result.out) == (2, "")
    assert result.err.count("forbids user ada to") == 1
    assert "forbids user ada to get lease ironloom: no role" in result.err


def test_where_a_gateway_may_not_be_asked_runs_are_listed_and_that_is_noted(run: Run, api: KubeApi) -> None:
    api.always[LEASE] = status(403, "Forbidden", "no role")
    result = run("get", "--context", "prod")
    assert result.status == 0
    assert "No training runs." in result.err
    assert "note: The cluster of context prod forbids user ada to get lease ironloom" in result.err


def test_a_lease_that_nobody_holds_is_told_with_where_to_look(run: Run, api: KubeApi) -> None:
    api.always[LEASE] = Answer(200, b'{"metadata": {}, "spec": {}}')
    result = run("scale", "chat", "1", "--context", "prod")
    assert result.status != 0
    assert "No gateway decides in namespace models at the moment" in result.err
    assert "`kubectl --context prod -n models get pods -l app.kubernetes.io/name=ironloom`" in result.err


def test_a_dry_run_renders_here_and_needs_no_gateway(run: Run, api: KubeApi, file: Path) -> None:
    result = run("apply", "-f", str(file), "--dry-run", "-o", "yaml", "--context", "prod")
    assert result.status == 0, result.err
    made = [one["kind"] for one in yaml.safe_load_all(result.out)]
    assert made == ["Deployment", "Service"]
    assert "there is no gateway to apply it yet: `ironloom install --context prod -n models` makes one" in result.err
    assert "no KServe: an InferenceService becomes a Deployment and a Service" in result.err
    written = [one for one in api.asked if "fieldManager" in one.params]
    assert not written, "nothing is sent to be judged"


def test_a_dry_run_says_that_nothing_is_parked_in_a_cluster(run: Run, api: KubeApi, file: Path) -> None:
    said = "note: chat: park-for is not honoured: a pod cannot give its GPU up and stay"
    assert said not in run("apply", "-f", str(file), "--dry-run", "--context", "prod").err
    file.write_text(SERVICE.replace("name: chat}", "name: chat, annotations: {ironloom.dev/park-for: 10m}}"))
    assert said in run("apply", "-f", str(file), "--dry-run", "--context", "prod").err


def test_a_dry_run_of_who_may_not_ask_a_gateway_says_so_and_renders(run: Run, api: KubeApi, file: Path) -> None:
    api.always[LEASE] = status(403, "Forbidden", "no role")
    result = run("apply", "-f", str(file), "--dry-run=client", "--context", "prod")
    assert result.status == 0, result.err
    assert result.out.splitlines()[1].split()[:2] == ["chat", "apply"]
    assert "what is applied already is not known: The cluster of context prod forbids user ada to get lease" in (
        result.err
    )


def test_an_apply_and_a_dry_run_of_the_server_need_a_gateway(run: Run, api: KubeApi, file: Path) -> None:
    for words in (["-y"], ["--dry-run=server"]):
        result = run("apply", "-f", str(file), *words, "--context", "prod")
        assert (result.status, result.out) == (2, "")
        assert "There is no gateway of Ironloom in namespace models of context prod." in result.err


@pytest.fixture
def gateway(fake: FakeControl, monkeypatch: pytest.MonkeyPatch) -> FakeControl:
    """It answers as if it stood in the cluster."""
    monkeypatch.setattr(cluster_gateway, "gateway_of", lambda *_: Client())
    return fake


WRONG = SERVICE.replace("predictor:\n", "predictor:\n    nodeSelector: {gpu.nvidia.com/class: H200}\n").replace(
    "args:", 'resources: {limits: {nvidia.com/gpu: "2"}}, args:'
)


def test_findings_and_room_are_told_first_and_an_error_stops_an_apply(
    run: Run, api: KubeApi, gateway: FakeControl, file: Path
) -> None:
    api.objects["/api/v1/nodes"] = [node("gpu-1", **{"gpu.nvidia.com/class": "H100_NVLINK_80GB"})]
    file.write_text(WRONG)
    result = run("apply", "-f", str(file), "-y", "--context", "prod")
    assert result.status == 2
    assert f"error IL101: {file}:6:" in result.err
    assert "\n    gpu.nvidia.com/class is there as H100_NVLINK_80GB (1)\n" in result.err
    assert "room: chat: no replica more would find a place now; 0/1 nodes are available: 1 node(s)" in result.err
    assert "severity error: nothing was applied." in result.err
    assert not gateway.services
    result = run("apply", "-f", str(file), "-y", "--force", "--context", "prod")
    assert (result.status, result.out) == (0, "service/chat created\n")
    assert "error IL101: " in result.err


def test_a_service_that_fits_is_told_its_room(run: Run, api: KubeApi, gateway: FakeControl, file: Path) -> None:
    api.objects["/api/v1/nodes"] = [node("gpu-1", **{"gpu.nvidia.com/class": "H200"})]
    file.write_text(WRONG)
    result = run("apply", "-f", str(file), "-y", "--context", "prod")
    assert result.status == 0, result.err
    assert "room: chat: 4 replicas more would find a place now; 1/1 nodes are available" in result.err


def test_who_may_not_look_at_nodes_applies_all_the_same(
    run: Run, api: KubeApi, gateway: FakeControl, file: Path
) -> None:
    api.always["/api/v1/nodes"] = status(403, "Forbidden", "no role")
    file.write_text(WRONG)
    result = run("apply", "-f", str(file), "-y", "--context", "prod")
    assert (result.status, result.out) == (0, "service/chat created\n")
    assert "forbids user ada to list nodes: no role" in result.err
    assert "room:" not in result.err


def many(number: int) -> str:
    return "\n---\n".join(WRONG.replace("name: chat}", f"name: chat-{index}}}") for index in range(number))


def test_what_is_the_same_of_many_services_is_said_once_and_with_an_output_of_each(
    run: Run, api: KubeApi, gateway: FakeControl, file: Path
) -> None:
    api.objects["/api/v1/nodes"] = [node("gpu-1", **{"gpu.nvidia.com/class": "H100_NVLINK_80GB"})]
    file.write_text(many(6))
    result = run("apply", "-f", str(file), "-y", "--force", "--context", "prod")
    assert result.status == 0, result.err
    assert result.out.splitlines() == [f"service/chat-{index} created" for index in range(6)]
    told = [line for line in result.err.splitlines() if "error IL101: " in line]
    assert len(told) == 1
    assert told[0].startswith(f"  error IL101: {file}:6:")
    assert " and 3 more: " in told[0]
    assert result.err.count("gpu.nvidia.com/class is there as H100_NVLINK_80GB (1)") == 1
    rooms = [line for line in result.err.splitlines() if line.startswith("  room: ")]
    assert len(rooms) == 1
    assert rooms[0].startswith("  room: chat-0, chat-1, chat-2 and 3 more, each alone: no replica more would find")

    whole = run("apply", "-f", str(file), "-y", "--force", "-o", "json", "--context", "prod")
    assert whole.err.count("error IL101: ") == 6
    assert [f"room: chat-{index}: no replica" in whole.err for index in range(6)] == [True] * 6


def test_what_others_changed_of_many_services_is_read_by_lists_and_singly_where_no_list_may_be_had(
    run: Run, api: KubeApi, gateway: FakeControl, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster_gateway, "gateway_or_none", lambda *_: Client())
    file.write_text("\n---\n".join(SERVICE.replace("name: chat}", f"name: chat-{index}}}") for index in range(6)))
    assert run("apply", "-f", str(file), "-y", "--context", "prod").status == 0
    made = json.loads(run("apply", "-f", str(file), "--dry-run", "-o", "json", "--context", "prod").out)["items"]
    live = [one for one in made if one["kind"] == "Deployment"]
    image: dict[str, object] = {
        "f:spec": {"f:template": {"f:spec": {"f:containers": {'k:{"name":"kserve-container"}': {"f:image": {}}}}}}
    }
    live[4]["spec"]["template"]["spec"]["containers"][0]["image"] = "other:1"
    live[4]["metadata"]["managedFields"] = [{"manager": "kubectl-set", "operation": "Update", "fieldsV1": image}]
    folder = DEPLOYMENT.rpartition("/")[0]
    rows = [f"chat-{index}" for index in range(6)]

    def actions() -> list[str]:
        del api.asked[:]
        shown = run("apply", "-f", str(file), "--dry-run", "--context", "prod")
        assert "note: chat-4: deployment/chat-4 is changed by kubectl-set" in shown.err
        return [line.split()[1] for line in shown.out.splitlines() if line.split()[0] in rows]

    expected = ["unchanged"] * 4 + ["configure", "unchanged"]
    listed = {"kind": "DeploymentList", "apiVersion": "apps/v1", "metadata": {}, "items": live}
    api.always[folder] = Answer(200, json.dumps(listed).encode())
    assert actions() == expected
    assert not [path for path in api.paths() if path.startswith(f"{folder}/")], "none is asked for by itself"

    api.always[folder] = status(403, "Forbidden", "no role")
    for one in live:
        api.always[f"{folder}/{one['metadata']['name']}"] = Answer(200, json.dumps(one).encode())
    assert actions() == expected


DEPLOYMENT = "/apis/apps/v1/namespaces/models/deployments/chat"


def test_a_dry_run_tells_what_a_person_changed_and_its_table_says_what_the_apply_will(
    run: Run, api: KubeApi, gateway: FakeControl, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster_gateway, "gateway_or_none", lambda *_: Client())
    assert run("apply", "-f", str(file), "-y", "--context", "prod").status == 0
    shown = run("apply", "-f", str(file), "--dry-run", "-o", "json", "--context", "prod")
    live = json.loads(shown.out)["items"][0]
    live["metadata"]["managedFields"] = [{"manager": "ironloom", "operation": "Apply", "fieldsV1": {"f:spec": {}}}]
    api.always[DEPLOYMENT] = Answer(200, json.dumps(live).encode())
    same = run("apply", "-f", str(file), "--dry-run", "--context", "prod")
    assert same.out.splitlines()[1].split()[:2] == ["chat", "unchanged"]
    assert "is changed by" not in same.err

    live["spec"]["template"]["spec"]["containers"][0]["image"] = "other:1"
    image: dict[str, object] = {
        "f:spec": {"f:template": {"f:spec": {"f:containers": {'k:{"name":"kserve-container"}': {"f:image": {}}}}}}
    }
    live["metadata"]["managedFields"] = [{"manager": "kubectl-set", "operation": "Update", "fieldsV1": image}]
    api.always[DEPLOYMENT] = Answer(200, json.dumps(live).encode())
    changed = run("apply", "-f", str(file), "--dry-run", "--context", "prod")
    assert changed.out.splitlines()[1].split()[:2] == ["chat", "configure"]
    assert (
        "note: chat: deployment/chat is changed by kubectl-set (spec.template.spec.containers[kserve-container].image)"
        ": an apply puts it back" in changed.err
    )
    written = [one for one in api.asked if "fieldManager" in one.params]
    assert not written, "nothing is sent to be judged"

    api.always[DEPLOYMENT] = status(403, "Forbidden", "no role")
    unknown = run("apply", "-f", str(file), "--dry-run", "--context", "prod")
    assert unknown.status == 0
    assert "note: what others changed is not known: The cluster of context prod forbids user ada" in unknown.err


RUN = """\
---
apiVersion: trainer.kubeflow.org/v1alpha1
kind: TrainJob
metadata: {name: tune}
spec:
  runtimeRef: {name: torch-distributed}
  trainer:
    image: example.com/train:1
    command: [torchrun, -m, ironloom.train.run]
    args: [--model=hf://a/b, --output=/out/run, --data.sources=/data/rows.jsonl, --global_batch_size=16]
    numNodes: 2
    numProcPerNode: 8
"""
OTHER_RUN = """\
---
apiVersion: jobset.x-k8s.io/v1alpha2
kind: JobSet
metadata: {name: other}
spec:
  replicatedJobs:
  - name: node
    template: {spec: {parallelism: 2, completions: 2, template: {spec: {containers: [{name: a, image: "mine:1"}]}}}}
"""


def test_services_go_to_the_gateway_and_runs_to_the_cluster(
    run: Run, api: KubeApi, gateway: FakeControl, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster_gateway, "gateway_or_none", lambda *_: Client())
    made = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "tune", "uid": "1", "generation": 1}}
    none, taken = status(404, "NotFound", "none"), Answer(200, json.dumps(made).encode())
    for path in (f"{JOBS}/tune", "/api/v1/namespaces/models/services/tune"):
        api.faults[path] = [none, taken, none, taken]  # looked for and tried, looked for and applied
    file.write_text(SERVICE + RUN)
    shown = run("apply", "-f", str(file), "--dry-run", "--context", "prod")
    assert shown.status == 0, shown.err
    rows = [line.split()[:3] for line in shown.out.splitlines() if "note:" not in line]
    assert rows == [
        ["NAME", "ACTION", "KIND"], ["chat", "create", "InferenceService"], [],
        ["NAME", "ACTION", "KIND"], ["tune", "apply", "TrainJob"],
    ]  # fmt: skip
    assert "2 pods of 8 processes, as Job, Service" in shown.out
    assert "run on this machine" not in shown.out
    objects = run("apply", "-f", str(file), "--dry-run", "-o", "yaml", "--context", "prod")
    kinds = [(one["kind"], one["metadata"]["name"]) for one in yaml.safe_load_all(objects.out)]
    assert kinds == [("Deployment", "chat"), ("Service", "chat"), ("Job", "tune"), ("Service", "tune")]
    assert not [one for one in api.asked if "fieldManager" in one.params], "nothing is sent to be judged"

    done = run("apply", "-f", str(file), "-y", "--context", "prod")
    assert (done.status, done.out) == (0, "service/chat created\nrun/tune created\n"), done.err
    assert [manifest["kind"] for manifest in gateway.calls[-1][2]["manifests"]] == ["InferenceService"]


def test_runs_alone_need_no_gateway_and_may_run_any_program(run: Run, api: KubeApi, file: Path) -> None:
    file.write_text(OTHER_RUN)
    shown = run("apply", "-f", str(file), "--dry-run", "--context", "prod")
    assert shown.status == 0, shown.err
    assert shown.out.splitlines()[1].split()[:3] == ["other", "apply", "JobSet"]
    assert "gateway" not in shown.err
    assert "skipped" not in shown.err


def test_a_run_that_the_api_server_refuses_leaves_its_services_unapplied(
    run: Run, api: KubeApi, gateway: FakeControl, file: Path
) -> None:
    api.always[f"{JOBS}/tune"] = status(403, "Forbidden", "no role")
    file.write_text(SERVICE + RUN)
    refused = run("apply", "-f", str(file), "-y", "--context", "prod")
    assert (refused.status, refused.out) == (2, "")
    assert "forbids user ada to" in refused.err
    assert not gateway.services


def test_a_daemon_whose_replicas_are_pods_names_the_command_that_trains(
    run: Run, fake: FakeControl, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ironloom.cli.apply._backend", lambda: "kubernetes")
    file.write_text(RUN)
    refused = run("apply", "-f", str(file), "-y")
    assert (refused.status, refused.out) == (2, "")
    assert "it trains nothing: tune is a run." in refused.err
    assert "hint: `ironloom apply -f FILE --context NAME` trains it in the cluster" in refused.err
    assert "ranks run on this machine" not in refused.err


def test_force_alone_is_refused(run: Run, file: Path) -> None:
    result = run("apply", "-f", str(file), "-y", "--force")
    assert result.status == 2
    assert "--force is over findings" in result.err


def test_versions_that_differ_are_named_both() -> None:
    said = skew_note("0.0.1")
    assert "gateway in the cluster is Ironloom 0.0.1" in said
    assert f"this command {__version__}" in said
