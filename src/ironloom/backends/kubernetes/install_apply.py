"""The gateway's objects into a cluster and out of it. The same again changes nothing.

Before anything is changed the API server judges every object: what its quotas, webhooks and the user's rights refuse is
refused whole. A binding cannot be judged before its role is there, and is left for the change itself.

What makes the gateway's pods is a Deployment or a StatefulSet. Where an installation changes from one to the other, the
one that was there goes on answering until all pods of the new one do.
"""

from __future__ import annotations

import asyncio
import secrets
from base64 import b64encode
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

import msgspec

from ironloom.backends.kubernetes import installed, lease, roles
from ironloom.backends.kubernetes.client import NAMES_ONLY, Client
from ironloom.backends.kubernetes.install import CLAIM_PREFIX, KEY_FIELD, KEY_SECRET, LABELS, Object
from ironloom.backends.kubernetes.lease import Record
from ironloom.backends.kubernetes.names import MANAGED_BY, SERVICE_LABEL
from ironloom.backends.kubernetes.roles import NAME
from ironloom.backends.kubernetes.store import PATH as STORE
from ironloom.backends.kubernetes.store import STORED_LABEL
from ironloom.errors import ClusterError

MANAGER: Final = "ironloom-install"
"""Owns the gateway's own objects; what the gateway itself makes has another field manager."""
PATHS: Final = {
    "ServiceAccount": "/api/v1/namespaces/{namespace}/serviceaccounts/{name}",
    "ClusterRole": "/apis/rbac.authorization.k8s.io/v1/clusterroles/{name}",
    "ClusterRoleBinding": "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings/{name}",
    "Role": "/apis/rbac.authorization.k8s.io/v1/namespaces/{namespace}/roles/{name}",
    "RoleBinding": "/apis/rbac.authorization.k8s.io/v1/namespaces/{namespace}/rolebindings/{name}",
    "Secret": "/api/v1/namespaces/{namespace}/secrets/{name}",
    **installed.FORMS,
    "Service": "/api/v1/namespaces/{namespace}/services/{name}",
    "PodDisruptionBudget": "/apis/policy/v1/namespaces/{namespace}/poddisruptionbudgets/{name}",
    "HTTPRoute": "/apis/gateway.networking.k8s.io/v1/namespaces/{namespace}/httproutes/{name}",
    "Ingress": "/apis/networking.k8s.io/v1/namespaces/{namespace}/ingresses/{name}",
}
"""Where each kind that an installation may have lies, in the order of applying."""
CLAIMS_PATH: Final = "/api/v1/namespaces/{namespace}/persistentvolumeclaims"
SECRET_PATH: Final = "/api/v1/namespaces/{namespace}/secrets/{name}"
LEASE_PATH: Final = "/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases/{name}"
Action = Literal["created", "configured", "unchanged", "deleted", "kept"]
STORED: Final = f"{STORED_LABEL}=service"
"""Selects what was applied, which outlives the gateways."""
_BINDINGS: Final = {"RoleBinding": "Role", "ClusterRoleBinding": "ClusterRole"}
_OTHERS: Final = frozenset({"ClusterRole", "ClusterRoleBinding", "HTTPRoute"})
"""Kinds that whoever administers a namespace may have no right to: Kubernetes' own role `admin` has none."""
_UNSEEN: Final = _OTHERS | {"StatefulSet"}
"""Kinds that need not be looked at: whoever installs without a volume may have no right to its kind."""
FOLLOWS_WITHIN_S: Final = 60.0
"""How long an installation waits for the pods of a new form before it leaves the old one where it is."""
_LOOK_S: Final = 0.5
_FIXED: Final = ("spec.volumeClaimTemplates", "updates to statefulset spec for fields other than")
"""Of a StatefulSet whose volumes are to be others, by Kubernetes 1.37 and by those before.

Source: https://kubernetes.io/docs/concepts/workloads/controllers/statefulset/#limitations"""
_COUNTED: Final = frozenset({"resourceVersion", "generation", "managedFields"})
_NO_NAMESPACE: Final = "there is no namespace"
"""What an apply that is answered with 404 is told otherwise: its kind is not served."""
_NO_TRIAL: Final = "does not support dry run"
"""Of a webhook with side effects: it is asked by the change itself.

Source: https://kubernetes.io/docs/reference/access-authn-authz/extensible-admission-controllers/#side-effects"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Done:
    """What became of one object."""

    kind: str
    name: str
    action: Action


@dataclass(frozen=True, kw_only=True, slots=True)
class Removed:
    """What an uninstall did."""

    done: tuple[Done, ...]
    services: tuple[str, ...]
    """Those that were applied: their ConfigMaps stay, and so do their pods."""
    left: tuple[Done, ...] = ()
    """Objects that are there and may not be deleted by this user."""
    unseen: tuple[Done, ...] = ()
    """Objects that may be there, and may not be looked at by this user."""
    claims: tuple[str, ...] = ()
    """Of the gateways' volumes: they stay, with the event log, files and batches in them."""


