"""Rolling updates of pods that are scheduled all or none."""

from __future__ import annotations

from collections.abc import Iterator

from ironloom.check import look, pods
from ironloom.check.finding import Confidence, Severity
from ironloom.check.rule import Context, Problem, Source, problem, rule
from ironloom.check.rules.rollout import surge_of
from ironloom.workload.workload import Workload

MIN_MEMBER = "scheduling.volcano.sh/group-min-member"


def _gang(strategy: str) -> str:
    return f"""\
apiVersion: apps/v1
kind: Deployment
metadata:
  name: ranks
  annotations:
    scheduling.volcano.sh/group-min-member: "2"
spec:
  replicas: 2{strategy}
  selector:
    matchLabels:
      app: ranks
  template:
    metadata:
      labels:
        app: ranks
    spec:
      schedulerName: volcano
      containers:
      - name: main
        image: registry.example.com/ranks:1.0.0
        resources:
          limits:
            nvidia.com/gpu: 1
"""


@rule(
    id="IL524",
    name="rollout-smaller-than-its-gang",
    family="rollout",
    severity=Severity.WARNING,
    subject=Workload,
    summary="a rolling update that starts fewer pods than their pod group waits for",
    why="Volcano makes a pod group of its own for each ReplicaSet of a Deployment, with the same least number of "
    "members. A rolling update starts maxSurge pods of the new one and stops maxUnavailable of the old, and then waits "
    "for the new to be ready. Where those are fewer than the group waits for, none is scheduled, and the update hangs.",
    bad=_gang(""),
    good=_gang("\n  strategy:\n    rollingUpdate:\n      maxSurge: 100%"),
    sources=(
        Source("https://github.com/volcano-sh/volcano/issues/4739", "two members, one new pod, and no end"),
        Source(
            "https://kubernetes.io/docs/concepts/workloads/controllers/deployment/#rolling-update-deployment",
            "what maxSurge and maxUnavailable are, 25 % each by default",
        ),
    ),
)
def rollout_smaller_than_its_gang(workload: Workload, _context: Context) -> Iterator[Problem]:
    document = workload.document
    if workload.kind != "Deployment" or len(workload.pod_sets) != 1:
        return
    [pod_set] = workload.pod_sets
    written = pod_set.annotations.get(MIN_MEMBER) or look.annotation(document, MIN_MEMBER)
    least, parts = pods.whole(written), surge_of(document)
    if least is None or parts is None or look.text(pod_set.spec, ("schedulerName",)) != "volcano":
        return
    surge, unavailable = parts
    if surge + unavailable < least:
        here = MIN_MEMBER in pod_set.annotations
        path = (*pod_set.metadata_path, "annotations") if here else ("metadata", "annotations")
        yield problem(
            document,
            (*path, MIN_MEMBER),
            f"the new pod group waits for {least} pods, and a rolling update starts {surge + unavailable} at once",
            confidence=Confidence.LIKELY,
            evidence=(f"maxSurge {surge}, maxUnavailable {unavailable}",),
            help="set maxSurge: 100%, or strategy type Recreate",
        )
