"""Labels that Kubernetes, NVIDIA's operator and clouds set on nodes."""

from __future__ import annotations

SOURCES = (
    "https://kubernetes.io/docs/reference/labels-annotations-taints/",
    "https://github.com/NVIDIA/k8s-device-plugin/tree/main/docs/gpu-feature-discovery",
    "https://docs.coreweave.com/products/cks/clusters/scheduling/workload-scheduling",
    "https://cloud.google.com/kubernetes-engine/docs/concepts/gpus",
    "https://karpenter.sh/docs/concepts/scheduling/#well-known-labels",
)
DATE = "2026-11-27"


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


NODE_LABELS = _words("""
    backend.coreweave.cloud/fabric backend.coreweave.cloud/flavor backend.coreweave.cloud/leafgroup
    backend.coreweave.cloud/leafgroup-name backend.coreweave.cloud/superpod beta.kubernetes.io/arch
    beta.kubernetes.io/instance-type beta.kubernetes.io/os cloud.google.com/gce-topology-block
    cloud.google.com/gce-topology-host cloud.google.com/gce-topology-subblock cloud.google.com/gke-accelerator
    cloud.google.com/gke-accelerator-count cloud.google.com/gke-gpu cloud.google.com/gke-gpu-driver-version
    cloud.google.com/gke-gpu-partition-size cloud.google.com/gke-max-shared-clients-per-gpu
    cloud.google.com/gke-nodepool cloud.google.com/gke-placement-group cloud.google.com/gke-spot
    cloud.google.com/gke-tpu-accelerator cloud.google.com/gke-tpu-topology ds.coreweave.com/nvlink.domain
    eks.amazonaws.com/instance-family eks.amazonaws.com/instance-gpu-name eks.amazonaws.com/nodegroup
    failure-domain.beta.kubernetes.io/region failure-domain.beta.kubernetes.io/zone gpu.nvidia.com/class
    gpu.nvidia.com/count gpu.nvidia.com/model gpu.nvidia.com/vram ib.coreweave.cloud/fabric
    ib.coreweave.cloud/leafgroup ib.coreweave.cloud/speed ib.coreweave.cloud/superpod
    karpenter.k8s.aws/instance-category karpenter.k8s.aws/instance-family karpenter.k8s.aws/instance-generation
    karpenter.k8s.aws/instance-gpu-count karpenter.k8s.aws/instance-gpu-manufacturer
    karpenter.k8s.aws/instance-gpu-memory karpenter.k8s.aws/instance-gpu-name karpenter.k8s.aws/instance-size
    karpenter.sh/capacity-type karpenter.sh/nodepool kubernetes.io/arch kubernetes.io/hostname kubernetes.io/os
    node.coreweave.cloud/class node.coreweave.cloud/cpu node.coreweave.cloud/rack node.coreweave.cloud/reserved
    node.coreweave.cloud/state node.coreweave.cloud/type node.kubernetes.io/instance-type nvidia.com/gpu.clique
    nvidia.com/gpu.compute.major nvidia.com/gpu.compute.minor nvidia.com/gpu.count
    nvidia.com/gpu.deploy.device-plugin nvidia.com/gpu.family nvidia.com/gpu.machine nvidia.com/gpu.memory
    nvidia.com/gpu.present nvidia.com/gpu.product nvidia.com/gpu.replicas nvidia.com/gpu.sharing-strategy
    nvidia.com/mig.capable nvidia.com/mig.config nvidia.com/mig.strategy topology.k8s.aws/network-node-layer-1
    topology.k8s.aws/network-node-layer-2 topology.k8s.aws/network-node-layer-3 topology.kubernetes.io/region
    topology.kubernetes.io/zone
""")
