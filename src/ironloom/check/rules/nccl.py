"""Variables of NCCL that do not do what they are set for."""

from __future__ import annotations

import re
from collections.abc import Iterator
from difflib import SequenceMatcher

from ironloom.catalog import accelerators, instances, nccl
from ironloom.check import edits, pods
from ironloom.check.finding import Confidence, Patch, Severity
from ironloom.check.rule import Context, Problem, Source, problem, rule
from ironloom.check.rules.selection import wanted_labels
from ironloom.workload.manifests.suggest import nearest
from ironloom.workload.workload import Container, PodSet, Workload

ENV = Source(nccl.SOURCE, "each variable with what it takes")
INTEGER = re.compile(r"[+-]?(0[xX][0-9a-fA-F]+|\d+)")
FILLED_IN = re.compile(r"\$|\{\{")
NEAR = 0.88
"""Share of letters in common, in order, from which a name is a slip for another."""
_NVLINK_FORMS = ("SXM", "Superchip", "OAM")


def _each(workload: Workload) -> Iterator[tuple[PodSet, Container, pods.Variable]]:
    """Variables whose value is written out, once each."""
    for pod_set in workload.pod_sets:
        for container in pod_set.containers:
            for variable in pods.variables(container):
                if not FILLED_IN.search(variable.value):
                    yield pod_set, container, variable


@rule(
    id="IL320",
    name="nccl-variable-unknown",
    family="network",
    severity=Severity.WARNING,
    subject=Workload,
    summary="a variable of NCCL's that there is not, and that is near one that there is",
    why="NCCL looks for the names it knows and says nothing of others: a slip in a name means that the setting is not "
    "made. What is measured afterwards is the default.",
    bad="""\
apiVersion: v1
kind: Pod
metadata:
  name: train
spec:
  containers:
  - name: main
    image: nvcr.io/nvidia/pytorch:25.09-py3
    env:
    - name: NCCL_SOCKET_IFNAMES
      value: eth0
""",
    good="""\
apiVersion: v1
kind: Pod
metadata:
  name: train
spec:
  containers:
  - name: main
    image: nvcr.io/nvidia/pytorch:25.09-py3
    env:
    - name: NCCL_SOCKET_IFNAME
      value: eth0
""",
    sources=(ENV,),
)
def nccl_variable_unknown(workload: Workload, _context: Context) -> Iterator[Problem]:
    for _, container, variable in _each(workload):
        name = variable.name
        if not name.startswith(nccl.PREFIX) or name in nccl.KNOWN or name.startswith(nccl.PLUGINS):
            continue
        near = nearest(name, nccl.KNOWN)
        if near is None or SequenceMatcher(None, name, near).ratio() < NEAR:
            continue
        edit = edits.replace(workload.document, (*variable.path[:-1], "name"), near) if variable.is_env else None
        yield problem(
            workload.document,
            (*variable.path[:-1], "name") if variable.is_env else variable.path,
            f"NCCL has no variable {name}",
            help=f"did you mean {near}?",
            evidence=(f"set to {variable.value!r} in container {container.name}",),
            patch=Patch(title=f"set {near}", edits=(edit,), is_safe=False) if edit is not None else None,
            confidence=Confidence.LIKELY,
        )


