"""Kinds that were taken away or are on their way out, and what is there in their place.

Sources: https://kubernetes.io/docs/reference/using-api/deprecation-guide/ for Kubernetes; for the controllers the
definitions in the releases of their repositories, and the threads that the rules IL901 and IL902 name.
"""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from ironloom.workload.manifests.document import Document


class Removal(msgspec.Struct, frozen=True, kw_only=True):
    """One version of a kind that is deprecated or gone."""

    instead: str
    """`group/version`, or `group/version Kind` where the kind has another name; empty for nothing."""
    project: str
    gone_in: str = ""
    """The version of the project that does not have it any more; empty while every version has it."""
    deprecated_in: str = ""

    @property
    def instead_kind(self) -> str:
        """The kind's new name; empty where it keeps its own."""
        return self.instead.partition(" ")[2]

    @property
    def gone_minor(self) -> int | None:
        """Of Kubernetes' own kinds: the minor version that does not have it."""
        return int(self.gone_in.partition(".")[2]) if self.project == "Kubernetes" and self.gone_in else None


def removal(document: Document) -> Removal | None:
    """What became of the document's kind; None where nothing did."""
    return REMOVED.get(document.type_name)


_KUBERNETES = """
admissionregistration.k8s.io/v1beta1  MutatingWebhookConfiguration,ValidatingWebhookConfiguration 1.22 v1
apiextensions.k8s.io/v1beta1          CustomResourceDefinition                                 1.22 v1
apiregistration.k8s.io/v1beta1        APIService                                               1.22 v1
apps/v1beta1                          Deployment,StatefulSet                                   1.16 v1
apps/v1beta2                          Deployment,StatefulSet,DaemonSet,ReplicaSet              1.16 v1
autoscaling/v2beta1                   HorizontalPodAutoscaler                                  1.25 v2
autoscaling/v2beta2                   HorizontalPodAutoscaler                                  1.26 v2
batch/v1beta1                         CronJob                                                  1.25 v1
certificates.k8s.io/v1beta1           CertificateSigningRequest                                1.22 v1
coordination.k8s.io/v1beta1           Lease                                                    1.22 v1
discovery.k8s.io/v1beta1              EndpointSlice                                            1.25 v1
events.k8s.io/v1beta1                 Event                                                    1.25 v1
extensions/v1beta1                    Deployment,DaemonSet,ReplicaSet                          1.16 apps/v1
extensions/v1beta1                    NetworkPolicy                                            1.16 networking.k8s.io/v1
extensions/v1beta1                    Ingress                                                  1.22 networking.k8s.io/v1
flowcontrol.apiserver.k8s.io/v1beta1  FlowSchema,PriorityLevelConfiguration                    1.26 v1
flowcontrol.apiserver.k8s.io/v1beta2  FlowSchema,PriorityLevelConfiguration                    1.29 v1
flowcontrol.apiserver.k8s.io/v1beta3  FlowSchema,PriorityLevelConfiguration                    1.32 v1
networking.k8s.io/v1beta1             Ingress,IngressClass                                     1.22 v1
node.k8s.io/v1beta1                   RuntimeClass                                             1.25 v1
policy/v1beta1                        PodDisruptionBudget                                      1.25 v1
policy/v1beta1                        PodSecurityPolicy                                        1.25 -
rbac.authorization.k8s.io/v1beta1     Role,ClusterRole,RoleBinding,ClusterRoleBinding          1.22 v1
scheduling.k8s.io/v1beta1             PriorityClass                                            1.22 v1
storage.k8s.io/v1beta1                CSIDriver,CSINode,StorageClass,VolumeAttachment          1.22 v1
storage.k8s.io/v1beta1                CSIStorageCapacity                                       1.27 v1
"""
_KUEUE_KINDS = (
    "AdmissionCheck", "ClusterQueue", "Cohort", "LocalQueue", "MultiKueueCluster", "MultiKueueConfig",
    "ProvisioningRequestConfig", "ResourceFlavor", "Topology", "Workload", "WorkloadPriorityClass",
)  # fmt: skip
_TRAINING_KINDS = {"PyTorchJob": "2.0", "MPIJob": "2.0", "JAXJob": "2.2", "XGBoostJob": "2.2"}
"""Those that a TrainJob has a runtime for, and since which Trainer; there is none for TFJob and PaddleJob."""


def _rows() -> Iterator[tuple[str, Removal]]:
    for line in _KUBERNETES.strip().splitlines():
        old, kinds, gone_in, new = line.split()
        instead = "" if new == "-" else new if "/" in new else f"{old.partition('/')[0]}/{new}"
        for kind in kinds.split(","):
            yield f"{old}/{kind}", Removal(instead=instead, project="Kubernetes", gone_in=gone_in)
    for kind in _KUEUE_KINDS:
        row = Removal(instead="kueue.x-k8s.io/v1beta2", project="Kueue", deprecated_in="0.16")
        yield f"kueue.x-k8s.io/v1beta1/{kind}", row
    for kind, gone_in in (("Topology", "0.14"), ("Cohort", "0.13"), ("MultiKueueCluster", "0.9"),
                          ("MultiKueueConfig", "0.9")):  # fmt: skip
        row = Removal(instead="kueue.x-k8s.io/v1beta2", project="Kueue", gone_in=gone_in)
        yield f"kueue.x-k8s.io/v1alpha1/{kind}", row
    for kind in ("LLMInferenceService", "LLMInferenceServiceConfig"):
        row = Removal(instead="serving.kserve.io/v1alpha2", project="KServe", deprecated_in="0.17")
        yield f"serving.kserve.io/v1alpha1/{kind}", row
    for version in ("v1alpha2", "v1beta1"):
        row = Removal(instead="serving.kserve.io/v1beta1", project="KServe", gone_in="0.7")
        yield f"serving.kubeflow.org/{version}/InferenceService", row
    for kind in ("RayCluster", "RayJob", "RayService"):
        yield f"ray.io/v1alpha1/{kind}", Removal(instead="ray.io/v1", project="KubeRay", deprecated_in="1.7")
    for kind, since in _TRAINING_KINDS.items():
        row = Removal(instead="trainer.kubeflow.org/v1alpha1 TrainJob", project="Kubeflow Trainer", deprecated_in=since)
        yield f"kubeflow.org/v1/{kind}", row
    yield "kubeflow.org/v1/MXJob", Removal(instead="", project="training-operator", gone_in="1.9")
    yield "keda.k8s.io/v1alpha1/ScaledObject", Removal(instead="keda.sh/v1alpha1", project="KEDA", gone_in="2.0")
    yield "keda.k8s.io/v1alpha1/ScaledJob", Removal(instead="keda.sh/v1alpha1", project="KEDA", gone_in="2.0")
    yield "karpenter.sh/v1beta1/NodePool", Removal(instead="karpenter.sh/v1", project="Karpenter", gone_in="1.1")
    yield (
        "karpenter.k8s.aws/v1beta1/EC2NodeClass",
        Removal(instead="karpenter.k8s.aws/v1", project="Karpenter", gone_in="1.1"),
    )


REMOVED: dict[str, Removal] = dict(_rows())
"""By `group/version/Kind`."""
