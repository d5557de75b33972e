"""ResourceQuotas, against what the workloads of their namespace ask for."""

from __future__ import annotations

from collections.abc import Iterator

from ironloom.check import look
from ironloom.check.finding import Severity
from ironloom.check.kueue import amount
from ironloom.check.rule import Context, Problem, Source, problem, rule
from ironloom.workload.manifests.document import Document


@rule(
    id="IL632",
    name="namespace-quota-exceeded",
    family="queue",
    severity=Severity.ERROR,
    subject=Context,
    summary="workloads that ask for more GPUs than the ResourceQuota beside them allows",
    why="A ResourceQuota counts what all pods of its namespace ask for. The pod that would go over it is refused: a "
    "Deployment stays below its replicas, a gang never starts whole.",
    bad="""\
apiVersion: v1
kind: ResourceQuota
metadata:
  name: gpus
  namespace: research
spec:
  hard:
    requests.nvidia.com/gpu: "8"
---
apiVersion: apps/v1
kind: Deployment
metadata:
  name: llama
  namespace: research
spec:
  replicas: 2
  selector:
    matchLabels: {app: llama}
  template:
    metadata:
      labels: {app: llama}
    spec:
      containers:
      - name: main
        image: vllm/vllm-openai:v0.11.0
        resources:
          limits:
            nvidia.com/gpu: 8
""",
    good="""\
apiVersion: v1
kind: ResourceQuota
metadata:
  name: gpus
  namespace: research
spec:
  hard:
    requests.nvidia.com/gpu: "16"
---
apiVersion: apps/v1
kind: Deployment
metadata:
  name: llama
  namespace: research
spec:
  replicas: 2
  selector:
    matchLabels: {app: llama}
  template:
    metadata:
      labels: {app: llama}
    spec:
      containers:
      - name: main
        image: vllm/vllm-openai:v0.11.0
        resources:
          limits:
            nvidia.com/gpu: 8
""",
    sources=(
        Source(
            "https://kubernetes.io/docs/concepts/policy/resource-quotas/#resource-quota-for-extended-resources",
            "requests.nvidia.com/gpu",
        ),
    ),
)
def namespace_quota_exceeded(run: Context, _context: Context) -> Iterator[Problem]:
    for document in run.documents:
        if document.kind != "ResourceQuota" or document.api_version != "v1" or _is_scoped(document):
            continue
        namespace = look.text(document.obj, ("metadata", "namespace"))
        for key, hard in look.mapping(document.obj, ("spec", "hard")).items():
            resource, limit = key.removeprefix("requests."), amount(hard)
            if "/" not in resource or limit is None:
                continue
            asked = {
                f"{one.kind} {one.name}": sum(
                    pod_set.num_pods * pod_set.requests.get(resource, 0) for pod_set in one.pod_sets
                )
                * one.replicas.min
                for one in run.workloads
                if one.namespace == namespace
            }
            # Serving and jobs may not run at the same time: only what one workload alone asks for is certain.
            most = max(asked, key=lambda name: asked[name], default="")
            if most and asked[most] > limit:
                yield problem(
                    document,
                    ("spec", "hard", key),
                    f"{most} asks for {asked[most]} {resource}, and the namespace may have {hard}",
                    evidence=(f"{asked[most]} > {key} {hard}",),
                )


def _is_scoped(document: Document) -> bool:
    return bool(look.at(document.obj, ("spec", "scopes")) or look.at(document.obj, ("spec", "scopeSelector")))
