"""Variables that Kubernetes sets for each Service of a namespace, where an engine reads one of them as its own."""

from __future__ import annotations

from collections.abc import Iterator

from ironloom.check import look, pods
from ironloom.check.finding import Confidence, Severity
from ironloom.check.rule import Context, Problem, Source, problem, rule
from ironloom.workload.manifests.document import Document
from ironloom.workload.workload import Container, PodSet, Workload

NAME, VARIABLE = "vllm", "VLLM_PORT"


def _server(service: str, spec: str = "") -> str:
    return f"""\
apiVersion: v1
kind: Service
metadata:
  name: {service}
spec:
  selector:
    app: llama
  ports:
  - port: 8000
---
apiVersion: apps/v1
kind: Deployment
metadata:
  name: llama
spec:
  selector:
    matchLabels:
      app: llama
  template:
    metadata:
      labels:
        app: llama
    spec:{spec}
      containers:
      - name: main
        image: vllm/vllm-openai:v0.18.0
        args: [--model, Qwen/Qwen3-8B]
        ports:
        - containerPort: 8000
        resources:
          limits:
            nvidia.com/gpu: 1
"""


@rule(
    id="IL430",
    name="service-named-vllm",
    family="engine",
    severity=Severity.ERROR,
    subject=Document,
    summary="a Service of the name vllm beside vLLM: its variable is taken for the engine's port",
    why="Kubernetes gives each pod variables for the Services of its namespace. For one that is called vllm that is "
    "VLLM_PORT=tcp://10.43.1.39:8000, and VLLM_PORT is the name under which vLLM reads the port of its own processes: "
    "it is no number, and the engine stops at its start. The first pod may be older than the Service and run; the next "
    "one does not.",
    bad=_server("vllm"),
    good=_server("llama"),
    sources=(
        Source("https://docs.vllm.ai/en/stable/configuration/env_vars/", "do not name the service vllm"),
        Source(
            "https://github.com/vllm-project/vllm/issues/15613", "invalid literal for int(): 'tcp://10.43.1.39:8000'"
        ),
        Source(
            "https://kubernetes.io/docs/concepts/services-networking/service/#environment-variables",
            "the variables of a Service, and who gets them",
        ),
    ),
)
def service_named_vllm(document: Document, context: Context) -> Iterator[Problem]:
    if document.kind != "Service" or document.api_version != "v1" or document.name != NAME:
        return
    # A Service without an address of its own has no variables.
    if look.text(document.obj, ("spec", "clusterIP")) == "None" or look.text(document.obj, ("spec", "externalName")):
        return
    where = look.text(document.obj, ("metadata", "namespace"))
    for workload in context.workloads:
        if look.text(workload.document.obj, ("metadata", "namespace")) != where:
            continue
        for container in _readers(workload):
            yield problem(
                document,
                ("metadata", "name"),
                f"Kubernetes sets {VARIABLE}=tcp://… for this Service, and vLLM takes that for its own port and stops",
                confidence=Confidence.LIKELY,
                evidence=(f"container {container.name} of {workload.kind} {workload.name} runs vLLM in its namespace",),
                help="give the Service another name, or set enableServiceLinks: false in the pods",
            )
            return


def _readers(workload: Workload) -> Iterator[Container]:
    """The containers that run vLLM and get the variables of Services."""
    for pod_set in workload.pod_sets:
        if _has_links(pod_set):
            for container in pods.main_containers(pod_set):
                if NAME in pods.programs(container) and VARIABLE not in container.env:
                    yield container


def _has_links(pod_set: PodSet) -> bool:
    return pod_set.spec.get("enableServiceLinks") is not False
