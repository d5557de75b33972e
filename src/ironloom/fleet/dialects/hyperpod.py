"""Amazon SageMaker HyperPod: what its health monitoring says of a node."""

from __future__ import annotations

from ironloom.fleet.dialects.dialect import Dialect, Health, Labels
from ironloom.fleet.model import Lifecycle

STATUS = "sagemaker.amazonaws.com/node-health-status"


def _health(labels: Labels) -> Health | None:
    status = labels.get(STATUS, "")
    if not status or status == "Schedulable":
        return None
    lifecycle = Lifecycle.BROKEN if "Pending" in status or "Fail" in status else Lifecycle.TESTING
    return Health(lifecycle=lifecycle, why=f"{STATUS} is {status}")


DIALECT = Dialect(
    name="hyperpod",
    title="SageMaker HyperPod",
    pool="sagemaker.amazonaws.com/instance-group-name",
    health=_health,
    sources=("https://docs.aws.amazon.com/sagemaker/latest/dg/sagemaker-hyperpod-eks-resiliency-node-labels.html",),
    date="2026-11-24",
)
