"""What rules of pods ask again and again: which pods belong together, which variables they set, what they run."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from itertools import product
from typing import Any

import msgspec

from ironloom.check import look
from ironloom.check.rule import Context
from ironloom.fleet.model import ClusterQueue, Flavor, Fleet, FleetNode, FleetPod, LocalQueue
from ironloom.place.fit import NodeFit, fit, fit_ever, fleet_standing, matching, untolerated
from ironloom.workload.manifests.document import Document
from ironloom.workload.manifests.schema import Path
from ironloom.workload.workload import Container, Launch, PodSet, Workload

DISTRIBUTED = frozenset({"torchrun", "accelerate", "deepspeed", "mpirun"})
"""Launchers whose processes wait for one another."""
_ASSIGNMENT = re.compile(r"(?<![\w$])((?:NCCL|UCX|FI|GLOO)_[A-Z0-9_]+)=(\"[^\"]*\"|'[^']*'|[^\s\\\"';&|]*)")

_FRACTION = re.compile(r"[0-9]{1,9}\.[0-9]{1,9}")


class Variable(msgspec.Struct, frozen=True):
    """A variable that a container sets, by `env` or in its command line."""

    name: str
    value: str
    path: Path
    is_env: bool
    """False where it stands in a text: `-x NCCL_DEBUG=INFO`, `export NCCL_DEBUG=INFO`."""


def main_containers(pod_set: PodSet) -> Iterator[Container]:
    """The containers that run while the pod runs."""
    return (one for one in pod_set.containers if not one.is_init or one.is_sidecar)


def gpu_containers(pod_set: PodSet) -> Iterator[tuple[Container, int]]:
    """Those of them that ask for GPUs, with how many."""
    for container in main_containers(pod_set):
        number = gpus_of(container)
        if number:
            yield container, number


def gpus_of(container: Container) -> int:
    """Whole GPUs that a container asks for."""
    return max(container.requests.get("nvidia.com/gpu", 0), container.requests.get("amd.com/gpu", 0))


def written_gpus(container: Container) -> str:
    """Its GPUs as the manifest says them where that is no whole number, which Kubernetes refuses; else empty."""
    for key, name in product(("limits", "requests"), ("nvidia.com/gpu", "amd.com/gpu")):
        said = str(look.at(container.spec, ("resources", key, name))).strip()
        if _FRACTION.fullmatch(said) and not float(said).is_integer():
            return f"{said} GPUs"
    return ""


def launches(container: Container) -> Iterator[Launch]:
    """What a container runs, the launcher first and then what it starts."""
    launch = container.launch
    while launch is not None:
        yield launch
        launch = launch.inner


def programs(container: Container) -> frozenset[str]:
    return frozenset(launch.program for launch in launches(container))


def is_together(workload: Workload) -> bool:
    """Whether its pods wait for one another over the network: a gang of more than one pod, or a set of pods that one
    distributed launch spans."""
    if workload.num_pods < 2:
        return False
    return workload.is_gang or any(spans_nodes(pod_set) for pod_set in workload.pod_sets)


def spans_nodes(pod_set: PodSet) -> bool:
    """Whether the set's own launch lines say that it runs over several pods."""
    if pod_set.num_pods < 2:
        return False
    for container in main_containers(pod_set):
        for launch in launches(container):
            if launch.program in DISTRIBUTED and num_nodes(launch) not in (None, 1):
                return True
    return False


def num_nodes(launch: Launch) -> int | None:
    """How many nodes a launcher is told of; None where it says none, or what is filled in later."""
    for name in ("--nnodes", "--num_machines", "--num-machines", "--num_nodes"):
        value = launch.value(name)
        number = whole(value)
        if number is not None:
            return number
    return None


def whole(text: str | None) -> int | None:
    """A whole number of at most nine digits, as counts and ports are written; None for anything else."""
    return int(text) if text and text.isascii() and text.isdecimal() and len(text) < 10 else None


def variables(container: Container) -> Iterator[Variable]:
    """NCCL's, UCX's, libfabric's and Gloo's variables of a container, each as often as it stands there."""
    for name, value in container.env.items():
        if value is not None:
            yield Variable(name, value, (*container.env_paths.get(name, container.path), "value"), True)
    for key in ("command", "args"):
        for index, part in enumerate(look.entries(container.spec, (key,))):
            if isinstance(part, str):
                for name, value in _ASSIGNMENT.findall(part):
                    yield Variable(name, value.strip("\"'"), (*container.path, key, index), False)


def text_of(container: Container) -> str:
    """Its command line as one text."""
    parts = [*look.entries(container.spec, ("command",)), *look.entries(container.spec, ("args",))]
    return " ".join(part for part in parts if isinstance(part, str))


def mounts_of(container: Container, folder: str) -> list[Mapping[str, Any]]:
    """Its volume mounts at exactly this folder."""
    return [
        one
        for one in look.entries(container.spec, ("volumeMounts",))
        if isinstance(one, Mapping) and str(one.get("mountPath", "")).rstrip("/") == folder
    ]


