"""Gangs, devices of the fabric, shared memory, NCCL's variables: where a rule speaks and where it must not."""

from __future__ import annotations

import pytest
from tests.fakes.checking import findings, patched

from ironloom.catalog import accelerators
from ironloom.check.rules.examples import fleet, leaf_groups, node


def server(args: str = "", gpus: int = 2, extra: str = "", container: str = "", image: str = "vllm/vllm-openai") -> str:
    return f"""\
apiVersion: v1
kind: Pod
metadata:
  name: llama
spec:{extra}
  containers:
  - name: main
    image: {image}:v0.11.0
    args: [--model, Qwen/Qwen3-32B{args}]{container}
    resources:
      limits:
        nvidia.com/gpu: {gpus}
"""


def job(command: str, num_pods: int = 2, extra: str = "", env: str = "", limits: str = "nvidia.com/gpu: 8") -> str:
    return f"""\
apiVersion: batch/v1
kind: Job
metadata:
  name: train
spec:
  parallelism: {num_pods}
  completions: {num_pods}
  completionMode: Indexed
  template:
    spec:
      restartPolicy: Never{extra}
      containers:
      - name: main
        image: nvcr.io/nvidia/pytorch:25.09-py3
        command: {command}{env}
        resources:
          limits:
            {limits}
"""


TORCHRUN = "[torchrun, --nnodes=2, --nproc-per-node=8, train.py]"


def variable(name: str, value: str) -> str:
    return f'\n        env:\n        - name: {name}\n          value: "{value}"'


@pytest.mark.parametrize(
    ("text", "is_small"),
    [
        (server(), True),
        (server(", --tensor-parallel-size, '2'"), True),
        (server(", --tensor-parallel-size, '1'"), False),
        (server(gpus=1), False),
        (server(extra="\n  hostIPC: true"), False),
        (server(image="example.org/own-server"), False),
    ],
    ids=["two GPUs", "tensor parallel", "no tensor parallel", "one GPU", "the host's memory", "unknown program"],
)
def test_shared_memory_is_asked_of_processes_that_share(text: str, is_small: bool) -> None:
    assert bool(findings(text, "IL301")) is is_small


def test_the_patch_mounts_shared_memory_beside_what_is_mounted() -> None:
    container = "\n    volumeMounts:\n    - {name: models, mountPath: /models}  # weights"
    text = server(extra="\n  volumes:\n  - name: models\n    emptyDir: {}", container=container)
    [one] = findings(text, "IL301")
    mended = patched(text, one.patch)
    assert not findings(mended, "IL301", "IL302", "IL303")
    assert "{name: models, mountPath: /models}  # weights" in mended


@pytest.mark.parametrize(
    ("volume", "says"),
    [
        ("{medium: Memory}", []),
        ("{}", ["IL302"]),
        ("{sizeLimit: 1Gi}", ["IL302"]),
        ("{medium: Memory, sizeLimit: 1Gi}", []),
        ("{medium: Memory, sizeLimit: 9Gi}", ["IL303"]),
    ],
)
def test_shared_memory_is_memory_and_below_the_limit(volume: str, says: list[str]) -> None:
    text = f"""\
apiVersion: v1
kind: Pod
metadata: {{name: a}}
spec:
  containers:
  - name: main
    image: x
    resources: {{limits: {{memory: 8Gi}}}}
    volumeMounts:
    - {{name: shm, mountPath: /dev/shm}}
  volumes:
  - name: shm
    emptyDir: {volume}
"""
    found = findings(text, "IL302", "IL303")
    assert [one.rule for one in found] == says
    for one in found:
        if one.patch is not None:
            assert not findings(patched(text, one.patch), one.rule)


def test_a_gang_on_nodes_with_a_fabric_asks_for_its_device() -> None:
    here = fleet(*leaf_groups(a=4))
    [one] = findings(job(TORCHRUN), "IL304", fleet=here)
    assert one.evidence == ("4 nodes with room for the pod: rdma/ib on each",)
    assert not findings(job(TORCHRUN, limits="nvidia.com/gpu: 8\n            rdma/ib: 1"), "IL304", fleet=here)


