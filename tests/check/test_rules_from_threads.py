"""Where the rules that public threads asked for speak, and where they hold their tongue."""

from __future__ import annotations

import textwrap

import pytest
from tests.fakes.checking import findings, patched

from ironloom.check import registry
from ironloom.check.engine import Setting, check
from ironloom.check.inputs import read_texts


def server(
    *, service: str = "vllm", namespace: str = "", pod: str = "", env: str = "", cluster_ip: str = "10.0.0.7"
) -> str:
    """A Service, and a Deployment of vLLM in no namespace."""
    where = f"\n  namespace: {namespace}" if namespace else ""
    return f"""\
apiVersion: v1
kind: Service
metadata:
  name: {service}{where}
spec:
  clusterIP: {cluster_ip}
  selector:
    app: llama
  ports:
  - port: 8000
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
    spec:{pod}
      containers:
      - name: main
        image: vllm/vllm-openai:v0.18.0
        args: [--model, Qwen/Qwen3-8B]{env}
        resources:
          limits:
            nvidia.com/gpu: 1
"""


@pytest.mark.parametrize(
    ("text", "speaks"),
    [
        (server(), True),
        (server(service="vllm-router"), False),
        (server(namespace="other"), False),
        (server(cluster_ip="None"), False),
        (server(pod="\n      enableServiceLinks: false"), False),
        (server(env='\n        env:\n        - name: VLLM_PORT\n          value: "9000"'), False),
    ],
    ids=["the name", "another name", "another namespace", "headless", "no service links", "a port of its own"],
)
def test_a_service_named_vllm_is_told_where_its_variable_reaches_vllm(text: str, *, speaks: bool) -> None:
    assert bool(findings(text, "IL430")) is speaks


def pod(command: str) -> str:
    return f"""\
apiVersion: v1
kind: Pod
metadata:
  name: server
spec:
  containers:
  - name: main
    image: vllm/vllm-openai:v0.18.0
    command: {command}
"""


@pytest.mark.parametrize(
    ("command", "speaks"),
    [
        ('["vllm serve Qwen/Qwen3-8B"]', True),
        ('["python3 -m vllm.entrypoints.openai.api_server"]', True),
        ('["/usr/bin/torchrun train.py", "--epochs=3"]', True),
        ('["sh", "-c", "vllm serve Qwen/Qwen3-8B"]', False),
        ('["vllm", "serve", "Qwen/Qwen3-8B"]', False),
        ('["/opt/my tools/start"]', False),
        ('["python"]', False),
    ],
)
def test_a_command_line_in_one_entry_is_told(command: str, *, speaks: bool) -> None:
    assert bool(findings(pod(command), "IL026")) is speaks


def test_a_plain_line_is_split_and_one_for_a_shell_is_left() -> None:
    text = pod('["vllm serve Qwen/Qwen3-8B"]')
    [found] = findings(text, "IL026")
    assert 'command: ["vllm", "serve", "Qwen/Qwen3-8B"]' in patched(text, found.patch)
    [found] = findings(pod("""["vllm serve $MODEL"]"""), "IL026")
    assert found.patch is None


def pytorch_job(told: str = "auto", command: str = "[python, train.py]", gpus: int = 8) -> str:
    return f"""\
apiVersion: kubeflow.org/v1
kind: PyTorchJob
metadata:
  name: train
spec:
  nprocPerNode: "{told}"
  pytorchReplicaSpecs:
    Master:
      replicas: 1
      restartPolicy: OnFailure
      template:
        spec:
          containers:
          - name: pytorch
            image: registry.example.com/train:1.4.0
            command: {command}
            resources:
              limits:
                nvidia.com/gpu: {gpus}
"""


@pytest.mark.parametrize(
    ("text", "speaks"),
    [
        (pytorch_job(), True),
        (pytorch_job("8"), True),
        (pytorch_job("1"), False),
        (pytorch_job(gpus=1), False),
        (pytorch_job(command="[python, -m, torch.distributed.run, train.py]"), False),
        (pytorch_job(command="[torchrun, train.py]"), False),
        (pytorch_job(command="[bash, start.sh]"), False),
    ],
    ids=["auto", "eight", "one process", "one GPU", "the launcher as a module", "torchrun", "a script of theirs"],
)
def test_a_number_of_processes_that_python_does_not_read_is_told(text: str, *, speaks: bool) -> None:
    assert bool(findings(text, "IL233")) is speaks


def job_set(address: str, network: str = "") -> str:
    return f"""\
apiVersion: jobset.x-k8s.io/v1alpha2
kind: JobSet
metadata:
  name: pytorch
spec:{network}
  replicatedJobs:
  - name: workers
    replicas: 1
    template:
      spec:
        completionMode: Indexed
        parallelism: 2
        completions: 2
        template:
          spec:
            restartPolicy: Never
            containers:
            - name: main
              image: registry.example.com/train:1.4.0
              env:
              - name: MASTER_ADDR
                value: {address}
"""


NAMED = "\n  network:\n    subdomain: ring"