@rule(
    id="IL321",
    name="nccl-value-is-no-number",
    family="network",
    severity=Severity.WARNING,
    subject=Workload,
    summary="a word for a variable that NCCL reads as a number: it becomes 0",
    why="NCCL reads the text with C's strtoll: what begins with no digit is 0, without a message. `true` switches off "
    "what it was meant to switch on.",
    bad="""\
apiVersion: v1
kind: Pod
metadata:
  name: train
spec:
  containers:
  - name: main
    image: nvcr.io/nvidia/pytorch:25.09-py3
    env:
    - name: NCCL_NVLS_ENABLE
      value: "true"
""",
    good="""\
apiVersion: v1
kind: Pod
metadata:
  name: train
spec:
  containers:
  - name: main
    image: nvcr.io/nvidia/pytorch:25.09-py3
    env:
    - name: NCCL_NVLS_ENABLE
      value: "1"
""",
    sources=(
        ENV,
        Source("https://github.com/NVIDIA/nccl/blob/master/src/misc/param.cc", "the text is read by strtoll"),
    ),
)
def nccl_value_is_no_number(workload: Workload, _context: Context) -> Iterator[Problem]:
    for _, _, variable in _each(workload):
        value = variable.value.strip()
        if variable.name not in nccl.INTEGERS or not value or INTEGER.match(value):
            continue
        meant = {"true": "1", "yes": "1", "on": "1", "false": "0", "no": "0", "off": "0"}.get(value.lower())
        edit = edits.replace(workload.document, variable.path, f'"{meant}"') if meant and variable.is_env else None
        yield problem(
            workload.document,
            variable.path,
            f"{variable.name}={value} is read as 0: NCCL takes a whole number",
            help=f"write {meant}" if meant else "",
            patch=Patch(title=f"write {meant}", edits=(edit,)) if edit is not None else None,
            # 0 is what was meant: no harm is done.
            severity=Severity.NOTE if meant == "0" else None,
        )


@rule(
    id="IL322",
    name="nccl-debug-level",
    family="network",
    severity=Severity.WARNING,
    subject=Workload,
    summary="a level of NCCL_DEBUG that there is not",
    why="NCCL_DEBUG takes VERSION, WARN, INFO, ABORT or TRACE. With another word NCCL prints nothing, and the run "
    "whose log was wanted has to be made again.",
    bad="""\
apiVersion: v1
kind: Pod
metadata:
  name: train
spec:
  containers:
  - name: main
    image: nvcr.io/nvidia/pytorch:25.09-py3
    env:
    - name: NCCL_DEBUG
      value: DEBUG
""",
    good="""\
apiVersion: v1
kind: Pod
metadata:
  name: train
spec:
  containers:
  - name: main
    image: nvcr.io/nvidia/pytorch:25.09-py3
    env:
    - name: NCCL_DEBUG
      value: INFO
""",
    sources=(ENV, Source("https://github.com/NVIDIA/nccl/blob/master/src/debug.cc", "the levels")),
)
def nccl_debug_level(workload: Workload, _context: Context) -> Iterator[Problem]:
    for _, _, variable in _each(workload):
        value = variable.value.strip()
        if variable.name != "NCCL_DEBUG" or not value or value.upper() in (*nccl.DEBUG_LEVELS, "NONE"):
            continue
        near = nearest(value, nccl.DEBUG_LEVELS) or "INFO"
        edit = edits.replace(workload.document, variable.path, near) if variable.is_env else None
        yield problem(
            workload.document,
            variable.path,
            f"NCCL_DEBUG has no level {value}: it prints nothing",
            evidence=(f"the levels are {', '.join(nccl.DEBUG_LEVELS)}",),
            patch=Patch(title=f"write {near}", edits=(edit,)) if edit is not None else None,
        )


