"""Names and ports by which pods find each other."""

from __future__ import annotations

import re
from collections.abc import Iterator

from ironloom.check import edits, look, pods
from ironloom.check.finding import Confidence, Patch, Severity
from ironloom.check.rule import Context, Problem, Source, problem, rule
from ironloom.check.rules import examples
from ironloom.place.selectors import matches_labels
from ironloom.workload.manifests.document import Document
from ironloom.workload.manifests.schema import Path
from ironloom.workload.workload import PodSet, Workload

_PORT_NAME = re.compile(r"(?=.*[a-z])[a-z0-9]([-a-z0-9]{0,13}[a-z0-9])?")
"""As Kubernetes takes it; what a template has left unfilled is none."""
SERVER_PORTS = {"vllm": 8000, "sglang": 30000}
"""Where these servers listen when they are told nothing."""


@rule(
    id="IL306",
    name="host-network-without-cluster-names",
    family="network",
    severity=Severity.WARNING,
    subject=Workload,
    summary="hostNetwork in a gang, and the node's DNS in place of the cluster's",
    why="A pod on the host's network takes the node's resolver unless dnsPolicy is ClusterFirstWithHostNet: names of "
    "Services and of the gang's other pods do not resolve, and the rendezvous waits until its timeout.",
    bad="""\
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
      hostNetwork: true
      subdomain: train
      containers:
      - name: main
        image: nvcr.io/nvidia/pytorch:25.09-py3
        command: [torchrun, --nnodes=2, --rdzv-endpoint=train-0.train:29500, train.py]
        resources:
          limits:
            nvidia.com/gpu: 8
""",
    good="""\
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
      hostNetwork: true
      dnsPolicy: ClusterFirstWithHostNet
      subdomain: train
      containers:
      - name: main
        image: nvcr.io/nvidia/pytorch:25.09-py3
        command: [torchrun, --nnodes=2, --rdzv-endpoint=train-0.train:29500, train.py]
        resources:
          limits:
            nvidia.com/gpu: 8
""",
    sources=(
        Source(
            "https://kubernetes.io/docs/concepts/services-networking/dns-pod-service/#pod-s-dns-policy",
            "which policy a pod on the host's network needs",
        ),
        Source("https://github.com/kubeflow/mpi-operator/issues/427", "worker names that do not resolve"),
    ),
)
def host_network_without_cluster_names(workload: Workload, _context: Context) -> Iterator[Problem]:
    if not pods.is_together(workload):
        return
    for pod_set in workload.pod_sets:
        policy = look.text(pod_set.spec, ("dnsPolicy",))
        if pod_set.spec.get("hostNetwork") is not True or policy not in ("", "ClusterFirst") or not pod_set.is_written:
            continue
        document = workload.document
        if policy:
            edit = edits.replace(document, (*pod_set.path, "dnsPolicy"), "ClusterFirstWithHostNet")
        else:
            edit = edits.add_first(document, pod_set.path, ["dnsPolicy: ClusterFirstWithHostNet"])
        yield problem(
            document,
            (*pod_set.path, "hostNetwork"),
            f"the {workload.num_pods} pods find each other by name, which the host's resolver does not know",
            patch=Patch(title="resolve the cluster's names", edits=(edit,)) if edit is not None else None,
            confidence=Confidence.LIKELY,
        )


@rule(
    id="IL307",
    name="pod-names-do-not-resolve",
    family="network",
    severity=Severity.ERROR,
    subject=Workload,
    summary="a Job's pods are addressed by name, and its template has no subdomain",
    why="A pod of an Indexed Job has the host name JOB-INDEX, and a name in DNS only when the template names a "
    "headless Service as its subdomain. Without it MASTER_ADDR and the rendezvous endpoint resolve to nothing.",
    bad="""\
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
      containers:
      - name: main
        image: nvcr.io/nvidia/pytorch:25.09-py3
        command: [torchrun, --nnodes=2, --rdzv-endpoint=train-0.train:29500, train.py]
        resources:
          limits:
            nvidia.com/gpu: 8
""",
    good="""\
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
      subdomain: train
      restartPolicy: Never
      containers:
      - name: main
        image: nvcr.io/nvidia/pytorch:25.09-py3
        command: [torchrun, --nnodes=2, --rdzv-endpoint=train-0.train:29500, train.py]
        resources:
          limits:
            nvidia.com/gpu: 8
""",
    sources=(
        Source(
            "https://kubernetes.io/docs/tasks/job/job-with-pod-to-pod-communication/",
            "a headless Service, and the template's subdomain with its name",
        ),
        Source("https://github.com/kubernetes-sigs/jobset/issues/603", "a JobSet's pods below the name of a job"),
    ),
)
def pod_names_do_not_resolve(workload: Workload, _context: Context) -> Iterator[Problem]:
    if workload.document.kind == "JobSet":
        yield from _names_of_a_job_set(workload)
    if workload.document.kind != "Job" or look.group(workload.document) != "batch":
        return
    for pod_set in workload.pod_sets:
        own = look.text(pod_set.spec, ("subdomain",))
        for path, text in _addresses(pod_set):
            found = re.search(rf"\b{re.escape(workload.name)}-\d+\.([a-z0-9][-a-z0-9]*)", text)
            if found is None or own == found[1]:
                continue
            edit = edits.add_first(workload.document, pod_set.path, [f"subdomain: {found[1]}"])
            yield problem(
                workload.document,
                path,
                f"{found[0]} resolves only when the pods' subdomain is {found[1]}",
                evidence=(f"subdomain is {own}" if own else "the pod template has no subdomain",),
                help=f"set subdomain: {found[1]}, and make a headless Service of that name that selects the pods",
                patch=Patch(title=f"set subdomain {found[1]}", edits=(edit,)) if edit is not None and not own else None,
            )


