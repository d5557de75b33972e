"""How many manifests a second are read: parsed with positions, checked, turned into workloads.

    python bench/manifests.py [--documents 500] [--rounds 5]

Writes bench/results/manifests.json. Documents a second of CPU time of one process, every round of each step, rounds
interleaved; PyYAML's own loader on the same text beside it, which has no positions and checks nothing.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import yaml

sys.path.insert(0, str(Path(__file__).resolve().parent))

import record
from ironloom.workload.manifests import nodes, read_text, to_workloads

DOCUMENT = """\
apiVersion: serving.kserve.io/v1beta1
kind: InferenceService
metadata:
  name: llama-{number}
  namespace: team-a
  labels: {{app: llama, tier: gold}}
  annotations:
    autoscaling.knative.dev/window: 30s
    autoscaling.knative.dev/target-utilization-percentage: "80"
    ironloom.dev/park-for: 10m
spec:
  predictor:
    minReplicas: 0
    maxReplicas: 4
    scaleMetric: concurrency
    scaleTarget: 10
    nodeSelector:
      gpu.nvidia.com/model: H100
    tolerations:
      - {{key: nvidia.com/gpu, operator: Exists, effect: NoSchedule}}
    model:
      modelFormat: {{name: huggingface}}
      storageUri: hf://Qwen/Qwen3-0.6B
      args: ["--max-model-len=4096", --tensor-parallel-size, "2"]
      env:
        - name: HF_TOKEN
          valueFrom: {{secretKeyRef: {{name: hf, key: token}}}}
        - name: VLLM_LOGGING_LEVEL
          value: DEBUG
      resources:
        limits: {{nvidia.com/gpu: 2, cpu: 4, memory: 32Gi}}
        requests: {{nvidia.com/gpu: 2, cpu: 4, memory: 32Gi}}
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--documents", type=int, default=500)
    parser.add_argument("--rounds", type=int, default=9)
    arguments = parser.parse_args()
    text = "---\n".join(DOCUMENT.format(number=number) for number in range(arguments.documents))
    documents = read_text(text)
    steps: dict[str, Callable[[], object]] = {
        "parsed with positions": lambda: list(nodes.parse(text, "bench")),
        "parsed with positions and checked": lambda: read_text(text),
        "checked and turned into workloads": lambda: to_workloads(documents),
        "peer: PyYAML CSafeLoader, neither positions nor checks": lambda: list(
            yaml.load_all(text, Loader=yaml.CSafeLoader)
        ),
    }
    rounds: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(arguments.rounds):
        for name, step in steps.items():
            begin = time.process_time()
            step()
            rounds[name].append(round(arguments.documents / (time.process_time() - begin), 1))
    results = [
        {"step": name, "documents_per_cpu_s_median": statistics.median(rates), "documents_per_cpu_s": rates}
        for name, rates in rounds.items()
    ]
    path = record.write(
        "manifests",
        results,
        distributions=["pyyaml", "msgspec"],
        notes=[f"{arguments.documents} InferenceServices of {DOCUMENT.count(chr(10))} lines in one text"],
    )
    for result in results:
        print(f"{result['documents_per_cpu_s_median']:>8} documents/s  {result['step']}")
    print(path.name)


if __name__ == "__main__":
    main()
