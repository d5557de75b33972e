"""Whether a change of a workload can ever finish, and what it takes with it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from ironloom.check import edits, look, pods
from ironloom.check.fields import is_part
from ironloom.check.finding import Confidence, Patch, Severity
from ironloom.check.rule import Context, Problem, Source, problem, rule
from ironloom.check.rules import examples
from ironloom.check.scalers import same_namespace
from ironloom.place.fit import fit
from ironloom.workload.manifests.document import Document
from ironloom.workload.manifests.schema import Path
from ironloom.workload.workload import Workload

STRATEGY: Path = ("spec", "strategy")


def _server(lines: str = "", *, replicas: int = 1, pod: str = "") -> str:
    """An example: a Deployment that serves on a GPU, with lines in its spec and in its pod's spec."""
    return f"""\
apiVersion: apps/v1
kind: Deployment
metadata:
  name: llama
spec:
  replicas: {replicas}
{lines}  selector:
    matchLabels:
      app: llama
  template:
    metadata:
      labels:
        app: llama
    spec:
{pod}      containers:
      - name: main
        image: vllm/vllm-openai:v0.11.0
        args: [--model, Qwen/Qwen3-8B]
        resources:
          limits:
            nvidia.com/gpu: 8
"""


def surge_of(document: Document) -> tuple[int, int] | None:
    """(surge, unavailable) of a Deployment's rolling update, in pods; None where it recreates, or says no number.

    Both are 25 % by default; a share is rounded up for the surge and down for the unavailable.
    Source: https://kubernetes.io/docs/concepts/workloads/controllers/deployment/#rolling-update-deployment
    """
    if look.text(document.obj, (*STRATEGY, "type")) == "Recreate":
        return None
    replicas = look.integer(document.obj, ("spec", "replicas"))
    replicas = 1 if replicas is None else replicas
    rolling = look.mapping(document.obj, (*STRATEGY, "rollingUpdate"))
    surge = _pods(rolling.get("maxSurge", "25%"), replicas, math.ceil)
    unavailable = _pods(rolling.get("maxUnavailable", "25%"), replicas, math.floor)
    return (surge, unavailable) if surge is not None and unavailable is not None else None


def _pods(value: Any, replicas: int, rounded: Any) -> int | None:
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    share = value.removesuffix("%") if isinstance(value, str) and value.endswith("%") else ""
    return int(rounded(replicas * int(share) / 100)) if share.isdecimal() else None


@rule(
    id="IL520",
    name="rollout-has-no-room",
    family="rollout",
    severity=Severity.WARNING,
    subject=Workload,
    summary="a rolling update that needs a GPU more than there is",
    why="A rolling update starts a new pod before it stops an old one, unless maxUnavailable allows otherwise; of up "
    "to three replicas, the default 25 % allow none. Where the fleet has room for the replicas and no pod more, the "
    "new pod is Pending, the old one is kept until it is ready, and the change never finishes.",
    bad=_server(),
    good=_server("  strategy:\n    rollingUpdate:\n      maxSurge: 0\n      maxUnavailable: 1\n"),
    sources=(
        Source("https://github.com/defilantech/LLMKube/issues/192", "rolling updates deadlock without a spare GPU"),
        Source("https://github.com/ai-runway/airunway/issues/400", "25 % of one replica: surge 1, unavailable 0"),
        Source("https://github.com/bayesimpact/bayes-platform/pull/776", "a pool at its maximum: Recreate"),
    ),
    needs_fleet=True,
    example_fleet=lambda: examples.fleet(examples.node("x1")),
)
def rollout_has_no_room(workload: Workload, context: Context) -> Iterator[Problem]:
    document, fleet = workload.document, context.fleet
    if fleet is None or workload.kind != "Deployment" or len(workload.pod_sets) != 1:
        return
    strategy, (pod_set,) = surge_of(document), workload.pod_sets
    resource, number = pod_set.gpus()
    if strategy is None or not number or strategy[1] > 0 or any(pool.num_more != 0 for pool in fleet.pools):
        return
    found = fit(
        pod_set,
        fleet,
        namespace=workload.namespace or "default",
        tolerations=pods.tolerations(workload, context),
        ignored=pods.own_pods(workload, pod_set),
    )
    replicas = max(1, workload.replicas.min)
    if found.num_pods != replicas:
        return  # there is room for more, or not even for these: of that other rules speak
    path: Path = STRATEGY if look.mapping(document.obj, STRATEGY) else ("spec", "replicas")
    yield problem(
        document,
        path,
        "a rolling update cannot finish: it starts a pod more before it stops one, and there is no room for it",
        evidence=(
            f"room for {found.num_pods} of {number} {resource} each, all taken by the replicas",
            f"maxSurge {strategy[0]}, maxUnavailable {strategy[1]}",
        ),
        help="set maxSurge: 0 and maxUnavailable: 1, or strategy type Recreate",
    )


