"""NCCL's variables, as they are written: names, numbers, levels and lists."""

from __future__ import annotations

import re
from collections.abc import Iterator
from difflib import SequenceMatcher

from ironloom.catalog import nccl
from ironloom.check import edits, pods
from ironloom.check.finding import Confidence, Patch, Severity
from ironloom.check.rule import Context, Problem, Source, problem, rule
from ironloom.workload.manifests.suggest import nearest
from ironloom.workload.workload import Container, PodSet, Workload

ENV = Source(nccl.SOURCE, "each variable with what it takes")
INTEGER = re.compile(r"[+-]?(0[xX][0-9a-fA-F]+|\d+)")
FILLED_IN = re.compile(r"\$|\{\{")
NEAR = 0.88
"""Share of letters in common, in order, from which a name is a slip for another."""


def each_variable(workload: Workload) -> Iterator[tuple[PodSet, Container, pods.Variable]]:
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
    for _, container, variable in each_variable(workload):
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
    for _, _, variable in each_variable(workload):
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
    for _, _, variable in each_variable(workload):
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
    for _, _, variable in each_variable(workload):
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