@pytest.mark.parametrize(
    "text",
    [
        job(TORCHRUN, num_pods=1),
        job("[python, train.py]"),
        job(TORCHRUN, extra="\n      hostNetwork: true"),
    ],
    ids=["one pod", "pods on their own", "the host's network"],
)
def test_no_device_is_asked_where_pods_do_not_talk_or_have_the_host_s(text: str) -> None:
    assert not findings(text, "IL304", fleet=fleet(*leaf_groups(a=4)))


def test_no_device_is_asked_on_nodes_that_may_have_none() -> None:
    bare = node("x", allocatable={"rdma/ib": 0})
    assert not findings(job(TORCHRUN), "IL304", fleet=fleet(bare, *leaf_groups(a=4)))
    assert not findings(job(TORCHRUN), "IL304"), "without a fleet nothing is known of the nodes"


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("NCCL_DEBUG", "INFO", []),
        ("NCCL_DEBUG", "info", []),
        ("NCCL_DEBUG", "DEBUG", ["IL322"]),
        ("NCCL_DEBUGS", "INFO", ["IL320"]),
        ("NCCL_P2P_DISBALE", "1", ["IL320"]),
        ("NCCL_VERSION", "2.27", []),
        ("NCCL_MY_OWN", "1", []),
        ("NCCL_IB_TIMEOUT", "22", []),
        ("NCCL_IB_DISABLE", "true", ["IL321"]),
        ("NCCL_NVLS_ENABLE", "0x1", []),
        ("NCCL_NVLS_ENABLE", "$(ENABLE)", []),
        ("NCCL_IB_HCA", "mlx5_0,mlx5_1", []),
        ("NCCL_IB_HCA", "mlx5_0, mlx5_1", ["IL326"]),
        ("NCCL_SOCKET_IFNAME", "lo", ["IL324"]),
        ("NCCL_SOCKET_IFNAME", "=docker0", ["IL324"]),
        ("NCCL_SOCKET_IFNAME", "^lo,docker", []),
        ("NCCL_SOCKET_IFNAME", "eth0,lo", []),
    ],
)
def test_variables_of_nccl(name: str, value: str, says: list[str]) -> None:
    rules = ("IL320", "IL321", "IL322", "IL324", "IL326")
    text = job(TORCHRUN, env=variable(name, value))
    assert [one.rule for one in findings(text, *rules)] == says
    for one in findings(text, *rules):
        if one.patch is not None:
            assert not findings(patched(text, one.patch), *rules)


def test_variables_in_a_command_line_count_too() -> None:
    command = "[bash, -c, 'export NCCL_DEBUG=DEBUG; torchrun --nnodes=2 --nproc-per-node=8 train.py']"
    [one] = findings(job(command), "IL322")
    assert one.line == 15


def test_infiniband_off_matters_only_where_there_is_some() -> None:
    text = job(TORCHRUN, env=variable("NCCL_IB_DISABLE", "1"))
    assert not findings(text, "IL323")
    [one] = findings(text, "IL323", fleet=fleet(*leaf_groups(a=2)))
    assert one.evidence == ("2 of 2 nodes have a fabric of 400 Gbit/s a rail",)


@pytest.mark.parametrize(
    ("kind", "is_said"), [("H100-SXM5-80GB", True), ("L40S-48GB", False), ("H100-PCIe-80GB", False)]
)
def test_peer_to_peer_off_matters_where_nvlink_joins_the_gpus(kind: str, is_said: bool) -> None:
    container = '\n    env:\n    - {name: NCCL_P2P_DISABLE, value: "1"}'
    found = findings(server(container=container), "IL325", accelerator=accelerators.ACCELERATORS[kind])
    assert bool(found) is is_said


