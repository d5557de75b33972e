"""A training run as a cluster's objects: every kind, from one manifest."""

from __future__ import annotations

import json
from typing import Any

import pytest

from ironloom.backends.kubernetes.capabilities import Capabilities
from ironloom.backends.kubernetes.names import QUEUE
from ironloom.backends.kubernetes.render.training import EXCLUSIVE, PREFERRED, REQUIRED, Gang, Setting, objects
from ironloom.backends.kubernetes.training_pods import run_pods
from ironloom.backends.kubernetes.training_setting import Wish, setting_of
from ironloom.errors import UsageError
from ironloom.fleet.model import (
    ClusterQueue,
    Domain,
    Flavor,
    Fleet,
    FleetNode,
    Level,
    LocalQueue,
    Quota,
    Taint,
    Topology,
)

LEAF = "backend.coreweave.cloud/leafgroup"
FABRIC = "backend.coreweave.cloud/fabric"
LEVELS = tuple(Level(key=key, name="", dialect="coreweave") for key in (FABRIC, LEAF))
DATA = {
    "volumes": [{"name": "out", "persistentVolumeClaim": {"claimName": "out"}}],
    "containers": [{"name": "node", "volumeMounts": [{"name": "out", "mountPath": "/out"}]}],
}


def train_job(name: str = "tune", *, nodes: int = 2, gpus: int = 8, **trainer: Any) -> dict[str, Any]:
    return {
        "apiVersion": "trainer.kubeflow.org/v1alpha1",
        "kind": "TrainJob",
        "metadata": {"name": name, "labels": {"team": "llm"}},
        "spec": {
            "runtimeRef": {"name": "torch-distributed"},
            "trainer": {
                "image": "example.com/train:1",
                "command": ["torchrun", "-m", "ironloom.train.run"],
                "args": ["--model=hf://a/b", "--output=/out/tune", "--data.sources=/data", "--max_restarts=2"],
                "numNodes": nodes,
                "numProcPerNode": gpus,
                "resourcesPerNode": {"limits": {"nvidia.com/gpu": gpus}},
                **trainer,
            },
            "runtimePatches": [
                {
                    "manager": "me",
                    "trainingRuntimeSpec": {
                        "template": {"spec": {"replicatedJobs": [
                            {"name": "node", "template": {"spec": {"template": {"spec": DATA}}}}
                        ]}}
                    },
                }
            ],
        },
    }  # fmt: skip


def job_set() -> dict[str, Any]:
    container = {
        "name": "main",
        "image": "example.com/own:1",
        "command": ["torchrun", "--nnodes=2", "--nproc-per-node=8", "train.py"],
        "resources": {"limits": {"nvidia.com/gpu": 8}},
    }
    job = {
        "name": "workers",
        "template": {"spec": {"parallelism": 2, "completions": 2, "template": {"spec": {"containers": [container]}}}},
    }
    return {
        "apiVersion": "jobset.x-k8s.io/v1alpha2",
        "kind": "JobSet",
        "metadata": {"name": "own"},
        "spec": {"failurePolicy": {"maxRestarts": 5}, "replicatedJobs": [job]},
    }


def pytorch_job() -> dict[str, Any]:
    pod = {
        "spec": {
            "containers": [
                {
                    "name": "pytorch",
                    "image": "example.com/own:1",
                    "command": ["python", "train.py"],
                    "resources": {"limits": {"nvidia.com/gpu": 1}},
                }
            ]
        }
    }
    roles = {"Master": {"replicas": 1, "template": pod}, "Worker": {"replicas": 3, "template": pod}}
    return {
        "apiVersion": "kubeflow.org/v1",
        "kind": "PyTorchJob",
        "metadata": {"name": "old"},
        "spec": {"runPolicy": {"backoffLimit": 1}, "pytorchReplicaSpecs": roles},
    }


def node(
    name: str, leaf: str = "a", *, taints: tuple[Taint, ...] = (), offers: dict[str, int] | None = None
) -> FleetNode:
    offered = {"nvidia.com/gpu": 8, "cpu": 64000, "memory": 2**39, "pods": 110, "rdma/ib": 1} | (offers or {})
    return FleetNode(
        name=name,
        labels={LEAF: leaf, FABRIC: "f", "kubernetes.io/hostname": name},
        allocatable={key: value for key, value in offered.items() if value},
        gpu_resource="nvidia.com/gpu",
        taints=taints,
    )


