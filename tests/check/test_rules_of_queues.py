"""Whether Kueue will admit a workload, told by its own arithmetic."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace
from tests.fakes.checking import findings, patched

from ironloom.check import registry
from ironloom.check.engine import Setting, check
from ironloom.check.inputs import read_texts
from ironloom.check.rules.examples import GPU, fleet, leaf_groups, queues
from ironloom.check.rules.quota import capacity
from ironloom.fleet.model import ClusterQueue, Flavor, Fleet, LocalQueue, Quota, Taint


def job(queue: str = "team-a", num_pods: int = 2, namespace: str = "research", extra: str = "", more: str = "") -> str:
    labels = f"  labels:\n    kueue.x-k8s.io/queue-name: {queue}\n" if queue else ""
    where = f"  namespace: {namespace}\n" if namespace else ""
    return f"""\
apiVersion: batch/v1
kind: Job
metadata:
  name: train
{where}{labels}spec:
  parallelism: {num_pods}
  completions: {num_pods}
  completionMode: Indexed
  template:
    spec:
      restartPolicy: Never{extra}
      containers:
      - name: main
        image: nvcr.io/nvidia/pytorch:25.09-py3
        resources:
          limits:
            nvidia.com/gpu: 8{more}
"""


def queue(name: str, nominal: int, cohort: str = "", **limits: Any) -> ClusterQueue:
    quota = Quota(flavor="h100", resource=GPU, nominal=nominal, **limits)
    return ClusterQueue(name=name, cohort=cohort, quotas=(quota,), is_active=True, namespace_selector={})


def here(*cluster_queues: ClusterQueue, **parts: Any) -> Fleet:
    """A fleet whose LocalQueue team-a stands before the first of the ClusterQueues."""
    local = LocalQueue(namespace="research", name="team-a", cluster_queue=cluster_queues[0].name)
    fields = {"local_queues": (local,), "cluster_queues": cluster_queues, "flavors": (Flavor(name="h100"),), **parts}
    return fleet(*leaf_groups(a=4), **fields)


@pytest.mark.parametrize(
    ("others", "limits", "most"),
    [
        ((), {}, 16),
        ((queue("b", 32, "pool"),), {}, 48),
        ((queue("b", 32, "pool", lending_limit=8),), {}, 24),
        ((queue("b", 32, "pool"), queue("c", 8, "pool", lending_limit=0)), {}, 48),
        ((queue("b", 32, "pool"),), {"borrowing_limit": 10}, 26),
        ((queue("b", 32, "other"),), {}, 16),
        ((queue("b", 32),), {}, 16),
    ],
    ids=["alone", "borrows all", "lending limit", "two lenders", "borrowing limit", "another cohort", "no cohort"],
)
def test_a_queue_can_have_its_quota_and_what_its_cohort_lends(
    others: tuple[ClusterQueue, ...], limits: dict[str, int], most: int
) -> None:
    own = queue("a", 16, "pool", **limits)
    assert capacity(own, here(own, *others), "h100", GPU) == most


def test_a_cohort_with_a_quota_of_its_own_is_not_reckoned_with() -> None:
    own = queue("a", 16, "pool")
    names = {"kueue.x-k8s.io/Cohort": frozenset({"pool"})}
    assert capacity(own, here(own, names=names), "h100", GPU) is None
    assert not findings(job(num_pods=9), "IL603", fleet=here(own, names=names))


def test_a_request_above_the_quota_is_told_with_its_sum() -> None:
    own, other = queue("a", 16, "pool", borrowing_limit=10), queue("b", 32, "pool")
    [one] = findings(job(num_pods=4), "IL603", fleet=here(own, other))
    assert one.evidence == (
        "4 pods × 8 nvidia.com/gpu = 32 nvidia.com/gpu",
        "ClusterQueue a, flavor h100: nominal 16 nvidia.com/gpu + 10 nvidia.com/gpu that may be borrowed",
    )
    assert not findings(job(num_pods=3), "IL603", fleet=here(own, other))


def test_a_job_that_may_be_admitted_in_part_is_not_too_large() -> None:
    text = job(num_pods=4).replace(
        "  labels:", "  annotations:\n    kueue.x-k8s.io/job-min-parallelism: '1'\n  labels:"
    )
    assert not findings(text, "IL603", fleet=here(queue("a", 16)))


def test_pods_of_a_deployment_are_admitted_one_by_one() -> None:
    text = """\
