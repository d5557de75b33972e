"""What a controller adds to pods by itself, so that nobody has to write it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ironloom.check import look
from ironloom.workload.manifests.document import Document
from ironloom.workload.manifests.schema import Path
from ironloom.workload.workload import Container, PodSet

_MPI_CONFIG, _MPI_SSH, _MPI_KUBECTL = "mpi-job-config", "ssh-auth", "mpi-job-kubectl"
_MPI_VOLUMES: Mapping[tuple[str, str], tuple[str, ...]] = {
    ("kubeflow.org/v2beta1", "Launcher"): (_MPI_CONFIG, _MPI_SSH),
    ("kubeflow.org/v2beta1", "Worker"): (_MPI_SSH,),
    ("kubeflow.org/v1", "Launcher"): (_MPI_CONFIG, _MPI_KUBECTL),
    ("kubeflow.org/v1", "Worker"): (_MPI_CONFIG,),
}
"""The hostfile and the keys of ssh, which init containers and sidecars may mount too, by version and set of pods.

Sources: https://github.com/kubeflow/mpi-operator/blob/master/pkg/controller/mpi_job_controller.go (newWorker,
newLauncherPodTemplate, setupSSHOnPod);
https://github.com/kubeflow/trainer/blob/release-1.9/pkg/controller.v1/mpi/mpijob_controller.go for v1.
"""


def volumes(document: Document, pod_set: PodSet) -> Iterator[str]:
    """Names of the volumes that pods of the set have without their being written there."""
    templates = look.entries(document.obj, ("spec", "volumeClaimTemplates"))  # a StatefulSet's
    templates = templates + look.entries(document.obj, ("spec", "leaderWorkerTemplate", "volumeClaimTemplates"))
    for policy in look.entries(document.obj, ("spec", "volumeClaimPolicies")):  # a JobSet's
        templates = templates + look.entries(policy, ("templates",))
    yield from (look.text(template, ("metadata", "name")) for template in templates)
    if document.kind == "MPIJob":
        for part in pod_set.path:
            yield from _MPI_VOLUMES.get((document.api_version, str(part)), ())


def is_filled_in(spec: Mapping[str, Any]) -> bool:
    """Whether a program fills the pod in before it is applied, by an image that can be none: one with spaces, as in
    `FILLED BY THE OPERATOR`. Volumes may come in the same way.

    Source: https://github.com/NVIDIA/gpu-operator/tree/main/assets, and controllers/object_controls.go beside it.
    """
    containers = (one for key in ("initContainers", "containers") for one in look.entries(spec, (key,)))
    return any(len(look.text(one, ("image",)).split()) > 1 for one in containers)


def has_shared_memory(document: Document, container: Container) -> bool:
    """Whether a volume in memory is mounted at /dev/shm by the controller: KubeRay does so for the first container of
    each of its pods, unless the parameters of Ray's start name another folder.

    Source: https://github.com/ray-project/kuberay/blob/master/ray-operator/controllers/ray/common/pod.go (BuildPod).
    """
    if look.group(document) != "ray.io" or container.path[-2:] != ("containers", 0):
        return False
    start: Path = (*container.path[: container.path.index("template")], "rayStartParams")
    return "plasma-directory" not in look.mapping(document.obj, start)
