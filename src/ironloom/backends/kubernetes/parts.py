"""What the parts that a cluster has say of themselves: modes, queues, levels, what a trial shows. Asked when a person
wants to know, with that person's own rights; a list is cut after its first page. What may not be read is said.

Sources: https://kserve.github.io/website/docs/admin-guide/configurations (the mode of KServe),
https://kueue.sigs.k8s.io/docs/concepts/topology_aware_scheduling/ (levels, and flavors that name them).
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import msgspec

from ironloom.backends.kubernetes import capabilities
from ironloom.backends.kubernetes.capabilities import PARTS, Capabilities, Part
from ironloom.backends.kubernetes.client import NOT_JSON, Client
from ironloom.backends.kubernetes.discovery import Served, discover
from ironloom.backends.kubernetes.names import MANAGER
from ironloom.backends.kubernetes.render.training import POD_GROUP_API
from ironloom.errors import ClusterError
from ironloom.workload import look

MAX_READ = 100
"""Objects of a list; a person reads no more of them."""
MAX_NAMED = 8
TRIAL_NAME = "ironloom-trial"
KSERVE_NAMESPACE = "kserve"
KSERVE_CONFIG = "inferenceservice-config"
_MODES = {"Serverless": "Knative", "RawDeployment": "Standard"}
"""What KServe called its modes before v0.16, and still reads."""
_PASSES_BY = frozenset({400, 403, 404, 405, 422})

Object = Mapping[str, Any]


class State(StrEnum):
    THERE = "there"
    NOT_THERE = "not there"
    NOT_KNOWN = "not known"
    """Its API does not answer, or it is there in a version that is not known here."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PartView:
    """One part of a cluster, for a person or a program."""

    name: str
    state: State
    version: str
    """Of its API; empty where it is not there."""
    sentence: str
    """What it is used for, or what is lost without it."""
    details: tuple[str, ...] = ()
    """What it says of itself, and what of it may not be read."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Trial:
    """What came of an object that was tried."""

    is_taken: bool
    why: str = ""
    """Where it was not."""


async def read_parts(client: Client, namespace: str) -> tuple[PartView, ...]:
    """Every part, and what it says of itself, in `namespace` where it has namespaces. Raises ClusterError where the
    API server cannot be asked at all."""
    served = await discover(client)
    has = capabilities.of(served)
    asking = _Asking(client=client, served=served, has=has, namespace=namespace)
    details = await asyncio.gather(*(_details(asking, part) for part in PARTS))
    return tuple(
        PartView(
            name=part.name,
            state=_state(has, part),
            version=has.versions.get(part.name) or has.foreign.get(part.name, ""),
            sentence=has.sentence(part),
            details=tuple(found),
        )
        for part, found in zip(PARTS, details, strict=True)
    )


async def try_pod_group(client: Client, served: Served, namespace: str) -> Trial:
    """Whether the API server takes a PodGroup in a dry run: the kind may be served in a form that is not ours, or that
    its own gates then refuse. Raises ClusterError where the server cannot be asked."""
    if POD_GROUP_API not in {one.api_version for one in served.resources if one.kind == "PodGroup"}:
        return Trial(is_taken=False, why=f"{POD_GROUP_API} is not served")
    trial = {
        "apiVersion": POD_GROUP_API,
        "kind": "PodGroup",
        "metadata": {"name": TRIAL_NAME, "namespace": namespace},
        "spec": {"schedulingPolicy": {"gang": {"minCount": 2}}},
    }
    path = f"/apis/{POD_GROUP_API}/namespaces/{namespace}/podgroups/{TRIAL_NAME}"
    try:
        await client.apply(path, trial, manager=MANAGER, is_trial=True)
    except ClusterError as error:
        if error.status in _PASSES_BY:
            return Trial(is_taken=False, why=error.message)
        raise
    return Trial(is_taken=True)


def _state(has: Capabilities, part: Part) -> State:
    if has.has(part.name):
        return State.THERE
    return State.NOT_KNOWN if part.name in has.foreign or part.name in has.silent else State.NOT_THERE


async def _details(asking: _Asking, part: Part) -> Sequence[str]:
    reader = _READERS.get(part.name)
    if reader is None or not asking.has.has(part.name):
        return ()
    try:
        return await reader(asking)
    except ClusterError as error:
        if error.status in {0, 401}:
            raise
        return (f"not read: {error.message}",)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Asking:
    client: Client
    served: Served
    has: Capabilities
    namespace: str

    async def listed(self, group: str, kind: str) -> list[Object]:
        """The first page of a kind, of our namespace alone where it has namespaces; none of one that is not served.
        Raises ClusterError."""
        resource = self.served.find(group, kind)
        if resource is None:
            return []
        path = resource.path
        if resource.is_namespaced:
            root, _, plural = path.rpartition("/")
            path = f"{root}/namespaces/{self.namespace}/{plural}"
        body = await self.client.get(path, params={"limit": str(MAX_READ)}, what=f"list {resource.full_name}")
        return _items(body)

    async def named(self, group: str, kind: str, plural: str, where: str = "") -> str:
        """`ClusterQueues: a, b`, or that there are none, or may not be read."""
        try:
            found = await self.listed(group, kind)
        except ClusterError as error:
            return _unread(plural, error)
        return f"{plural}{where}: {_joined([_name(one) for one in found])}" if found else f"no {plural}{where}"


async def _kserve(asking: _Asking) -> Sequence[str]:
    try:
        config = await _kserve_config(asking.client)
    except ClusterError as error:
        return (_unread("its default mode", error),)
    if config is None:
        return (f"its default mode is not known: there is no ConfigMap {KSERVE_CONFIG}",)
    try:
        said = json.loads(look.text(config, "data", "deploy"))["defaultDeploymentMode"]
    except (ValueError, TypeError, KeyError):
        return (f"its default mode is not known: ConfigMap {KSERVE_CONFIG} names none",)
    mode = _MODES.get(str(said), str(said))
    ours = "services that are applied here are in Standard mode unless their manifest names another"
    if mode == "Knative" and not asking.has.has("Knative"):
        return (f"its default mode is Knative, and Knative is not there; {ours}",)
    return (f"its default mode is {mode}; {ours}",)


async def _kserve_config(client: Client) -> Object | None:
    """KServe's ConfigMap, in its usual namespace or wherever it was installed; None where there is none."""
    path = f"/api/v1/namespaces/{KSERVE_NAMESPACE}/configmaps/{KSERVE_CONFIG}"
    try:
        return _decoded(await client.get(path, what=f"get configmap {KSERVE_CONFIG}"))
    except ClusterError as error:
        if error.status != 404:
            raise
    params = {"fieldSelector": f"metadata.name={KSERVE_CONFIG}", "limit": "1"}
    found = _items(await client.get("/api/v1/configmaps", params=params, what=f"list configmaps {KSERVE_CONFIG}"))
    return found[0] if found else None


