"""Which processes an engine runs its GPUs with, where they are on several nodes."""

from __future__ import annotations

import re
from collections.abc import Iterator

from ironloom.check.engines import engines
from ironloom.check.finding import Severity
from ironloom.check.rule import Context, Problem, Source, rule
from ironloom.check.rules.engine_parallel import TENSOR
from ironloom.workload.workload import Workload

STAGES = "--pipeline-parallel-size"
SINCE = (0, 11, 2)
"""The first version that is known to end there: https://github.com/vllm-project/vllm/issues/29447."""
_HEAD = re.compile(r"\bray\s+start\b[^;&|]*--head\b|multi-node-serving\.sh\s+leader\b|ray_init\.sh\s+leader\b")
_CHOSEN = ("--distributed-executor-backend", "--nnodes", "--data-parallel-size", "--data-parallel-backend")


def _group(option: str) -> str:
    return f"""\
apiVersion: leaderworkerset.x-k8s.io/v1
kind: LeaderWorkerSet
metadata:
  name: llama
spec:
  leaderWorkerTemplate:
    size: 2
    leaderTemplate:
      spec:
        containers:
        - name: leader
          image: vllm/vllm-openai:v0.18.0
          command:
          - sh
          - -c
          - >-
            bash multi-node-serving.sh leader --ray_cluster_size=$(LWS_GROUP_SIZE);
            vllm serve /models/llama --tensor-parallel-size 8 --pipeline-parallel-size 2{option}
          resources:
            limits:
              nvidia.com/gpu: 8
    workerTemplate:
      spec:
        containers:
        - name: worker
          image: vllm/vllm-openai:v0.18.0
          command: [sh, -c, "bash multi-node-serving.sh worker --ray_address=$(LWS_LEADER_ADDRESS)"]
          resources:
            limits:
              nvidia.com/gpu: 8
"""


@rule(
    id="IL431",
    name="ray-is-not-chosen",
    family="engine",
    severity=Severity.ERROR,
    subject=Workload,
    summary="vLLM over several nodes with a Ray cluster that it is not told to use",
    why="Where a server wanted more GPUs than its node has, vLLM turned to Ray by itself. Since 0.11.2 it does not: it "
    "takes its own processes, finds too few GPUs on the node, and ends with `World size (16) is larger than the number "
    "of available GPUs (8) in this node`, with the Ray cluster standing by.",
    bad=_group(""),
    good=_group(" --distributed-executor-backend ray"),
    sources=(
        Source("https://github.com/vllm-project/vllm/issues/29447", "eight ways over two nodes of four, on 0.11.2"),
        Source("https://github.com/vllm-project/vllm/pull/30140", "the fallback was taken out; what to set"),
    ),
)
def ray_is_not_chosen(workload: Workload, context: Context) -> Iterator[Problem]:
    for engine in engines(workload, context):
        if engine.program != "vllm" or engine.has_config_file or not _HEAD.search(engine.text):
            continue
        if engine.version is None or engine.version < SINCE or any(engine.launch.option(one) for one in _CHOSEN):
            continue
        tensor, stages = engine.tensor_parallel, engine.pipeline_parallel
        if engine.num_gpus and tensor * stages > engine.num_gpus:
            said = ".".join(map(str, engine.version))
            yield engine.problem(
                TENSOR if tensor >= stages else STAGES,
                f"{tensor * stages} ranks, {engine.num_gpus} GPUs in the pod: vLLM {said} takes no Ray unasked",
                evidence=("the pod starts a Ray cluster, and no option says to use it",),
                help="add --distributed-executor-backend ray",
            )
