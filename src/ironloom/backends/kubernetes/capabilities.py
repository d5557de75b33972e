"""What a cluster has of the controllers that Ironloom works with, as its API tells.

A kind that is served says that its definition is installed, and no more: whether its controller runs is seen when it
does its work. The kinds are those of the projects' own definitions:
https://github.com/kserve/kserve/tree/master/config/crd, https://github.com/kubernetes-sigs/kueue/tree/main/config and
the others likewise.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from ironloom.backends.kubernetes.discovery import Served


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """One thing that a cluster may have."""

    name: str
    group: str
    kind: str
    gives: str
    """What it is used for here, for a person."""
    without: str
    """What is lost, or done in another way, where it is missing."""
    version: str = ""
    """The one that Ironloom writes; empty for a kind that it only reads, or writes in the version of a manifest."""
    known: tuple[str, ...] = ()
    """Of a kind without one that is written: those whose fields are known, the newest first. Empty for a part of which
    no more counts than that it is there."""


PARTS: tuple[Part, ...] = (
    Part(name="KServe", group="serving.kserve.io", kind="InferenceService", version="v1beta1",
         gives="InferenceServices",
         without="an InferenceService becomes a Deployment and a Service: no KServe status, no transformer or "
         "explainer"),
    Part(name="KServe LLM", group="serving.kserve.io", kind="LLMInferenceService",
         known=("v1alpha2", "v1alpha1"), gives="LLMInferenceServices",
         without="an LLMInferenceService becomes a Deployment and a Service: no disaggregation, no router of its own"),
    Part(name="Knative", group="serving.knative.dev", kind="Service", gives="KServe's Knative mode",
         without="no service can be in KServe's Knative mode; nothing of Ironloom needs it"),
    Part(name="Kueue", group="kueue.x-k8s.io", kind="Workload", known=("v1beta2", "v1beta1"),
         gives="queues and quotas",
         without="runs and services start at once or wait in the scheduler: no queue, no quota"),
    Part(name="Kueue topologies", group="kueue.x-k8s.io", kind="Topology",
         known=("v1beta2", "v1beta1", "v1alpha1"), gives="gangs inside one domain",
         without="no gang is kept inside one domain by a queue"),
    Part(name="JobSet", group="jobset.x-k8s.io", kind="JobSet", version="v1alpha2",
         gives="training runs of several roles",
         without="a run becomes an indexed Job and a headless Service: one role, restarts by pod"),
    Part(name="LeaderWorkerSet", group="leaderworkerset.x-k8s.io", kind="LeaderWorkerSet", version="v1",
         gives="replicas over several nodes",
         without="a replica that needs more GPUs than a node has cannot run"),
    Part(name="Kubeflow Trainer", group="trainer.kubeflow.org", kind="TrainJob", version="v1alpha1", gives="TrainJobs",
         without="a TrainJob becomes a JobSet or an indexed Job: its own status is not kept"),
    Part(name="Training Operator", group="kubeflow.org", kind="PyTorchJob", version="v1", gives="PyTorchJobs",
         without="a PyTorchJob becomes a JobSet or an indexed Job"),
    Part(name="pod groups", group="scheduling.k8s.io", kind="PodGroup", version="v1beta1",
         gives="gangs without an add-on",
         without="the scheduler itself holds no gang together: Kueue or JobSet may"),
    Part(name="KEDA", group="keda.sh", kind="ScaledObject", gives="a writer of scales beside ours",
         without="nothing is lost: Ironloom writes the scale of its services itself"),
    Part(name="GPU Operator", group="nvidia.com", kind="ClusterPolicy", gives="GPU nodes' drivers and labels",
         without="what a node's GPUs are is known by its provider's labels alone"),
    Part(name="DRA", group="resource.k8s.io", kind="ResourceClaim", gives="devices by claim",
         without="GPUs are asked for in limits alone"),
    Part(name="Prometheus Operator", group="monitoring.coreos.com", kind="PodMonitor",
         gives="takes a PodMonitor of yours for the gateway's /metrics; none is made here",
         without="your own Prometheus reads the gateway's /metrics, or nobody does"),
    Part(name="Gateway API", group="gateway.networking.k8s.io", kind="HTTPRoute", gives="a way in from outside",
         without="clients come in by an Ingress, a Service of type LoadBalancer or a port-forward"),
    Part(name="Karpenter", group="karpenter.sh", kind="NodePool", gives="nodes on demand",
         without="it makes no nodes here"),
    Part(name="CoreWeave node pools", group="compute.coreweave.com", kind="NodePool", gives="nodes on demand",
         without="there are no node pools of CoreWeave's here"),
)  # fmt: skip
PLAIN = {part.name: part.without for part in PARTS}
"""What is lost where a part is missing and the same workload is made of plain kinds."""
VERSIONS = {part.name: part.version for part in PARTS if part.version}
"""The version that is written, of parts of which one is."""

_MADE_FOR = {"InferenceService": ("KServe",), "LLMInferenceService": ("KServe LLM",)}


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
        return tuple(f"{self.absence(name)}: {PLAIN[name]}" for name in names if not self.has(name))

    def lost_of(self, kind: str) -> tuple[str, ...]:
        """The same of what a manifest's kind is made for."""
        return self.lost(_MADE_FOR.get(kind, ()))

    def why_without(self, name: str) -> str:
        """Why a part that is missing is not used, as a clause."""
        absence = self.absence(name)
        return f"the cluster has {absence}" if absence == f"no {name}" else absence.removesuffix("; without it")

    def absence(self, name: str) -> str:
        """That a part is missing, or is not used and why, as the beginning of a sentence."""
        if name in self.foreign:
            return f"{name} is there in version {self.foreign[name]}, which is not known here"
        if name in self.silent:
            return f"whether there is {name} is not known, as its API does not answer; without it"
        return f"no {name}"

    def sentence(self, part: Part) -> str:
        """One part, with its version and use, or what is missing without it."""
        if self.has(part.name):
            return f"{part.name} {self.versions[part.name]}: {part.gives}"
        (lost,) = self.lost([part.name])
        return lost

    def told(self) -> tuple[str, ...]:
        """Every part in a line, then what did not answer."""
        lines = (self.sentence(part) for part in PARTS)
        return (*lines, *(f"{one} does not answer: what it serves is not known" for one in self.unread))

    @property
    def silent(self) -> frozenset[str]:
        """Parts that are not there as far as is seen, and of whose group something did not answer."""
        groups = {one.partition("/")[0] for one in self.unread}
        return frozenset(part.name for part in PARTS if part.group in groups and not self.has(part.name))


def of(served: Served) -> Capabilities:
    """The parts that an API server's discovery shows."""
    versions, foreign = {}, {}
    for part in PARTS:
        found = served.find(part.group, part.kind)
        if found is None:
            continue
        known = (part.version,) if part.version else part.known
        if not known or found.version in known:
            versions[part.name] = found.version
            continue
        version = next((one for one in known if f"{part.group}/{one}/{part.kind}" in served.kinds), None)
        if version is None:
            foreign[part.name] = found.version
        else:
            versions[part.name] = version
    return Capabilities(versions=versions, unread=served.unread, foreign=foreign)
