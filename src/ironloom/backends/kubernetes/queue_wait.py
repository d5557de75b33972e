"""What Kueue says of a pod that it holds by a scheduling gate: one of a service whose manifest names a queue.

Sources: https://kueue.sigs.k8s.io/docs/tasks/run/deployment/ (each pod of a Deployment is a Workload by itself),
https://github.com/kubernetes-sigs/kueue/blob/v0.19.2/pkg/controller/jobs/pod/constants/constants.go (gates, labels).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from ironloom.backends.kubernetes.client import NOT_JSON, Client
from ironloom.backends.kubernetes.discovery import discover
from ironloom.backends.kubernetes.names import QUEUE
from ironloom.backends.kubernetes.training_view import conditions_of, waits_in_queue
from ironloom.errors import ClusterError
from ironloom.workload import look

GATES: Final = "kueue.x-k8s.io/"
"""How the names of Kueue's scheduling gates begin."""
POD_GROUP: Final = "kueue.x-k8s.io/pod-group-name"
"""On a pod that is admitted with others, as a label or, of a long name, as an annotation: its group's Workload."""
JOB_UID: Final = "kueue.x-k8s.io/job-uid"
NOT_YET: Final = "has not looked at it yet"
"""How the line ends of a pod that Kueue has not judged: it has just been made, or Kueue is away."""


def is_held(pod: Mapping[str, Any]) -> bool:
    """Whether Kueue holds it."""
    gates = look.entries(pod, "spec", "schedulingGates")
    return any(str(one.get("name", "")).startswith(GATES) for one in gates if isinstance(one, Mapping))


async def said_of(client: Client, pod: Mapping[str, Any]) -> str:
    """Why its queue holds it, in a line; empty where that is not known. Raises ClusterError."""
    resource = (await discover(client)).find("kueue.x-k8s.io", "Workload")
    if resource is None:
        return ""
    root = f"/apis/{resource.api_version}/namespaces/{pod['metadata']['namespace']}/{resource.plural}"
    workload = await _workload(client, root, pod)
    if workload is not None and conditions_of(workload):
        return f"queue {look.text(workload, 'spec', 'queueName')}: {waits_in_queue(workload)}"
    queue = look.text(pod, "metadata", "labels", QUEUE)
    return f"queue {queue} {NOT_YET}" if queue else f"its queue {NOT_YET}"


async def _workload(client: Client, root: str, pod: Mapping[str, Any]) -> dict[str, Any] | None:
    """The one that it is admitted by; None where there is none yet, or where we may not look."""
    group = next((name for at in ("labels", "annotations") if (name := look.text(pod, "metadata", at, POD_GROUP))), "")
    found: dict[str, Any]
    try:
        if group:
            found = msgspec.json.decode(await client.get(f"{root}/{group}"))
            return found
        params = {"labelSelector": f"{JOB_UID}={look.text(pod, 'metadata', 'uid')}"}
        async for page in client.pages(root, params=params, what="list workloads"):
            for item in page.items:
                found = msgspec.json.decode(item)
                return found
    except NOT_JSON:
        return None
    except ClusterError as error:
        if error.status not in {403, 404}:
            raise
    return None
