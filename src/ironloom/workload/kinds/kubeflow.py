"""The jobs of Kubeflow's training operator (kubeflow.org/v1) and of its MPI operator (v2beta1).

Sources: https://github.com/kubeflow/trainer/tree/release-1.9/pkg/apis/kubeflow.org/v1,
https://github.com/kubeflow/mpi-operator/blob/master/pkg/apis/kubeflow/v2beta1/types.go.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from msgspec.structs import replace

from ironloom.workload import look
from ironloom.workload.kinds.around import Around
from ironloom.workload.kinds.build import of_template, workload
from ironloom.workload.kinds.gangs import Gang
from ironloom.workload.kinds.kind import Kind
from ironloom.workload.kinds.roles import of_containers, starts_python
from ironloom.workload.manifests.document import Document
from ironloom.workload.manifests.schema import Path
from ironloom.workload.workload import Role, Workload

FIELDS: Mapping[str, str] = {
    "PyTorchJob": "pytorchReplicaSpecs",
    "TFJob": "tfReplicaSpecs",
    "MPIJob": "mpiReplicaSpecs",
    "XGBoostJob": "xgbReplicaSpecs",
    "PaddleJob": "paddleReplicaSpecs",
    "JAXJob": "jaxReplicaSpecs",
}
"""Kind to the field with its sets of pods."""


def training_job(document: Document, _around: Around) -> Iterator[Workload]:
    """One set of pods for each entry: Master and Worker, Launcher and Worker, PS and Worker."""
    base: Path = ("spec", FIELDS[document.kind])
    pod_sets = []
    for name, replica in look.mapping(document.obj, *base).items():
        template: Path = (*base, name, "template")
        pods = of_template(document, template, name=name.lower(), num_pods=look.count(replica, "replicas"))
        pod_sets.append(pods)
    # MPI starts anything: a Python program is training, a binary is a simulation or a test of the network.
    launched = [one for pods in pod_sets for one in pods.containers]
    is_training = document.kind != "MPIJob" or starts_python(launched)
    role = Role.TRAINING if is_training else of_containers(launched, Role.BATCH)
    pod_sets = [replace(pods, role=role) for pods in pod_sets]
    policy: Path = ("spec", "runPolicy", "schedulingPolicy")
    yield workload(
        document,
        pod_sets,
        gang=Gang.ALWAYS,
        priority_class=look.text(document.obj, *policy, "priorityClass"),
    )


_SOURCE = "https://github.com/kubeflow/trainer/tree/release-1.9/pkg/apis/kubeflow.org/v1"
_MPI = "https://github.com/kubeflow/mpi-operator/blob/master/pkg/apis/kubeflow/v2beta1/types.go"
KINDS = tuple(
    Kind(
        group="kubeflow.org",
        name=name,
        read=training_job,
        pods=f"one set an entry of {field}",
        gang="more than one pod",
        source=_MPI if name == "MPIJob" else _SOURCE,
    )
    for name, field in FIELDS.items()
)