def fleet(*nodes: FleetNode, kueue: bool = False, runtimes: tuple[str, ...] | None = None, **more: Any) -> Fleet:
    names = {} if runtimes is None else {"trainer.kubeflow.org/ClusterTrainingRuntime": frozenset(runtimes)}
    if kueue:
        more |= {
            "local_queues": (LocalQueue(namespace="ml", name="gpus", cluster_queue="all"),),
            "cluster_queues": (
                ClusterQueue(name="all", quotas=(Quota(flavor="h100", resource="nvidia.com/gpu", nominal=32),)),
            ),
            "flavors": (Flavor(name="h100", topology="ib"),),
            "topologies": (Topology(name="ib", levels=(FABRIC, LEAF, "kubernetes.io/hostname")),),
        }
    return Fleet(
        name="t", source="test", nodes=nodes, root=Domain(value="t", level=None, nodes=nodes), names=names, **more
    )


def has(*names: str) -> Capabilities:
    return Capabilities(versions=dict.fromkeys(names, "v1"))


def made(
    manifest: dict[str, Any], capabilities: Capabilities, of: Fleet, *, groups: bool = False, **wish: Any
) -> tuple[list[dict[str, Any]], Setting]:
    run = run_pods(manifest)
    setting = setting_of(run, Wish(namespace="ml", **wish), capabilities, of, has_pod_groups=groups)
    return objects(run, setting), setting


def template_of(obj: dict[str, Any]) -> dict[str, Any]:
    spec = obj["spec"]
    if obj["kind"] == "JobSet":
        spec = spec["replicatedJobs"][0]["template"]["spec"]
    template: dict[str, Any] = spec["template"]
    return template


def variables(obj: dict[str, Any]) -> dict[str, Any]:
    return {one["name"]: one.get("value", one.get("valueFrom")) for one in container_of(obj)["env"]}


def container_of(obj: dict[str, Any]) -> dict[str, Any]:
    container: dict[str, Any] = template_of(obj)["spec"]["containers"][0]
    return container


@pytest.mark.parametrize(
    ("manifest", "there", "kinds"),
    [
        (train_job(), has("Kubeflow Trainer", "JobSet"), ["TrainJob"]),
        (train_job(), has("JobSet"), ["JobSet"]),
        (train_job(), has(), ["Job", "Service"]),
        (train_job(nodes=1), has(), ["Job"]),
        (job_set(), has("JobSet", "Kubeflow Trainer"), ["JobSet"]),
        (job_set(), has(), ["Job", "Service"]),
        (pytorch_job(), has("Training Operator", "JobSet"), ["PyTorchJob"]),
        (pytorch_job(), has("JobSet"), ["JobSet"]),
        (pytorch_job(), has(), ["Job", "Service"]),
    ],
)
def test_a_run_becomes_the_best_that_the_cluster_has(
    manifest: dict[str, Any], there: Capabilities, kinds: list[str]
) -> None:
    found, _ = made(manifest, there, fleet(node("n1"), node("n2")))
    assert [one["kind"] for one in found] == kinds
    assert {one["metadata"]["namespace"] for one in found} == {"ml"}


def test_what_is_lost_is_said() -> None:
    _, setting = made(train_job(), has(), fleet(node("n1"), node("n2")))
    said = "\n".join(setting.notes)
    assert all(word in said for word in ("no Kubeflow Trainer", "no JobSet", "no Kueue", "no gang"))
    _, whole = made(train_job(), has("JobSet", "Kueue"), fleet(node("n1"), kueue=True), queue="gpus")
    assert "no gang" not in "\n".join(whole.notes)


