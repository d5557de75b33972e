"""Pods that stand on nodes with GPUs and use none."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ironloom.check import look, pods
from ironloom.check.engines import accelerators_named
from ironloom.check.finding import Confidence, Severity
from ironloom.check.rule import Context, Problem, Source, problem, rule
from ironloom.workload.workload import Container, PodSet, Workload

_KINDS = frozenset({"Deployment", "StatefulSet", "ReplicaSet", "Job", "CronJob", "Pod"})
"""A DaemonSet stands on such nodes for their sake, and a gang's other members may have the GPUs."""


def _example(gpu: str) -> str:
    return f"""\
apiVersion: apps/v1
kind: Deployment
metadata:
  name: web
spec:
  replicas: 2
  selector:
    matchLabels:
      app: web
  template:
    metadata:
      labels:
        app: web
    spec:
      nodeSelector:
        nvidia.com/gpu.product: NVIDIA-H100-80GB-HBM3
      containers:
      - name: web
        image: registry.example.com/web:1.4
        resources:
          requests:
            cpu: 8
            memory: 16Gi
          limits:
            memory: 16Gi
{gpu}"""


@rule(
    id="IL858",
    name="gpu-node-without-gpus",
    family="cost",
    severity=Severity.NOTE,
    subject=Workload,
    summary="a pod that selects nodes by their GPU and asks for none",
    why="A node with GPUs has the cpu and the memory that its GPUs' pods need. A pod that takes of them and no GPU can "
    "leave GPUs that no other pod can be given, on the most expensive node of the cluster. It may also be a request "
    "that was forgotten: without one the container sees no GPU at all.",
    bad=_example(""),
    good=_example('            nvidia.com/gpu: "1"\n'),
    sources=(
        Source(
            "https://kubernetes.io/docs/concepts/scheduling-eviction/taint-and-toleration/#example-use-cases",
            "nodes with special hardware: keep pods that do not need it off them",
        ),
        Source(
            "https://kubernetes.io/docs/tasks/manage-gpus/scheduling-gpus/#using-device-plugins",
            "a container has GPUs only where its limits ask for them",
        ),
    ),
)
def gpu_node_without_gpus(workload: Workload, _context: Context) -> Iterator[Problem]:
    if workload.kind not in _KINDS or len(workload.pod_sets) != 1 or workload.is_gang:
        return
    for pod_set in workload.pod_sets:
        named = accelerators_named(pod_set)
        if not named or not pod_set.is_written or _has_devices(pod_set):
            continue
        if not any(container.requests.get("cpu") for container in pods.main_containers(pod_set)):
            continue  # it takes next to nothing of the node, or what it takes is not said
        _, why = named[0]
        yield problem(
            workload.document,
            pod_set.path,
            f"the pods ask for nodes with GPUs ({why}), and for no GPU",
            at_key=True,
            confidence=Confidence.POSSIBLE,
            help="ask for a GPU where it is used, and else leave the selector out",
        )


def _has_devices(pod_set: PodSet) -> bool:
    """Whether it may use a GPU after all: by any device, claim, variable of the runtime, or as part of the node."""
    if any("/" in name for name in pod_set.requests) or look.entries(pod_set.spec, ("resourceClaims",)):
        return True
    if pod_set.spec.get("runtimeClassName") or pod_set.spec.get("hostPID") or pod_set.spec.get("hostNetwork"):
        return True
    return any(_is_of_the_node(container) for container in pod_set.containers)


def _is_of_the_node(container: Container) -> bool:
    privileged: Any = look.at(container.spec, ("securityContext", "privileged"))
    return bool(privileged) or "NVIDIA_VISIBLE_DEVICES" in container.env
