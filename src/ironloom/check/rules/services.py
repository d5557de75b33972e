"""Services before pods: whether they send to a port that is open, and whether they give the pods names."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence

from ironloom.check import edits, look, pods
from ironloom.check.finding import Confidence, Patch, Severity
from ironloom.check.rule import Context, Problem, Source, problem, rule
from ironloom.check.rules.pod_names import addresses
from ironloom.workload.manifests.document import Document
from ironloom.workload.manifests.schema import Path
from ironloom.workload.workload import PodSet, Workload

_PORT_NAME = re.compile(r"(?=.*[a-z])[a-z0-9]([-a-z0-9]{0,13}[a-z0-9])?")
"""As Kubernetes takes it; what a template has left unfilled is none."""
SERVER_PORTS = {"vllm": 8000, "sglang": 30000}
"""Where these servers listen when they are told nothing."""


@rule(
    id="IL309",
    name="service-port-mismatch",
    family="network",
    severity=Severity.WARNING,
    subject=Document,
    summary="a Service that sends to a port where its pods do not listen",
    why="The Service is made, its endpoints are ready, and every connection is refused. A named port that no container "
    "has gives no endpoint at all.",
    bad="""\
apiVersion: v1
kind: Service
metadata:
  name: llama
spec:
  selector: {app: llama}
  ports:
  - port: 80
    targetPort: 8080
---
apiVersion: apps/v1
kind: Deployment
metadata:
  name: llama
spec:
  selector:
    matchLabels: {app: llama}
  template:
    metadata:
      labels: {app: llama}
    spec:
      containers:
      - name: main
        image: vllm/vllm-openai:v0.11.0
        args: [--model, Qwen/Qwen3-8B, --port, "8000"]
        ports:
        - containerPort: 8000
""",
    good="""\
apiVersion: v1
kind: Service
metadata:
  name: llama
spec:
  selector: {app: llama}
  ports:
  - port: 80
    targetPort: 8000
---
apiVersion: apps/v1
kind: Deployment
metadata:
  name: llama
spec:
  selector:
    matchLabels: {app: llama}
  template:
    metadata:
      labels: {app: llama}
    spec:
      containers:
      - name: main
        image: vllm/vllm-openai:v0.11.0
        args: [--model, Qwen/Qwen3-8B, --port, "8000"]
        ports:
        - containerPort: 8000
""",
    sources=(
        Source("https://kubernetes.io/docs/tasks/debug/debug-application/debug-service/", "is the targetPort right"),
    ),
)
def service_port_mismatch(document: Document, context: Context) -> Iterator[Problem]:
    selector = look.mapping(document.obj, ("spec", "selector"))
    if document.kind != "Service" or document.api_version != "v1" or not selector:
        return
    if look.text(document.obj, ("spec", "clusterIP")) == "None":
        return  # a headless Service names pods, and its ports send nothing
    namespace = look.text(document.obj, ("metadata", "namespace")) or "default"
    taken = [pod_set for workload, pod_set in context.pods_with(selector) if pods.namespace(workload) == namespace]
    if not taken:
        return
    listening = [_listening(pod_set) for pod_set in taken]
    reached = frozenset().union(*listening) & {_target(one) for one in look.entries(document.obj, ("spec", "ports"))}
    for index, one in enumerate(look.entries(document.obj, ("spec", "ports"))):
        target = _target(one)
        path: Path = ("spec", "ports", index, "targetPort")
        if isinstance(target, str) and _PORT_NAME.fullmatch(target):
            names = {name for pod_set in taken for name in _port_names(pod_set)}
            if target not in names and all(pod_set.is_written and pod_set.containers for pod_set in taken):
                yield problem(
                    document,
                    path,
                    f"no container of the pods that the Service selects has a port named {target}",
                    evidence=(f"their ports are named {', '.join(sorted(names)) or 'nothing'}",),
                )
        elif isinstance(target, int | str):
            port = target if isinstance(target, int) else pods.whole(target)
            if all(listening) and port is not None and not any(port in found for found in listening):
                said = ", ".join(str(number) for number in sorted(frozenset().union(*listening)))
                yield problem(
                    document,
                    path,
                    f"the Service sends to port {target}, and its pods listen on {said}",
                    # Another of its ports is served: this one may be of a sidecar that is put in later.
                    severity=Severity.NOTE if reached else None,
                    confidence=Confidence.POSSIBLE if reached else Confidence.LIKELY,
                )


def _target(port: object) -> int | str | None:
    """Where a port of a Service sends to: its own number where it says nothing; None for what is no port."""
    target = look.at(port, ("targetPort",))
    target = target if target is not None else look.at(port, ("port",))
    return target if isinstance(target, int | str) else None


def _port_names(pod_set: PodSet) -> Iterator[str]:
    for container in pod_set.containers:
        for port in look.entries(container.spec, ("ports",)):
            yield look.text(port, ("name",))


def _listening(pod_set: PodSet) -> frozenset[int]:
    """Ports that the pods listen on; none where a container runs something that is not known, as what a container
    declares is a hint and no more."""
    found: set[int] = set()
    for container in pods.main_containers(pod_set):
        servers = [launch for launch in pods.launches(container) if launch.program in SERVER_PORTS]
        if not servers:
            return frozenset()
        told = servers[-1].value("--port")
        port = pods.whole(told) if told is not None else SERVER_PORTS[servers[-1].program]
        if port is None:
            return frozenset()
        found.add(port)
        found.update(number for port in look.entries(container.spec, ("ports",))
                     if (number := look.integer(port, ("containerPort",))) is not None)  # fmt: skip
    return frozenset(found)


@rule(
    id="IL310",
    name="service-is-not-headless",
    family="network",
    severity=Severity.ERROR,
    subject=Document,
    summary="a Service that gives its pods names, and has an address of its own",
    why="A pod's name in DNS (train-0.trainer) comes from a headless Service, one with clusterIP: None. A Service "
    "with an address has one name for all its pods, and the rendezvous host "
    "is not found.",
    bad="""\