@pytest.mark.parametrize(
    ("there", "wish", "groups", "said"),
    [
        (has("JobSet", "Kueue"), {"queue": "gpus"}, False, f"ranks in the order of {LEAF}"),
        (has("JobSet"), {}, False, f"nobody orders ranks by {LEAF}"),
        (has(), {}, True, f"nobody orders ranks by {LEAF}"),
        (has("JobSet"), {"topology": FABRIC}, False, f"nobody orders ranks by {LEAF}"),
        (has("JobSet"), {"topology": LEAF}, False, ""),
        (has(), {"topology": LEAF}, True, ""),
    ],
    ids=["queue", "no gang", "group", "own fabric", "own leaf group", "group in a leaf group"],
)
def test_it_is_said_whether_ranks_follow_the_domains_and_nothing_where_one_holds_them_all(
    there: Capabilities, wish: dict[str, str], groups: bool, said: str
) -> None:
    has_queue = "queue" in wish
    two_leaves = fleet(node("n1", "a"), node("n2", "b"), kueue=has_queue, levels=LEVELS)
    assert _of_ranks(train_job(), there, two_leaves, groups=groups, **wish) == [said][: bool(said)]
    if not has_queue:
        one_leaf = fleet(node("n1"), node("n2"), levels=LEVELS)
        assert _of_ranks(train_job(), there, one_leaf, groups=groups, **wish) == []


def test_of_a_run_of_one_pod_no_order_is_said() -> None:
    two_leaves = fleet(node("n1", "a"), node("n2", "b"), kueue=True, levels=LEVELS)
    assert _of_ranks(train_job(nodes=1), has("JobSet"), two_leaves) == []
    assert _of_ranks(train_job(nodes=1), has("JobSet", "Kueue"), two_leaves, queue="gpus") == []


def _of_ranks(*run: Any, **wish: Any) -> list[str]:
    """What is said of the order of ranks, up to the level's name."""
    _, setting = made(*run, **wish)
    return [note.partition(":")[0] for note in setting.notes if "ranks" in note]


def test_a_train_job_whose_runtime_is_not_there_becomes_a_job_set() -> None:
    there = has("Kubeflow Trainer", "JobSet")
    found, setting = made(train_job(), there, fleet(node("n1"), runtimes=("mpi",)))
    assert found[0]["kind"] == "JobSet"
    assert "no ClusterTrainingRuntime torch-distributed" in setting.notes[0]
    found, _ = made(train_job(), there, fleet(node("n1"), runtimes=("torch-distributed",)))
    assert found[0]["kind"] == "TrainJob"


@pytest.mark.parametrize(
    ("there", "master"), [(has(), "tune-0.tune"), (has("JobSet"), "tune-node-0-0.tune")], ids=["job", "jobset"]
)
def test_torchrun_is_told_of_nodes_rank_and_master(there: Capabilities, master: str) -> None:
    [obj, *_], _ = made(train_job(), there, fleet(node("n1"), node("n2")))
    told = variables(obj)
    assert (told["PET_NNODES"], told["PET_NPROC_PER_NODE"], told["PET_MASTER_ADDR"]) == ("2", "8", master)
    assert told["PET_NODE_RANK"]["fieldRef"]["fieldPath"].endswith("job-completion-index']")
    assert told["MASTER_ADDR"] == master
    assert "RANK" not in told


def test_a_program_without_a_launcher_is_a_rank_itself() -> None:
    [obj, *_], _ = made(pytorch_job(), has(), fleet())
    told = variables(obj)
    assert (told["WORLD_SIZE"], told["LOCAL_RANK"], told["MASTER_ADDR"]) == ("4", "0", "old-0.old")
    assert told["RANK"]["fieldRef"]["fieldPath"].endswith("job-completion-index']")
    assert "PET_NNODES" not in told


def test_restarts_are_the_manifests() -> None:
    [job, _], _ = made(train_job(), has(), fleet())
    assert job["spec"]["backoffLimit"] == 4  # two attempts more, of two pods each
    assert job["spec"]["podFailurePolicy"]["rules"][0]["action"] == "Ignore"
    assert job["spec"]["podReplacementPolicy"] == "Failed"
    [job_set_made], _ = made(train_job(), has("JobSet"), fleet())
    assert job_set_made["spec"]["failurePolicy"]["maxRestarts"] == 2
    [own], _ = made(job_set(), has("JobSet"), fleet())
    assert own["spec"]["failurePolicy"] == {"maxRestarts": 5}
    [old], _ = made(pytorch_job(), has("JobSet"), fleet())
    assert old["spec"]["failurePolicy"]["maxRestarts"] == 1