@rule(
    id="IL323",
    name="nccl-infiniband-off",
    family="network",
    severity=Severity.WARNING,
    subject=Workload,
    summary="NCCL_IB_DISABLE=1 in a gang that has RDMA devices or runs on nodes with a fabric",
    why="With it NCCL goes over TCP sockets between nodes: a few GB/s in place of hundreds. The setting is often left "
    "from a test on another cluster, and nothing tells that it is slow.",
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
        command: [torchrun, --nnodes=2, --nproc-per-node=8, train.py]
        env:
        - name: NCCL_IB_DISABLE
          value: "1"
        resources:
          limits:
            nvidia.com/gpu: 8
            rdma/ib: 1
""",
    good="""\
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
        command: [torchrun, --nnodes=2, --nproc-per-node=8, train.py]
        env:
        - name: NCCL_IB_HCA
          value: ibp
        resources:
          limits:
            nvidia.com/gpu: 8
            rdma/ib: 1
""",
    sources=(
        ENV,
        Source("https://github.com/vllm-project/vllm/issues/42075", "NCCL on TCP without an error"),
    ),
)
def nccl_infiniband_off(workload: Workload, context: Context) -> Iterator[Problem]:
    if not pods.is_together(workload):
        return
    for pod_set, _, variable in _each(workload):
        if variable.name != "NCCL_IB_DISABLE" or variable.value.strip() in ("", "0"):
            continue
        asked = [name for one in workload.pod_sets for name in one.requests if name.startswith("rdma/")]
        nodes = pods.matched(pod_set, context)
        fabric = [node for node in nodes if any(link.kind in ("infiniband", "roce") for link in node.links)]
        if not asked and (not fabric or len(fabric) < len(nodes)):
            continue
        rate = {link.gbit_per_s for node in fabric for link in node.links if link.kind in ("infiniband", "roce")}
        said = f" of {max(one for one in rate if one):g} Gbit/s a rail" if any(rate) else ""
        yield problem(
            workload.document,
            variable.path,
            "NCCL_IB_DISABLE sends the gang's traffic between nodes over TCP",
            evidence=(
                *((f"the pods ask for {asked[0]}, which then is of no use",) if asked else ()),
                *((f"{len(fabric)} of {pods.nodes_said(len(nodes))} have a fabric{said}",) if fabric else ()),
            ),
            help="leave it out",
        )


@rule(
    id="IL324",
    name="nccl-interface-cannot-reach",
    family="network",
    severity=Severity.ERROR,
    subject=Workload,
    summary="NCCL_SOCKET_IFNAME=lo or docker0 in a gang over several nodes",
    why="NCCL makes its first connections over this interface. lo and docker0 end at the node: the ranks of other "
    "nodes cannot be reached, and ncclCommInitRank fails or hangs.",
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
        command: [torchrun, --nnodes=2, --nproc-per-node=8, train.py]
        env:
        - name: NCCL_SOCKET_IFNAME
          value: lo
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
  parallelism: 2
  completions: 2
  completionMode: Indexed
  template:
    spec:
      restartPolicy: Never
      containers:
      - name: main
        image: nvcr.io/nvidia/pytorch:25.09-py3
        command: [torchrun, --nnodes=2, --nproc-per-node=8, train.py]
        env:
        - name: NCCL_SOCKET_IFNAME
          value: eth0
        resources:
          limits:
            nvidia.com/gpu: 8
""",
    sources=(
        ENV,
        Source("https://github.com/NVIDIA/nccl/blob/master/src/misc/socket.cc", "find the interface or fail"),
    ),
)
def nccl_interface_cannot_reach(workload: Workload, _context: Context) -> Iterator[Problem]:
    if not pods.is_together(workload):
        return
    for pod_set, _, variable in _each(workload):
        if variable.name not in ("NCCL_SOCKET_IFNAME", "GLOO_SOCKET_IFNAME") or not pod_set.gpus()[1]:
            continue
        names = [name.strip().lstrip("=") for name in variable.value.split(",") if name.strip()]
        if not names or variable.value.startswith("^"):
            continue
        if all(name in ("lo", "docker", "docker0") for name in names):
            yield problem(
                workload.document,
                variable.path,
                f"{variable.name}={variable.value} reaches no other node, and the gang has {workload.num_pods} pods",
                help="name the pod's interface (eth0), or leave it out: NCCL passes lo and docker by of itself",
            )


