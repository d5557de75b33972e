"""What a namespace allows its pods: ResourceQuotas and LimitRanges, of the run and of the cluster."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ironloom.check import look, pods
from ironloom.check.finding import Confidence, Severity
from ironloom.check.rule import Context, Problem, Source, problem, rule
from ironloom.check.rules.resources import amount_said, resource_path
from ironloom.fleet.model import ContainerLimits, NamespaceQuota
from ironloom.fleet.namespaces import container_limits_of, quotas_of, resource_of
from ironloom.workload.workload import Container, PodSet, Workload

QUOTAS = Source(
    "https://kubernetes.io/docs/concepts/policy/resource-quotas/", "requests.nvidia.com/gpu, and what must be said"
)
COMPUTE = ("requests.cpu", "cpu", "requests.memory", "memory", "limits.cpu", "limits.memory")
"""Words of a quota that every container must say an amount of."""


def quotas(workload: Workload, context: Context) -> Sequence[NamespaceQuota]:
    """Of the workload's namespace, those of the run first. A workload without a namespace is applied in any, so that
    no quota of a cluster is known to be its own."""
    own = [one for one in _of_run(context)[0] if (one.namespace or "default") == pods.namespace(workload)]
    if context.fleet is None or not workload.namespace:
        return own
    names = {one.name for one in own}
    there = (one for one in context.fleet.namespace_quotas if one.namespace == workload.namespace)
    return [*own, *(one for one in there if one.name not in names)]


def limits(workload: Workload, context: Context) -> Sequence[ContainerLimits]:
    """As `quotas`, of LimitRanges."""
    own = [one for one in _of_run(context)[1] if (one.namespace or "default") == pods.namespace(workload)]
    if context.fleet is None or not workload.namespace:
        return own
    names = {one.name for one in own}
    there = (one for one in context.fleet.container_limits if one.namespace == workload.namespace)
    return [*own, *(one for one in there if one.name not in names)]


def _of_run(context: Context) -> tuple[Sequence[NamespaceQuota], Sequence[ContainerLimits]]:
    if "namespaces" not in context.memo:
        by_kind = {
            kind: [one.obj for one in context.documents if one.kind == kind and one.api_version == "v1"]
            for kind in ("ResourceQuota", "LimitRange")
        }
        context.memo["namespaces"] = (
            tuple(quotas_of(by_kind["ResourceQuota"])),
            tuple(container_limits_of(by_kind["LimitRange"])),
        )
    found: tuple[Sequence[NamespaceQuota], Sequence[ContainerLimits]] = context.memo["namespaces"]
    return found


@rule(
    id="IL632",
    name="namespace-quota-exceeded",
    family="queue",
    severity=Severity.ERROR,
    subject=Workload,
    summary="a workload that asks for more than its namespace's ResourceQuota allows",
    why="A ResourceQuota counts what all pods of its namespace ask for. The pod that would go over it is refused: a "
    "Deployment stays below its replicas, a gang never starts whole. With a cluster, what others of the namespace use "
    "already is counted too, as a note.",
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
    sources=(QUOTAS,),
)
def namespace_quota_exceeded(workload: Workload, context: Context) -> Iterator[Problem]:
    for quota in quotas(workload, context):
        for word, hard in quota.hard.items():
            asked = _asked(workload, word)
            free = hard - quota.used.get(word, 0)
            # What the namespace uses may be this very workload, from an earlier apply.
            is_more = asked > hard
            if not asked or not (is_more or (asked > free and not _runs(workload, context))):
                continue
            resource = resource_of(word)
            holder = max(workload.pod_sets, key=lambda one: one.requests.get(resource, 0))
            name = f"ResourceQuota {pods.namespace(workload)}/{quota.name}"
            used = "" if is_more else f", {amount_said(resource, quota.used[word])} of it in use"
            yield problem(
                workload.document,
                resource_path(holder, resource) if resource != "pods" else ("spec",),
                f"the {workload.kind} asks for {amount_said(resource, asked)}, and its namespace may have "
                f"{amount_said(resource, hard if is_more else max(0, free))}{'' if is_more else ' more'}",
                at_key=resource == "pods",
                evidence=(f"{name}: {word} {amount_said(resource, hard)}{used}",),
                severity=None if is_more else Severity.NOTE,
                confidence=Confidence.CERTAIN if is_more else Confidence.POSSIBLE,
            )


def _asked(workload: Workload, word: str) -> int:
    """What the workload asks for of a quota's word, at its least number of replicas; 0 for words that are no
    resource of pods."""
    resource, replicas = resource_of(word), workload.replicas.min
    if word in ("pods", "count/pods"):
        return workload.num_pods * replicas
    if word.startswith("limits."):
        each = [
            sum(one.limits.get(resource, 0) for one in pods.main_containers(pod_set)) for pod_set in workload.pod_sets
        ]
    elif word.startswith("requests.") or word in ("cpu", "memory"):
        each = [pod_set.requests.get(resource, 0) for pod_set in workload.pod_sets]
    else:
        return 0
    return sum(amount * one.num_pods for amount, one in zip(each, workload.pod_sets, strict=True)) * replicas


def _runs(workload: Workload, context: Context) -> bool:
    """Whether pods of the workload's own are in the cluster, or might be and cannot be told."""
    if context.fleet is None:
        return False
    owns = [pods.own_pods(workload, pod_set) for pod_set in workload.pod_sets]
    return any(own is None or any(map(own, context.fleet.pods)) for own in owns)


