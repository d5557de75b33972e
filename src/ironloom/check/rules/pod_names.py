"""Whether pods that name each other can be found by those names."""

from __future__ import annotations

import re
from collections.abc import Iterator

from ironloom.check import edits, look, pods
from ironloom.check.finding import Confidence, Patch, Severity
from ironloom.check.rule import Context, Problem, Source, problem, rule
from ironloom.check.rules import examples
from ironloom.workload.manifests.schema import Path
from ironloom.workload.workload import PodSet, Workload


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
        for path, text in addresses(pod_set):
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
        for path, text in addresses(pod_set):
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


def addresses(pod_set: PodSet) -> Iterator[tuple[Path, str]]:
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
        for path, text in addresses(pod_set):
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