@pytest.mark.parametrize(
    ("text", "speaks"),
    [
        (job_set("pytorch-workers-0-0.pytorch-workers"), True),
        (job_set("pytorch-workers-0-0.pytorch"), False),
        (job_set("pytorch-workers-0-0.pytorch.train.svc.cluster.local"), False),
        (job_set("pytorch-workers-0-0.ring", NAMED), False),
        (job_set("pytorch-workers-0-0.pytorch", NAMED), True),
        (job_set("other-workers-0-0.ring"), False),
    ],
    ids=["the job's name", "the JobSet's", "in full", "its subdomain", "not its subdomain", "another JobSet"],
)
def test_the_pods_of_a_job_set_stand_below_its_own_service(text: str, *, speaks: bool) -> None:
    assert bool(findings(text, "IL307")) is speaks


def queued(covered: str, queue: str = "team") -> str:
    """Queues and a Job that asks for two CPUs, in one run."""
    return f"""\
apiVersion: kueue.x-k8s.io/v1beta2
kind: ClusterQueue
metadata:
  name: research
spec:
  namespaceSelector: {{}}
  resourceGroups:
  - coveredResources: [{covered}]
    flavors:
    - name: default
      resources: [{", ".join(f"{{name: {one}, nominalQuota: 8}}" for one in covered.split(", "))}]
---
apiVersion: kueue.x-k8s.io/v1beta2
kind: LocalQueue
metadata:
  name: team
  namespace: a
spec:
  clusterQueue: research
---
apiVersion: batch/v1
kind: Job
metadata:
  name: train
  namespace: a
  labels:
    kueue.x-k8s.io/queue-name: {queue}
spec:
  template:
    spec:
      restartPolicy: Never
      containers:
      - name: main
        image: registry.example.com/train:1.4.0
        resources:
          limits:
            cpu: 2
            nvidia.com/gpu: 1
"""


@pytest.mark.parametrize(
    ("text", "speaks"),
    [
        (queued("nvidia.com/gpu"), True),
        (queued("cpu, nvidia.com/gpu"), False),
        (queued("nvidia.com/gpu", queue="another"), False),
    ],
    ids=["no quota of cpu", "both covered", "a queue that is not there"],
)
def test_queues_of_the_same_run_say_what_they_do_not_cover(text: str, *, speaks: bool) -> None:
    assert bool(findings(text, "IL604")) is speaks


def group(version: str = "v0.18.0", options: str = "--tensor-parallel-size 8", start: str = "ray start --head;") -> str:
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
          image: vllm/vllm-openai:{version}
          command: [sh, -c, "{start} vllm serve /models/llama {options}"]
          resources:
            limits:
              nvidia.com/gpu: 4
    workerTemplate:
      spec:
        containers:
        - name: worker
          image: vllm/vllm-openai:{version}
          command: [sh, -c, "ray start --address=$(LWS_LEADER_ADDRESS):6379 --block"]
          resources:
            limits:
              nvidia.com/gpu: 4
"""


@pytest.mark.parametrize(
    ("text", "speaks"),
    [
        (group(), True),
        (group("v0.11.0"), False),
        (group("latest"), False),
        (group(options="--tensor-parallel-size 4"), False),
        (group(options="--tensor-parallel-size 8 --distributed-executor-backend ray"), False),
        (group(options="--tensor-parallel-size 8 --nnodes 2", start=""), False),
    ],
    ids=["eight on four", "an older one", "no version", "it fits the pod", "Ray is chosen", "processes of its own"],
)
def test_vllm_on_several_nodes_must_be_told_of_ray(text: str, *, speaks: bool) -> None:
    assert bool(findings(text, "IL431")) is speaks


def probed(seconds: int, *, claim: bool = False) -> str:
    cache = (
        "\n        volumeMounts:\n        - name: cache\n          mountPath: /root/.cache/huggingface" if claim else ""
    )
    volume = (
        "\n      volumes:\n      - name: cache\n        persistentVolumeClaim:\n          claimName: hub"
        if claim
        else ""
    )
    return f"""\
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
        args: [--model, Qwen/Qwen3-8B]
        livenessProbe:
          httpGet:
            path: /health
            port: 8000
          initialDelaySeconds: {seconds}
          periodSeconds: 5
        resources:
          limits:
            nvidia.com/gpu: 1{cache}{volume}
