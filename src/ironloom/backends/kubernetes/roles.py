"""What the gateway may do in a cluster: the one place that says so. `ironloom install` applies it, the reference shows
it.

    ROLE            in the namespace of its services: it does not work without
    CLUSTER_READS   reads of what belongs to the cluster as a whole, where an installation asks for them

Of the Secret with the hub's token only its name is asked for; the key of the installation is mounted into the pod and
not read through the API; of keys made later there are hashes alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

NAME: Final = "ironloom"
"""Of the gateway's own objects, and of the Lease that its replicas hold in turn."""
KEYS_SECRET: Final = NAME
"""Of the Secret with the hashes of the keys that `ironloom key create` made."""
GROUP: Final = "rbac.authorization.k8s.io"
_VERSION: Final = f"{GROUP}/v1"
_EMPTY: Final = "(core)"


@dataclass(frozen=True, slots=True)
class Right:
    """Verbs on one resource."""

    group: str
    """Of its API; empty for Kubernetes' own."""
    resource: str
    verbs: tuple[str, ...]
    what_for: str
    names: tuple[str, ...] = ()
    """Of the objects it is for; all of them where there is none. A create has no name yet."""


_WHOLE = ("get", "list", "create", "patch", "delete")
ROLE: Final = (
    Right("", "pods", ("list", "watch", "patch"), "replicas; a patch says which go first when the count falls"),
    Right("", "pods/log", ("get",), "`ironloom logs`"),
    Right("", "events", ("list",), "what an autoscaler said of a pod that waits for a node"),
    Right("", "services", _WHOLE, "the Service of a service"),
    Right("", "secrets", ("get",), "whether there is a token of the hub; its data is not asked for", ("hf-token",)),
    Right("", "secrets", ("list", "watch", "patch"), "hashes of the keys that the gateways make", (KEYS_SECRET,)),
    Right("", "persistentvolumeclaims", ("create", "patch"), "a service's model cache, which outlives it"),
    Right("", "configmaps", ("list", "watch", "create", "patch", "delete"), "what was applied, for all gateways"),
    Right("apps", "deployments", _WHOLE, "the pods of a service"),
    Right("apps", "deployments/scale", ("patch",), "its replica count"),
    Right("leaderworkerset.x-k8s.io", "leaderworkersets", _WHOLE, "replicas over several nodes, and their count"),
    Right("policy", "poddisruptionbudgets", _WHOLE, "where a service keeps more than one replica"),
    Right("serving.kserve.io", "inferenceservices", _WHOLE, "services that KServe makes the pods of"),
    Right("serving.kserve.io", "llminferenceservices", _WHOLE, "the same"),
    Right("serving.kserve.io", "servingruntimes", _WHOLE, "what serves a model; one is made where none does"),
    Right("", "namespaces", ("get",), "what the namespace lets pods do: a replica over several nodes locks memory"),
    Right("kueue.x-k8s.io", "localqueues", ("list",), "the topology of a service's queue"),
    Right("kueue.x-k8s.io", "workloads", ("get", "list"), "why a queue holds a pod"),
    Right("coordination.k8s.io", "leases", ("create",), "which gateway decides"),
    Right("coordination.k8s.io", "leases", ("get", "update"), "the same", (NAME,)),
)
CLUSTER_READS: Final = (
    Right("", "nodes", ("list",), "taints that GPU pods must tolerate; room for a rollout; what may come"),
    Right("", "pods", ("list",), "GPUs that are taken: room for a rollout"),
    Right(
        "",
        "configmaps",
        ("get",),
        "how far the cluster autoscaler may still go",
        ("cluster-autoscaler-status",),
    ),
    Right("kueue.x-k8s.io", "clusterqueues", ("list",), "by which levels a queue places a replica over several nodes"),
    Right("kueue.x-k8s.io", "resourceflavors", ("list",), "the same"),
    Right("kueue.x-k8s.io", "topologies", ("list",), "the same"),
    Right("serving.kserve.io", "clusterservingruntimes", ("list",), "which models the cluster's runtimes serve"),
    Right("compute.coreweave.com", "nodepools", ("list",), "what a pool can still give"),
    Right("karpenter.sh", "nodepools", ("list",), "the same"),
    Right("karpenter.k8s.aws", "ec2nodeclasses", ("list",), "the same"),
    Right("cluster.x-k8s.io", "machinedeployments", ("list",), "the same"),
    Right("cluster.x-k8s.io", "machinesets", ("list",), "the same"),
    Right("cluster.x-k8s.io", "machinepools", ("list",), "the same"),
    Right("machine.openshift.io", "machinesets", ("list",), "the same"),
)
"""Source of what a rule may name: https://kubernetes.io/docs/reference/access-authn-authz/rbac/#referring-to-resources"""