async def _kueue(asking: _Asking) -> Sequence[str]:
    group = "kueue.x-k8s.io"
    try:
        queues = await asking.listed(group, "LocalQueue")
    except ClusterError as error:
        local = _unread("LocalQueues", error)
    else:
        ways = [f"{_name(one)} (of ClusterQueue {look.text(one, 'spec', 'clusterQueue')})" for one in queues]
        where = f"in namespace {asking.namespace}"
        local = f"LocalQueues {where}: {_joined(ways)}" if ways else f"no LocalQueue {where}: a run there has no queue"
    release, whole = await asyncio.gather(
        _release(asking.client, "kueue"), asking.named(group, "ClusterQueue", "ClusterQueues")
    )
    return (*release, whole, local)


async def _release(client: Client, name: str) -> tuple[str, ...]:
    """The tag of a controller's image, where its Deployment carries the label that its project gives it and may be
    seen."""
    params = {"labelSelector": f"app.kubernetes.io/name={name}", "limit": "1"}
    try:
        found = _items(await client.get("/apis/apps/v1/deployments", params=params, what="list deployments"))
    except ClusterError as error:
        return (_unread("its release", error),)
    for one in found:
        for _, container in look.mappings(one, "spec", "template", "spec", "containers"):
            _, colon, tag = look.text(container, "image").partition("@")[0].rpartition(":")
            if colon and "/" not in tag:
                return (f"its controller is {tag}",)
    return ()


