"""JobSets, training runtimes and TrainJobs: parts that exclude one another, and values that are refused.

These are expressions of the kinds' definitions (x-kubernetes-validations), which the API server evaluates beside types
and required fields.
"""

from __future__ import annotations

from collections.abc import Iterator

from ironloom.check import edits, look
from ironloom.check.fields import PLACEHOLDER, is_part
from ironloom.check.finding import Patch, Severity
from ironloom.check.rule import Context, Problem, Source, problem, rule
from ironloom.workload.manifests.document import Document
from ironloom.workload.manifests.schema import Path

_JOBSET = """\
apiVersion: jobset.x-k8s.io/v1alpha2
kind: JobSet
metadata:
  name: train
spec:
{lines}  replicatedJobs:
  - name: prepare
    template:
      spec:
        template:
          spec:
            containers:
            - name: main
              image: python:3.12
  - name: workers
    dependsOn:
    - name: prepare
      status: Complete
    template:
      spec:
        template:
          spec:
            containers:
            - name: main
              image: nvcr.io/nvidia/pytorch:25.09-py3
"""
RUNTIMES = ("TrainingRuntime", "ClusterTrainingRuntime")


@rule(
    id="IL029",
    name="two-orders-of-start",
    family="schema",
    severity=Severity.ERROR,
    subject=Document,
    summary="a JobSet that starts its jobs in order and by dependencies",
    why="startupPolicy InOrder and dependsOn both say which replicated job waits for which. The definition takes one; "
    "dependsOn can wait for Complete, which InOrder cannot.",
    bad=_JOBSET.format(lines="  startupPolicy:\n    startupPolicyOrder: InOrder\n"),
    good=_JOBSET.format(lines=""),
    sources=(
        Source(
            "https://github.com/kubernetes-sigs/jobset/blob/v0.12.0/api/jobset/v1alpha2/jobset_types.go",
            "StartupPolicy and DependsOn APIs are mutually exclusive",
        ),
    ),
)
def two_orders_of_start(document: Document, context: Context) -> Iterator[Problem]:
    spec_path: Path = ("spec",) if document.kind == "JobSet" else ("spec", "template", "spec")
    if document.kind not in {"JobSet", *RUNTIMES} or is_part(document, context):
        return
    spec = look.mapping(document.obj, spec_path)
    if look.text(spec, ("startupPolicy", "startupPolicyOrder")) != "InOrder":
        return
    for index, job in enumerate(look.entries(spec, ("replicatedJobs",))):
        if look.at(job, ("dependsOn",)) is not None:
            yield problem(
                document,
                (*spec_path, "replicatedJobs", index, "dependsOn"),
                "dependsOn beside startupPolicy InOrder: the order is said twice",
                at_key=True,
                help="leave startupPolicy out",
            )
            return


POLICIES = ("torch", "mpi", "jax", "xgboost", "flux")


def _runtime(policy: str) -> str:
    return f"""\
apiVersion: trainer.kubeflow.org/v1alpha1
kind: ClusterTrainingRuntime
metadata:
  name: torch
spec:
  mlPolicy:
    numNodes: 2
{policy}  template:
    spec:
      replicatedJobs:
      - name: node
        template:
          spec:
            template:
              spec:
                containers:
                - name: node
                  image: nvcr.io/nvidia/pytorch:25.09-py3
"""


@rule(
    id="IL030",
    name="two-training-policies",
    family="schema",
    severity=Severity.ERROR,
    subject=Document,
    summary="a training runtime with two policies of launch",
    why="mlPolicy says how the nodes find each other: torch sets torchrun's variables, mpi writes a hostfile and keys, "
    "and so on. The definition takes one of them, or none.",
    bad=_runtime("    torch: {}\n    mpi:\n      numProcPerNode: 8\n"),
    good=_runtime("    torch: {}\n"),
    sources=(
        Source(
            "https://github.com/kubeflow/trainer/blob/v2.3.0/pkg/apis/trainer/v1alpha1/trainingruntime_types.go",
            "only one of the policy can be configured",
        ),
    ),
)
def two_training_policies(document: Document, context: Context) -> Iterator[Problem]:
    path: Path = ("spec", "mlPolicy")
    if document.kind not in RUNTIMES or is_part(document, context):
        return
    policy = look.mapping(document.obj, path)
    named = [name for name in policy if name in POLICIES and policy[name] is not None]
    if len(named) > 1:
        yield problem(document, (*path, named[-1]), f"mlPolicy has {' and '.join(named)}: it can have one", at_key=True)


def _train_job(uri: str) -> str:
    return f"""\
apiVersion: trainer.kubeflow.org/v1alpha1
kind: TrainJob
metadata:
  name: finetune
spec:
  runtimeRef:
    name: torch-distributed
  initializer:
    model:
      storageUri: {uri}
"""


_MANAGERS = ("trainer.kubeflow.org/trainjob-controller", "kueue.x-k8s.io/multikueue")


@rule(
    id="IL031",
    name="train-job-value-refused",
    family="schema",
    severity=Severity.ERROR,
    subject=Document,
    summary="a storageUri without a scheme, or a manager that there is not, in a TrainJob",
    why="The initializers read hf://, s3:// and others, and which it is stands before the ://; a plain hub name is "
    "refused. managedBy is Trainer's own controller or Kueue's MultiKueue. Both stand as expressions in the "
    "definition, so that no table of types has them.",
    bad=_train_job("meta-llama/Llama-3.2-1B"),
    good=_train_job("hf://meta-llama/Llama-3.2-1B"),
    sources=(
        Source(
            "https://github.com/kubeflow/trainer/blob/v2.3.0/pkg/apis/trainer/v1alpha1/trainjob_types.go",
            "storageUri may be empty, or it must be a valid URI; who may manage",
        ),
    ),
)
def train_job_value_refused(document: Document, _context: Context) -> Iterator[Problem]:
    if document.kind != "TrainJob":
        return
    for part in ("dataset", "model"):
        path: Path = ("spec", "initializer", part, "storageUri")
        uri = look.text(document.obj, path)
        scheme, is_uri, rest = uri.partition("://")
        if not uri or PLACEHOLDER.search(uri):
            continue
        if not is_uri or not rest or not scheme[:1].isalpha():
            is_hub_name = uri.count("/") == 1 and not uri.startswith(("/", "."))
            edit = edits.replace(document, path, edits.scalar(f"hf://{uri}")) if is_hub_name and not is_uri else None
            yield problem(
                document,
                path,
                f"storageUri {uri} has no scheme",
                help="write hf://, s3://, pvc:// or another before it",
                patch=Patch(title="read it from the hub", edits=(edit,), is_safe=False) if edit is not None else None,
            )
    manager = look.text(document.obj, ("spec", "managedBy"))
    if manager and manager not in _MANAGERS and not PLACEHOLDER.search(manager):
        yield problem(document, ("spec", "managedBy"), f"managedBy must be {' or '.join(_MANAGERS)}")