def role(namespace: str) -> dict[str, Any]:
    """The Role of the gateway in the namespace of its services."""
    return _role("Role", {"name": NAME, "namespace": namespace}, ROLE)


def role_binding(namespace: str) -> dict[str, Any]:
    """Who has it: the gateway's ServiceAccount."""
    return _binding("RoleBinding", {"name": NAME, "namespace": namespace}, "Role", namespace)


def cluster_name(namespace: str) -> str:
    """Of the ClusterRole and its binding: those of two namespaces are two."""
    return f"{NAME}-cluster-reads-{namespace}"


def cluster_role(namespace: str) -> dict[str, Any]:
    """The ClusterRole of the gateway of a namespace."""
    return _role("ClusterRole", {"name": cluster_name(namespace)}, CLUSTER_READS)


def cluster_role_binding(namespace: str) -> dict[str, Any]:
    """Who has it: the gateway's ServiceAccount of that namespace."""
    return _binding("ClusterRoleBinding", {"name": cluster_name(namespace)}, "ClusterRole", namespace)


def _role(kind: str, metadata: dict[str, Any], rights: Sequence[Right]) -> dict[str, Any]:
    return {"apiVersion": _VERSION, "kind": kind, "metadata": metadata, "rules": [_rule(one) for one in rights]}


def _rule(right: Right) -> dict[str, Any]:
    names = {"resourceNames": list(right.names)} if right.names else {}
    return {"apiGroups": [right.group], "resources": [right.resource], **names, "verbs": list(right.verbs)}


def _binding(kind: str, metadata: dict[str, Any], of: str, namespace: str) -> dict[str, Any]:
    return {
        "apiVersion": _VERSION,
        "kind": kind,
        "metadata": metadata,
        "roleRef": {"apiGroup": GROUP, "kind": of, "name": metadata["name"]},
        "subjects": [{"kind": "ServiceAccount", "name": NAME, "namespace": namespace}],
    }


def reference_page() -> str:
    """Both as tables, with what each right is for."""
    return _PAGE.format(role="\n".join(_table(ROLE)), cluster_role="\n".join(_table(CLUSTER_READS)))


_PAGE: Final = """# Rights of the gateway in a cluster

`ironloom install` makes a Role of the first table, with `--cluster-reads` a ClusterRole of the second, and binds them \
to the ServiceAccount `ironloom`. `ironloom install --dry-run --cluster-reads` prints them.

## The Role

In the namespace of the services.

{role}

## The ClusterRole

It is called `ironloom-cluster-reads-NAMESPACE`, and so is its binding. Without it the gateway works, and says what it \
does without: [what it may do](../guides/kubernetes.md#what-it-may-do).

{cluster_role}
"""


def _table(rights: Sequence[Right]) -> list[str]:
    rows = ["| API group | resource | verbs | for |", "|---|---|---|---|"]
    for one in rights:
        named = f" {', '.join(f'`{name}`' for name in one.names)}" if one.names else ""
        group = f"`{one.group}`" if one.group else _EMPTY
        rows.append(f"| {group} | `{one.resource}`{named} | {', '.join(one.verbs)} | {one.what_for} |")
    return rows
