"""The gateway's objects into a cluster and out of it. The same again changes nothing."""

from __future__ import annotations

import secrets
from base64 import b64encode
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

import msgspec

from ironloom.backends.kubernetes.client import Client
from ironloom.backends.kubernetes.install import KEY_FIELD, KEY_SECRET, LABELS, Object
from ironloom.backends.kubernetes.names import MANAGED_BY
from ironloom.backends.kubernetes.roles import NAME
from ironloom.errors import ClusterError

MANAGER: Final = "ironloom-install"
"""Owns the gateway's own objects; what the gateway itself makes has another field manager."""
PATHS: Final = {
    "ServiceAccount": "/api/v1/namespaces/{namespace}/serviceaccounts/{name}",
    "Role": "/apis/rbac.authorization.k8s.io/v1/namespaces/{namespace}/roles/{name}",
    "RoleBinding": "/apis/rbac.authorization.k8s.io/v1/namespaces/{namespace}/rolebindings/{name}",
    "Secret": "/api/v1/namespaces/{namespace}/secrets/{name}",
    "Deployment": "/apis/apps/v1/namespaces/{namespace}/deployments/{name}",
    "Service": "/api/v1/namespaces/{namespace}/services/{name}",
    "PodDisruptionBudget": "/apis/policy/v1/namespaces/{namespace}/poddisruptionbudgets/{name}",
    "HTTPRoute": "/apis/gateway.networking.k8s.io/v1/namespaces/{namespace}/httproutes/{name}",
    "Ingress": "/apis/networking.k8s.io/v1/namespaces/{namespace}/ingresses/{name}",
}
"""Where each kind that an installation may have lies, in the order of applying."""
SECRET_PATH: Final = "/api/v1/namespaces/{namespace}/secrets/{name}"
LEASE_PATH: Final = "/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases/{name}"
Action = Literal["created", "configured", "unchanged", "deleted"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Done:
    """What became of one object."""

    kind: str
    name: str
    action: Action


async def install(
    client: Client, objects: Sequence[Object], *, namespace: str, is_trial: bool = False
) -> list[tuple[Done, Object]]:
    """Apply the objects, remove those of an earlier installation that are no longer among them, and make the key where
    there is none. Each comes back as the API server has it. Raises ClusterError.

    `is_trial` changes nothing and answers what would be.
    """
    done: list[tuple[Done, Object]] = []
    if not is_trial:
        made_key = await _make_key(client, namespace)
        done.append((Done(kind="Secret", name=KEY_SECRET, action="created" if made_key else "unchanged"), {}))
    for one in objects:
        path = PATHS[one["kind"]].format(namespace=namespace, name=one["metadata"]["name"])
        before = await _found(client, path)
        after = msgspec.json.decode(await client.apply(path, one, manager=MANAGER, forces=True, is_trial=is_trial))
        done.append((Done(kind=one["kind"], name=NAME, action=_action(before, after)), after))
    if not is_trial:
        kinds = {one["kind"] for one in objects}
        gone = [kind for kind in PATHS if kind not in kinds]
        done += [(one, {}) for one in await _remove(client, gone, namespace=namespace)]
    return done


async def uninstall(client: Client, *, namespace: str) -> list[Done]:
    """Remove what an installation made, its Lease and its key with it. The services and their pods stay. Raises
    ClusterError."""
    done = await _remove(client, [*reversed(PATHS)], namespace=namespace)
    for kind, template, name in (("Lease", LEASE_PATH, NAME), ("Secret", SECRET_PATH, KEY_SECRET)):
        path = template.format(namespace=namespace, name=name)
        if await _deleted(client, path):
            done.append(Done(kind=kind, name=name, action="deleted"))
    return done


async def key_of(client: Client, namespace: str) -> str:
    """The control key of the gateway in a namespace. Raises ClusterError: 404 where none is installed there."""
    from base64 import b64decode

    path = SECRET_PATH.format(namespace=namespace, name=KEY_SECRET)
    found = msgspec.json.decode(await client.get(path, what=f"get secret {KEY_SECRET} in namespace {namespace}"))
    return b64decode((found.get("data") or {}).get(KEY_FIELD, "")).decode().strip()


async def _make_key(client: Client, namespace: str) -> bool:
    """True where it was made now. One that is there stays: clients know it."""
    path = SECRET_PATH.format(namespace=namespace, name="").rstrip("/")
    token = f"il-{secrets.token_urlsafe(32)}"
    body = {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": KEY_SECRET, "namespace": namespace, "labels": {**LABELS, **MANAGED_BY}},
        "type": "Opaque",
        "data": {KEY_FIELD: b64encode(token.encode()).decode()},
    }
    try:
        await client.change("POST", path, body, what=f"create secret {KEY_SECRET} in namespace {namespace}")
    except ClusterError as error:
        if error.status == 409:
            return False
        if error.status == 404:
            raise ClusterError(
                f"The cluster of context {client.target.context} has no namespace {namespace}",
                hint=f"`kubectl create namespace {namespace}` makes it",
                status=404,
                reason=error.reason,
            ) from None
        raise
    return True


async def _found(client: Client, path: str) -> Object | None:
    try:
        found: Object = msgspec.json.decode(await client.get(path))
    except ClusterError as error:
        if error.status == 404:
            return None
        raise
    return found


def _action(before: Object | None, after: Object) -> Action:
    if before is None:
        return "created"
    version: Callable[[Any], Any] = lambda one: one["metadata"].get("resourceVersion")  # noqa: E731
    return "unchanged" if version(before) == version(after) else "configured"


async def _remove(client: Client, kinds: Sequence[str], *, namespace: str) -> list[Done]:
    """Those of the kinds that carry the installation's labels; what others made of that name stays."""
    done = []
    for kind in kinds:
        path = PATHS[kind].format(namespace=namespace, name=NAME)
        one = await _found(client, path)
        labels = (one or {}).get("metadata", {}).get("labels") or {}
        if {**LABELS, **MANAGED_BY}.items() <= labels.items() and await _deleted(client, path):
            done.append(Done(kind=kind, name=NAME, action="deleted"))
    return done


async def _deleted(client: Client, path: str) -> bool:
    try:
        await client.change("DELETE", path, {"propagationPolicy": "Background"})
    except ClusterError as error:
        if error.status == 404:
            return False
        raise
    return True
