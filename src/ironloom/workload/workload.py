"""A workload as a scheduler and a reader of launch lines see it: sets of pods, each with what runs inside.

Every kind of manifest that makes pods is read into this one shape (`workload.kinds`), so that nothing downstream asks
which kind it was. Each part knows where it stands in its document.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import Any

import msgspec

from ironloom.workload.manifests.document import Document
from ironloom.workload.manifests.schema import Path

NONE: Mapping[str, Any] = MappingProxyType({})


class Role(StrEnum):
    """What a set of pods is for."""

    SERVING = "serving"
    TRAINING = "training"
    BATCH = "batch"
    """Runs to its end and is neither: a download, an evaluation, an NCCL test."""
    OTHER = "other"


class Option(msgspec.Struct, frozen=True, kw_only=True):
    """One option of a command line, with the place it was written at."""

    name: str
    """In its long form, with dashes: `--tensor-parallel-size`. Of a script of one's own as it was written."""
    value: str | None
    """None for a switch."""
    path: Path
    """The list item or the text (a script) in the document that it stands in."""
    offset: int = 0
    """Characters into that text."""
    written: str = ""
    """The name as written: `-tp`, `--tensor_parallel_size`."""


class Launch(msgspec.Struct, frozen=True, kw_only=True):
    """What a container runs, understood."""

    program: str
    """vllm, sglang, trtllm, huggingfaceserver, tgi, torchrun, accelerate, deepspeed, mpirun, ray, python and the others
    of docs/reference/workloads.md."""
    model: str = ""
    """As written: a hub name, a folder, an URI. Empty where none is named."""
    model_path: Path = ()
    """Where it is named; empty where it is not."""
    options: tuple[Option, ...] = ()
    positional: tuple[str, ...] = ()
    script: str = ""
    """Of a launcher: the Python script or module that it starts."""
    inner: Launch | None = None
    """Of a launcher: the launch inside it."""
    path: Path = ()
    """Where the command line begins."""

    def option(self, name: str) -> Option | None:
        """The last one of this name, which is the one that counts."""
        return next((option for option in reversed(self.options) if option.name == name), None)

    def value(self, name: str) -> str | None:
        option = self.option(name)
        return option.value if option is not None else None

    def integer(self, name: str, default: int) -> int:
        """The option as a whole number; `default` where it is absent or none."""
        value = self.value(name)
        try:
            return int(value) if value is not None else default
        except ValueError:
            return default


class Container(msgspec.Struct, frozen=True, kw_only=True):
    """One container of a pod, main or init."""

    name: str
    path: Path
    image: str = ""
    is_init: bool = False
    is_sidecar: bool = False
    """An init container that keeps running (restartPolicy Always)."""
    requests: Mapping[str, int] = NONE
    """As Kubernetes reads them: a resource with a limit alone has that as its request. Amounts as in fleet.model."""
    limits: Mapping[str, int] = NONE
    env: Mapping[str, str | None] = NONE
    """None for a value that comes from elsewhere (Secret, ConfigMap, field)."""
    env_paths: Mapping[str, Path] = NONE
    launch: Launch | None = None
    spec: Mapping[str, Any] = NONE
    """As written."""


class TopologyWish(msgspec.Struct, frozen=True, kw_only=True):
    """That pods stay in one domain: Kueue's, JobSet's, LWS's, KAI's or a pod affinity's."""

    key: str
    """The node label of the level; empty for a wish without one (unconstrained)."""
    is_required: bool
    source: str
    """kueue, jobset, lws, kai, volcano, affinity, workload-api."""
    path: Path
    slice_key: str = ""
    """Where slices stay in one domain each, the label of that. The same as `key`: the slices have nothing in common,
    each has a domain of that level (the jobs of an exclusive JobSet)."""
    slice_size: int = 0
    """Pods of one slice."""