def test_what_our_own_program_calls_final_ends_a_job_where_no_launcher_hides_it() -> None:
    plain = train_job(nodes=1, gpus=1, command=["python", "-m", "ironloom.train.run"])
    [job], _ = made(plain, has(), fleet())
    assert job["spec"]["podFailurePolicy"]["rules"][1]["onExitCodes"]["values"] == [2, 3]


def test_the_manifest_is_kept_where_its_kind_is_not_in_the_cluster() -> None:
    [obj, *_], _ = made(train_job(), has(), fleet())
    assert json.loads(obj["metadata"]["annotations"]["ironloom.dev/manifest"]) == train_job()
    assert obj["metadata"]["labels"]["team"] == "llm"
    [own], _ = made(job_set(), has("JobSet"), fleet())
    assert "annotations" not in own["metadata"]


def test_in_a_queue_pods_prefer_the_finest_level_above_the_host_and_share_the_one_that_is_wanted() -> None:
    there = fleet(node("n1"), node("n2"), kueue=True)
    [obj, *_], _ = made(train_job(), has("Kueue"), there, queue="gpus")
    assert obj["metadata"]["labels"][QUEUE] == "gpus"
    assert template_of(obj)["metadata"]["annotations"] == {PREFERRED: LEAF}
    [obj, *_], _ = made(train_job(), has("Kueue"), there, queue="gpus", topology=FABRIC)
    assert template_of(obj)["metadata"]["annotations"] == {REQUIRED: FABRIC}
    [job], _ = made(train_job(), has("Kueue", "Kubeflow Trainer"), there, queue="gpus", topology=LEAF)
    ours = job["spec"]["runtimePatches"][-1]["trainingRuntimeSpec"]["template"]["spec"]["replicatedJobs"][0]
    assert ours["template"]["spec"]["template"]["metadata"]["annotations"] == {REQUIRED: LEAF}