apiVersion: v1
kind: Service
metadata:
  name: trainer
spec:
  selector: {job-name: train}
  ports:
  - port: 29500
---
apiVersion: batch/v1
kind: Job
metadata:
  name: train
spec:
  parallelism: 2
  completions: 2
  completionMode: Indexed
  template:
    spec:
      restartPolicy: Never
      subdomain: trainer
      containers:
      - name: main
        image: nvcr.io/nvidia/pytorch:25.09-py3
        env:
        - name: MASTER_ADDR
          value: train-0.trainer
""",
    good="""\
apiVersion: v1
kind: Service
metadata:
  name: trainer
spec:
  clusterIP: None
  selector: {job-name: train}
  ports:
  - port: 29500
---
apiVersion: batch/v1
kind: Job
metadata:
  name: train
spec:
  parallelism: 2
  completions: 2
  completionMode: Indexed
  template:
    spec:
      restartPolicy: Never
      subdomain: trainer
      containers:
      - name: main
        image: nvcr.io/nvidia/pytorch:25.09-py3
        env:
        - name: MASTER_ADDR
          value: train-0.trainer
""",
    sources=(
        Source(
            "https://kubernetes.io/docs/concepts/services-networking/dns-pod-service/#pod-s-hostname-and-subdomain-fields",
            "the pod's name needs a headless Service of its subdomain",
        ),
    ),
)
def service_is_not_headless(document: Document, context: Context) -> Iterator[Problem]:
    if document.kind != "Service" or document.api_version != "v1" or not look.mapping(document.obj, ("spec",)):
        return
    if look.at(document.obj, ("spec", "clusterIP")) == "None":
        return
    namespace = look.text(document.obj, ("metadata", "namespace"))
    for workload, pod_set in _called_by(context).get(document.name, ()):
        if workload.namespace != namespace:
            continue
        name = rf"\b{re.escape(workload.name)}-\d+\.{re.escape(document.name)}(?![-a-z0-9])"
        used = next((text for _, text in addresses(pod_set) if re.search(name, text)), None)
        if used is None:
            continue
        edit = edits.add_first(document, ("spec",), ["clusterIP: None"])
        is_absent = look.at(document.obj, ("spec", "clusterIP")) is None
        yield problem(
            document,
            ("spec", "clusterIP") if not is_absent else ("spec",),
            f"Service {document.name} is not headless: {used} has no address",
            at_key=True,
            help="set clusterIP: None",
            patch=Patch(title="make it headless", edits=(edit,)) if edit is not None and is_absent else None,
        )
        return


def _called_by(context: Context) -> Mapping[str, Sequence[tuple[Workload, PodSet]]]:
    """The pods of Jobs and StatefulSets by the Service that gives them their names."""
    if "called by" not in context.memo:
        found: dict[str, list[tuple[Workload, PodSet]]] = {}
        for workload in context.workloads:
            if workload.kind in ("Job", "StatefulSet"):
                named = look.text(workload.document.obj, ("spec", "serviceName"))
                for pod_set in workload.pod_sets:
                    for name in {named, look.text(pod_set.spec, ("subdomain",))} - {""}:
                        found.setdefault(name, []).append((workload, pod_set))
        context.memo["called by"] = found
    called: Mapping[str, Sequence[tuple[Workload, PodSet]]] = context.memo["called by"]
    return called