@pytest.mark.parametrize(
    ("command", "num_pods", "says"),
    [
        (TORCHRUN, 2, []),
        (TORCHRUN, 4, ["IL223"]),
        ("[torchrun, --nnodes=4, --nproc-per-node=8, train.py]", 2, ["IL223"]),
        ("[torchrun, '--nnodes=1:4', --nproc-per-node=8, train.py]", 2, []),
        ("[torchrun, '--nnodes=$(NODES)', --nproc-per-node=8, train.py]", 2, []),
        ("[torchrun, --nproc-per-node=8, train.py]", 2, []),
        ("[torchrun, --standalone, --nnodes=1, --nproc-per-node=8, train.py]", 4, []),
        ("[torchrun, --nnodes=2, --nproc-per-node=4, train.py]", 2, ["IL224"]),
        ("[torchrun, --nnodes=2, --nproc-per-node=16, train.py]", 2, ["IL224"]),
        ("[torchrun, --nnodes=2, --nproc-per-node=gpu, train.py]", 2, []),
        ("[deepspeed, --num_gpus, '4', train.py]", 2, ["IL224"]),
        ("[deepspeed, --num_gpus, '8', train.py]", 2, []),
        ("[accelerate, launch, --num_machines, '2', --num_processes, '8', train.py]", 2, ["IL224"]),
        ("[accelerate, launch, --num_machines, '2', --num_processes, '16', train.py]", 2, []),
    ],
)
def test_a_launch_line_agrees_with_the_pods(command: str, num_pods: int, says: list[str]) -> None:
    assert [one.rule for one in findings(job(command, num_pods), "IL223", "IL224")] == says


PYTORCH_JOB = """\
apiVersion: kubeflow.org/v1
kind: PyTorchJob
metadata: {name: a}
spec:
  pytorchReplicaSpecs:
    Master:
      replicas: 1
      template: &pod
        spec:
          containers:
          - name: pytorch
            image: pytorch:1
            command: [torchrun, --nnodes=NODES, --nproc-per-node=8, train.py]
            resources: {limits: {nvidia.com/gpu: 8}}
    Worker: {replicas: 3, template: *pod}
"""


def test_a_master_and_its_workers_are_the_nodes_together() -> None:
    assert findings(PYTORCH_JOB.replace("NODES", "4"), "IL223") == []
    found = findings(PYTORCH_JOB.replace("NODES", "8"), "IL223")
    assert found
    assert all("told of 8 nodes, and 4 pods run" in one.message for one in found)
    assert found[0].evidence[-1] == "1 pod of master, 3 pods of worker"


def test_more_processes_than_gpus_is_an_error_and_fewer_a_warning() -> None:
    [more] = findings(job("[torchrun, --nnodes=2, --nproc-per-node=16, train.py]"), "IL224")
    [fewer] = findings(job("[torchrun, --nnodes=2, --nproc-per-node=4, train.py]"), "IL224")
    assert (more.severity, fewer.severity) == ("error", "warning")


def test_a_gang_with_a_scheduler_of_gangs_may_not_start_in_part() -> None:
    assert findings(job(TORCHRUN), "IL220")
    assert not findings(job(TORCHRUN, extra="\n      schedulerName: volcano"), "IL220")
    assert not findings(job("[python, train.py]"), "IL220")


def test_names_of_pods_need_a_subdomain() -> None:
    command = "[torchrun, --nnodes=2, --nproc-per-node=8, --rdzv-endpoint=train-0.trainer:29500, train.py]"
    [one] = findings(job(command), "IL307")
    mended = patched(job(command), one.patch)
    assert not findings(mended, "IL307")
    assert "subdomain: trainer" in mended


def test_a_port_that_is_only_declared_proves_nothing() -> None:
    service = """\
---
apiVersion: v1
kind: Service
metadata: {name: llama}
spec:
  selector: {app: llama}
  ports:
  - {port: 80, targetPort: 9000}
"""
    pod = server(gpus=1).replace("  name: llama\n", "  name: llama\n  labels: {app: llama}\n")
    assert [one.line for one in findings(pod + service, "IL309")] == [21]
    unknown = pod.replace("vllm/vllm-openai", "example.org/own")
    assert not findings(unknown.replace("args:", "command: [serve]\n    args:") + service, "IL309")