def _names_of_a_job_set(workload: Workload) -> Iterator[Problem]:
    """A JobSet's pods are named below its own Service: network.subdomain, or the JobSet's name."""
    network = look.mapping(workload.document.obj, ("spec", "network"))
    subdomain = look.text(network, ("subdomain",)) or workload.name
    if network.get("enableDNSHostnames") is False or not workload.name:
        return
    jobs = "|".join(re.escape(pod_set.name) for pod_set in workload.pod_sets if pod_set.name)
    pod = re.compile(rf"(?<![\w.-]){re.escape(workload.name)}-(?:{jobs})-\d+-\d+\.([a-z0-9][-a-z0-9]*)")
    told: set[str] = set()
    for pod_set in workload.pod_sets:
        for path, text in _addresses(pod_set):
            found = pod.search(text)
            if found is not None and found[1] != subdomain and found[0] not in told:
                told.add(found[0])
                said = f"network.subdomain is {subdomain}" if subdomain != workload.name else "network has no subdomain"
                yield problem(
                    workload.document,
                    path,
                    f"{found[0]} does not resolve: the JobSet's pods are named below {subdomain}",
                    evidence=(said, "JobSet's Service has that name, and the JobSet's own by default"),
                    help=f"write {found[0].rpartition('.')[0]}.{subdomain}",
                )


def _addresses(pod_set: PodSet) -> Iterator[tuple[Path, str]]:
    """Texts that name other pods: MASTER_ADDR, and the launchers' endpoint options."""
    for container in pods.main_containers(pod_set):
        value = container.env.get("MASTER_ADDR")
        if value:
            yield (*container.env_paths["MASTER_ADDR"], "value"), value
        for launch in pods.launches(container):
            for option in launch.options:
                if option.name in _ENDPOINTS and option.value:
                    yield option.path, option.value


_ENDPOINTS = frozenset(
    {"--rdzv-endpoint", "--rdzv_endpoint", "--master-addr", "--master_addr", "--main_process_ip", "--dist-init-addr"}
)


@rule(
    id="IL308",
    name="service-unknown",
    family="network",
    severity=Severity.ERROR,
    subject=Workload,
    summary="a rendezvous address of a Service that is neither in the run nor in the cluster",
    why="The name of another pod in DNS ends with its Service's. Where there is no such Service the ranks look for the "
    "first of them until their timeout, holding their GPUs.",
    bad="""\
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
        Source("https://kubernetes.io/docs/concepts/services-networking/dns-pod-service/", "names of pods in DNS"),
    ),
    needs_fleet=True,
    example_fleet=lambda: examples.fleet(examples.node("g1"), names={"/Service": frozenset({"default/kubernetes"})}),
)
def service_unknown(workload: Workload, context: Context) -> Iterator[Problem]:
    fleet = context.fleet
    if fleet is None or workload.document.kind not in ("Job", "StatefulSet", "Deployment", "Pod"):
        return  # controllers of other kinds make a Service of their own
    for pod_set in workload.pod_sets:
        for path, text in _addresses(pod_set):
            host = text.partition(":")[0].split(".")
            if not all(re.fullmatch(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?", part) for part in host) or host[-1].isdecimal():
                continue
            is_pod = len(host) > 1 and re.fullmatch(rf"{re.escape(workload.name)}-\d+", host[0])
            if len(host) > 1 and not is_pod and "svc" not in host:
                continue  # a name outside the cluster, or of another namespace
            name = host[1] if is_pod else host[0]
            if name == "localhost" or (len(host) == 1 and host[0] == workload.name and workload.kind == "Pod"):
                continue
            there = fleet.has("/Service", name, pods.namespace(workload))
            if there is not False or context.named("Service", name, pods.namespace(workload)) is not None:
                continue
            yield problem(
                workload.document,
                path,
                f"there is no Service {pods.namespace(workload)}/{name} for {text}",
                evidence=(f"neither these files nor {fleet.source} have it",),
                help=f"make a headless Service {name} (clusterIP: None) that selects the pods",
            )


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
    namespace = look.text(document.obj, ("metadata", "namespace")) or "default"
    taken = [
        pod_set
        for workload in context.workloads
        if pods.namespace(workload) == namespace
        for pod_set in workload.pod_sets
        if pod_set.labels and matches_labels({"matchLabels": selector}, pod_set.labels)
    ]
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
    for workload in context.workloads:
        if workload.namespace != namespace or workload.kind not in ("Job", "StatefulSet"):
            continue
        for pod_set in workload.pod_sets:
            is_its = document.name in (
                look.text(pod_set.spec, ("subdomain",)),
                look.text(workload.document.obj, ("spec", "serviceName")),
            )
            name = rf"\b{re.escape(workload.name)}-\d+\.{re.escape(document.name)}(?![-a-z0-9])"
            used = next((text for _, text in _addresses(pod_set) if re.search(name, text)), None)
            if not is_its or used is None:
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
