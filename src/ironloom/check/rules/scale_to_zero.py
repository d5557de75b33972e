"""What goes to zero replicas, against how long a model takes to come back."""

from __future__ import annotations

from collections.abc import Iterator

from ironloom.check import look
from ironloom.check.engines import Engine, engines
from ironloom.check.finding import Confidence, Severity
from ironloom.check.rule import Context, Problem, Source, problem, rule
from ironloom.check.rules.engine_serving import fetched_bytes
from ironloom.check.rules.probes import FETCHED_BYTES_PER_S, LEAST_LOAD_S
from ironloom.check.scalers import scaler, target_of
from ironloom.units import format_bytes
from ironloom.workload.manifests.document import Document

COOLDOWN_S = 300
"""KEDA's cooldownPeriod where it is not said: https://keda.sh/docs/latest/reference/scaledobject-spec/."""


def _example(cooldown_s: int) -> str:
    return f"""\
apiVersion: keda.sh/v1alpha1
kind: ScaledObject
metadata:
  name: llama
spec:
  scaleTargetRef:
    name: llama
  minReplicaCount: 0
  maxReplicaCount: 2
  cooldownPeriod: {cooldown_s}
  triggers:
  - type: prometheus
    metadata:
      serverAddress: http://prometheus:9090
      query: sum(rate(requests_total[1m]))
      threshold: "1"
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
    spec:
      containers:
      - name: main
        image: vllm/vllm-openai:v0.18.0
        args: [--model, meta-llama/Llama-3.1-70B-Instruct, --tensor-parallel-size, "4"]
        resources:
          limits:
            nvidia.com/gpu: 4
"""


@rule(
    id="IL526",
    name="start-longer-than-cooldown",
    family="autoscaling",
    severity=Severity.WARNING,
    subject=Document,
    summary="a server that KEDA may take away before its model is loaded",
    why="KEDA goes back to zero cooldownPeriod seconds (300 by default) after its trigger was last active. A first "
    "request wakes the server; where it gives up before the model is fetched and loaded, the trigger falls silent, and "
    "the pod is taken away when it is about to be ready. The next request begins anew, and the GPUs are billed for "
    "loads that nobody is answered by.",
    bad=_example(120),
    good=_example(1800),
    sources=(
        Source(
            "https://keda.sh/docs/latest/reference/scaledobject-spec/#cooldownperiod",
            "the time after the last active trigger, only to and from zero",
        ),
        Source("https://github.com/kserve/kserve/issues/5684", "how long a new node and a model take"),
    ),
)
def start_longer_than_cooldown(document: Document, context: Context) -> Iterator[Problem]:
    found = scaler(document)
    if found is None or not found.is_keda or found.min_replicas:
        return
    written = look.integer(document.obj, ("spec", "cooldownPeriod"))
    cooldown_s = COOLDOWN_S if written is None else written
    workload = target_of(found, context)
    for engine in engines(workload, context) if workload is not None else ():
        size = fetched_bytes(engine)
        start_s = LEAST_LOAD_S + size // FETCHED_BYTES_PER_S
        if engine.num_gpus and start_s > cooldown_s:
            yield _problem(document, engine, size, start_s, cooldown_s, is_written=written is not None)


def _problem(
    document: Document, engine: Engine, size: int, start_s: int, cooldown_s: int, *, is_written: bool
) -> Problem:
    fetched = (f"a new pod fetches {format_bytes(size)}: {size // FETCHED_BYTES_PER_S} s at 2 Gbit/s",) if size else ()
    return problem(
        document,
        ("spec", "cooldownPeriod") if is_written else ("spec", "minReplicaCount"),
        f"{engine.workload.kind} {engine.workload.name} may be taken away {cooldown_s} s after its last trigger"
        f"{'' if is_written else ' (the default)'}, and its model is not there sooner than {start_s} s",
        confidence=Confidence.LIKELY,
        evidence=(*fetched, f"loading takes {LEAST_LOAD_S} s at the very least"),
        help=f"set cooldownPeriod well above {start_s}, or keep the model on a volume that outlives the pod",
    )
