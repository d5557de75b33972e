"""Whether a launch line waits for as many nodes as there are pods."""

from __future__ import annotations

import re
from collections.abc import Iterator

from ironloom.check import look, pods
from ironloom.check.finding import Confidence, Severity
from ironloom.check.rule import Context, Problem, Source, problem, rule
from ironloom.check.rules.gang_processes import TORCHRUN, launchers_of
from ironloom.workload.workload import Workload

_RAY_SIZE = re.compile(r"--ray_cluster_size[= ]+(\d{1,9})\b")


@rule(
    id="IL223",
    name="nodes-are-not-pods",
    family="gang",
    severity=Severity.ERROR,
    subject=Workload,
    summary="a launcher told of another number of nodes than there are pods",
    why="torchrun waits until --nnodes agents have joined. With fewer pods it waits until its timeout and fails; with "
    "more, the pods that are left over find the rendezvous closed, hold their GPUs and fail.",
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
        command: [torchrun, --nnodes=4, --nproc-per-node=8, train.py]
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
  parallelism: 4
  completions: 4
  completionMode: Indexed
  template:
    spec:
      restartPolicy: Never
      containers:
      - name: main
        image: nvcr.io/nvidia/pytorch:25.09-py3
        command: [torchrun, --nnodes=4, --nproc-per-node=8, train.py]
        resources:
          limits:
            nvidia.com/gpu: 8
""",
    sources=(TORCHRUN,),
)
def nodes_are_not_pods(workload: Workload, _context: Context) -> Iterator[Problem]:
    for pod_set in workload.pod_sets:
        for container, launch in launchers_of(pod_set):
            told = pods.num_nodes(launch)
            each = pod_set.num_pods // max(1, pod_set.num_jobs)  # a launcher's nodes may be those of one job of several
            if told is None or launch.program == "mpirun" or told in (pod_set.num_pods, workload.num_pods, each):
                continue
            option = next((one for one in launch.options if one.value == str(told)), None)
            # Launchers of several sets (a master and its workers) make one gang of all its pods.
            running = workload.num_pods if _is_one_gang(workload) else pod_set.num_pods
            few = running < told
            # Pods of a Deployment, or copies of a Job in a JobSet, may be the nodes together.
            if few and (workload.replicas.max is None or workload.replicas.max > 1):
                continue
            if not few and told == 1:
                continue  # each pod runs on its own
            yield problem(
                workload.document,
                option.path if option is not None else (*container.path, "command"),
                f"{launch.program} is told of {told} nodes, and {running} "
                f"pod{'s' if running != 1 else ''} run{'s' if running == 1 else ''}",
                evidence=(
                    f"{option.written or option.name} {told}" if option is not None else f"nodes: {told}",
                    ", ".join(
                        f"{one.num_pods} pod{'s' if one.num_pods != 1 else ''} of {one.name}"
                        for one in (workload.pod_sets if _is_one_gang(workload) else (pod_set,))
                    ),
                ),
                confidence=Confidence.LIKELY,
            )


def _is_one_gang(workload: Workload) -> bool:
    """Whether its sets of pods are ranks of one launch: all of them run the launcher."""
    return len(workload.pod_sets) > 1 and all(any(launchers_of(one)) for one in workload.pod_sets)


@rule(
    id="IL227",
    name="ray-cluster-size-is-not-the-group",
    family="gang",
    severity=Severity.ERROR,
    subject=Workload,
    summary="a Ray leader that waits for another number of nodes than the group has",
    why="vLLM's multi-node script waits until --ray_cluster_size nodes have joined. A number that is written there and "
    "not taken from $(LWS_GROUP_SIZE) goes wrong when the group's size is changed: the leader waits until its timeout.",
    bad="""\
apiVersion: leaderworkerset.x-k8s.io/v1
kind: LeaderWorkerSet
metadata:
  name: vllm
spec:
  replicas: 1
  leaderWorkerTemplate:
    size: 2
    workerTemplate:
      spec:
        containers:
        - name: vllm
          image: vllm/vllm-openai:v0.11.0
          command: [bash, -c, "multi-node-serving.sh leader --ray_cluster_size=4; vllm serve gpt2"]
""",
    good="""\
apiVersion: leaderworkerset.x-k8s.io/v1
kind: LeaderWorkerSet
metadata:
  name: vllm
spec:
  replicas: 1
  leaderWorkerTemplate:
    size: 2
    workerTemplate:
      spec:
        containers:
        - name: vllm
          image: vllm/vllm-openai:v0.11.0
          command: [bash, -c, "multi-node-serving.sh leader --ray_cluster_size=$(LWS_GROUP_SIZE); vllm serve gpt2"]
""",
    sources=(
        Source("https://lws.sigs.k8s.io/docs/examples/vllm/", "the leader takes the size from LWS_GROUP_SIZE"),
        Source("https://docs.vllm.ai/en/latest/deployment/frameworks/lws/", "the same of vLLM"),
    ),
)
def ray_cluster_size_is_not_the_group(workload: Workload, _context: Context) -> Iterator[Problem]:
    if workload.document.kind != "LeaderWorkerSet":
        return
    size = look.integer(workload.document.obj, ("spec", "leaderWorkerTemplate", "size")) or 1
    for pod_set in workload.pod_sets:
        for container in pods.main_containers(pod_set):
            for key in ("command", "args"):
                for index, part in enumerate(look.entries(container.spec, (key,))):
                    found = _RAY_SIZE.search(part) if isinstance(part, str) else None
                    if found is not None and int(found[1]) != size:
                        yield problem(
                            workload.document,
                            (*container.path, key, index),
                            f"the leader waits for {found[1]} nodes, and the group has {size}",
                            evidence=(f"leaderWorkerTemplate.size {size}",),
                            help="write --ray_cluster_size=$(LWS_GROUP_SIZE)",
                        )
