"""Each kind that makes pods is read into sets of pods: how many, who decides that, and whether they are a gang."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tests.workload.kinds import manifests
from tests.workload.kinds.manifests import ALL, documents, found, only

from ironloom.workload.kinds import workloads_of
from ironloom.workload.kinds.read import KINDS
from ironloom.workload.manifests.document import document
from ironloom.workload.manifests.nodes import from_object
from ironloom.workload.manifests.write import dump_yaml
from ironloom.workload.workload import Role, Workload

LISTING = Path(__file__).parents[4] / "shared" / "data" / "article_listings" / "deployment.yaml"


WAITING_JOB_SET = manifests.JOB_SET.replace(
    "  - name: workers", "  - name: workers\n    dependsOn: [{name: driver, status: Complete}]"
)


def sets(one: Workload) -> list[tuple[str, int, str]]:
    return [(pods.name, pods.num_pods, pods.role.value) for pods in one.pod_sets]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (manifests.POD, [("main", 1, "serving")]),
        (manifests.DEPLOYMENT, [("main", 1, "serving")]),
        (manifests.STATEFUL_SET, [("main", 1, "serving")]),
        (manifests.REPLICA_SET, [("main", 1, "serving")]),
        (manifests.DAEMON_SET, [("main", 1, "serving")]),
        (manifests.REPLICATION_CONTROLLER, [("main", 1, "serving")]),
        (manifests.JOB, [("main", 4, "training")]),
        (manifests.CRON_JOB, [("main", 4, "training")]),
        (manifests.JOB_SET, [("driver", 1, "batch"), ("workers", 8, "training")]),
        (manifests.LEADER_WORKER_SET, [("leader", 1, "serving"), ("worker", 3, "serving")]),
        (manifests.TRAIN_JOB, [("node", 4, "training")]),
        (manifests.PYTORCH_JOB, [("master", 1, "training"), ("worker", 3, "training")]),
        (manifests.TF_JOB, [("master", 1, "training"), ("worker", 3, "training")]),
        (manifests.XGBOOST_JOB, [("master", 1, "training"), ("worker", 3, "training")]),
        (manifests.PADDLE_JOB, [("master", 1, "training"), ("worker", 3, "training")]),
        (manifests.JAX_JOB, [("master", 1, "training"), ("worker", 3, "training")]),
        (manifests.MPI_JOB, [("launcher", 1, "batch"), ("worker", 8, "batch")]),
        (manifests.RAY_CLUSTER, [("head", 1, "other"), ("gpu", 6, "serving")]),
        (manifests.RAY_JOB, [("head", 1, "batch"), ("gpu", 6, "batch")]),
        (manifests.RAY_SERVICE, [("head", 1, "serving"), ("gpu", 6, "serving")]),
        (manifests.KNATIVE_SERVICE, [("main", 1, "serving")]),
        (manifests.SCALED_JOB, [("main", 4, "training")]),
        (manifests.KUEUE_WORKLOAD, [("workers", 8, "serving")]),
        (manifests.VOLCANO_JOB, [("worker", 4, "serving")]),
    ],
    ids=lambda value: value.split("kind: ")[1].split("\n")[0] if isinstance(value, str) else "",
)
def test_sets_of_pods(text: str, expected: list[tuple[str, int, str]]) -> None:
    assert sets(only(text)) == expected


def test_every_kind_has_a_manifest_here() -> None:
    read = {(made.api_version.rpartition("/")[0], made.kind) for text in ALL.values() for made in documents(text)}
    assert read == set(KINDS)


@pytest.mark.parametrize(
    ("text", "low", "high", "decider"),
    [
        (manifests.DEPLOYMENT, 3, 3, ""),
        (manifests.DAEMON_SET, 0, None, ""),
        (manifests.JOB, 1, 1, ""),
        (manifests.LEADER_WORKER_SET, 2, 2, ""),
        (manifests.KNATIVE_SERVICE, 1, 4, "knative"),
        (manifests.SCALED_JOB, 0, 7, "keda"),
    ],
)
def test_number_of_copies(text: str, low: int, high: int | None, decider: str) -> None:
    replicas = only(text).replicas
    assert (replicas.min, replicas.max, replicas.decider) == (low, high, decider)


@pytest.mark.parametrize(
    ("text", "is_gang"),
    [
        (manifests.POD, False),
        (manifests.POD.replace("namespace: team", "labels: {kueue.x-k8s.io/pod-group-name: g}"), True),
        (manifests.DEPLOYMENT, False),
        (manifests.JOB, True),
        (manifests.JOB.replace("name: j,", "name: j, annotations: {kueue.x-k8s.io/job-min-parallelism: '2'},"), False),
        (manifests.JOB.replace("parallelism: 4", "parallelism: 1"), False),
        (manifests.JOB_SET, True),
        (
            manifests.JOB_SET.replace(
                "  - name: workers", "  - name: workers\n    dependsOn: [{name: driver, status: Complete}]"
            ),
            False,
        ),
        (manifests.LEADER_WORKER_SET, True),
        (manifests.TRAIN_JOB, True),
        (manifests.TRAIN_JOB.replace("numNodes: 4", "numNodes: 1"), False),
        (manifests.PYTORCH_JOB, True),
        (manifests.MPI_JOB, True),
        (manifests.RAY_CLUSTER, True),
        (manifests.RAY_SERVICE, False),
        (manifests.KUEUE_WORKLOAD, True),
        (manifests.VOLCANO_JOB, True),
        (manifests.VOLCANO_JOB.replace("minAvailable: 4", "minAvailable: 1"), False),
    ],
)
def test_gangs(text: str, is_gang: bool) -> None:
    assert only(text).is_gang is is_gang


@pytest.mark.parametrize("text", [manifests.JOB, manifests.JOB_SET, manifests.TRAIN_JOB, manifests.RAY_CLUSTER])
def test_the_queue_is_a_label_with_its_place(text: str) -> None:
    one = only(text)
    assert one.queue == "gpus"
    assert one.queue_path == ("metadata", "labels", "kueue.x-k8s.io/queue-name")


def test_a_queue_may_stand_on_the_template_or_in_a_field() -> None:
    assert only(manifests.CRON_JOB).queue_path[:2] == ("spec", "jobTemplate")
    assert only(manifests.KUEUE_WORKLOAD).queue_path == ("spec", "queueName")
    assert only(manifests.VOLCANO_JOB).queue == "", "Volcano's queues are not Kueue's"


def test_priority_classes() -> None:
    assert only(manifests.POD).priority_class == "high"
    assert only(manifests.PYTORCH_JOB).priority_class == "high"
    assert only(manifests.KUEUE_WORKLOAD).priority_class == "high"
    assert only(manifests.JOB).priority_class == ""


def test_a_pods_requests_are_those_of_the_scheduler() -> None:
    (pods,) = only(manifests.POD).pod_sets
    assert pods.requests == {"nvidia.com/gpu": 4, "memory": 64 * 1024**3, "cpu": 16500}
    whole = manifests.POD.replace("spec:\n", "spec:\n  overhead: {cpu: 1}\n  resources: {requests: {cpu: 20}}\n", 1)
    assert only(whole).pod_sets[0].requests["cpu"] == 21000


def test_a_container_as_it_runs() -> None:
    (pods,) = only(manifests.POD).pod_sets
    fetch, proxy, main = pods.containers
    assert (fetch.is_init, fetch.is_sidecar) == (True, False)
    assert (proxy.is_init, proxy.is_sidecar) == (True, True)
    assert main.env == {"HF_TOKEN": None, "ROOT": "/data", "HF_HOME": "/data/hf"}
    assert main.env_paths["HF_HOME"] == ("spec", "containers", 0, "env", 2)
    assert main.path == ("spec", "containers", 0)
    assert main.limits == {"nvidia.com/gpu": 4, "memory": 64 * 1024**3}


@pytest.mark.parametrize("name", ALL)
def test_paths_lead_to_what_they_say(name: str) -> None:
    for one in found(ALL[name]).workloads:
        for pods in one.pod_sets:
            at = at_path(one, pods.path)
            assert pods.path
            if pods.is_written:
                assert at == pods.spec
            for container in pods.containers:
                if pods.is_written:
                    assert at_path(one, container.path) == container.spec
                for option in container.launch.options if container.launch is not None else ():
                    text = at_path(one, option.path)
                    assert text is not None
                    if isinstance(text, str):
                        assert text[option.offset :].startswith(option.written)
        assert at_path(one, one.replicas.path) is not None


def at_path(one: Workload, path: tuple[str | int, ...]) -> Any:
    value: Any = one.document.obj
    for step in path:
        value = value[step]
    return value


@pytest.mark.parametrize("name", ALL)
def test_what_is_read_is_written_as_it_was(name: str) -> None:
    before = documents(ALL[name])
    text = dump_yaml([made.obj for made in before])
    after = documents(text)
    assert [made.obj for made in after] == [made.obj for made in before]
    assert [said(one) for one in found(text).workloads] == [said(one) for one in found(ALL[name]).workloads]
    assert dump_yaml([made.obj for made in after]) == text, "the same object gives the same text"


def test_objects_that_make_no_pods_are_written_as_they_were_too() -> None:
    before = documents(f"{manifests.CONTEXT}---\n{manifests.TRAINING_RUNTIME}")
    text = dump_yaml([made.obj for made in before])
    assert [made.obj for made in documents(text)] == [made.obj for made in before]
    assert (found(text).workloads, found(text).unread) == ((), ())


def said(one: Workload) -> tuple[Any, ...]:
    """All of a workload but its document, which knows its text."""
    return tuple(getattr(one, field) for field in Workload.__slots__ if field != "document")


@pytest.mark.parametrize("name", ALL)
def test_an_object_without_a_text_is_read_alike(name: str) -> None:
    for made in documents(ALL[name]):
        plain = document(from_object(made.obj), "<object>")
        with_text = found(ALL[name]).workloads
        assert [said(one) for one in workloads_of([plain]).workloads] == [said(one) for one in with_text]


def test_context_is_no_workload_and_no_note() -> None:
    kinds = [
        "v1/Service", "v1/ConfigMap", "v1/Secret", "v1/PersistentVolumeClaim", "v1/Namespace",
        "rbac.authorization.k8s.io/v1/ClusterRole", "apiextensions.k8s.io/v1/CustomResourceDefinition",
        "networking.k8s.io/v1/NetworkPolicy", "monitoring.coreos.com/v1/PodMonitor",
        "gateway.networking.k8s.io/v1/HTTPRoute", "kueue.x-k8s.io/v1beta2/LocalQueue",
        "kueue.x-k8s.io/v1beta2/ClusterQueue", "kueue.x-k8s.io/v1beta2/ResourceFlavor",
        "kueue.x-k8s.io/v1beta2/Topology", "keda.sh/v1alpha1/ScaledObject",
        "autoscaling/v2/HorizontalPodAutoscaler", "serving.kserve.io/v1alpha1/ServingRuntime",
        "serving.kserve.io/v1alpha1/ClusterServingRuntime", "trainer.kubeflow.org/v1alpha1/ClusterTrainingRuntime",
        "scheduling.k8s.io/v1alpha2/Workload", "scheduling.k8s.io/v1alpha2/PodGroup", "policy/v1/PodDisruptionBudget",
    ]  # fmt: skip
    text = "---\n".join(f"apiVersion: {one.rpartition('/')[0]}\nkind: {one.rpartition('/')[2]}\n" for one in kinds)
    read = found(text)
    assert (read.workloads, read.unread) == ((), ())


def test_a_kind_that_is_not_known_is_told_once_a_file() -> None:
    teapot = "apiVersion: example.org/v1\nkind: Teapot\n---\n"
    (note,) = found(f"{teapot}{teapot}apiVersion: v1\nkind: Service\n").unread
    assert (note.line, note.column, note.path) == (2, 7, "kind")
    assert "Teapot" in note.message


def test_versions_before_apps_v1_are_read_too() -> None:
    assert only(manifests.DEPLOYMENT.replace("apps/v1", "extensions/v1beta1")).replicas.min == 3


@pytest.mark.skipif(not LISTING.exists(), reason="the listing is not beside this repository")
def test_the_listing_of_a_deployment_is_read() -> None:
    one = only(LISTING.read_text())
    assert (one.name, one.replicas.min, one.is_gang) == ("llama3-inference", 4, False)
    (pods,) = one.pod_sets
    assert (pods.role, pods.labels, pods.spec["nodeSelector"]) == (
        Role.SERVING,
        {},
        {"gpu.nvidia.com/model": "H100_NVL"},
    )
    assert pods.requests == {"nvidia.com/gpu": 2, "memory": 128 * 1024**3, "cpu": 16000}
    (wish,) = pods.topology
    assert (wish.key, wish.is_required, wish.source) == ("topology.kubernetes.io/zone", True, "affinity")
    assert one.document.positions.value(wish.path).line == 35
    launch = pods.containers[0].launch
    assert launch is not None
    assert (launch.program, launch.model, launch.options) == ("vllm", "", ())