def _limited(quota: str, kind: str = "ResourceQuota", more: str = "") -> str:
    return f"""\
apiVersion: v1
kind: {kind}
metadata:
  name: limits
  namespace: research
spec:
{quota}---
apiVersion: v1
kind: Pod
metadata:
  name: llama
  namespace: research
spec:
  containers:
  - name: main
    image: vllm/vllm-openai:v0.11.0
    resources:
      limits:
        nvidia.com/gpu: 1
{more}"""


@rule(
    id="IL635",
    name="quota-wants-amounts",
    family="queue",
    severity=Severity.ERROR,
    subject=Workload,
    summary="a container without cpu or memory in a namespace whose ResourceQuota counts them",
    why="Where a quota counts cpu or memory every container must say how much it asks for, or have it from a "
    "LimitRange. The API server refuses the pod otherwise: `failed quota: must specify limits.memory`. Of a Deployment "
    "or Job the object is taken, and no pod ever comes.",
    bad=_limited("  hard:\n    limits.memory: 512Gi\n"),
    good=_limited("  hard:\n    limits.memory: 512Gi\n", more="        memory: 64Gi\n"),
    sources=(QUOTAS,),
)
def quota_wants_amounts(workload: Workload, context: Context) -> Iterator[Problem]:
    ranges = limits(workload, context)
    for quota in quotas(workload, context):
        for word in (word for word in COMPUTE if word in quota.hard):
            resource, is_limit = resource_of(word), word.startswith("limits.")
            if any(resource in (one.default_limits if is_limit else one.default_requests) for one in ranges):
                continue
            if any(resource in one.max for one in ranges):
                continue  # the most is the default where there is none
            for pod_set, container in _silent(workload, resource, is_limit=is_limit):
                part = "limits" if is_limit else "requests"
                yield problem(
                    workload.document,
                    (*container.path, "resources"),
                    f"container {container.name} has no {part}.{resource}, and the namespace's quota wants one",
                    at_key=True,
                    evidence=(
                        f"ResourceQuota {pods.namespace(workload)}/{quota.name} counts {word}",
                        f"no LimitRange there has a default of {resource}",
                    ),
                    help=f"say resources.{part}.{resource} of every container of {pod_set.name}",
                )


def _silent(workload: Workload, resource: str, *, is_limit: bool) -> Iterator[tuple[PodSet, Container]]:
    """The first container of each set that says nothing of the resource."""
    for pod_set in workload.pod_sets:
        if not pod_set.is_written or resource in pod_set.pod_requests:
            continue
        for container in pod_set.containers:
            if resource not in (container.limits if is_limit else container.requests):
                yield pod_set, container
                break


_RANGE = "  limits:\n  - type: Container\n    max:\n      memory: 64Gi\n"


@rule(
    id="IL636",
    name="limit-range-refuses",
    family="queue",
    severity=Severity.ERROR,
    subject=Workload,
    summary="a container that asks for more, or less, than the namespace's LimitRange lets one have",
    why="A LimitRange bounds what one container may ask for, often written for web services long before the GPUs came. "
    "The API server refuses the pod: `maximum memory usage per Container is 64Gi`. Of a Deployment or Job the object "
    "is taken, and no pod ever comes.",
    bad=_limited(_RANGE, kind="LimitRange", more="        memory: 256Gi\n"),
    good=_limited(_RANGE, kind="LimitRange", more="        memory: 48Gi\n"),
    sources=(Source("https://kubernetes.io/docs/concepts/policy/limit-range/", "what it refuses"),),
)
def limit_range_refuses(workload: Workload, context: Context) -> Iterator[Problem]:
    for one in limits(workload, context):
        for pod_set in workload.pod_sets:
            for container in pod_set.containers:
                for resource, most in one.max.items():
                    has = max(container.limits.get(resource, 0), container.requests.get(resource, 0))
                    if has > most:
                        yield _refused(
                            workload, container, one, resource, has, f"at most {amount_said(resource, most)}"
                        )
                for resource, least in one.min.items():
                    has = container.requests.get(resource, least)
                    if has < least:
                        said = f"at least {amount_said(resource, least)}"
                        yield _refused(workload, container, one, resource, has, said)


def _refused(
    workload: Workload, container: Container, one: ContainerLimits, resource: str, has: int, said: str
) -> Problem:
    resources = look.mapping(container.spec, ("resources",))
    part = "limits" if resource in look.mapping(resources, ("limits",)) else "requests"
    return problem(
        workload.document,
        (*container.path, "resources", part, resource),
        f"container {container.name} asks for {amount_said(resource, has)}, and one may have {said}",
        evidence=(f"LimitRange {pods.namespace(workload)}/{one.name}",),
    )