@pytest.mark.parametrize(
    ("wish", "said"),
    [
        ({"queue": "nowhere"}, "no LocalQueue nowhere in namespace ml"),
        ({"queue": "gpus", "topology": "rack"}, "has no level rack"),
        ({"topology": "rack"}, "No node has the label rack"),
    ],
)
def test_a_queue_or_a_level_that_is_not_there_is_refused(wish: dict[str, str], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        made(train_job(), has("Kueue", "JobSet"), fleet(node("n1"), kueue=True), **dict[str, Any](wish))


def test_a_level_that_nothing_could_keep_is_refused() -> None:
    with pytest.raises(UsageError, match="Nothing in the cluster keeps pods together"):
        made(train_job(), has(), fleet(node("n1")), topology=LEAF)


def test_without_a_queue_a_pod_group_or_job_sets_own_placement_holds_the_gang() -> None:
    there = fleet(node("n1"), node("n2"))
    found, setting = made(train_job(), has("JobSet", "pod groups"), there, groups=True, topology=LEAF)
    assert (setting.gang, [one["kind"] for one in found]) == (Gang.POD_GROUP, ["JobSet", "PodGroup"])
    assert found[1]["spec"] == {
        "schedulingPolicy": {"gang": {"minCount": 2}},
        "schedulingConstraints": {"topology": [{"key": LEAF}]},
    }
    assert template_of(found[0])["spec"]["schedulingGroup"] == {"podGroupName": "tune"}
    [obj], setting = made(train_job(), has("JobSet"), there, topology=LEAF)
    assert (setting.gang, obj["metadata"]["annotations"][EXCLUSIVE]) == (Gang.EXCLUSIVE, LEAF)


def test_the_fabric_of_the_nodes_is_wired() -> None:
    [obj, *_], _ = made(train_job(), has(), fleet(node("n1"), node("n2")))
    container = container_of(obj)
    assert container["resources"]["limits"]["rdma/ib"] == "1"
    assert container["securityContext"]["capabilities"]["add"] == ["IPC_LOCK"]
    told = variables(obj)
    assert (told["NCCL_IB_HCA"], told["NCCL_SOCKET_IFNAME"]) == ("ibp", "eth0")
    assert {"name": "shm", "mountPath": "/dev/shm"} in container["volumeMounts"]


@pytest.mark.parametrize(
    ("nodes", "why"),
    [
        ((node("n1", offers={"rdma/ib": 0}), node("n2")), "one node has none"),
        ((), "no node is known"),
    ],
)
def test_a_fabric_that_not_all_nodes_have_is_not_asked_for(nodes: tuple[FleetNode, ...], why: str) -> None:
    [obj, *_], setting = made(train_job(), has(), fleet(*nodes))
    assert setting.fabric is None, why
    assert "rdma/ib" not in container_of(obj)["resources"]["limits"]


def test_a_pod_alone_needs_no_fabric() -> None:
    [obj], _ = made(train_job(nodes=1), has(), fleet(node("n1")))
    assert container_of(obj)["resources"]["limits"] == {"nvidia.com/gpu": 8}


def test_whole_efa_nodes_get_all_their_devices_and_huge_pages() -> None:
    efa = {"rdma/ib": 0, "vpc.amazonaws.com/efa": 32}
    there = fleet(
        node("n1", offers=efa | {"hugepages-2Mi": 5120 * 2**20}), node("n2", offers=efa | {"hugepages-2Mi": 2**34})
    )
    [obj, *_], _ = made(train_job(), has(), there)
    limits = container_of(obj)["resources"]["limits"]
    assert (limits["vpc.amazonaws.com/efa"], limits["hugepages-2Mi"]) == ("32", str(5120 * 2**20))
    assert variables(obj)["FI_PROVIDER"] == "efa"
    assert "securityContext" not in container_of(obj)
    [part, *_], _ = made(train_job(gpus=4), has(), there)
    assert "vpc.amazonaws.com/efa" not in container_of(part)["resources"]["limits"]


def test_memory_is_not_locked_where_pod_security_forbids_it() -> None:
    there = fleet(node("n1"), namespace_labels={"ml": {"pod-security.kubernetes.io/enforce": "restricted"}})
    [obj, *_], setting = made(train_job(), has(), there)
    assert "securityContext" not in container_of(obj)
    assert any("restricted" in note for note in setting.notes)


def test_a_taint_that_all_gpu_nodes_have_is_tolerated_and_one_that_some_have_is_not() -> None:
    taint = Taint(key="nvidia.com/gpu", effect="NoSchedule")
    drained = Taint(key="node.kubernetes.io/unschedulable", effect="NoSchedule")
    [obj, *_], _ = made(train_job(), has(), fleet(node("n1", taints=(taint, drained)), node("n2", taints=(taint,))))
    assert template_of(obj)["spec"]["tolerations"] == [
        {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}
    ]
    [obj, *_], _ = made(train_job(), has(), fleet(node("n1", taints=(taint,)), node("n2")))
    assert "tolerations" not in template_of(obj)["spec"]


def test_checkpoints_without_a_volume_are_told() -> None:
    _, setting = made(train_job(), has(), fleet())
    assert not any("checkpoints end" in note for note in setting.notes)
    bare = train_job()
    del bare["spec"]["runtimePatches"]
    _, setting = made(bare, has(), fleet())
    assert any("no volume holds /out/tune" in note for note in setting.notes)


def test_what_a_manifest_says_stays() -> None:
    own = [{"name": "NCCL_IB_HCA", "value": "mlx5"}, {"name": "PET_MASTER_PORT", "value": "1"}]
    [obj, *_], _ = made(train_job(env=own), has(), fleet(node("n1"), node("n2")))
    told = variables(obj)
    assert (told["NCCL_IB_HCA"], told["PET_MASTER_PORT"]) == ("mlx5", "1")


@pytest.mark.parametrize(
    ("manifest", "said"),
    [
        (train_job("a" * 60), "may have 48"),
        (train_job(image=""), "names no image"),
        ({"kind": "Deployment", "metadata": {"name": "x"}}, "is no training run"),
        (train_job(nodes=0), "asks for 0 pods"),
        ({**job_set(), "spec": {"replicatedJobs": []}}, "has no container that trains"),
    ],
)
def test_a_run_that_cannot_be_written_is_refused(manifest: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        made(manifest, has("JobSet"), fleet())


def test_the_same_run_gives_the_same_objects() -> None:
    there = fleet(node("n1"), node("n2"), kueue=True)
    manifest = train_job()
    first, _ = made(manifest, has("JobSet", "Kueue"), there, queue="gpus")
    second, _ = made(manifest, has("JobSet", "Kueue"), there, queue="gpus")
    assert first == second
    assert manifest == train_job(), "the manifest itself is not written into"