def volume(pod_set: PodSet, name: object) -> tuple[int, Mapping[str, Any]] | None:
    """The volume of a name, with its place in the list."""
    for index, one in enumerate(look.entries(pod_set.spec, ("volumes",))):
        if isinstance(one, Mapping) and one.get("name") == name:
            return index, one
    return None


def metadata(document: Document, path: Path, part: str) -> Mapping[str, Any]:
    """Labels or annotations (`part`) of the metadata at `path`."""
    return look.mapping(document.obj, (*path, part))


def namespace(workload: Workload) -> str:
    """Where it is applied: `default` where it names none, as kubectl does."""
    return workload.namespace or "default"


def local_queue(workload: Workload, fleet: Fleet) -> LocalQueue | None:
    """The LocalQueue that the workload names. A workload without a namespace is applied in any: then the only queue
    of that name is meant."""
    named = [one for one in fleet.local_queues if one.name == workload.queue]
    if workload.namespace:
        return next((one for one in named if one.namespace == workload.namespace), None)
    return named[0] if len({one.cluster_queue for one in named}) == 1 else None


def cluster_queue(workload: Workload, fleet: Fleet) -> ClusterQueue | None:
    """The ClusterQueue behind it."""
    local = local_queue(workload, fleet) if workload.queue else None
    return next((one for one in fleet.cluster_queues if local is not None and one.name == local.cluster_queue), None)


def own_pods(workload: Workload, pod_set: PodSet) -> Callable[[FleetPod], bool] | None:
    """Tells the pods of a fleet that are this set's own, from an earlier apply; None where its labels cannot tell."""
    if not pod_set.labels:
        return None
    wanted, where = pod_set.labels.items(), namespace(workload)

    def is_own(pod: FleetPod) -> bool:
        return pod.namespace == where and wanted <= pod.labels.items()

    return is_own


def tolerations(workload: Workload, context: Context) -> list[Mapping[str, Any]]:
    """What Kueue adds to the workload's pods at their admission: tolerations of the flavors that its queue has."""
    return [one for flavor in flavors_of(workload, context.fleet) for one in flavor.tolerations]


def flavors_of(workload: Workload, fleet: Fleet | None) -> Iterator[Flavor]:
    """The flavors that the workload's queue has, as far as the fleet says."""
    queue = cluster_queue(workload, fleet) if fleet is not None else None
    if fleet is not None and queue is not None:
        names = {quota.flavor for quota in queue.quotas}
        yield from (flavor for flavor in fleet.flavors if flavor.name in names)


def _once(context: Context, key: object, work: Callable[[], Any]) -> Any:
    if key not in context.memo:
        context.memo[key] = work()
    return context.memo[key]


def matched(pod_set: PodSet, context: Context) -> list[FleetNode]:
    """The nodes that the set's selector and affinity take; none without a fleet."""
    fleet = context.fleet
    if fleet is None:
        return []
    found: list[FleetNode] = _once(context, ("matched", id(pod_set)), lambda: matching(pod_set, fleet))
    return found


def able(workload: Workload, pod_set: PodSet, context: Context) -> list[FleetNode]:
    """Nodes that take the pod by label and taint and have its GPUs, in use or not."""
    resource, number = pod_set.gpus()
    more = tolerations(workload, context)
    return [
        node
        for node in matched(pod_set, context)
        if (not number or node.allocatable.get(resource, 0) >= number) and untolerated(pod_set, node, more) is None
    ]


def standing(context: Context) -> Mapping[str, Mapping[str, int]]:
    """What DaemonSets keep of each node, by its name."""
    fleet = context.fleet
    found: Mapping[str, Mapping[str, int]] = (
        _once(context, "standing", lambda: fleet_standing(fleet)) if fleet is not None else {}
    )
    return found


def ever(workload: Workload, pod_set: PodSet, context: Context, fleet: Fleet) -> NodeFit:
    """Where the set's pods would fit on an empty fleet."""
    found: NodeFit = _once(
        context,
        ("ever", id(pod_set)),
        lambda: fit_ever(
            pod_set,
            fleet,
            namespace=namespace(workload),
            tolerations=tolerations(workload, context),
            standing=standing(context),
        ),
    )
    return found


def now(workload: Workload, pod_set: PodSet, context: Context, fleet: Fleet) -> NodeFit:
    """Where they fit now, those of the set that run already counted as gone."""
    found: NodeFit = _once(
        context,
        ("now", id(pod_set)),
        lambda: fit(
            pod_set,
            fleet,
            namespace=namespace(workload),
            tolerations=tolerations(workload, context),
            ignored=own_pods(workload, pod_set),
        ),
    )
    return found


def gpus_said(number: int) -> str:
    return f"{number} GPU{'s' if number != 1 else ''}"


def pods_said(number: int) -> str:
    return f"{number} pod{'s' if number != 1 else ''}"


def nodes_said(number: int) -> str:
    return f"{number} node{'s' if number != 1 else ''}"
