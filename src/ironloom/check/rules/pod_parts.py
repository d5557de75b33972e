"""Parts of pods that the API server holds against one another: mounts and volumes, requests and limits, probes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ironloom.check import added, edits, look
from ironloom.check.fields import PLACEHOLDER, is_part
from ironloom.check.finding import Confidence, Patch, Severity
from ironloom.check.rule import Context, Problem, Source, problem, rule
from ironloom.units import parse_quantity
from ironloom.workload.manifests.document import Document
from ironloom.workload.manifests.schema import Path
from ironloom.workload.workload import PodSet, Workload

VALIDATION = Source(
    "https://github.com/kubernetes/kubernetes/blob/master/pkg/apis/core/validation/validation.go",
    "what the API server holds a pod against",
)
WHOLE_GROUPS = frozenset({"", "apps", "batch", "jobset.x-k8s.io", "leaderworkerset.x-k8s.io", "kubeflow.org"})
"""Groups whose pod templates become pods as they are written; others lay runtimes or presets over them."""
HANDLERS = ("exec", "httpGet", "tcpSocket", "grpc")
PROBES = ("startupProbe", "readinessProbe", "livenessProbe")
CONTAINER_LISTS = ("initContainers", "containers")


def whole_pods(workload: Workload, context: Context) -> Iterator[tuple[PodSet, Mapping[str, Any]]]:
    """The sets of pods that are written out whole in the document, each with its spec as written there."""
    document = workload.document
    if look.group(document) not in WHOLE_GROUPS or is_part(document, context):
        return
    for pod_set in workload.pod_sets:
        spec = look.mapping(document.obj, pod_set.path)
        if spec and pod_set.is_written:
            yield pod_set, spec


def containers(pod_set: PodSet, spec: Mapping[str, Any]) -> Iterator[tuple[Path, Mapping[str, Any]]]:
    """Every container as written, init containers first, with its path in the document."""
    for name in CONTAINER_LISTS:
        for index, container in enumerate(look.entries(spec, (name,))):
            if isinstance(container, Mapping):
                yield (*pod_set.path, name, index), container


def _pod(lines: str, *, above: str = "") -> str:
    """An example: a pod with one container, with these lines in it, and others in the spec above."""
    return f"""\
apiVersion: v1
kind: Pod
metadata:
  name: llama