async def install(
    client: Client,
    objects: Sequence[Object],
    *,
    namespace: str,
    is_trial: bool = False,
    follows_within_s: float = FOLLOWS_WITHIN_S,
) -> list[tuple[Done, Object]]:
    """Apply the objects, remove those of an earlier installation that are no longer among them, and make the key where
    there is none. Each comes back as the API server has it. Raises ClusterError.

    `is_trial` changes nothing and answers what would be. A Deployment that a StatefulSet follows, or the other way
    round, is removed once all new pods are ready; after `follows_within_s` without that it is kept.
    """
    judged = await _judged(client, objects, namespace=namespace)
    if is_trial:
        return [(one.done, one.after) for one in judged]
    made_key = await _make_key(client, namespace)
    key = Done(kind="Secret", name=KEY_SECRET, action="created" if made_key else "unchanged")
    done: list[tuple[Done, Object]] = [(key, {})]
    for one, tried in zip(objects, judged, strict=True):
        body = await client.apply(_path(one["kind"], namespace), one, manager=MANAGER, forces=True)
        after: Object = msgspec.json.decode(body)
        done.append((Done(kind=one["kind"], name=tried.done.name, action=_action(tried.before, after)), after))
    kinds = {one["kind"] for one in objects}
    others = [kind for kind in PATHS if kind not in kinds and kind not in installed.FORMS]
    gone, _, _ = await _remove(client, others, namespace=namespace)
    for kind in installed.FORMS.keys() - kinds:
        gone += await _followed(client, kind, namespace=namespace, within_s=follows_within_s)
    return [*done, *((one, {}) for one in gone)]


async def _followed(client: Client, kind: str, *, namespace: str, within_s: float) -> list[Done]:
    """Remove what made the gateway's pods, now that another kind does and they answer. Empty where there is none."""
    if await installed.form_of(client, kind, namespace) is None:
        return []
    (new,) = installed.FORMS.keys() - {kind}
    until_s = asyncio.get_running_loop().time() + within_s
    while not installed.is_up(await installed.form_of(client, new, namespace) or {}):
        if asyncio.get_running_loop().time() >= until_s:
            return [Done(kind=kind, name=NAME, action="kept")]
        await asyncio.sleep(_LOOK_S)
    done, _, _ = await _remove(client, [kind], namespace=namespace)
    return done


@dataclass(frozen=True, kw_only=True, slots=True)
class _Judged:
    """One object as it is, and as a dry run would have it."""

    before: Object | None
    after: Object
    done: Done


async def _judged(client: Client, objects: Sequence[Object], *, namespace: str) -> list[_Judged]:
    """What an apply of the objects would do, by a dry run of each. Raises ClusterError for what is refused."""
    judged: list[_Judged] = []
    new: set[str] = set()
    for one in objects:
        kind, path, after = one["kind"], _path(one["kind"], namespace), one
        try:
            before = await _found(client, path)
            if before is None:
                new.add(kind)
            if _BINDINGS.get(kind) not in new:
                body = await client.apply(path, one, manager=MANAGER, forces=True, is_trial=True)
                after = msgspec.json.decode(body)
        except ClusterError as error:
            if _NO_TRIAL not in str(error):
                raise _refused(error, one, namespace) from None
        action: Action = "created" if before is None else "configured"
        if before is not None and _content(before) == _content(after):
            action = "unchanged"
        judged.append(
            _Judged(before=before, after=after, done=Done(kind=kind, name=_name(kind, namespace), action=action))
        )
    return judged


def _content(one: Object) -> Object:
    """An object without what the API server counts and notes of it: a dry run has the version of what is there."""
    return {**one, "metadata": {key: value for key, value in one["metadata"].items() if key not in _COUNTED}}