class PodSet(msgspec.Struct, frozen=True, kw_only=True):
    """Pods of one template."""

    name: str
    """`predictor`, `worker`, the replicated job's name; `main` where the kind has one alone."""
    role: Role
    num_pods: int
    """Of one replica of the workload; see Workload.replicas."""
    num_jobs: int = 1
    """How many equal jobs of their own these pods are in: the replicas of a JobSet's replicated job."""
    path: Path
    """Of the PodSpec in the document."""
    metadata_path: Path
    """Of the template's metadata; of the place where it would stand."""
    spec: Mapping[str, Any]
    """The PodSpec, as written; where the kind has none (predictor.model), the one its controller would make, as far as
    it follows from the manifest."""
    labels: Mapping[str, str] = NONE
    """Of its pods."""
    annotations: Mapping[str, str] = NONE
    containers: tuple[Container, ...] = ()
    topology: tuple[TopologyWish, ...] = ()
    pod_requests: Mapping[str, int] = NONE
    """What the pod asks for as a whole (spec.resources); it counts in place of the containers' sum."""
    overhead: Mapping[str, int] = NONE
    """What its runtime class adds to each pod."""
    is_written: bool = True
    """False where the spec is a controller's doing and a fault of it is not the writer's."""

    @property
    def requests(self) -> Mapping[str, int]:
        """Of one pod, as the scheduler counts: the sum of its containers and sidecars, or the largest init container
        where that is more, plus the pod's overhead.

        Source: https://kubernetes.io/docs/concepts/workloads/pods/init-containers/#resource-sharing-within-containers
        """
        running: dict[str, int] = {}
        starting: dict[str, int] = {}
        beside: dict[str, int] = {}
        for container in self.containers:
            if container.is_init and not container.is_sidecar:
                for name, amount in container.requests.items():
                    starting[name] = max(starting.get(name, 0), amount + beside.get(name, 0))
                continue
            for name, amount in container.requests.items():
                running[name] = running.get(name, 0) + amount
                if container.is_sidecar:
                    beside[name] = beside.get(name, 0) + amount
        total = {name: max(running.get(name, 0), starting.get(name, 0)) for name in {**running, **starting}}
        total.update(self.pod_requests)
        for name, amount in self.overhead.items():
            total[name] = total.get(name, 0) + amount
        return total

    def gpus(self) -> tuple[str, int]:
        """(resource name, number) of GPUs that one pod asks for; ("", 0) for none."""
        for name, amount in self.requests.items():
            if amount and is_gpu_resource(name):
                return name, amount
        return "", 0


class Replicas(msgspec.Struct, frozen=True, kw_only=True):
    """How many copies, and who decides."""

    min: int
    max: int | None
    """None is not bounded, or not said."""
    path: Path
    """Where the number is written; of the object where it is not."""
    decider: str = ""
    """hpa, keda, knative, kserve-hpa, wva, external; empty where nobody changes it."""


class Workload(msgspec.Struct, frozen=True, kw_only=True):
    """One object that makes pods."""

    document: Document
    kind: str
    name: str
    namespace: str
    pod_sets: tuple[PodSet, ...]
    replicas: Replicas
    is_gang: bool = False
    """All its pods must run at once: what it means is known from the kind and its annotations."""
    queue: str = ""
    """Kueue's LocalQueue that it names; empty for none."""
    queue_path: Path = ()
    priority_class: str = ""

    @property
    def num_pods(self) -> int:
        """Of one replica."""
        return sum(pod_set.num_pods for pod_set in self.pod_sets)

    def writes(self, pod_set: PodSet, field: str) -> bool:
        """Whether a field of the set's PodSpec stands in the document: then a fault of it is the writer's, also where
        the rest of the spec is a controller's doing (`is_written` False)."""
        return field in self.document.positions.mapping(pod_set.path)


def is_gpu_resource(name: str) -> bool:
    """Whether a resource name asks for GPUs, whole or in parts: `nvidia.com/gpu`, `nvidia.com/mig-1g.10gb`."""
    return name in {"nvidia.com/gpu", "amd.com/gpu", "gpu.intel.com/i915", "gpu.intel.com/xe", "habana.ai/gaudi"} or (
        name.startswith("nvidia.com/mig-")
    )