spec:
{above}  containers:
  - name: main
    image: vllm/vllm-openai:v0.11.0
{lines}"""


@rule(
    id="IL014",
    name="mount-of-no-volume",
    family="schema",
    severity=Severity.ERROR,
    subject=Workload,
    summary="a volumeMount whose volume the pod does not have",
    why="The API server refuses the pod: `volumeMounts[0].name: Not found`. Of a Deployment it refuses the object, of "
    "a JobSet or LeaderWorkerSet the pods, so that the job never starts.",
    bad=_pod("    volumeMounts:\n    - name: dshm\n      mountPath: /dev/shm\n"),
    good=_pod(
        "    volumeMounts:\n    - name: dshm\n      mountPath: /dev/shm\n"
        "  volumes:\n  - name: dshm\n    emptyDir:\n      medium: Memory\n      sizeLimit: 16Gi\n"
    ),
    sources=(
        VALIDATION,
        Source(
            "https://github.com/kubeflow/mpi-operator/blob/master/pkg/controller/mpi_job_controller.go",
            "volumes that a controller adds, and that are not missed therefore",
        ),
    ),
)
def mount_of_no_volume(workload: Workload, context: Context) -> Iterator[Problem]:
    for pod_set, spec in whole_pods(workload, context):
        names = {look.text(one, ("name",)) for one in look.entries(spec, ("volumes",))}
        names |= set(added.volumes(workload.document, pod_set))
        if any(PLACEHOLDER.search(name) for name in names) or added.is_filled_in(spec):
            continue
        for path, container in containers(pod_set, spec):
            for index, mount in enumerate(look.entries(container, ("volumeMounts",))):
                name = look.text(mount, ("name",))
                if name and name not in names and not PLACEHOLDER.search(name):
                    said = ", ".join(sorted(filter(None, names))) or "none"
                    yield problem(
                        workload.document,
                        (*path, "volumeMounts", index, "name"),
                        f"there is no volume {name!r} in the pod",
                        evidence=(f"volumes of the pod: {said}",),
                    )


@rule(
    id="IL015",
    name="request-above-limit",
    family="schema",
    severity=Severity.ERROR,
    subject=Workload,
    summary="cpu, memory or storage with a request above its limit",
    why="A request is what a container is sure of, a limit what it may not pass: the API server refuses a request "
    "above it. Often one of the two was raised, or a unit is missing (128 in place of 128Gi).",
    bad=_pod("    resources:\n      requests:\n        memory: 128Gi\n      limits:\n        memory: 64Gi\n"),
    good=_pod("    resources:\n      requests:\n        memory: 64Gi\n      limits:\n        memory: 64Gi\n"),
    sources=(
        Source(
            "https://kubernetes.io/docs/concepts/configuration/manage-resources-containers/#requests-and-limits",
            "what requests and limits are",
        ),
        VALIDATION,
    ),
)
def request_above_limit(workload: Workload, _context: Context) -> Iterator[Problem]:
    for pod_set in workload.pod_sets:
        spec = look.mapping(workload.document.obj, pod_set.path)
        for path, container in containers(pod_set, spec):
            limits = look.mapping(container, ("resources", "limits"))
            for name, asked in look.mapping(container, ("resources", "requests")).items():
                if "/" in name or name not in limits:
                    continue  # of devices IL120 speaks
                request, limit = _amount(asked), _amount(limits[name])
                if request is not None and limit is not None and request > limit:
                    yield problem(
                        workload.document,
                        (*path, "resources", "requests", name),
                        f"{name} is requested as {asked} and limited to {limits[name]}",
                    )


def _amount(value: Any) -> Any:
    try:
        return parse_quantity(value) if isinstance(value, str | int | float) and not isinstance(value, bool) else None
    except ValueError:
        return None


@rule(
    id="IL016",
    name="probe-handler",
    family="schema",
    severity=Severity.ERROR,
    subject=Workload,
    summary="a probe that asks nothing, or two things",
    why="A probe has exactly one of exec, httpGet, tcpSocket and grpc; the API server refuses any other. A readiness "
    "or startup probe that fails by one slip of the indentation is the usual way to one without.",
    bad=_pod("    readinessProbe:\n      periodSeconds: 10\n    ports:\n    - containerPort: 8000\n"),
    good=_pod(
        "    readinessProbe:\n      httpGet:\n        path: /health\n        port: 8000\n      periodSeconds: 10\n"
        "    ports:\n    - containerPort: 8000\n"
    ),
    sources=(
        Source(
            "https://kubernetes.io/docs/concepts/workloads/pods/pod-lifecycle/#probe-check-methods",
            "each probe must define exactly one of the four",
        ),
        VALIDATION,
    ),
)
def probe_handler(workload: Workload, context: Context) -> Iterator[Problem]:
    for pod_set, spec in whole_pods(workload, context):
        for path, container in containers(pod_set, spec):
            for name in PROBES:
                probe = container.get(name)
                if not isinstance(probe, Mapping):
                    continue
                has = [handler for handler in HANDLERS if probe.get(handler) is not None]
                if len(has) != 1:
                    said = f"has {' and '.join(has)}" if has else "asks nothing"
                    yield problem(
                        workload.document,
                        (*path, name),
                        f"the {name} {said}: it must have exactly one of {', '.join(HANDLERS)}",
                        at_key=True,
                    )


@rule(
    id="IL017",
    name="restart-policy",
    family="schema",
    severity=Severity.ERROR,
    subject=Document,
    summary="a restartPolicy that the kind does not take, or a Job without one",
    why="Pods of a Deployment, StatefulSet or DaemonSet restart always. A Job's must be OnFailure or Never, and since "
    "the default of a pod is Always, a Job must say which: without it the API server refuses the Job.",
    bad="""\
apiVersion: batch/v1
kind: Job
metadata:
  name: train
spec:
  template:
    spec:
      containers:
      - name: main
        image: nvcr.io/nvidia/pytorch:25.09-py3
""",
    good="""\
apiVersion: batch/v1
kind: Job
metadata:
  name: train
spec:
  template:
    spec:
      restartPolicy: Never
      containers:
      - name: main
        image: nvcr.io/nvidia/pytorch:25.09-py3