@rule(
    id="IL521",
    name="strategy-contradicts-itself",
    family="rollout",
    severity=Severity.ERROR,
    subject=Document,
    summary="Recreate with a rollingUpdate, or a rolling update that may change no pod",
    why="The API server refuses a rollingUpdate beside Recreate, and one whose maxSurge and maxUnavailable are both 0: "
    "neither could a pod be added nor one be taken away.",
    bad=_server("  strategy:\n    rollingUpdate:\n      maxSurge: 0\n      maxUnavailable: 0\n"),
    good=_server("  strategy:\n    rollingUpdate:\n      maxSurge: 0\n      maxUnavailable: 1\n"),
    sources=(
        Source(
            "https://kubernetes.io/docs/concepts/workloads/controllers/deployment/#max-unavailable",
            "it cannot be 0 where maxSurge is 0",
        ),
        Source(
            "https://github.com/kubernetes/kubernetes/blob/master/pkg/apis/apps/validation/validation.go",
            "may not be specified when strategy `type` is 'Recreate'",
        ),
    ),
)
def strategy_contradicts_itself(document: Document, context: Context) -> Iterator[Problem]:
    if look.group(document) != "apps" or document.kind != "Deployment" or is_part(document, context):
        return
    rolling: Path = (*STRATEGY, "rollingUpdate")
    written = look.mapping(document.obj, rolling)
    if look.text(document.obj, (*STRATEGY, "type")) == "Recreate" and look.at(document.obj, rolling) is not None:
        yield problem(document, rolling, "rollingUpdate is refused beside strategy type Recreate", at_key=True)
    elif all(str(written.get(field)) in {"0", "0%"} for field in ("maxSurge", "maxUnavailable")):
        message = "with maxSurge 0 and maxUnavailable 0 no pod could be changed: the API server refuses it"
        yield problem(document, (*rolling, "maxUnavailable"), message)


_CLAIM = """\
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata:
  name: models
spec:
  accessModes: [ReadWriteOnce]
  resources:
    requests:
      storage: 100Gi
"""
_VOLUME = "      volumes:\n      - name: models\n        persistentVolumeClaim:\n          claimName: models\n"


@rule(
    id="IL522",
    name="one-node-volume-on-several",
    family="rollout",
    severity=Severity.WARNING,
    subject=Workload,
    summary="a ReadWriteOnce volume that pods on several nodes need",
    why="A ReadWriteOnce volume is attached to one node. A second replica, or the new pod of a rolling update, on "
    "another node waits for it (`Multi-Attach error`), and the old pod is kept until the new one is ready: neither "
    "moves. Models are best in a ReadOnlyMany or ReadWriteMany volume, or in a cache on each node.",
    bad=_server(pod=_VOLUME, replicas=2) + _CLAIM,
    good=_server(pod=_VOLUME, replicas=2) + _CLAIM.replace("ReadWriteOnce", "ReadWriteMany"),
    sources=(
        Source("https://github.com/vllm-project/production-stack/issues/107", "it blocks rolling updates and replicas"),
        Source("https://github.com/mattermost/mattermost-helm/issues/283", "a stuck update of one replica"),
        Source("https://kubernetes.io/docs/concepts/storage/persistent-volumes/#access-modes", "the access modes"),
    ),
)
def one_node_volume_on_several(workload: Workload, context: Context) -> Iterator[Problem]:
    document = workload.document
    if workload.kind not in {"Deployment", "ReplicaSet"}:
        return
    strategy = surge_of(document) if workload.kind == "Deployment" else None
    most = workload.replicas.max if workload.replicas.max is not None else 2
    for pod_set in workload.pod_sets:
        if _is_pinned(pod_set.spec):
            continue
        for index, volume in enumerate(look.entries(pod_set.spec, ("volumes",))):
            name = look.text(volume, ("persistentVolumeClaim", "claimName"))
            claim = context.named("PersistentVolumeClaim", name, workload.namespace) if name else None
            if claim is None or look.mapping(claim.obj, ("spec", "selector")):
                continue  # a volume that somebody made by hand: nothing may be attached to a node for it
            if look.entries(claim.obj, ("spec", "accessModes")) != ["ReadWriteOnce"]:
                continue
            path: Path = (*pod_set.path, "volumes", index, "persistentVolumeClaim", "claimName")
            if most > 1:
                said = f"up to {most} replicas share the claim {name}, which is ReadWriteOnce: one node can have it"
            elif strategy is not None and strategy[1] == 0:
                said = (
                    f"a rolling update starts the new pod while the old one has the claim {name}, which is "
                    "ReadWriteOnce: on another node it waits for ever"
                )
            else:
                continue
            help_ = "use ReadWriteMany or ReadOnlyMany" + ("" if most > 1 else ", or strategy type Recreate")
            yield problem(document, path, said, confidence=Confidence.LIKELY, help=help_)


