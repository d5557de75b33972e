"""LeaderWorkerSet, leaderworkerset.x-k8s.io.

Source: https://github.com/kubernetes-sigs/lws/blob/main/api/leaderworkerset/v1/leaderworkerset_types.go
"""

from __future__ import annotations

from collections.abc import Iterator

from msgspec.structs import replace

from ironloom.workload import look
from ironloom.workload.kinds.around import Around
from ironloom.workload.kinds.build import fixed, of_template, workload
from ironloom.workload.kinds.gangs import Gang
from ironloom.workload.kinds.kind import Kind
from ironloom.workload.manifests.document import Document
from ironloom.workload.manifests.schema import Path
from ironloom.workload.workload import Role, TopologyWish, Workload

EXCLUSIVE = "leaderworkerset.sigs.k8s.io/exclusive-topology"
SUBGROUP_EXCLUSIVE = "leaderworkerset.sigs.k8s.io/subgroup-exclusive-topology"
GROUP: Path = ("spec", "leaderWorkerTemplate")


def leader_worker_set(document: Document, _around: Around) -> Iterator[Workload]:
    """One replica is a group: a leader and its workers, or so many workers where no leader is written."""
    group = look.mapping(document.obj, *GROUP)
    size = look.count(group, "size")
    topology = tuple(_wishes(document))
    pod_sets = []
    num_workers = size
    if look.mapping(group, "leaderTemplate"):
        num_workers = size - 1
        pod_sets.append(of_template(document, (*GROUP, "leaderTemplate"), name="leader", topology=topology))
    if num_workers > 0 or not pod_sets:
        worker: Path = (*GROUP, "workerTemplate")
        pod_sets.append(of_template(document, worker, name="worker", num_pods=num_workers, topology=topology))
    # Workers serve what their leader serves, though they only join it.
    role = next((pods.role for pods in pod_sets if pods.role is not Role.OTHER), Role.OTHER)
    pod_sets = [replace(pods, role=role) for pods in pod_sets]
    yield workload(document, pod_sets, fixed(document, ("spec", "replicas")), gang=Gang.ALWAYS)


def _wishes(document: Document) -> Iterator[TopologyWish]:
    """The whole group in one domain, or each of its subgroups."""
    base: Path = ("metadata", "annotations")
    key = look.text(document.obj, *base, EXCLUSIVE)
    if key:
        yield TopologyWish(key=key, is_required=True, source="lws", path=(*base, EXCLUSIVE))
    key = look.text(document.obj, *base, SUBGROUP_EXCLUSIVE)
    if key:
        yield TopologyWish(
            key="",
            is_required=False,
            source="lws",
            path=(*base, SUBGROUP_EXCLUSIVE),
            slice_key=key,
            slice_size=look.count(document.obj, *GROUP, "subGroupPolicy", "subGroupSize", default=0),
        )


KINDS = (
    Kind(
        group="leaderworkerset.x-k8s.io",
        name="LeaderWorkerSet",
        read=leader_worker_set,
        pods="leader, worker",
        gang="each group",
        source="https://github.com/kubernetes-sigs/lws/blob/main/api/leaderworkerset/v1/leaderworkerset_types.go",
    ),
)
