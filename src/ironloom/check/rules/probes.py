"""Probes and deadlines against how long a model takes to load, and how long a stream takes to end."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from ironloom.check import edits, look, pods
from ironloom.check.engines import engines
from ironloom.check.fields import is_part
from ironloom.check.finding import Confidence, Patch, Severity
from ironloom.check.rule import Context, Problem, Source, problem, rule
from ironloom.check.rules.engine_serving import fetched_bytes
from ironloom.check.rules.pod_parts import WHOLE_GROUPS
from ironloom.check.rules.scaling_signals import LLM_SERVERS
from ironloom.check.rules.services import SERVER_PORTS
from ironloom.units import GB, format_bytes
from ironloom.workload.manifests.schema import Path
from ironloom.workload.workload import Container, PodSet, Workload

LEAST_LOAD_S = 60
"""No server of a language model on a GPU has loaded and compiled one sooner, but for toys: a start from a warm cache of
an 8B model on vLLM takes a minute or two. KServe's presets gave 120 s, and that was too short for large models:
https://github.com/kserve/kserve/issues/5062."""
FETCHED_BYTES_PER_S = GB // 4
"""A fast download from the hub, 2 Gbit/s: 16 GB took longer than 105 s where the pods of a quickstart were killed,
https://github.com/vllm-project/aibrix/issues/772."""
PERIOD_S, FAILURES, GRACE_S, PROGRESS_S = 10, 3, 30, 600
"""What Kubernetes takes for periodSeconds, failureThreshold, terminationGracePeriodSeconds and progressDeadlineSeconds:
https://kubernetes.io/docs/tasks/configure-pod-container/configure-liveness-readiness-startup-probes/."""
_SLEEP = re.compile(r"^\s*(?:/bin/)?sleep\s+(\d+)\s*$|(?:^|[;&]\s*)(?:/bin/)?sleep\s+(\d+)\s*$")


def servers(workload: Workload, context: Context) -> Iterator[tuple[PodSet, Container]]:
    """The containers that serve a language model on GPUs, of pods that are written out whole."""
    if look.group(workload.document) not in WHOLE_GROUPS or is_part(workload.document, context):
        return
    for pod_set in workload.pod_sets:
        is_worker = len(workload.pod_sets) > 1 and pod_set.name == "worker"
        if pod_set.is_written and pod_set.gpus()[1] and not is_worker:
            for container in pods.main_containers(pod_set):
                if pods.programs(container) & LLM_SERVERS and _answers(container):
                    yield pod_set, container


def _answers(container: Container) -> bool:
    """Whether it is the process that answers: not a worker that joins another."""
    return not re.search(r"ray\s+start\b(?!.*--head)|--headless\b|--node-rank[= ][1-9]", pods.text_of(container))


def budget_s(probe: Mapping[str, Any]) -> int:
    """Seconds from the container's start until the probe gives it up."""
    delay = look.integer(probe, ("initialDelaySeconds",)) or 0
    period = look.integer(probe, ("periodSeconds",)) or PERIOD_S
    failures = look.integer(probe, ("failureThreshold",)) or FAILURES
    return delay + period * failures


def _server(lines: str, *, spec: str = "", pod: str = "", args: str = "[--model, Qwen/Qwen3-8B]") -> str:
    return f"""\
apiVersion: apps/v1
kind: Deployment
metadata:
  name: llama
spec:
{spec}  selector:
    matchLabels:
      app: llama
  template:
    metadata:
      labels:
        app: llama
    spec:
{pod}      containers:
      - name: main
        image: vllm/vllm-openai:v0.18.0
        args: {args}
        ports:
        - containerPort: 8000
        resources:
          limits:
            nvidia.com/gpu: 1
{lines}"""


def _probe(name: str, **numbers: int) -> str:
    written = "".join(f"          {key}: {value}\n" for key, value in numbers.items())
    return f"        {name}:\n          httpGet:\n            path: /health\n            port: 8000\n{written}"


_READY = _probe("readinessProbe", periodSeconds=5)
_STARTED = _probe("startupProbe", periodSeconds=10, failureThreshold=120)


@rule(
    id="IL530",
    name="no-readiness-probe",
    family="rollout",
    severity=Severity.WARNING,
    subject=Workload,
    summary="a model server without a readiness or startup probe",
    why="Without a probe a pod is ready as soon as its process runs, minutes before the model is loaded. Requests are "
    "sent to it and fail, and a rolling update goes on to stop the next old pod before the new one can answer.",
    bad=_server(""),
    good=_server(_READY),
    sources=(
        Source("https://github.com/vllm-project/aibrix/pull/2264", "requests that fail while the model loads"),
        Source("https://docs.vllm.ai/en/stable/deployment/k8s/", "vLLM's Deployment with its probes on /health"),
    ),
)
def no_readiness_probe(workload: Workload, context: Context) -> Iterator[Problem]:
    if workload.kind not in {"Deployment", "StatefulSet", "ReplicaSet", "LeaderWorkerSet"}:
        return
    for _, container in servers(workload, context):
        if any(look.mapping(container.spec, (name,)) for name in ("readinessProbe", "startupProbe")):
            continue
        yield problem(
            workload.document,
            container.path,
            f"the container {container.name!r} has no readinessProbe: it counts as ready while it loads the model",
            help="probe /health of its port",
            patch=_probe_health(workload, container),
        )