def _is_pinned(spec: Mapping[str, Any]) -> bool:
    """Whether all pods go to one node by name."""
    hostname = look.text(spec, ("nodeSelector", "kubernetes.io/hostname"))
    return bool(hostname or spec.get("nodeName"))


_BUDGET = """\
---
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata:
  name: llama
spec:
  minAvailable: 1
  selector:
    matchLabels:
      app: llama
"""


@rule(
    id="IL523",
    name="budget-allows-no-eviction",
    family="rollout",
    severity=Severity.WARNING,
    subject=Document,
    summary="a PodDisruptionBudget that never lets a pod go",
    why="With as many pods available as there are replicas, no pod may be evicted: a node with one of them cannot be "
    "drained, so upgrades, repairs of a GPU and the return of a node that is billed stop at it, until someone deletes "
    "the pod by hand.",
    bad=_server() + _BUDGET,
    good=_server(replicas=2) + _BUDGET,
    sources=(
        Source("https://github.com/kubernetes/kubernetes/issues/66811", "drain is stuck: one replica, minAvailable 1"),
        Source("https://kubernetes.io/docs/tasks/run-application/configure-pdb/", "a budget of zero disruptions"),
    ),
)
def budget_allows_no_eviction(document: Document, context: Context) -> Iterator[Problem]:
    if document.kind != "PodDisruptionBudget" or look.group(document) != "policy":
        return
    most, least = (look.at(document.obj, ("spec", field)) for field in ("maxUnavailable", "minAvailable"))
    if str(most) in {"0", "0%"}:
        yield problem(document, ("spec", "maxUnavailable"), f"maxUnavailable {most} lets no pod be evicted, ever")
        return
    if str(least) == "100%":
        yield problem(document, ("spec", "minAvailable"), "minAvailable 100% lets no pod be evicted, ever")
        return
    number = look.integer(document.obj, ("spec", "minAvailable"))
    labels = look.mapping(document.obj, ("spec", "selector", "matchLabels"))
    if not number or not labels or look.entries(document.obj, ("spec", "selector", "matchExpressions")):
        return
    chosen = [
        workload
        for workload in context.workloads
        if workload.kind in {"Deployment", "StatefulSet", "ReplicaSet"}
        and same_namespace(document, workload.document)
        and any(labels.items() <= pod_set.labels.items() for pod_set in workload.pod_sets)
    ]
    if len(chosen) != 1:
        return
    replicas = chosen[0].replicas
    if replicas.max is not None and 0 < replicas.max <= number:
        said = f"{chosen[0].kind} {chosen[0].name} has {replicas.max}"
        edit = edits.replace(document, ("spec", "minAvailable"), str(number))
        line = document.positions.key(("spec", "minAvailable"))
        patch = None
        if edit is not None and document.text[line.start : line.end] == "minAvailable":
            swap = type(edit)(start=line.start, end=edit.end, text="maxUnavailable: 1")
            patch = Patch(title="write maxUnavailable: 1", edits=(swap,), is_safe=False)
        message = f"minAvailable {number} lets no pod be evicted: {said} replica{'s' if replicas.max > 1 else ''}"
        yield problem(document, ("spec", "minAvailable"), message, patch=patch)
