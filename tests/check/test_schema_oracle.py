"""The tables of fields beside kubernetes-validate, which has the published JSON schemas: one verdict on a document."""

from __future__ import annotations

import copy
import random
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from ironloom.workload.manifests import nodes, schema
from ironloom.workload.manifests.schema import Wrong

pytestmark = pytest.mark.slow
MINORS = (31, 34, 37)
NUM_MUTATIONS = 40
"""Of each document and version; the oracle takes some 20 ms for one."""
NOT_IN_THE_ORACLE = (
    "must be a quantity",  # any text passes there
    "must fit in",
    "must be at",  # the range of 32 bits, and lengths
    "must be one of",  # published schemas leave the values out
)

DOCUMENTS = """\
apiVersion: apps/v1
kind: Deployment
metadata:
  name: llama
  labels: {app: llama}
spec:
  replicas: 2
  selector:
    matchLabels: {app: llama}
  strategy:
    rollingUpdate: {maxSurge: 25%, maxUnavailable: 0}
  template:
    metadata:
      labels: {app: llama}
    spec:
      nodeSelector: {gpu: h100}
      tolerations:
      - {key: nvidia.com/gpu, operator: Exists, effect: NoSchedule}
      containers:
      - name: main
        image: vllm/vllm-openai:v0.11.0
        args: [--model, Qwen/Qwen3-8B]
        ports:
        - {name: http, containerPort: 8000}
        env:
        - {name: HF_HOME, value: /models}
        - name: HF_TOKEN
          valueFrom: {secretKeyRef: {name: hf, key: token}}
        resources:
          limits: {nvidia.com/gpu: 1, memory: 64Gi}
        readinessProbe:
          httpGet: {path: /health, port: 8000}
        volumeMounts:
        - {name: dshm, mountPath: /dev/shm}
      volumes:
      - name: dshm
        emptyDir: {medium: Memory, sizeLimit: 16Gi}
---
apiVersion: batch/v1
kind: Job
metadata: {name: train}
spec:
  completions: 4
  parallelism: 4
  completionMode: Indexed
  backoffLimit: 0
  podFailurePolicy:
    rules:
    - action: FailJob
      onExitCodes: {operator: In, values: [42]}
  template:
    spec:
      restartPolicy: Never
      affinity:
        nodeAffinity:
          requiredDuringSchedulingIgnoredDuringExecution:
            nodeSelectorTerms:
            - matchExpressions:
              - {key: gpu, operator: In, values: [h100]}
      initContainers:
      - {name: wait, image: busybox}
      containers:
      - {name: main, image: pytorch, command: [torchrun, train.py]}
---
apiVersion: v1
kind: Service
metadata: {name: llama}
spec:
  type: ClusterIP
  selector: {app: llama}
  ports:
  - {name: http, port: 80, targetPort: http}
---
apiVersion: autoscaling/v2
kind: HorizontalPodAutoscaler
metadata: {name: llama}
spec:
  minReplicas: 1
  maxReplicas: 4
  scaleTargetRef: {apiVersion: apps/v1, kind: Deployment, name: llama}
  behavior:
    scaleDown: {stabilizationWindowSeconds: 300}
  metrics:
  - type: Pods
    pods:
      metric: {name: waiting}
      target: {type: AverageValue, averageValue: "5"}
---
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata: {name: llama}
spec:
  maxUnavailable: 1
  selector:
    matchLabels: {app: llama}
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: models}
spec:
  accessModes: [ReadWriteOnce]
  resources:
    requests: {storage: 100Gi}
"""
OTHER_VALUES: tuple[Any, ...] = ("text", 7, 1.5, True, ["a"], {"a": "b"}, {}, [])


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path of every value below the top, in the order of the text."""
    below = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, child in below:
        yield (*path, key)
        yield from places(child, (*path, key))


def mutated(document: dict[str, Any], chance: random.Random) -> dict[str, Any]:
    """The document with one thing changed: a key gone, misspelt or new, or a value of another type."""
    made = copy.deepcopy(document)
    path = chance.choice([place for place in places(made) if place not in {("apiVersion",), ("kind",)}])
    above = made
    for step in path[:-1]:
        above = above[step]
    key = path[-1]
    match chance.randrange(4):
        case 0:
            del above[key]
        case 1 if isinstance(above, dict):
            above[f"{key}x"] = above.pop(key)
        case 2 if isinstance(above, dict):
            above["surely-not-a-field"] = "x"
        case _:
            above[key] = chance.choice(OTHER_VALUES)
    return made


def our_verdict(document: dict[str, Any], minor: int) -> list[str]:
    table = schema.load_all()
    kind = f"{document['apiVersion']}/{document['kind']}"
    found = schema.mistakes(nodes.from_object(document), kind, table, minor=minor)
    return [mistake.message for mistake in found if mistake.wrong is not Wrong.DOUBLE]


def is_beyond_the_oracle(message: str) -> bool:
    return any(said in message for said in NOT_IN_THE_ORACLE)


@pytest.mark.parametrize("minor", MINORS)
@pytest.mark.parametrize("document", list(yaml.safe_load_all(DOCUMENTS)), ids=lambda document: document["kind"])
def test_the_tables_and_the_published_schemas_agree(document: dict[str, Any], minor: int) -> None:
    oracle = pytest.importorskip("kubernetes_validate", reason="kubernetes-validate is not installed")
    chance = random.Random(f"{document['kind']} {minor}")
    for one in [document, *(mutated(document, chance) for _ in range(NUM_MUTATIONS))]:
        try:
            oracle.validate(one, f"1.{minor}", strict=True)
        except oracle.ValidationError as error:
            theirs = f"{list(error.path)}: {error.message[:200]}"
        else:
            theirs = ""
        ours = our_verdict(one, minor)
        if theirs:
            assert ours, f"kubernetes-validate says {theirs} of {one}"
        else:
            assert [message for message in ours if not is_beyond_the_oracle(message)] == [], f"nothing is wrong: {one}"
