"""What the gateway may do in a cluster: the one place that says so. `ironloom install` applies it, the guide shows it.

The rights are those of one namespace. Of the Secret with the hub's token only its name is asked for; the key of the
installation is mounted into the pod and not read through the API; of keys made later there are hashes alone.
"""

from __future__ import annotations

from typing import Any, Final

NAME: Final = "ironloom"
"""Of the gateway's own objects, and of the Lease that its replicas hold in turn."""
RULES: Final = (
    ("", "pods", ("get", "list", "watch", "patch")),
    ("", "pods/log", ("get",)),
    ("", "events", ("list",)),
    ("", "services", ("get", "list", "create", "patch", "delete")),
    ("", "secrets", ("get",)),
    ("", "secrets", ("list", "watch", "patch")),
    ("", "persistentvolumeclaims", ("get", "create", "patch")),
    ("", "configmaps", ("get", "list", "watch", "create", "patch", "delete")),
    ("apps", "deployments", ("get", "list", "watch", "create", "patch", "delete")),
    ("apps", "deployments/scale", ("patch",)),
    ("leaderworkerset.x-k8s.io", "leaderworkersets", ("get", "list", "create", "patch", "delete")),
    ("policy", "poddisruptionbudgets", ("get", "list", "create", "patch", "delete")),
    ("serving.kserve.io", "inferenceservices", ("get", "list", "create", "patch", "delete")),
    ("serving.kserve.io", "llminferenceservices", ("get", "create", "patch", "delete")),
    ("serving.kserve.io", "servingruntimes", ("get", "list", "create", "patch", "delete")),
    ("coordination.k8s.io", "leases", ("create",)),
    ("coordination.k8s.io", "leases", ("get", "update")),
)
"""API group, resource, verbs. Of a Secret and a Lease only by name; a create has none yet.

Source: https://kubernetes.io/docs/reference/access-authn-authz/rbac/#referring-to-resources"""
_EMPTY: Final = '""'
KEYS_SECRET: Final = NAME
"""Of the Secret with the hashes of the keys that `ironloom key create` made."""
_NAMES: Final = {("secrets", "get"): "hf-token", ("secrets", "list"): KEYS_SECRET, ("leases", "get"): NAME}


def role(namespace: str) -> dict[str, Any]:
    """The Role of the gateway in the namespace of its services."""
    rules: list[dict[str, Any]] = []
    for group, resource, verbs in RULES:
        rule: dict[str, Any] = {"apiGroups": [group], "resources": [resource]}
        if name := _NAMES.get((resource, verbs[0])):
            rule["resourceNames"] = [name]
        rules.append({**rule, "verbs": list(verbs)})
    return {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "Role",
        "metadata": {"name": NAME, "namespace": namespace},
        "rules": rules,
    }


def as_text(namespace: str) -> str:
    """The Role as YAML, a rule a line."""
    lines = [
        "apiVersion: rbac.authorization.k8s.io/v1",
        "kind: Role",
        "metadata:",
        f"  name: {NAME}",
        f"  namespace: {namespace}",
        "rules:",
    ]
    for rule in role(namespace)["rules"]:
        parts = [f"{key}: [{', '.join(value or _EMPTY for value in values)}]" for key, values in rule.items()]
        lines.append(f"- {{{', '.join(parts)}}}")
    return "\n".join(lines)
