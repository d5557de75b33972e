"""What a cluster has of the controllers that Ironloom works with, as its API tells.

A kind that is served says that its definition is installed, and no more: whether its controller runs is seen when it
does its work. The kinds are those of the projects' own definitions:
https://github.com/kserve/kserve/tree/master/config/crd, https://github.com/kubernetes-sigs/kueue/tree/main/config and
the others likewise.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass, field

from ironloom.backends.kubernetes import kubeconfig
from ironloom.backends.kubernetes.client import Client
from ironloom.backends.kubernetes.discovery import Served, discover


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """One thing that a cluster may have."""

    name: str
    group: str
    kind: str
    gives: str
    """What it is used for here, for a person."""
    version: str = ""
    """The one that Ironloom writes; empty for a kind that it only reads or writes in the server's version."""


PARTS: tuple[Part, ...] = (
    Part(name="KServe", group="serving.kserve.io", kind="InferenceService", gives="InferenceServices",
         version="v1beta1"),
    Part(name="KServe LLM", group="serving.kserve.io", kind="LLMInferenceService", gives="LLMInferenceServices"),
    Part(name="Knative", group="serving.knative.dev", kind="Service", gives="KServe's serverless mode"),
    Part(name="Kueue", group="kueue.x-k8s.io", kind="Workload", gives="queues and quotas"),
    Part(name="Kueue topologies", group="kueue.x-k8s.io", kind="Topology", gives="gangs inside one domain"),
    Part(name="JobSet", group="jobset.x-k8s.io", kind="JobSet", gives="training runs of several roles"),
    Part(name="LeaderWorkerSet", group="leaderworkerset.x-k8s.io", kind="LeaderWorkerSet",
         gives="replicas over several nodes", version="v1"),
    Part(name="Kubeflow Trainer", group="trainer.kubeflow.org", kind="TrainJob", gives="TrainJobs"),
    Part(name="Training Operator", group="kubeflow.org", kind="PyTorchJob", gives="PyTorchJobs"),
    Part(name="pod groups", group="scheduling.k8s.io", kind="PodGroup", gives="gangs without an add-on"),
    Part(name="KEDA", group="keda.sh", kind="ScaledObject", gives="a writer of scales beside ours"),
    Part(name="GPU Operator", group="nvidia.com", kind="ClusterPolicy", gives="GPU nodes' drivers and labels"),
    Part(name="DRA", group="resource.k8s.io", kind="ResourceClaim", gives="devices by claim"),
    Part(name="Prometheus Operator", group="monitoring.coreos.com", kind="PodMonitor", gives="metrics scraped"),
    Part(name="Gateway API", group="gateway.networking.k8s.io", kind="HTTPRoute", gives="a way in from outside"),
    Part(name="Karpenter", group="karpenter.sh", kind="NodePool", gives="nodes on demand"),
    Part(name="CoreWeave node pools", group="compute.coreweave.com", kind="NodePool", gives="nodes on demand"),
)  # fmt: skip
PLAIN = {
    "KServe": "an InferenceService becomes a Deployment and a Service: no KServe status, no transformer or explainer",
    "KServe LLM": "an LLMInferenceService becomes a Deployment and a Service: no disaggregation, no router of its own",
    "LeaderWorkerSet": "a replica that needs more GPUs than a node has cannot run",
    "Kubeflow Trainer": "a TrainJob becomes a JobSet or an indexed Job: its own status is not kept",
    "JobSet": "a run becomes an indexed Job and a headless Service: one role, restarts by pod",
    "Kueue": "runs and services start at once or wait in the scheduler: no queue, no quota",
}
"""What is lost where a part is missing and the same workload is made of plain kinds."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Capabilities:
    """The parts there are, each with the version that the server prefers."""

    versions: dict[str, str]
    """By part's name: `v1beta1`."""
    unread: tuple[str, ...] = ()
    """`group/version` that did not answer: whether it has what they serve is not known."""

    foreign: dict[str, str] = field(default_factory=dict)
    """Parts that are there in a version that is not known here alone, and so are not used: its version by part."""

    def has(self, name: str) -> bool:
        return name in self.versions

    def lost(self, names: Iterable[str]) -> tuple[str, ...]:
        """What is lost of those that are missing, in sentences."""
        return tuple(f"{self._absence(name)}: {PLAIN[name]}" for name in names if name in PLAIN and not self.has(name))

    def _absence(self, name: str) -> str:
        if name in self.foreign:
            return f"{name} is there in version {self.foreign[name]}, which is not known here"
        return f"no {name}"

    def told(self) -> tuple[str, ...]:
        """Every part, with its version and use, or what is missing without it; a line each."""
        lines = []
        for part in PARTS:
            if self.has(part.name):
                lines.append(f"{part.name} {self.versions[part.name]}: {part.gives}")
            else:
                lines += self.lost([part.name])
        return (*lines, *(f"{one} does not answer: what it serves is not known" for one in self.unread))


def of(served: Served) -> Capabilities:
    """The parts that an API server's discovery shows."""
    versions, foreign = {}, {}
    for part in PARTS:
        found = served.find(part.group, part.kind)
        if found is None:
            continue
        if part.version and f"{part.group}/{part.version}/{part.kind}" not in served.kinds:
            foreign[part.name] = found.version
        else:
            versions[part.name] = part.version or found.version
    return Capabilities(versions=versions, unread=served.unread, foreign=foreign)


def read_capabilities(*, context: str) -> Capabilities:
    """What the cluster of a kubeconfig's context has, now. Raises as `reader.read_fleet` does."""
    target = kubeconfig.load().target(context)

    async def run() -> Capabilities:
        async with Client(target) as client:
            return of(await discover(client))

    return asyncio.run(run())
