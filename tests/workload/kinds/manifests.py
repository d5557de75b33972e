"""A manifest of every kind that makes pods, as people write them."""

from __future__ import annotations

from ironloom.workload.kinds import Found, workloads_of
from ironloom.workload.manifests import nodes
from ironloom.workload.manifests.document import Document, document
from ironloom.workload.workload import Workload


def documents(text: str) -> list[Document]:
    return [document(node, "f.yaml", text) for node in nodes.parse(text, "f.yaml")]


def found(text: str) -> Found:
    return workloads_of(documents(text))


def only(text: str) -> Workload:
    (one,) = found(text).workloads
    return one


GPU_POD = """\
spec:
  priorityClassName: high
  nodeSelector: {gpu: h100}
  initContainers:
  - {name: fetch, image: alpine, resources: {requests: {cpu: 8, memory: 1Gi}}}
  - {name: proxy, image: envoy, restartPolicy: Always, resources: {requests: {cpu: 500m}}}
  containers:
  - name: main
    image: vllm/vllm-openai:v0.20.0
    args: [--model, Qwen/Qwen3-8B, --tensor-parallel-size, "4"]
    env:
    - {name: HF_TOKEN, valueFrom: {secretKeyRef: {name: hf, key: token}}}
    - {name: ROOT, value: /data}
    - {name: HF_HOME, value: $(ROOT)/hf}
    resources: {limits: {nvidia.com/gpu: 4, memory: 64Gi}, requests: {cpu: 16}}
"""


def indented(text: str, by: int) -> str:
    return "".join(" " * by + line for line in text.splitlines(keepends=True))