apiVersion: apps/v1
kind: Deployment
metadata:
  name: llama
  namespace: research
  labels:
    kueue.x-k8s.io/queue-name: team-a
spec:
  replicas: 4
  selector:
    matchLabels: {app: llama}
  template:
    metadata:
      labels: {app: llama}
    spec:
      containers:
      - name: main
        image: vllm/vllm-openai:v0.11.0
        resources:
          limits:
            nvidia.com/gpu: 8
"""
    assert not findings(text, "IL603", fleet=here(queue("a", 16)))


def test_a_queue_of_another_namespace_is_named() -> None:
    [one] = findings(job(namespace="serving"), "IL602", fleet=fleet(*leaf_groups(a=2), **queues(gpus=64)))
    assert one.evidence == ("it has none", "team-a is in research")


def test_a_manifest_without_a_namespace_may_be_meant_for_any() -> None:
    known = fleet(*leaf_groups(a=2), **queues(gpus=64))
    assert not findings(job(namespace=""), "IL601", "IL602", "IL608", fleet=known)
    assert findings(job(namespace="", queue="team-x"), "IL602", fleet=known)


def test_a_queue_that_stands_in_the_same_files_is_there() -> None:
    local = """\
---
apiVersion: kueue.x-k8s.io/v1beta2
kind: LocalQueue
metadata: {name: team-b, namespace: research}
spec: {clusterQueue: team-a}
"""
    known = fleet(*leaf_groups(a=2), **queues(gpus=64))
    assert findings(job(queue="team-b"), "IL602", fleet=known)
    assert not findings(job(queue="team-b") + local, "IL602", fleet=known)


def test_a_near_queue_is_offered_as_a_patch() -> None:
    known = fleet(*leaf_groups(a=2), **queues(gpus=64))
    [one] = findings(job(queue="teama"), "IL602", fleet=known)
    assert not findings(patched(job(queue="teama"), one.patch), "IL602", fleet=known)


def test_a_job_without_a_queue_is_told_of_the_only_one() -> None:
    known = fleet(*leaf_groups(a=2), **queues(gpus=64))
    [one] = findings(job(queue=""), "IL601", fleet=known)
    assert not findings(patched(job(queue=""), one.patch), "IL601", "IL602", fleet=known)


def test_a_queue_named_default_takes_jobs_that_name_none() -> None:
    known = fleet(*leaf_groups(a=2), **queues(gpus=64, name="default"))
    assert not findings(job(queue=""), "IL601", fleet=known)


@pytest.mark.parametrize(
    ("flavor", "extra", "says"),
    [
        (Flavor(name="h100", node_labels={"pool": "a"}), "", None),
        (Flavor(name="h100", node_labels={"pool": "a"}), "\n      nodeSelector: {tier: x}", None),
        (Flavor(name="h100", node_labels={"pool": "a"}), "\n      nodeSelector: {pool: b}",
         "flavor h100 doesn't match node affinity: its labels are pool=a"),
        (Flavor(name="h100", node_taints=(Taint(key="t", value="v", effect="NoSchedule"),)), "",
         "untolerated taint {t: v} in flavor h100"),
        (Flavor(name="h100", node_taints=(Taint(key="t", value="v", effect="NoSchedule"),),
                tolerations=({"key": "t", "operator": "Exists"},)), "", None),
    ],
    ids=["no selector", "another label", "another value", "taint", "taint that the flavor tolerates"],
)  # fmt: skip
def test_a_flavor_takes_pods_that_agree_with_its_labels_and_taints(
    flavor: Flavor, extra: str, says: str | None
) -> None:
    found = findings(job(extra=extra), "IL605", fleet=here(queue("a", 64), flavors=(flavor,)))
    assert [one.evidence for one in found] == ([(says,)] if says else [])


def test_a_toleration_that_kueue_adds_lets_the_pods_on_the_nodes() -> None:
    taint = Taint(key="gpu", value="yes", effect="NoSchedule")
    tainted = [replace(one, taints=(taint,)) for one in leaf_groups(a=2)]
    flavor = Flavor(name="h100", tolerations=({"key": "gpu", "operator": "Exists"},))
    own = here(queue("a", 64), flavors=(flavor,), nodes=tuple(tainted))
    assert not findings(job(), "IL104", fleet=own)
    assert findings(job(queue=""), "IL104", fleet=own)


def test_every_resource_that_is_not_covered_is_told_at_its_line() -> None:
    text = job(more="\n            rdma/ib: 1\n            ephemeral-storage: 10Gi")
    known = fleet(*leaf_groups(a=2), **queues(gpus=64))
    found = findings(text, "IL604", fleet=known)
    assert [one.line for one in found] == [21, 22]
    assert [one.path.endswith(("['rdma/ib']", "ephemeral-storage")) for one in found] == [True, True]


@pytest.mark.parametrize(
    ("selector", "is_refused"),
    [({}, False), (None, True), ({"matchLabels": {"team": "x"}}, True),
     ({"matchLabels": {"kubernetes.io/metadata.name": "research"}}, False)],
)  # fmt: skip
def test_the_namespace_must_be_selected(selector: dict[str, Any] | None, is_refused: bool) -> None:
    known = fleet(*leaf_groups(a=2), **queues(gpus=64, namespace_selector=selector))
    assert bool(findings(job(), "IL608", fleet=known)) is is_refused


def test_nothing_is_said_of_queues_that_were_not_read() -> None:
    bare = fleet(*leaf_groups(a=4))
    found = findings(job(queue="anything", extra="\n      priorityClassName: x"), fleet=bare)
    assert not [one for one in found if one.rule.startswith("IL6")]


@pytest.mark.parametrize(("covered", "is_told"), [("nvidia.com/total-gpumem", False), ("nvidia.com/gpu", True)])
def test_what_the_config_makes_of_a_resource_is_covered_by_its_sum(covered: str, is_told: bool) -> None:
    text = f"""\
