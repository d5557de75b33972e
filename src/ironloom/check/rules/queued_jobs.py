"""Jobs that Kueue is to start: where the queue's name stands, and what holds them back."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from ironloom.check import look, pods
from ironloom.check.finding import Confidence, Severity
from ironloom.check.rule import Context, Problem, Source, problem, rule
from ironloom.check.rules.queue_examples import LABEL
from ironloom.workload.manifests.document import Document
from ironloom.workload.manifests.schema import Path


@rule(
    id="IL629",
    name="queue-label-misplaced",
    family="queue",
    severity=Severity.WARNING,
    subject=Document,
    summary="the queue's name as an annotation, or on the pod template of a job",
    why="Kueue reads the label of the job itself. On the pod template, or as an annotation, it is read by nobody: the "
    "job starts at once beside the queue, or is suspended for ever where jobs without a queue are managed too.",
    bad="""\
apiVersion: batch/v1
kind: Job
metadata:
  name: train
spec:
  template:
    metadata:
      labels:
        kueue.x-k8s.io/queue-name: team-a
    spec:
      restartPolicy: Never
      containers:
      - name: main
        image: nvcr.io/nvidia/pytorch:25.09-py3
""",
    good="""\
apiVersion: batch/v1
kind: Job
metadata:
  name: train
  labels:
    kueue.x-k8s.io/queue-name: team-a
spec:
  template:
    spec:
      restartPolicy: Never
      containers:
      - name: main
        image: nvcr.io/nvidia/pytorch:25.09-py3
""",
    sources=(
        Source("https://kueue.sigs.k8s.io/docs/tasks/run/jobs/", "the label stands in the Job's metadata"),
        Source("https://github.com/kubernetes-sigs/kueue/issues/3637", "a job without the label passes Kueue by"),
    ),
)
def queue_label_misplaced(document: Document, _context: Context) -> Iterator[Problem]:
    jobs = {"Job", "JobSet", "MPIJob", "PyTorchJob", "RayJob", "RayCluster", "LeaderWorkerSet", "TrainJob"}
    if document.kind not in jobs or LABEL in look.mapping(document.obj, ("metadata", "labels")):
        return
    if LABEL in look.mapping(document.obj, ("metadata", "annotations")):
        path: Path = ("metadata", "annotations", LABEL)
        yield problem(document, path, f"{LABEL} is a label; as an annotation nobody reads it", at_key=True)
        return
    found = next(_labelled(document.obj.get("spec"), ("spec",)), None)
    if found is not None:
        yield problem(
            document,
            found,
            f"{LABEL} counts on the {document.kind}; on what is inside it nobody reads it",
            at_key=True,
            help="move it to the object's own metadata.labels",
            confidence=Confidence.LIKELY,
        )


def _labelled(obj: object, path: Path) -> Iterator[Path]:
    """Paths of the queue label in metadata below an object."""
    if isinstance(obj, Mapping):
        if LABEL in look.mapping(obj, ("metadata", "labels")):
            yield (*path, "metadata", "labels", LABEL)
        for key, value in obj.items():
            yield from _labelled(value, (*path, key))
    elif isinstance(obj, list):
        for index, value in enumerate(obj):
            yield from _labelled(value, (*path, index))


@rule(
    id="IL630",
    name="suspended-for-ever",
    family="queue",
    severity=Severity.WARNING,
    subject=Document,
    summary="suspend: true without a queue that would lift it",
    why="Kueue suspends a job that names a queue and resumes it at its admission. A job that is suspended by its "
    "manifest and names no queue waits for somebody to resume it by hand.",
    bad="""\
apiVersion: batch/v1
kind: Job
metadata:
  name: train
spec:
  suspend: true
  template:
    spec:
      restartPolicy: Never
      containers:
      - name: main
        image: nvcr.io/nvidia/pytorch:25.09-py3
""",
    good="""\
apiVersion: batch/v1
kind: Job
metadata:
  name: train
  labels:
    kueue.x-k8s.io/queue-name: team-a
spec:
  suspend: true
  template:
    spec:
      restartPolicy: Never
      containers:
      - name: main
        image: nvcr.io/nvidia/pytorch:25.09-py3
""",
    sources=(
        Source(
            "https://kubernetes.io/docs/concepts/workloads/controllers/job/#suspending-a-job", "who resumes it decides"
        ),
        Source("https://kueue.sigs.k8s.io/docs/tasks/run/jobs/", "the label, by which Kueue resumes it"),
    ),
)
def suspended_for_ever(document: Document, _context: Context) -> Iterator[Problem]:
    path: Path = ("spec", "suspend")
    if document.kind not in ("Job", "JobSet", "TrainJob") or look.at(document.obj, path) is not True:
        return
    labels = look.mapping(document.obj, ("metadata", "labels"))
    annotations = look.mapping(document.obj, ("metadata", "annotations"))
    is_led = look.at(document.obj, ("spec", "managedBy")) or look.at(document.obj, ("metadata", "ownerReferences"))
    if LABEL in labels or LABEL in annotations or is_led or "status" in document.obj:
        return
    yield problem(
        document,
        path,
        f"the {document.kind} is suspended, and names no queue that would resume it",
        help=f"label it {LABEL}, or leave suspend out",
        confidence=Confidence.LIKELY,
    )


@rule(
    id="IL631",
    name="min-parallelism-wrong",
    family="queue",
    severity=Severity.ERROR,
    subject=Document,
    summary="a least parallelism that is not below the job's",
    why="job-min-parallelism lets Kueue admit a Job with fewer pods. Kueue's webhook refuses one that is not between "
    "1 and parallelism - 1.",
    bad="""\
apiVersion: batch/v1
kind: Job
metadata:
  name: train
  labels:
    kueue.x-k8s.io/queue-name: team-a
  annotations:
    kueue.x-k8s.io/job-min-parallelism: "8"
spec:
  parallelism: 8
  completions: 8
  template:
    spec:
      restartPolicy: Never
      containers:
      - name: main
        image: nvcr.io/nvidia/pytorch:25.09-py3
""",
    good="""\
apiVersion: batch/v1
kind: Job
metadata:
  name: train
  labels:
    kueue.x-k8s.io/queue-name: team-a
  annotations:
    kueue.x-k8s.io/job-min-parallelism: "4"
spec:
  parallelism: 8
  completions: 8
  template:
    spec:
      restartPolicy: Never
      containers:
      - name: main
        image: nvcr.io/nvidia/pytorch:25.09-py3
""",
    sources=(
        Source(
            "https://github.com/kubernetes-sigs/kueue/blob/main/pkg/controller/jobs/job/job_webhook.go",
            "what the webhook refuses",
        ),
    ),
)
def min_parallelism_wrong(document: Document, _context: Context) -> Iterator[Problem]:
    key = "kueue.x-k8s.io/job-min-parallelism"
    least = look.text(document.obj, ("metadata", "annotations", key))
    if document.kind != "Job" or not least:
        return
    parallelism = look.integer(document.obj, ("spec", "parallelism"))
    completions = look.integer(document.obj, ("spec", "completions"))
    number = parallelism if parallelism is not None else 1
    number = min(number, completions) if completions is not None else number
    told = pods.whole(least)
    if told is None or not 0 < told < number:
        yield problem(
            document,
            ("metadata", "annotations", key),
            f"{key} {least} must be a whole number from 1 to {number - 1}: Kueue refuses the Job",
            evidence=(f"the Job runs {number} pods at once",),
        )