POD = f"apiVersion: v1\nkind: Pod\nmetadata: {{name: p, namespace: team}}\n{GPU_POD}"
DEPLOYMENT = f"""\
apiVersion: apps/v1
kind: Deployment
metadata: {{name: d}}
spec:
  replicas: 3
  selector: {{matchLabels: {{app: d}}}}
  template:
    metadata: {{labels: {{app: d}}}}
{indented(GPU_POD, 4)}"""
STATEFUL_SET = DEPLOYMENT.replace("kind: Deployment", "kind: StatefulSet")
REPLICA_SET = DEPLOYMENT.replace("kind: Deployment", "kind: ReplicaSet")
DAEMON_SET = DEPLOYMENT.replace("kind: Deployment", "kind: DaemonSet").replace("  replicas: 3\n", "")
REPLICATION_CONTROLLER = f"""\
apiVersion: v1
kind: ReplicationController
metadata: {{name: d}}
spec:
  replicas: 3
  template:
    metadata: {{labels: {{app: d}}}}
{indented(GPU_POD, 4)}"""
JOB_SPEC = """\
parallelism: 4
completions: 4
completionMode: Indexed
template:
  metadata:
    annotations: {kueue.x-k8s.io/podset-required-topology: backend.coreweave.cloud/leafgroup}
  spec:
    restartPolicy: Never
    containers:
    - name: train
      image: pytorch/pytorch:2.9.0
      command: [torchrun, --nnodes=4, --nproc-per-node=8, train.py, --epochs, "3"]
      resources: {limits: {nvidia.com/gpu: 8, rdma/ib: 1}}
"""
JOB = f"""\
apiVersion: batch/v1
kind: Job
metadata: {{name: j, labels: {{kueue.x-k8s.io/queue-name: gpus}}}}
spec:
{indented(JOB_SPEC, 2)}"""
CRON_JOB = f"""\
apiVersion: batch/v1
kind: CronJob
metadata: {{name: c}}
spec:
  schedule: "0 3 * * *"
  jobTemplate:
    metadata: {{labels: {{kueue.x-k8s.io/queue-name: night}}}}
    spec:
{indented(JOB_SPEC, 6)}"""
JOB_SET = f"""\
apiVersion: jobset.x-k8s.io/v1alpha2
kind: JobSet
metadata:
  name: js
  labels: {{kueue.x-k8s.io/queue-name: gpus}}
  annotations: {{alpha.jobset.sigs.k8s.io/exclusive-topology: rack}}
spec:
  replicatedJobs:
  - name: driver
    template:
      spec:
        template:
          spec:
            containers: [{{name: d, image: busybox}}]
  - name: workers
    replicas: 2
    template:
      spec:
{indented(JOB_SPEC, 8)}"""
LEADER_WORKER_SET = f"""\
apiVersion: leaderworkerset.x-k8s.io/v1
kind: LeaderWorkerSet
metadata:
  name: lws
  annotations: {{leaderworkerset.sigs.k8s.io/exclusive-topology: rack}}
spec:
  replicas: 2
  leaderWorkerTemplate:
    size: 4
    leaderTemplate:
      metadata: {{labels: {{role: leader}}}}
{indented(GPU_POD, 6)}
    workerTemplate:
      spec:
        containers:
        - name: w
          image: vllm/vllm-openai:v0.20.0
          command: [sh, -c, "ray start --address=$(LWS_LEADER_ADDRESS):6379 --block"]
          resources: {{limits: {{nvidia.com/gpu: "4"}}}}
"""
INFERENCE_SERVICE = """\
apiVersion: serving.kserve.io/v1beta1
kind: InferenceService
metadata:
  name: is
  annotations:
    serving.kserve.io/deploymentMode: Standard
    kueue.x-k8s.io/podset-preferred-topology: rack
spec:
  predictor:
    minReplicas: 2
    maxReplicas: 5
    model:
      modelFormat: {name: huggingface}
      storageUri: hf://Qwen/Qwen3-8B
      args: [--model_name=q, --max_model_len=8192]
      resources: {limits: {nvidia.com/gpu: 1}}
  transformer:
    containers:
    - {name: kserve-container, image: t, command: [python, -m, transform]}
"""
LLM_INFERENCE_SERVICE = """\
apiVersion: serving.kserve.io/v1alpha2
kind: LLMInferenceService
metadata: {name: llm}
spec:
  model: {uri: hf://deepseek-ai/DeepSeek-V3, name: ds}
  replicas: 2
  parallelism: {tensor: 8, data: 32, dataLocal: 8, expert: true}
  template:
    containers:
    - name: main
      args: ["--max-model-len=8192"]
      env: [{name: VLLM_ADDITIONAL_ARGS, value: "--kv-transfer-config '{\\"a\\": 1}' --enforce-eager"}]
      resources: {limits: {nvidia.com/gpu: "8"}}
  worker:
    containers:
    - name: main
      resources: {limits: {nvidia.com/gpu: "8"}}
  prefill:
    replicas: 3
    template:
      containers:
      - name: main
        resources: {limits: {nvidia.com/gpu: "4"}}
  router:
    scheduler:
      template:
        containers: [{name: epp, image: scheduler}]
"""
TRAIN_JOB = """\
apiVersion: trainer.kubeflow.org/v1alpha1
kind: TrainJob
metadata: {name: tj, labels: {kueue.x-k8s.io/queue-name: gpus}}
spec:
  runtimeRef: {name: torch-distributed}
  trainer:
    image: me/train:1
    command: [torchrun, train.py]
    numNodes: 4
    resourcesPerNode: {limits: {nvidia.com/gpu: 8}}
    env: [{name: NCCL_DEBUG, value: INFO}]
  runtimePatches:
  - manager: me
    trainingRuntimeSpec:
      template:
        spec:
          replicatedJobs:
          - name: node
            template:
              spec:
                template:
                  metadata:
                    annotations: {kueue.x-k8s.io/podset-required-topology: rack}
                  spec:
                    nodeSelector: {gpu: h100}
"""
TRAINING_RUNTIME = """\
apiVersion: trainer.kubeflow.org/v1alpha1
kind: ClusterTrainingRuntime
metadata: {name: torch-distributed}
spec:
  mlPolicy: {numNodes: 1, torch: {}}
  template:
    spec:
      replicatedJobs:
      - name: model-initializer
        template:
          metadata: {labels: {trainer.kubeflow.org/trainjob-ancestor-step: model-initializer}}
          spec: {template: {spec: {containers: [{name: init, image: i}]}}}
      - name: node
        template:
          metadata: {labels: {trainer.kubeflow.org/trainjob-ancestor-step: trainer}}
          spec:
            template:
              spec:
                tolerations: [{key: gpu, operator: Exists}]
                containers:
                - name: node
                  image: pytorch/pytorch:2.9.0
                  env: [{name: A, value: b}]
"""
PYTORCH_JOB = f"""\
apiVersion: kubeflow.org/v1
kind: PyTorchJob
metadata: {{name: pt}}
spec:
  runPolicy: {{schedulingPolicy: {{priorityClass: high}}}}
  pytorchReplicaSpecs:
    Master:
      replicas: 1
      template:
{indented(GPU_POD, 8)}
    Worker:
      replicas: 3
      template:
{indented(GPU_POD, 8)}"""
TF_JOB = PYTORCH_JOB.replace("PyTorchJob", "TFJob").replace("pytorchReplicaSpecs", "tfReplicaSpecs")
XGBOOST_JOB = PYTORCH_JOB.replace("PyTorchJob", "XGBoostJob").replace("pytorchReplicaSpecs", "xgbReplicaSpecs")
PADDLE_JOB = PYTORCH_JOB.replace("PyTorchJob", "PaddleJob").replace("pytorchReplicaSpecs", "paddleReplicaSpecs")
JAX_JOB = PYTORCH_JOB.replace("PyTorchJob", "JAXJob").replace("pytorchReplicaSpecs", "jaxReplicaSpecs")
MPI_JOB = """\
apiVersion: kubeflow.org/v2beta1
kind: MPIJob
metadata: {name: nccl-test}
spec:
  slotsPerWorker: 8
  mpiReplicaSpecs:
    Launcher:
      replicas: 1
      template:
        spec:
          containers:
          - name: launcher
            image: nccl-tests
            command: [/bin/bash, -c]
            args:
            - |
              mpirun -np 64 -bind-to none \\
                -x NCCL_IB_HCA=ibp \\
                /opt/nccl_tests/build/all_reduce_perf -b 512M -e 8G
    Worker:
      replicas: 8
      template:
        spec:
          containers:
          - {name: worker, image: nccl-tests, resources: {limits: {nvidia.com/gpu: 8, rdma/ib: 1}}}
"""
RAY_CLUSTER_SPEC = f"""\
rayVersion: "2.52.0"
headGroupSpec:
  rayStartParams: {{}}
  template:
    spec:
      containers: [{{name: ray-head, image: rayproject/ray:2.52.0}}]
workerGroupSpecs:
- groupName: gpu
  replicas: 2
  minReplicas: 3
  maxReplicas: 5
  numOfHosts: 2
  rayStartParams: {{}}
  template:
{indented(GPU_POD, 4)}"""
RAY_CLUSTER = f"""\
apiVersion: ray.io/v1
kind: RayCluster
metadata: {{name: rc, labels: {{kueue.x-k8s.io/queue-name: gpus}}}}
spec:
{indented(RAY_CLUSTER_SPEC, 2)}"""
RAY_JOB = f"""\
apiVersion: ray.io/v1
kind: RayJob
metadata: {{name: rj}}
spec:
  entrypoint: python train.py --lr 1e-4
  rayClusterSpec:
{indented(RAY_CLUSTER_SPEC, 4)}"""
RAY_SERVICE = f"""\
apiVersion: ray.io/v1
kind: RayService
metadata: {{name: rs}}
spec:
  rayClusterConfig:
{indented(RAY_CLUSTER_SPEC, 4)}"""
KNATIVE_SERVICE = f"""\
apiVersion: serving.knative.dev/v1
kind: Service
metadata: {{name: kn}}
spec:
  template:
    metadata:
      annotations: {{autoscaling.knative.dev/min-scale: "1", autoscaling.knative.dev/max-scale: "4"}}
{indented(GPU_POD, 4)}"""
SCALED_JOB = f"""\
apiVersion: keda.sh/v1alpha1
kind: ScaledJob
metadata: {{name: sj}}
spec:
  maxReplicaCount: 7
  jobTargetRef:
{indented(JOB_SPEC, 4)}"""
KUEUE_WORKLOAD = f"""\
apiVersion: kueue.x-k8s.io/v1beta2
kind: Workload
metadata: {{name: kw}}
spec:
  queueName: gpus
  priorityClassRef: {{name: high}}
  podSets:
  - name: workers
    count: 8
    topologyRequest: {{required: block, podSetSliceRequiredTopology: rack, podSetSliceSize: 2}}
    template:
{indented(GPU_POD, 6)}"""
VOLCANO_JOB = f"""\
apiVersion: batch.volcano.sh/v1alpha1
kind: Job
metadata: {{name: vj}}
spec:
  minAvailable: 4
  queue: team
  networkTopology: {{mode: hard, highestTierAllowed: 2}}
  tasks:
  - name: worker
    replicas: 4
    template:
{indented(GPU_POD, 6)}"""