async def _topologies(asking: _Asking) -> Sequence[str]:
    group = "kueue.x-k8s.io"
    topologies = await asking.listed(group, "Topology")
    if not topologies:
        return ("no Topology: Kueue keeps no gang inside one domain",)
    try:
        flavors: Sequence[Object] | ClusterError = await asking.listed(group, "ResourceFlavor")
    except ClusterError as error:
        flavors = error
    lines = []
    for one in topologies:
        levels = [look.text(level, "nodeLabel") for _, level in look.mappings(one, "spec", "levels")]
        lines.append(f"Topology {_name(one)}: {' > '.join(levels)}; {_users(_name(one), flavors)}")
    return lines


def _users(topology: str, flavors: Sequence[Object] | ClusterError) -> str:
    """The flavors that a topology is used by: without one nothing is placed by it."""
    if isinstance(flavors, ClusterError):
        return _unread("its ResourceFlavors", flavors)
    names = [_name(one) for one in flavors if look.text(one, "spec", "topologyName") == topology]
    return f"of ResourceFlavors {_joined(names)}" if names else "no ResourceFlavor names it, so nothing uses it"


async def _pod_groups(asking: _Asking) -> Sequence[str]:
    trial = await try_pod_group(asking.client, asking.served, asking.namespace)
    if trial.is_taken:
        return (f"a trial in namespace {asking.namespace} was taken: runs of several pods are held together by one",)
    return (f"not used, as a trial was not taken: {trial.why}",)


async def _gpu_operator(asking: _Asking) -> Sequence[str]:
    found = await asking.listed("nvidia.com", "ClusterPolicy")
    return [f"ClusterPolicy {_name(one)} is {look.text(one, 'status', 'state') or 'in no state yet'}" for one in found]


async def _trainer(asking: _Asking) -> Sequence[str]:
    return (await asking.named("trainer.kubeflow.org", "ClusterTrainingRuntime", "ClusterTrainingRuntimes"),)


async def _keda(asking: _Asking) -> Sequence[str]:
    return (await asking.named("keda.sh", "ScaledObject", "ScaledObjects", f" in namespace {asking.namespace}"),)


async def _dra(asking: _Asking) -> Sequence[str]:
    return (await asking.named("resource.k8s.io", "DeviceClass", "DeviceClasses"),)


_READERS: Mapping[str, Callable[[_Asking], Awaitable[Sequence[str]]]] = {
    "KServe": _kserve,
    "Kueue": _kueue,
    "Kueue topologies": _topologies,
    "Kubeflow Trainer": _trainer,
    "pod groups": _pod_groups,
    "KEDA": _keda,
    "GPU Operator": _gpu_operator,
    "DRA": _dra,
}
"""By part; the others say no more than that they are there."""


def _unread(what: str, error: ClusterError) -> str:
    if error.status in {0, 401}:
        raise error
    return f"{what}: not read: {error.message}"


def _items(body: bytes) -> list[Object]:
    return [one for _, one in look.mappings(_decoded(body), "items")]


def _decoded(body: bytes) -> Object:
    try:
        found = msgspec.json.decode(body)
    except NOT_JSON:
        return {}
    return found if isinstance(found, dict) else {}


def _name(one: Object) -> str:
    return look.text(one, "metadata", "name")


def _joined(names: Sequence[str]) -> str:
    """The first few, and how many more."""
    shown = ", ".join(names[:MAX_NAMED])
    more = len(names) - MAX_NAMED
    if more <= 0:
        return shown
    return f"{shown} and {'at least ' if len(names) >= MAX_READ else ''}{more} more"