@pytest.mark.parametrize(("target", "is_said"), [("https", True), ("http", False), ("${PORT}", False), ("PORT", False)])
def test_a_named_port_must_be_there_and_a_template_is_no_name(target: str, is_said: bool) -> None:
    text = f"""\
apiVersion: v1
kind: Pod
metadata: {{name: a, labels: {{app: a}}}}
spec:
  containers:
  - name: main
    image: x
    ports:
    - {{name: http, containerPort: 8080}}
---
apiVersion: v1
kind: Service
metadata: {{name: a}}
spec:
  selector: {{app: a}}
  ports:
  - {{port: 80, targetPort: "{target}"}}
"""
    assert bool(findings(text, "IL309")) is is_said
    assert not findings(text.replace("  selector:", "  clusterIP: None\n  selector:"), "IL309")  # it sends nothing


@pytest.mark.parametrize(
    ("command", "is_said"),
    [
        ("mpirun -np 16 all_reduce_perf -n 100", False),
        ("mpirun -np 32 all_reduce_perf", True),
        ("mpirun -np $NP all_reduce_perf -b 1G -n 100", False),
        ("mpirun --oversubscribe -np 32 all_reduce_perf", False),
    ],
)
def test_ranks_are_counted_of_mpirun_and_not_of_its_program(command: str, is_said: bool) -> None:
    text = f"""\
apiVersion: kubeflow.org/v2beta1
kind: MPIJob
metadata: {{name: nccl}}
spec:
  slotsPerWorker: 8
  mpiReplicaSpecs:
    Launcher:
      template:
        spec:
          containers:
          - {{name: mpi, image: x, command: [bash, -c, "{command}"]}}
    Worker:
      replicas: 2
      template:
        spec:
          containers:
          - {{name: worker, image: x, resources: {{limits: {{nvidia.com/gpu: 8}}}}}}
"""
    assert bool(findings(text, "IL226")) is is_said


@pytest.mark.parametrize(("data", "is_told"), [(8, True), (16, False)])
def test_memory_is_locked_by_kserve_s_presets_for_several_nodes_alone(data: int, is_told: bool) -> None:
    text = f"""\
apiVersion: serving.kserve.io/v1alpha2
kind: LLMInferenceService
metadata:
  name: deepseek
spec:
  model:
    uri: hf://deepseek-ai/DeepSeek-R1
  parallelism:
    data: {data}
    dataLocal: 8
    expert: true
  template:
    containers:
    - name: main
      resources:
        limits:
          nvidia.com/gpu: 8
          rdma/roce_gdr: 1
"""
    if data > 8:
        text += "  worker:" + text.partition("  template:")[2]
    assert ("IL305" in {one.rule for one in findings(text)}) is is_told


def test_a_launchers_nodes_may_be_those_of_one_job_of_several() -> None:
    jobset = """\
apiVersion: jobset.x-k8s.io/v1alpha2
kind: JobSet
metadata:
  name: sweep
spec:
  replicatedJobs:
  - name: trial
    replicas: 3
    template:
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
              command: [torchrun, --nnodes={nodes}, --nproc-per-node=8, train.py]
              resources:
                limits:
                  nvidia.com/gpu: 8
"""
    assert findings(jobset.replace("{nodes}", "4"), "IL223") == []
    assert findings(jobset.replace("{nodes}", "12"), "IL223") == []
    assert [finding.line for finding in findings(jobset.replace("{nodes}", "5"), "IL223")] == [20]


@pytest.mark.parametrize(("kind", "is_told"), [("RayCluster", False), ("Pod", True)])
def test_a_line_in_one_string_is_what_kuberay_puts_into_its_own(kind: str, is_told: bool) -> None:
    containers = """\
containers:
- name: head
  image: rayproject/ray:2.52.0
  command: ["bash start.sh --in-background"]
"""
    depth, above = (8, "  headGroupSpec:\n    template:\n      spec:\n") if kind == "RayCluster" else (2, "")
    version = "ray.io/v1" if kind == "RayCluster" else "v1"
    text = f"apiVersion: {version}\nkind: {kind}\nmetadata:\n  name: ray\nspec:\n{above}"
    text += "".join(f"{' ' * depth}{line}\n" for line in containers.splitlines())
    assert bool(findings(text, "IL026")) is is_told