"""


@pytest.mark.parametrize(
    ("text", "speaks"),
    [(probed(90), True), (probed(180), False), (probed(90, claim=True), False), (probed(30, claim=True), True)],
    ids=["16 GB in 105 s", "16 GB in 195 s", "from a claim in 105 s", "from a claim in 45 s"],
)
def test_a_liveness_probe_leaves_time_for_the_download(text: str, *, speaks: bool) -> None:
    assert bool(findings(text, "IL531")) is speaks


def script_findings(text: str, rule: str) -> list[int]:
    result = check(read_texts({"script.py": textwrap.dedent(text)}), list(registry.load().values()), Setting())
    assert result.faults == ()
    return [finding.line for finding in result.findings if finding.rule == rule]


@pytest.mark.parametrize(
    ("line", "speaks"),
    [
        ("if trainer.is_global_zero: trainer.save_checkpoint('a.ckpt')", True),
        ("if trainer.global_rank == 0: trainer.save_checkpoint('a.ckpt')", True),
        ("trainer.save_checkpoint('a.ckpt')", False),
        ("if epochs > 3: trainer.save_checkpoint('a.ckpt')", False),
        ("if trainer.is_global_zero: model.save_pretrained('a')", False),
        ("if trainer.is_global_zero: log.save('a')", False),
    ],
)
def test_a_save_of_lightning_is_for_every_rank(line: str, *, speaks: bool) -> None:
    text = (
        "from lightning.pytorch import Trainer\nfrom mine import epochs, log, model\n\ntrainer = Trainer(devices=4)\n"
    )
    assert bool(script_findings(text + line + "\n", "IL744")) is speaks


@pytest.mark.parametrize(
    ("arguments", "speaks"),
    [
        ("enable_chunked_prefill=False, max_num_batched_tokens=8192, max_model_len=32768", True),
        ("max_num_batched_tokens=8192, max_model_len=32768", False),
        ("enable_chunked_prefill=False, max_num_batched_tokens=32768, max_model_len=32768", False),
    ],
)
def test_without_chunked_prefill_a_prompt_fits_one_step(arguments: str, *, speaks: bool) -> None:
    text = f'from vllm import LLM\n\nllm = LLM("Qwen/Qwen2.5-7B-Instruct", {arguments})\n'
    assert bool(script_findings(text, "IL762")) is speaks


LOADED = """
import os
import torch
import torch.distributed as dist
from mine import Model
from torch.nn.parallel import DistributedDataParallel as DDP

dist.init_process_group("nccl")
gpu = int(os.environ["LOCAL_RANK"])
torch.cuda.set_device(gpu)
model = DDP(Model().to(gpu), device_ids=[gpu])
scaler = torch.amp.GradScaler()
"""


@pytest.mark.parametrize(
    ("line", "speaks"),
    [
        ("model.module.load_state_dict(torch.load('a.pt'))", True),
        ("model.module.load_state_dict(torch.load('a.pt', map_location='cpu'))", False),
        ("scaler.load_state_dict(torch.load('a.pt'))", False),
    ],
)
def test_weights_are_loaded_with_a_place_for_them(line: str, *, speaks: bool) -> None:
    assert bool(script_findings(LOADED + line + "\n", "IL734")) is speaks


@pytest.mark.parametrize(
    ("accelerator", "speaks"),
    [("Accelerator(fsdp_plugin=Plugin())", True), ("Accelerator()", False)],
    ids=["sharded", "perhaps one process"],
)
def test_device_map_below_adapters_is_told_where_there_are_many_processes(accelerator: str, *, speaks: bool) -> None:
    text = f"""
    from accelerate import Accelerator, FullyShardedDataParallelPlugin as Plugin
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    accelerator = {accelerator}
    model = AutoModelForCausalLM.from_pretrained("Qwen/Qwen2.5-7B", device_map="auto")
    model = get_peft_model(model, LoraConfig(r=16))
    model = accelerator.prepare(model)
    """
    assert bool(script_findings(text, "IL736")) is speaks


@pytest.mark.parametrize(
    ("selector", "speaks"),
    [("", True), ("\n            labelSelector: {}", False)],
    ids=["none: no pod", "an empty one: every pod"],
)
def test_an_affinity_without_a_selector_matches_nobody(selector: str, *, speaks: bool) -> None:
    text = f"""\
apiVersion: apps/v1
kind: Deployment
metadata:
  name: llama
spec:
  replicas: 2
  selector:
    matchLabels:
      app: llama
  template:
    metadata:
      labels:
        app: llama
    spec:
      affinity:
        podAffinity:
          requiredDuringSchedulingIgnoredDuringExecution:
          - topologyKey: kubernetes.io/hostname{selector}
      containers:
      - name: main
        image: vllm/vllm-openai:v0.18.0
"""
    assert bool(findings(text, "IL201")) is speaks


def rolled(annotation: str = "2", strategy: str = "", scheduler: str = "volcano") -> str:
    return f"""\
apiVersion: apps/v1
kind: Deployment
metadata:
  name: ranks
spec:
  replicas: 2{strategy}
  selector:
    matchLabels:
      app: ranks
  template:
    metadata:
      labels:
        app: ranks
      annotations:
        scheduling.volcano.sh/group-min-member: "{annotation}"
    spec:
      schedulerName: {scheduler}
      containers:
      - name: main
        image: registry.example.com/ranks:1.0.0
"""


@pytest.mark.parametrize(
    ("text", "speaks"),
    [
        (rolled(), True),
        (rolled("1"), False),
        (rolled(scheduler="default-scheduler"), False),
        (rolled(strategy="\n  strategy:\n    type: Recreate"), False),
        (rolled(strategy="\n  strategy:\n    rollingUpdate:\n      maxSurge: 1\n      maxUnavailable: 1"), False),
    ],
    ids=["one at once", "a gang of one", "another scheduler", "all at once", "two at once"],
)
def test_a_rolling_update_starts_as_many_as_the_gang_waits_for(text: str, *, speaks: bool) -> None:
    assert bool(findings(text, "IL524")) is speaks
