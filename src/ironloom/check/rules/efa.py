"""EFA, the fast network of AWS: how many of a node's devices its pods ask for, and the huge pages beside them."""

from __future__ import annotations

from collections.abc import Iterator

from ironloom.catalog import efa, instances
from ironloom.check import edits, look, pods
from ironloom.check.finding import Confidence, Patch, Severity
from ironloom.check.labels import wanted_labels
from ironloom.check.rule import Context, Problem, Source, problem, rule
from ironloom.check.rules.resources import resource_path
from ironloom.workload.workload import Container, PodSet, Workload

HUGE_PAGES = "hugepages-2Mi"
USUAL_HUGE_PAGES = "5120Mi"
"""What AWS's walkthrough asks for."""
NO_HUGE_PAGES = frozenset({"FI_EFA_USE_HUGE_PAGE", "FI_EFA_FORK_SAFE", "RDMAV_FORK_SAFE"})
"""Variables by which libfabric's provider leaves huge pages alone."""
EKS = Source(
    "https://docs.aws.amazon.com/eks/latest/userguide/node-efa.html", "vpc.amazonaws.com/efa and hugepages-2Mi"
)

_JOB = """\
apiVersion: batch/v1
kind: Job
metadata:
  name: train
spec:
  parallelism: 2
  completions: 2
  completionMode: Indexed
  template:
    spec:
      restartPolicy: Never
      nodeSelector:
        node.kubernetes.io/instance-type: p5.48xlarge
      containers:
      - name: main
        image: nvcr.io/nvidia/pytorch:25.09-py3
        command: [torchrun, --nnodes=2, --nproc-per-node=8, train.py]
        resources:
          limits:
            nvidia.com/gpu: 8
            vpc.amazonaws.com/efa: {efa}
{more}"""
_PAGES = "            hugepages-2Mi: 5120Mi\n            memory: 1800Gi\n"


@rule(
    id="IL311",
    name="efa-devices-are-not-the-nodes",
    family="network",
    severity=Severity.WARNING,
    subject=Workload,
    summary="more EFA devices than the instance type has, or a few of those of a node that is taken whole",
    why="A p5.48xlarge has 32 EFA devices of 100 Gbit/s, a p5en 16, a p4d 4. Asking for more than there are leaves the "
    "pod Pending for ever. A pod that takes all GPUs of the node and one device of 32 runs at a small part of the "
    "network that is paid for, without a message.",
    bad=_JOB.format(efa=1, more=_PAGES),
    good=_JOB.format(efa=32, more=_PAGES),
    sources=(
        Source(
            "https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/using-eni.html#network-cards",
            "network cards of each instance type, one EFA each",
        ),
        Source("https://github.com/awslabs/awsome-distributed-ai", "32 on p5, 16 on p5en, 8 on p6-b200, in its jobs"),
    ),
)
def efa_devices_are_not_the_nodes(workload: Workload, context: Context) -> Iterator[Problem]:
    for pod_set in workload.pod_sets:
        asked = pod_set.requests.get(efa.RESOURCE, 0)
        types = _types(pod_set, context)
        if not asked or not types:
            continue
        most = max(efa.DEVICES[name] for name in types)
        least = min(efa.DEVICES[name] for name in types)
        said = ", ".join(f"{name} has {efa.DEVICES[name]}" for name in types)
        if asked > most:
            yield problem(
                workload.document,
                resource_path(pod_set, efa.RESOURCE),
                f"a pod asks for {asked} EFA devices, and no node that it may be on has more than {most}",
                evidence=(said,),
                severity=Severity.ERROR,
            )
        elif asked < least and pods.is_together(workload) and _takes_the_node(pod_set, types):
            path = resource_path(pod_set, efa.RESOURCE)
            places = [(*path[:-2], part, path[-1]) for part in ("requests", "limits")]
            written = [place for place in places if look.at(workload.document.obj, place) is not None]
            replaced = [edits.replace(workload.document, place, str(least)) for place in written]
            edit = tuple(one for one in replaced if one is not None)
            rate = instances.INSTANCES[types[0]].gbit_per_s or 0
            yield problem(
                workload.document,
                path,
                f"the pod takes the whole node, and {asked} of its {least} EFA devices",
                evidence=(said, f"{rate * asked / least:g} of {rate:g} Gbit/s"),
                help=f"ask for {least}",
                patch=Patch(title=f"ask for {least}", edits=edit, is_safe=False) if edit and len(types) == 1 else None,
                confidence=Confidence.LIKELY,
            )


def _types(pod_set: PodSet, context: Context) -> list[str]:
    """Instance types that the pods may be on, where all of them are known."""
    if context.fleet is not None and context.fleet.nodes:
        found = {node.instance_type for node in pods.matched(pod_set, context) if node.num_gpus}
    else:
        found = {
            value
            for one in wanted_labels(pod_set)
            for value in one.values
            if one.key in ("node.kubernetes.io/instance-type", "beta.kubernetes.io/instance-type")
        }
    return sorted(found) if found and found <= efa.DEVICES.keys() else []


def _takes_the_node(pod_set: PodSet, types: list[str]) -> bool:
    return all(pod_set.gpus()[1] >= instances.INSTANCES[name].num_gpus for name in types)


@rule(
    id="IL312",
    name="efa-without-huge-pages",
    family="network",
    severity=Severity.NOTE,
    subject=Workload,
    summary="EFA devices without huge pages, which its library takes where it may",
    why="libfabric's EFA provider takes 2 MiB pages for its buffers unless it is told not to. AWS's images reserve "
    "them, and a pod may use those that it asks for and no others: AWS's own walkthrough asks for 5120Mi beside the "
    "devices.",
    bad=_JOB.format(efa=32, more=""),
    good=_JOB.format(efa=32, more=_PAGES),
    sources=(
        EKS,
        Source("https://github.com/ofiwg/libfabric/blob/main/man/fi_efa.7.md", "FI_EFA_USE_HUGE_PAGE, on by default"),
        Source("https://kubernetes.io/docs/tasks/manage-hugepages/scheduling-hugepages/", "pods ask for huge pages"),
    ),
)
def efa_without_huge_pages(workload: Workload, _context: Context) -> Iterator[Problem]:
    if not pods.is_together(workload):
        return
    for pod_set in workload.pod_sets:
        if pod_set.requests.get(HUGE_PAGES):
            continue
        for container in pods.main_containers(pod_set):
            if not container.requests.get(efa.RESOURCE) or _does_without(container):
                continue
            yield problem(
                workload.document,
                (*container.path, "resources"),
                f"container {container.name} asks for {container.requests[efa.RESOURCE]} EFA devices and no huge pages",
                at_key=True,
                help=f"add {HUGE_PAGES}: {USUAL_HUGE_PAGES} to its requests and limits, or set FI_EFA_USE_HUGE_PAGE=0",
                confidence=Confidence.POSSIBLE,
            )
            return  # once says it for all of the workload's pods


def _does_without(container: Container) -> bool:
    if container.env.keys() & NO_HUGE_PAGES or any(name in pods.text_of(container) for name in NO_HUGE_PAGES):
        return True
    return look.at(container.spec, ("securityContext", "privileged")) is True