CONTEXT = """\
apiVersion: kueue.x-k8s.io/v1beta2
kind: ClusterQueue
metadata: {name: gpus}
spec:
  cohortName: all
  namespaceSelector: {}
  resourceGroups:
  - coveredResources: [cpu, nvidia.com/gpu]
    flavors:
    - name: h100
      resources: [{name: cpu, nominalQuota: "400"}, {name: nvidia.com/gpu, nominalQuota: 64, borrowingLimit: 8}]
---
apiVersion: kueue.x-k8s.io/v1beta2
kind: LocalQueue
metadata: {name: gpus, namespace: team}
spec: {clusterQueue: gpus}
---
apiVersion: kueue.x-k8s.io/v1beta2
kind: ResourceFlavor
metadata: {name: h100}
spec:
  topologyName: infiniband
  nodeLabels: {node.kubernetes.io/instance-type: gd-8xh100ib-i128}
  tolerations: [{key: is_gpu, operator: Exists}]
---
apiVersion: kueue.x-k8s.io/v1beta2
kind: Topology
metadata: {name: infiniband}
spec: {levels: [{nodeLabel: backend.coreweave.cloud/leafgroup}, {nodeLabel: kubernetes.io/hostname}]}
---
apiVersion: keda.sh/v1alpha1
kind: ScaledObject
metadata: {name: so}
spec:
  scaleTargetRef: {name: d}
  idleReplicaCount: 0
  minReplicaCount: 1
  triggers:
  - type: prometheus
    metadata: {serverAddress: "http://prometheus:9090", query: "sum(vllm:num_requests_waiting)", threshold: "5"}
---
apiVersion: autoscaling/v2
kind: HorizontalPodAutoscaler
metadata: {name: hpa}
spec:
  scaleTargetRef: {apiVersion: apps/v1, kind: Deployment, name: d}
  minReplicas: 1
  maxReplicas: 4
  metrics: [{type: Resource, resource: {name: cpu, target: {type: Utilization, averageUtilization: 80}}}]
---
apiVersion: scheduling.k8s.io/v1alpha2
kind: PodGroup
metadata: {name: pg}
spec: {schedulingPolicy: {gang: {minCount: 4}}, schedulingConstraints: {topology: [{key: rack}]}}
---
apiVersion: scheduling.k8s.io/v1alpha2
kind: Workload
metadata: {name: w}
spec: {podGroupTemplates: [{name: workers, schedulingPolicy: {gang: {minCount: 4}}}]}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: odd}
data:
  "yes": "no"
  script: |
    set -e
      echo "a: b"  # not a comment of YAML

  octal: "0777"
  empty: ""
  version: "1.10"
  spaces: "  two "
"""
"""Of kinds that make none."""

ALL = {
    name: text
    for name, text in list(globals().items())
    if name.isupper() and isinstance(text, str) and "\nkind: " in text and name not in ("TRAINING_RUNTIME", "CONTEXT")
}
"""By the name here."""