""",
    sources=(
        Source(
            "https://kubernetes.io/docs/concepts/workloads/controllers/job/#pod-template",
            "only Never or OnFailure is allowed",
        ),
    ),
)
def restart_policy(document: Document, context: Context) -> Iterator[Problem]:
    if is_part(document, context):
        return
    for path, is_job in _templates(document):
        spec = look.mapping(document.obj, path)
        policy = spec.get("restartPolicy")
        if is_job and policy is None and "containers" in spec and look.group(document) == "batch":
            edit = edits.add_first(document, path, ["restartPolicy: Never"])
            patch = Patch(title="restart never", edits=(edit,), is_safe=False) if edit else None
            message = "a Job must say restartPolicy Never or OnFailure: the default, Always, is refused"
            yield problem(document, path, message, at_key=True, patch=patch)
        elif is_job and policy == "Always":
            message = f"restartPolicy Always is refused in a {document.kind}: write Never or OnFailure"
            yield problem(document, (*path, "restartPolicy"), message)
        elif not is_job and policy in {"Never", "OnFailure"}:
            message = f"restartPolicy {policy} is refused in a {document.kind}: its pods restart always"
            yield problem(document, (*path, "restartPolicy"), message)


def _templates(document: Document) -> Iterator[tuple[Path, bool]]:
    """The PodSpecs of Kubernetes' own controllers, and whether they are of jobs."""
    match (look.group(document), document.kind):
        case ("apps", "Deployment" | "StatefulSet" | "DaemonSet" | "ReplicaSet"):
            yield ("spec", "template", "spec"), False
        case ("batch", "Job"):
            yield ("spec", "template", "spec"), True
        case ("batch", "CronJob"):
            yield ("spec", "jobTemplate", "spec", "template", "spec"), True
        case ("jobset.x-k8s.io", "JobSet"):
            for index, _ in enumerate(look.entries(document.obj, ("spec", "replicatedJobs"))):
                yield ("spec", "replicatedJobs", index, "template", "spec", "template", "spec"), True


@rule(
    id="IL018",
    name="one-of-several",
    family="schema",
    severity=Severity.ERROR,
    subject=Workload,
    summary="two sources where one is meant: of a volume, or of a variable",
    why="A volume is of one kind, and a variable has either a value or a place that it is taken from; with two the API "
    "server refuses the pod. Two entries that ran together are the usual cause.",
    bad=_pod(
        '    env:\n    - name: HF_TOKEN\n      value: "x"\n      valueFrom:\n        secretKeyRef:\n'
        "          name: hf\n          key: token\n"
    ),
    good=_pod(
        "    env:\n    - name: HF_TOKEN\n      valueFrom:\n        secretKeyRef:\n"
        "          name: hf\n          key: token\n"
    ),
    sources=(VALIDATION,),
)
def one_of_several(workload: Workload, context: Context) -> Iterator[Problem]:
    document = workload.document
    for pod_set, spec in whole_pods(workload, context):
        for index, volume in enumerate(look.entries(spec, ("volumes",))):
            written = volume.items() if isinstance(volume, Mapping) else ()
            kinds = [key for key, value in written if key != "name" and value is not None]
            if len(kinds) > 1:
                path: Path = (*pod_set.path, "volumes", index)
                yield problem(document, path, f"the volume is {' and '.join(kinds)} at once: it can be one of them")
        for path, container in containers(pod_set, spec):
            for index, variable in enumerate(look.entries(container, ("env",))):
                if isinstance(variable, Mapping) and variable.get("value") and variable.get("valueFrom"):
                    said = f"{look.text(variable, ('name',))} has both value and valueFrom: it can have one"
                    yield problem(document, (*path, "env", index, "valueFrom"), said, at_key=True)


@rule(
    id="IL019",
    name="no-image",
    family="schema",
    severity=Severity.ERROR,
    subject=Workload,
    summary="a container without an image",
    why="There is nothing to run: the API server refuses a pod whose container names no image. (A ServingRuntime or a "
    "training runtime may fill one in; those are not meant.)",
    bad="""\
apiVersion: v1
kind: Pod
metadata:
  name: llama
spec:
  containers:
  - name: main
    args: [--model, Qwen/Qwen3-8B]
""",
    good=_pod("    args: [--model, Qwen/Qwen3-8B]\n    resources:\n      limits:\n        nvidia.com/gpu: 1\n"),
    sources=(VALIDATION,),
)
def no_image(workload: Workload, context: Context) -> Iterator[Problem]:
    for pod_set, spec in whole_pods(workload, context):
        # A Pod without any image may be a template that a program fills in, as Spark does.
        is_bare = workload.kind == "Pod" and not any(one.get("image") for _, one in containers(pod_set, spec))
        sure = Confidence.LIKELY if is_bare else Confidence.CERTAIN
        for path, container in containers(pod_set, spec):
            if not container.get("image") and "imag" not in " ".join(container):
                said = f"the container {look.text(container, ('name',))!r} has no image"
                yield problem(workload.document, path, said, confidence=sure)