def _probe_health(workload: Workload, container: Container) -> Patch | None:
    """A probe of the door that vLLM and SGLang have; how long a start may take is left to a person."""
    launch = next((one for one in pods.launches(container) if one.program in SERVER_PORTS), None)
    if launch is None:
        return None
    port = launch.integer("--port", SERVER_PORTS[launch.program])
    lines = ["readinessProbe:", "  httpGet:", "    path: /health", f"    port: {port}"]
    edit = edits.add_first(workload.document, container.path, lines)
    return Patch(title=f"probe /health of port {port}", edits=(edit,), is_safe=False) if edit is not None else None


@rule(
    id="IL531",
    name="liveness-kills-loading-model",
    family="rollout",
    severity=Severity.WARNING,
    subject=Workload,
    summary="a liveness probe that gives the server up before a model can be loaded",
    why="Without a startup probe the liveness probe begins with the container. After initialDelaySeconds and "
    "failureThreshold times periodSeconds the kubelet kills it, the load begins anew, and it is killed again: "
    "CrashLoopBackOff, with nothing wrong but the probe. A startup probe holds the others back until the model is in.",
    bad=_server(_READY + _probe("livenessProbe", initialDelaySeconds=15, periodSeconds=10)),
    good=_server(_READY + _STARTED + _probe("livenessProbe", periodSeconds=10)),
    sources=(
        Source("https://github.com/kserve/kserve/issues/5062", "models that need longer than 120 s were killed"),
        Source("https://github.com/opendatahub-io/kserve/pull/1161", "killed before the model was loaded, always"),
        Source("https://github.com/llm-d/llm-d-benchmark/issues/83", "ten minutes for Llama 4 Scout on 4 H100"),
        Source("https://github.com/vllm-project/aibrix/issues/772", "killed at 105 s, before 8B were downloaded"),
    ),
)
def liveness_kills_loading_model(workload: Workload, context: Context) -> Iterator[Problem]:
    fetched = {engine.container.path: fetched_bytes(engine) for engine in engines(workload, context)}
    for _, container in servers(workload, context):
        startup, liveness = (look.mapping(container.spec, (name,)) for name in ("startupProbe", "livenessProbe"))
        name, probe = ("startupProbe", startup) if startup else ("livenessProbe", liveness)
        size = fetched.get(container.path, 0)
        download_s = size // FETCHED_BYTES_PER_S
        if not probe or "exec" in probe or budget_s(probe) >= LEAST_LOAD_S + download_s:
            continue  # what a command of its own asks for, it alone knows
        delay = look.integer(probe, ("initialDelaySeconds",)) or 0
        period = look.integer(probe, ("periodSeconds",)) or PERIOD_S
        failures = look.integer(probe, ("failureThreshold",)) or FAILURES
        yield problem(
            workload.document,
            (*container.path, name),
            f"the {name} kills the server {budget_s(probe)} s after its start, and "
            + ("this model is not fetched and loaded that soon" if download_s else "no model is loaded that soon"),
            at_key=True,
            confidence=Confidence.LIKELY,
            evidence=(
                f"{delay} s + {failures} × {period} s = {budget_s(probe)} s",
                *([f"a new pod fetches {format_bytes(size)}: {download_s} s at 2 Gbit/s"] if download_s else []),
            ),
            help="give a startupProbe the longest load: failureThreshold 120 of 10 s are twenty minutes",
        )


