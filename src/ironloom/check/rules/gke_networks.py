"""The fast networks of GKE: GPUDirect over further interfaces of the pod, which its annotations ask for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from ironloom.catalog import instances
from ironloom.check import look, pods
from ironloom.check.fields import PLACEHOLDER
from ironloom.check.finding import Confidence, Severity
from ironloom.check.labels import wanted_labels
from ironloom.check.rule import Context, Problem, Source, problem, rule
from ironloom.check.rules.gpu_labels import GKE_ACCELERATOR
from ironloom.workload.manifests.schema import Path
from ironloom.workload.workload import PodSet, Workload

INTERFACES = "networking.gke.io/interfaces"
DEFAULT_INTERFACE = "networking.gke.io/default-interface"
DEVICES = "devices.gke.io/container."
MACHINES: Mapping[str, str] = {
    "nvidia-h100-80gb": "a3-highgpu-8g",
    "nvidia-h100-mega-80gb": "a3-megagpu-8g",
    "nvidia-h200-141gb": "a3-ultragpu-8g",
    "nvidia-b200": "a4-highgpu-8g",
}
"""Machines with a network of their own for the GPUs, by the value of GKE's label."""
NETWORKS: Mapping[str, tuple[str, int]] = {
    "a3-highgpu-8g": ("GPUDirect-TCPX", 4),
    "a3-megagpu-8g": ("GPUDirect-TCPXO", 8),
    "a3-ultragpu-8g": ("GPUDirect RDMA", 8),
    "a4-highgpu-8g": ("GPUDirect RDMA", 8),
}
"""What each machine has, and over how many interfaces of the GPUs."""
TCPX = Source(
    "https://cloud.google.com/kubernetes-engine/docs/how-to/gpu-bandwidth-gpudirect-tcpx",
    "interfaces and devices by annotation, 4 on A3 High and 8 on A3 Mega",
)


def _job(annotations: str = "") -> str:
    metadata = f"    metadata:\n      annotations:\n{annotations}" if annotations else ""
    return f"""\
apiVersion: batch/v1
kind: Job
metadata:
  name: train
spec:
  parallelism: 2
  completions: 2
  completionMode: Indexed
  template:
{metadata}    spec:
      restartPolicy: Never
      nodeSelector:
        cloud.google.com/gke-accelerator: nvidia-h200-141gb
      containers:
      - name: main
        image: nvcr.io/nvidia/pytorch:25.09-py3
        command: [torchrun, --nnodes=2, --nproc-per-node=8, train.py]
        resources:
          limits:
            nvidia.com/gpu: 8
"""


_ALL = """\
        networking.gke.io/default-interface: eth0
        networking.gke.io/interfaces: |
          [{"interfaceName": "eth0", "network": "default"},
           {"interfaceName": "eth1", "network": "gvnic-1"},
           {"interfaceName": "eth2", "network": "rdma-0"}, {"interfaceName": "eth3", "network": "rdma-1"},
           {"interfaceName": "eth4", "network": "rdma-2"}, {"interfaceName": "eth5", "network": "rdma-3"},
           {"interfaceName": "eth6", "network": "rdma-4"}, {"interfaceName": "eth7", "network": "rdma-5"},
           {"interfaceName": "eth8", "network": "rdma-6"}, {"interfaceName": "eth9", "network": "rdma-7"}]
"""


@rule(
    id="IL313",
    name="gke-gpu-networks-not-asked-for",
    family="network",
    severity=Severity.WARNING,
    subject=Workload,
    summary="a gang on GKE's GPU machines whose pods have the cluster's network alone",
    why="The GPUs of A3 and A4 machines have network interfaces of their own. A pod has those that its annotation "
    "networking.gke.io/interfaces names; without it NCCL goes over the one of the cluster, at a few per cent of the "
    "speed, and no message says so.",
    bad=_job(),
    good=_job(_ALL),
    sources=(
        TCPX,
        Source("https://docs.nvidia.com/aicr/integrator-guide/gke-tcpxo-networking", "4 GB/s in place of 340 without"),
        Source(
            "https://cloud.google.com/ai-hypercomputer/docs/create/gke-ai-hypercompute-custom", "RDMA by annotation"
        ),
    ),
)
def gke_gpu_networks_not_asked_for(workload: Workload, context: Context) -> Iterator[Problem]:
    if not pods.is_together(workload):
        return
    for pod_set in workload.pod_sets:
        machine = _machine(pod_set, context)
        if machine is None or pod_set.num_pods < 2 or pod_set.gpus()[1] < 8 or _has_networks(pod_set):
            continue
        network, number = NETWORKS[machine]
        yield problem(
            workload.document,
            pod_set.metadata_path,
            f"{pod_set.num_pods} pods talk across {machine} nodes, and have the cluster's one network: no {network}",
            evidence=(f"{machine}: {network} over {number} interfaces of the GPUs; no annotation {INTERFACES}",),
            help=f"annotate the pod template with {INTERFACES}, and the devices that {network} needs",
            confidence=Confidence.LIKELY,
        )