apiVersion: kueue.x-k8s.io/v1beta2
kind: ClusterQueue
metadata:
  name: shared
spec:
  namespaceSelector: {{}}
  resourceGroups:
  - coveredResources: [{covered}]
    flavors:
    - name: cards
      resources:
      - name: {covered}
        nominalQuota: 8
---
apiVersion: kueue.x-k8s.io/v1beta2
kind: LocalQueue
metadata:
  name: team
  namespace: ml
spec:
  clusterQueue: shared
---
apiVersion: v1
kind: Pod
metadata:
  name: part
  namespace: ml
  labels:
    kueue.x-k8s.io/queue-name: team
spec:
  containers:
  - name: main
    image: nvcr.io/nvidia/pytorch:25.09-py3
    resources:
      limits:
        nvidia.com/gpumem: 1024
"""
    assert bool(findings(text, "IL604")) is is_told


def test_a_queue_of_another_folder_says_nothing_of_a_job_that_has_its_own() -> None:
    """A folder of examples has many of one name."""

    def setup(*resources: str) -> str:
        covered = ", ".join(resources)
        return f"""\
apiVersion: kueue.x-k8s.io/v1beta2
kind: LocalQueue
metadata:
  name: team-a
  namespace: research
spec:
  clusterQueue: all
---
apiVersion: kueue.x-k8s.io/v1beta2
kind: ClusterQueue
metadata:
  name: all
spec:
  namespaceSelector: {{}}
  resourceGroups:
  - coveredResources: [{covered}]
    flavors:
    - name: h100
      resources: [{", ".join(f"{{name: {one}, nominalQuota: 64}}" for one in resources)}]
"""

    def told(**files: str) -> bool:
        inputs = read_texts({name.replace("__", "/") + ".yaml": text for name, text in files.items()})
        return any(one.rule == "IL604" for one in check(inputs, registry.select(["IL604"]), Setting()).findings)

    assert told(a__setup=setup("cpu"), a__job=job())
    assert not told(a__setup=setup("cpu"), b__setup=setup(GPU), b__job=job())
    assert told(a__setup=setup(GPU), b__setup=setup("cpu"), b__job=job())
    assert not told(b__one=setup("cpu"), b__two=setup(GPU), b__job=job())


@pytest.mark.parametrize(("is_controller", "is_told"), [("true", False), ("false", True)])
def test_a_job_that_a_controller_made_has_its_queue_from_there_and_one_that_is_only_owned_has_not(
    is_controller: str, is_told: bool
) -> None:
    owner = (
        f"  ownerReferences:\n  - {{apiVersion: v1, kind: A, name: a, uid: '1', controller: {is_controller}}}\nspec:"
    )
    text = job(queue="").replace("spec:", owner, 1)
    found = findings(text, "IL601", fleet=here(queue("a", 64)))
    assert bool(found) == is_told
