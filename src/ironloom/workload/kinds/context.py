"""Kinds that make no pods: what stands around those that do, for rules to look at."""

from __future__ import annotations

GROUPS = frozenset(
    {
        "",
        "admissionregistration.k8s.io",
        "apiextensions.k8s.io",
        "apiregistration.k8s.io",
        "autoscaling",
        "certificates.k8s.io",
        "coordination.k8s.io",
        "discovery.k8s.io",
        "events.k8s.io",
        "flowcontrol.apiserver.k8s.io",
        "gateway.networking.k8s.io",
        "inference.networking.k8s.io",
        "inference.networking.x-k8s.io",
        "keda.sh",
        "kueue.x-k8s.io",
        "kustomize.config.k8s.io",
        "monitoring.coreos.com",
        "networking.k8s.io",
        "node.k8s.io",
        "policy",
        "rbac.authorization.k8s.io",
        "resource.k8s.io",
        "scheduling.k8s.io",
        "scheduling.x-k8s.io",
        "snapshot.storage.k8s.io",
        "storage.k8s.io",
    }
)
"""Groups of which every kind without pods is context."""
KINDS = frozenset(
    {
        ("apps", "ControllerRevision"),
        ("extensions", "Ingress"),
        ("kai.scheduler", "Topology"),
        ("scheduling.run.ai", "PodGroup"),
        ("scheduling.run.ai", "Queue"),
        ("scheduling.volcano.sh", "PodGroup"),
        ("scheduling.volcano.sh", "Queue"),
        ("serving.kserve.io", "LLMInferenceServiceConfig"),
        ("topology.volcano.sh", "HyperNode"),
        ("trainer.kubeflow.org", "ClusterTrainingRuntime"),
        ("trainer.kubeflow.org", "TrainingRuntime"),
        ("serving.kserve.io", "ClusterServingRuntime"),
        ("serving.kserve.io", "ServingRuntime"),
    }
)


def is_context(group: str, kind: str) -> bool:
    """Whether a kind is known as one that makes no pods."""
    return group in GROUPS or (group, kind) in KINDS