def _machine(pod_set: PodSet, context: Context) -> str | None:
    """The machine type that the pods run on, where it is one with networks of the GPUs."""
    found: set[str]
    if context.fleet is not None and context.fleet.nodes:
        found = {node.instance_type for node in pods.matched(pod_set, context) if node.num_gpus}
    else:
        found = set()
        for one in wanted_labels(pod_set):
            if one.key == GKE_ACCELERATOR:
                found |= {MACHINES.get(value, value) for value in one.values}
            elif one.key == "node.kubernetes.io/instance-type" and any(map(instances.find, one.values)):
                found |= set(one.values)
    return found.pop() if len(found) == 1 and found <= NETWORKS.keys() else None


def _has_networks(pod_set: PodSet) -> bool:
    """Whether the pods have more than one network, in any of the ways that there are."""
    if pod_set.spec.get("hostNetwork") is True or pod_set.spec.get("resourceClaims"):
        return True
    if INTERFACES in pod_set.annotations or any("multus" in key or "k8s.v1.cni" in key for key in pod_set.annotations):
        return True
    return any(name.startswith("networking.gke.io.networks/") for name in pod_set.requests)


@rule(
    id="IL314",
    name="gke-network-annotation-wrong",
    family="network",
    severity=Severity.ERROR,
    subject=Workload,
    summary="GKE's annotation of interfaces that is no list of them, or devices for a container that is not there",
    why="networking.gke.io/interfaces is JSON in a text: a list of interfaceName and network, one of which is the "
    "default interface. GKE refuses the pod where it is none. Devices of devices.gke.io/container.NAME go to the "
    "container of that name, and to none where there is no such container: GPUDirect's daemon then sees no GPU.",
    bad=_job("        networking.gke.io/interfaces: |\n          [{interfaceName: eth0, network: default}]\n"),
    good=_job('        networking.gke.io/interfaces: |\n          [{"interfaceName": "eth0", "network": "default"}]\n'),
    sources=(
        TCPX,
        Source(
            "https://cloud.google.com/kubernetes-engine/docs/how-to/setup-multinetwork-support-for-pods",
            "what the two annotations hold",
        ),
    ),
)
def gke_network_annotation_wrong(workload: Workload, _context: Context) -> Iterator[Problem]:
    for pod_set in workload.pod_sets:
        if not pod_set.metadata_path:
            continue
        base: Path = (*pod_set.metadata_path, "annotations")
        text = pod_set.annotations.get(INTERFACES)
        if text is not None and not PLACEHOLDER.search(text):
            yield from _interfaces(workload, base, text, pod_set.annotations.get(DEFAULT_INTERFACE, ""))
        names = {container.name for container in pod_set.containers}
        for key in pod_set.annotations:
            name = key.removeprefix(DEVICES)
            if name == key or name in names or PLACEHOLDER.search(name) or not (names and pod_set.is_written):
                continue
            yield problem(
                workload.document,
                (*base, key),
                f"the devices are for a container {name}, and the pod has none of that name",
                at_key=True,
                evidence=(f"its containers: {', '.join(sorted(names))}",),
                severity=Severity.WARNING,
                confidence=Confidence.LIKELY,
            )


def _interfaces(workload: Workload, base: Path, text: str, default: str) -> Iterator[Problem]:
    path: Path = (*base, INTERFACES)
    try:
        found: Any = msgspec.json.decode(text)
    except msgspec.DecodeError:
        yield problem(workload.document, path, f"{INTERFACES} is no JSON: GKE refuses the pod", at_key=True)
        return
    one_each = isinstance(found, list) and all(
        look.text(one, ("interfaceName",)) and (look.text(one, ("network",)) or look.text(one, ("networkSelector",)))
        for one in found
    )
    if not one_each:
        message = f"{INTERFACES} must be a list of objects with interfaceName and network"
        yield problem(workload.document, path, message, at_key=True)
        return
    names = [one["interfaceName"] for one in found]
    double = next((name for number, name in enumerate(names) if name in names[:number]), None)
    if double is not None:
        yield problem(workload.document, path, f"{INTERFACES} has {double} twice", at_key=True)
    if default and default not in names and not PLACEHOLDER.search(default):
        yield problem(
            workload.document,
            (*base, DEFAULT_INTERFACE),
            f"the default interface {default} is none of the pod's",
            evidence=(f"{INTERFACES} has {', '.join(names) or 'none'}",),
        )
