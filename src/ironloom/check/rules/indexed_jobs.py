"""Jobs whose pods are ranks: how many run at once, and where each has its number from."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from ironloom.check import edits, look, pods
from ironloom.check.finding import Patch, Severity
from ironloom.check.rule import Context, Problem, Source, problem, rule
from ironloom.check.rules.gang_processes import TORCHRUN, launchers_of
from ironloom.workload.manifests.document import Document
from ironloom.workload.manifests.schema import Path
from ironloom.workload.workload import Workload

INDEX = "JOB_COMPLETION_INDEX"


@rule(
    id="IL221",
    name="parallelism-below-completions",
    family="gang",
    severity=Severity.ERROR,
    subject=Workload,
    summary="an Indexed Job that runs fewer pods at once than its launch line waits for",
    why="Every rank of a distributed run must be there at once. With parallelism below completions the last pods start "
    "only when the first have ended, and the first never end: they wait at the rendezvous.",
    bad="""\
apiVersion: batch/v1
kind: Job
metadata:
  name: train
spec:
  parallelism: 2
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
    sources=(
        Source("https://kubernetes.io/docs/concepts/workloads/controllers/job/#parallel-jobs", "what runs at once"),
        TORCHRUN,
    ),
)
def parallelism_below_completions(workload: Workload, _context: Context) -> Iterator[Problem]:
    for path, spec in _jobs(workload.document):
        parallelism, completions = look.integer(spec, ("parallelism",)), look.integer(spec, ("completions",))
        if parallelism is None or completions is None or not 0 < parallelism < completions:
            continue
        nodes = [
            number
            for pod_set in workload.pod_sets
            if pod_set.path[: len(path)] == path
            for _, launch in launchers_of(pod_set)
            if (number := pods.num_nodes(launch)) is not None
        ]
        if not any(number > parallelism for number in nodes):
            continue
        edit = edits.replace(workload.document, (*path, "parallelism"), str(completions))
        yield problem(
            workload.document,
            (*path, "parallelism"),
            f"{parallelism} of {completions} pods run at once, and {max(nodes)} wait for one another: none ever starts",
            evidence=(f"--nnodes {max(nodes)} > parallelism {parallelism}",),
            patch=Patch(title=f"run {completions} at once", edits=(edit,)) if edit is not None else None,
        )


def _jobs(document: Document) -> Iterator[tuple[Path, Mapping[str, Any]]]:
    """Paths of the JobSpecs of a Job or JobSet."""
    if document.kind == "Job" and look.group(document) == "batch":
        yield ("spec",), look.mapping(document.obj, ("spec",))
    elif document.kind == "JobSet":
        for index, one in enumerate(look.entries(document.obj, ("spec", "replicatedJobs"))):
            yield ("spec", "replicatedJobs", index, "template", "spec"), look.mapping(one, ("template", "spec"))


@rule(
    id="IL222",
    name="index-without-indexed-mode",
    family="gang",
    severity=Severity.ERROR,
    subject=Workload,
    summary="JOB_COMPLETION_INDEX in a Job that is not Indexed",
    why="The variable is set only when completionMode is Indexed. In the default mode it is empty, and every pod takes "
    "itself for the same rank or stops at a missing argument.",
    bad="""\
apiVersion: batch/v1
kind: Job
metadata:
  name: train
spec:
  parallelism: 2
  completions: 2
  template:
    spec:
      restartPolicy: Never
      containers:
      - name: main
        image: nvcr.io/nvidia/pytorch:25.09-py3
        command: [bash, -c, "torchrun --nnodes=2 --node-rank=$JOB_COMPLETION_INDEX train.py"]
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
        command: [bash, -c, "torchrun --nnodes=2 --node-rank=$JOB_COMPLETION_INDEX train.py"]
""",
    sources=(
        Source(
            "https://kubernetes.io/docs/concepts/workloads/controllers/job/#completion-mode",
            "which mode sets the index",
        ),
    ),
)
def index_without_indexed_mode(workload: Workload, _context: Context) -> Iterator[Problem]:
    document = workload.document
    if document.kind != "Job" or look.group(document) != "batch":
        return
    mode = look.at(document.obj, ("spec", "completionMode"))
    if mode == "Indexed":
        return
    users = [
        container
        for pod_set in workload.pod_sets
        for container in pod_set.containers
        if INDEX not in container.env and re.search(rf"\$[{{(]?{INDEX}\b", pods.text_of(container))
    ]
    if not users:
        return
    if mode is None:
        edit = edits.add_first(document, ("spec",), ["completionMode: Indexed"])
    else:
        edit = edits.replace(document, ("spec", "completionMode"), "Indexed")
    yield problem(
        document,
        ("spec", "completionMode") if mode is not None else ("spec",),
        f"container {users[0].name} uses ${INDEX}, which only completionMode: Indexed sets",
        at_key=True,
        patch=Patch(title="number the pods", edits=(edit,)) if edit is not None else None,
    )