@rule(
    id="IL532",
    name="grace-shorter-than-drain",
    family="rollout",
    severity=Severity.WARNING,
    subject=Workload,
    summary="a server that is killed before it may finish its streams",
    why="At its end a pod runs preStop, gets SIGTERM, and is killed terminationGracePeriodSeconds after preStop began. "
    "What is asked of preStop and of vLLM's --shutdown-timeout must fit in: a stream that is cut is an answer "
    "that was paid for and lost.",
    bad=_server(_READY, args="[--model, Qwen/Qwen3-8B, --shutdown-timeout, '120']"),
    good=_server(
        _READY,
        args="[--model, Qwen/Qwen3-8B, --shutdown-timeout, '120']",
        pod="      terminationGracePeriodSeconds: 150\n",
    ),
    sources=(
        Source("https://github.com/vllm-project/vllm/pull/43208", "the grace must be preStop and the timeout together"),
        Source("https://github.com/llm-d/llm-d/issues/927", "set it greater than --shutdown-timeout"),
        Source("https://github.com/kserve/kserve/pull/5485", "preStop of 15 s left 15 of 30 s to drain"),
    ),
)
def grace_shorter_than_drain(workload: Workload, context: Context) -> Iterator[Problem]:
    for pod_set, container in servers(workload, context):
        written = look.integer(pod_set.spec, ("terminationGracePeriodSeconds",))
        grace = GRACE_S if written is None else written
        before = _pre_stop_s(container)
        drain = next((launch.integer("--shutdown-timeout", 0) for launch in pods.launches(container)), 0)
        if before + drain < grace or not before + drain or (before < grace and not drain):
            continue
        path: Path = (*pod_set.path, "terminationGracePeriodSeconds")
        parts = [f"preStop {before} s"] * bool(before) + [f"--shutdown-timeout {drain} s"] * bool(drain)
        what = "drains its requests" if drain else "gets SIGTERM"
        yield problem(
            workload.document,
            path if written is not None else container.path,
            f"the pod is killed after {grace} s, before it {what}",
            evidence=(
                " + ".join(parts) + (f" = {before + drain} s" if len(parts) > 1 else ""),
                f"terminationGracePeriodSeconds {grace}" + (" (the default)" if written is None else ""),
            ),
            help=f"set terminationGracePeriodSeconds above {before + drain}",
            patch=_grace(workload, pod_set, written, before + drain + 30),
        )


def _pre_stop_s(container: Container) -> int:
    hook = look.mapping(container.spec, ("lifecycle", "preStop"))
    seconds = look.integer(hook, ("sleep", "seconds"))
    if seconds is not None:
        return seconds
    command = " ".join(part for part in look.entries(hook, ("exec", "command")) if isinstance(part, str))
    match = _SLEEP.search(re.sub(r"^(?:/bin/)?(?:ba)?sh\s+-l?c\s+", "", command))
    return int(match[1] or match[2]) if match else 0


def _grace(workload: Workload, pod_set: PodSet, written: int | None, seconds: int) -> Patch | None:
    path: Path = (*pod_set.path, "terminationGracePeriodSeconds")
    if written is not None:
        edit = edits.replace(workload.document, path, str(seconds))
    else:
        edit = edits.add_first(workload.document, pod_set.path, [f"terminationGracePeriodSeconds: {seconds}"])
    return Patch(title=f"give it {seconds} s", edits=(edit,)) if edit is not None else None


@rule(
    id="IL533",
    name="progress-deadline-before-start",
    family="rollout",
    severity=Severity.WARNING,
    subject=Workload,
    summary="a rollout that counts as failed while its model may still load",
    why="A Deployment that makes no progress for progressDeadlineSeconds (600 by default) is reported as failed: "
    "`kubectl rollout status` and the pipeline after it end with an error, and may roll back, while the startup probe "
    "still gives the server its time. The deadline must be the longer one.",
    bad=_server(_READY + _STARTED),
    good=_server(_READY + _STARTED, spec="  progressDeadlineSeconds: 1800\n"),
    sources=(
        Source("https://github.com/tonehq/tone/pull/695", "a deploy that failed at 600 s; its probe had 25 minutes"),
        Source("https://github.com/kserve/kserve/issues/5684", "600 s are too short for a new node and a model"),
        Source(
            "https://kubernetes.io/docs/concepts/workloads/controllers/deployment/#progress-deadline-seconds",
            "the default, and what it does",
        ),
    ),
)
def progress_deadline_before_start(workload: Workload, context: Context) -> Iterator[Problem]:
    if workload.kind != "Deployment":
        return
    document, path = workload.document, ("spec", "progressDeadlineSeconds")
    written = look.integer(document.obj, path)
    deadline = PROGRESS_S if written is None else written
    for _, container in servers(workload, context):
        probe = look.mapping(container.spec, ("startupProbe",))
        if not probe or budget_s(probe) <= deadline:
            continue
        said = "" if written is not None else " (the default)"
        longer = budget_s(probe) + 300
        if written is not None:
            edit = edits.replace(document, path, str(longer))
        else:
            edit = edits.add_first(document, ("spec",), [f"progressDeadlineSeconds: {longer}"])
        yield problem(
            document,
            path if written is not None else (*container.path, "startupProbe"),
            f"the rollout counts as failed after {deadline} s{said}, and the startupProbe waits {budget_s(probe)} s",
            at_key=written is None,
            help=f"set progressDeadlineSeconds above {budget_s(probe)}",
            patch=Patch(title="wait as long as the probe", edits=(edit,)) if edit is not None else None,
        )
        return