@rule(
    id="IL325",
    name="nccl-peer-to-peer-off",
    family="network",
    severity=Severity.WARNING,
    subject=Workload,
    summary="NCCL_P2P_DISABLE=1 on GPUs that are joined by NVLink",
    why="It switches off direct copies between the GPUs of a node, NVLink among them: all-reduce goes through host "
    "memory, some ten times slower. It is a workaround for consumer cards and for broken PCIe settings.",
    bad="""\
apiVersion: v1
kind: Pod
metadata:
  name: llama
spec:
  nodeSelector:
    node.kubernetes.io/instance-type: gd-8xh100ib-i128
  containers:
  - name: main
    image: vllm/vllm-openai:v0.11.0
    env:
    - name: NCCL_P2P_DISABLE
      value: "1"
    resources:
      limits:
        nvidia.com/gpu: 8
""",
    good="""\
apiVersion: v1
kind: Pod
metadata:
  name: llama
spec:
  nodeSelector:
    node.kubernetes.io/instance-type: gd-8xh100ib-i128
  containers:
  - name: main
    image: vllm/vllm-openai:v0.11.0
    resources:
      limits:
        nvidia.com/gpu: 8
""",
    sources=(ENV,),
)
def nccl_peer_to_peer_off(workload: Workload, context: Context) -> Iterator[Problem]:
    for pod_set, container, variable in _each(workload):
        if variable.name != "NCCL_P2P_DISABLE" or variable.value.strip() in ("", "0") or pods.gpus_of(container) < 2:
            continue
        kinds = _kinds(pod_set, context)
        if not kinds or not all(_has_nvlink(kind) for kind in kinds):
            continue
        yield problem(
            workload.document,
            variable.path,
            f"NCCL_P2P_DISABLE switches NVLink off between the {pods.gpus_of(container)} GPUs of the pod",
            evidence=tuple(_link_said(kind) for kind in sorted(kinds)),
            help="leave it out",
        )


def _kinds(pod_set: PodSet, context: Context) -> set[str]:
    """Accelerators that the pods may run on, as the fleet or the selector's instance type or product says."""
    if context.fleet is not None and context.fleet.nodes:
        return {node.accelerator for node in pods.matched(pod_set, context) if node.accelerator}
    for one in wanted_labels(pod_set):
        known = [instances.find(value) for value in one.values]
        if known and all(known):
            return {each.accelerator for each in known if each is not None}
        found = [accelerators.find(value) for value in one.values]
        if found and all(found) and "gpu" in one.key:
            return {each.name for each in found if each is not None}
    return {context.accelerator.name} if context.accelerator is not None else set()


def _has_nvlink(kind: str) -> bool:
    known = accelerators.ACCELERATORS.get(kind)
    return known is not None and bool(known.nvlink_bytes_per_s) and known.form.startswith(_NVLINK_FORMS)


def _link_said(kind: str) -> str:
    known = accelerators.ACCELERATORS[kind]
    return f"{kind}: {(known.nvlink_bytes_per_s or 0) / 1e9:g} GB/s of NVLink, both directions"


@rule(
    id="IL326",
    name="nccl-list-with-blanks",
    family="network",
    severity=Severity.WARNING,
    subject=Workload,
    summary="blanks after the commas of NCCL_IB_HCA or NCCL_SOCKET_IFNAME",
    why="NCCL cuts the list at its commas and compares what is between them letter by letter: ` mlx5_1` with a blank "
    "before it matches no device, so that part of the rails is left out.",
    bad="""\
apiVersion: v1
kind: Pod
metadata:
  name: train
spec:
  containers:
  - name: main
    image: nvcr.io/nvidia/pytorch:25.09-py3
    env:
    - name: NCCL_IB_HCA
      value: mlx5_0, mlx5_1, mlx5_2
""",
    good="""\
apiVersion: v1
kind: Pod
metadata:
  name: train
spec:
  containers:
  - name: main
    image: nvcr.io/nvidia/pytorch:25.09-py3
    env:
    - name: NCCL_IB_HCA
      value: mlx5_0,mlx5_1,mlx5_2
""",
    sources=(
        ENV,
        Source("https://github.com/NVIDIA/nccl/blob/master/src/misc/utils.cc", "parseStringList trims nothing"),
    ),
)
def nccl_list_with_blanks(workload: Workload, _context: Context) -> Iterator[Problem]:
    for _, _, variable in _each(workload):
        if variable.name not in ("NCCL_IB_HCA", "NCCL_SOCKET_IFNAME") or not re.search(r",\s+\S", variable.value):
            continue
        tight = re.sub(r"\s*,\s*", ",", variable.value.strip())
        edit = edits.replace(workload.document, variable.path, edits.scalar(tight)) if variable.is_env else None
        yield problem(
            workload.document,
            variable.path,
            f"{variable.name} has blanks after its commas: what follows them matches nothing",
            help=f"write {tight}",
            patch=Patch(title="take the blanks out", edits=(edit,)) if edit is not None else None,
        )