def _refused(error: ClusterError, one: Object, namespace: str) -> ClusterError:
    """An error of one object, with what to do about it in an installation."""
    kind, name, said = one["kind"], one["metadata"]["name"], error.message
    if error.status == 404 and _NO_NAMESPACE not in said:
        said = f"The cluster does not serve {kind} ({one['apiVersion']})"
        hint = "install what serves it, or leave out the option that asks for it"
    elif kind == "StatefulSet" and error.status == 422 and any(one in said for one in _FIXED):
        said = "The volumes of gateways that are there keep their size and their class"
        hint = f"`kubectl -n {namespace} delete statefulset {name} --cascade=orphan` and this again: gateways without "
        hint += "a volume get what is asked for; claims that are there are grown by `kubectl edit` of each"
    elif error.status == 403 and "not currently held" in said:
        said = f"You may not make {kind} {name}: it gives rights that you do not hold yourself ({said})"
        hint = "somebody installs it who holds them, or may `escalate` roles: an administrator of the cluster"
    elif error.status == 403 and _is_clusters(kind):
        hint = "an administrator of the cluster installs with --cluster-reads; without it the gateway works, and says "
        hint += "what it does without"
    elif error.status == 403:
        hint = f"whoever installs must be allowed to create, get and patch this kind in namespace {namespace}"
    else:
        return error
    return ClusterError(said, hint=hint, status=error.status, reason=error.reason)


async def uninstall(client: Client, *, namespace: str) -> Removed:
    """Remove what an installation made, its Lease and its key with it. The services and their pods stay. Raises
    ClusterError."""
    done, left, unseen = await _remove(client, [*reversed(PATHS)], namespace=namespace)
    for kind, template, name in (("Lease", LEASE_PATH, NAME), ("Secret", SECRET_PATH, KEY_SECRET)):
        path = template.format(namespace=namespace, name=name)
        if await _deleted(client, path):
            done.append(Done(kind=kind, name=name, action="deleted"))
    return Removed(
        done=tuple(done),
        left=tuple(left),
        unseen=tuple(unseen),
        services=await _stored(client, namespace),
        claims=await _claims(client, namespace),
    )


async def _stored(client: Client, namespace: str) -> tuple[str, ...]:
    """The services whose ConfigMaps are there; none where they may not be listed."""
    found = await _named(client, STORE.format(namespace=namespace), STORED)
    return tuple(sorted(filter(None, (one["labels"].get(SERVICE_LABEL) for one in found))))


async def _claims(client: Client, namespace: str) -> tuple[str, ...]:
    """Those of the gateways' volumes; none where they may not be listed."""
    found = await _named(client, CLAIMS_PATH.format(namespace=namespace), installed.SELECTOR)
    return tuple(sorted(one["name"] for one in found if one["name"].startswith(CLAIM_PREFIX)))


async def _named(client: Client, path: str, selector: str) -> list[Object]:
    """The metadata of what a selector finds; empty where it may not be listed."""
    found: list[Object] = []
    try:
        async for page in client.pages(path, params={"labelSelector": selector}, accept=NAMES_ONLY):
            if page.is_first:
                found.clear()
            found += [msgspec.json.decode(item)["metadata"] for item in page.items]
    except ClusterError as error:
        if error.status != 403:
            raise
    return found


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
        raise
    return True


def _path(kind: str, namespace: str) -> str:
    return PATHS[kind].format(namespace=namespace, name=_name(kind, namespace))


def _name(kind: str, namespace: str) -> str:
    return roles.cluster_name(namespace) if _is_clusters(kind) else NAME


def _is_clusters(kind: str) -> bool:
    """Whether it belongs to no namespace."""
    return kind.startswith("Cluster")


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


async def _remove(client: Client, kinds: Sequence[str], *, namespace: str) -> tuple[list[Done], list[Done], list[Done]]:
    """Remove those of the kinds that carry the installation's labels; what others made of that name stays. Then those
    that may not be deleted, and those that may not be looked at."""
    done, left, unseen = [], [], []
    for kind in kinds:
        path = _path(kind, namespace)
        kept = Done(kind=kind, name=_name(kind, namespace), action="kept")
        try:
            one = await _found(client, path)
        except ClusterError as error:
            if error.status != 403 or kind not in _UNSEEN:
                raise
            unseen.append(kept)
            continue
        labels = (one or {}).get("metadata", {}).get("labels") or {}
        if not {**LABELS, **MANAGED_BY}.items() <= labels.items():
            continue
        try:
            if await _deleted(client, path):
                done.append(Done(kind=kind, name=kept.name, action="deleted"))
        except ClusterError as error:
            if error.status != 403 or kind not in _OTHERS:
                raise
            left.append(kept)
    return done, left, unseen


async def _deleted(client: Client, path: str) -> bool:
    try:
        await client.change("DELETE", path, {"propagationPolicy": "Background"})
    except ClusterError as error:
        if error.status == 404:
            return False
        raise
    return True


async def lease_of(client: Client, namespace: str) -> Record | None:
    """What the gateways' Lease says of who decides; None where there is none. Raises ClusterError."""
    path = LEASE_PATH.format(namespace=namespace, name=NAME)
    try:
        return lease.read(msgspec.json.decode(await client.get(path, what=f"get lease {NAME}")))
    except ClusterError as error:
        if error.status != 404:
            raise
        return None
