"""What the rules of Kueue show and name alike. No rule stands here."""

from __future__ import annotations

from ironloom.check.rule import Source

LABEL = "kueue.x-k8s.io/queue-name"
QUEUE_DOCS = Source("https://kueue.sigs.k8s.io/docs/concepts/local_queue/", "the label on the job names a LocalQueue")
CLUSTER_QUEUE_DOCS = Source(
    "https://kueue.sigs.k8s.io/docs/concepts/cluster_queue/", "quota, covered resources, cohorts, namespaceSelector"
)
_JOB = """\
apiVersion: batch/v1
kind: Job
metadata:
  name: train
  namespace: research{labels}
spec:
  parallelism: {pods}
  completions: {pods}
  completionMode: Indexed
  template:
    spec:
      restartPolicy: Never{extra}
      containers:
      - name: main
        image: nvcr.io/nvidia/pytorch:25.09-py3
        resources:
          limits:
            nvidia.com/gpu: 8{limits}
"""


def job(queue: str = "team-a", num_pods: int = 2, limits: str = "", extra: str = "") -> str:
    labels = f"\n  labels:\n    {LABEL}: {queue}" if queue else ""
    return _JOB.format(labels=labels, pods=num_pods, limits=limits, extra=extra)
