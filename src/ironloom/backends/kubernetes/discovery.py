"""What an API server serves: groups, versions, kinds and where each is listed.

One request to /api and one to /apis where the server aggregates (Kubernetes 1.26 and later), else one a version.
Source: https://kubernetes.io/docs/concepts/overview/kubernetes-api/#discovery-api
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import msgspec

from ironloom.backends.kubernetes import failures
from ironloom.backends.kubernetes.client import NOT_JSON, Client
from ironloom.errors import ClusterError

AGGREGATED = (
    "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,"
    "application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList,"
    "application/json"
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Resource:
    """A kind in one version, and where it is listed."""

    group: str
    """Empty for the core group."""
    version: str
    kind: str
    plural: str
    is_namespaced: bool
    verbs: frozenset[str]

    @property
    def api_version(self) -> str:
        return f"{self.group}/{self.version}" if self.group else self.version

    @property
    def path(self) -> str:
        """Of the list over all namespaces."""
        return (
            f"/apis/{self.group}/{self.version}/{self.plural}" if self.group else f"/api/{self.version}/{self.plural}"
        )

    @property
    def full_name(self) -> str:
        """As kubectl names it: `clusterqueues.kueue.x-k8s.io`."""
        return f"{self.plural}.{self.group}" if self.group else self.plural


@dataclass(frozen=True, kw_only=True, slots=True)
class Served:
    """Everything that is served, each group's versions in the server's order of preference."""

    resources: tuple[Resource, ...]
    unread: tuple[str, ...] = ()
    """`group/version` that did not answer: what it serves is not known."""

    @property
    def kinds(self) -> frozenset[str]:
        """`group/version/Kind`."""
        return frozenset(f"{one.group}/{one.version}/{one.kind}" for one in self.resources)

    def find(self, group: str, kind: str) -> Resource | None:
        """A kind that can be listed, in the version that the server prefers."""
        for one in self.resources:
            if one.group == group and one.kind == kind and "list" in one.verbs:
                return one
        return None


class _Kind(msgspec.Struct, frozen=True):
    kind: str = ""


class _AggregatedResource(msgspec.Struct, frozen=True):
    resource: str = ""
    responseKind: _Kind | None = None  # noqa: N815 (the API's name)
    scope: str = ""
    verbs: list[str] = []


class _AggregatedVersion(msgspec.Struct, frozen=True):
    version: str = ""
    resources: list[_AggregatedResource] | None = None
    freshness: str = ""


class _Meta(msgspec.Struct, frozen=True):
    name: str = ""


class _AggregatedGroup(msgspec.Struct, frozen=True):
    metadata: _Meta = _Meta()
    versions: list[_AggregatedVersion] | None = None


class _GroupVersion(msgspec.Struct, frozen=True):
    groupVersion: str = ""  # noqa: N815
    version: str = ""


class _Group(msgspec.Struct, frozen=True):
    name: str = ""
    versions: list[_GroupVersion] | None = None
    preferredVersion: _GroupVersion | None = None  # noqa: N815


class _Answer(msgspec.Struct, frozen=True):
    """Of /api and /apis, in any of their forms."""

    kind: str = ""
    items: list[_AggregatedGroup] | None = None
    groups: list[_Group] | None = None
    versions: list[str] | None = None


class _Resource(msgspec.Struct, frozen=True):
    name: str = ""
    kind: str = ""
    namespaced: bool = False
    verbs: list[str] = []


class _Resources(msgspec.Struct, frozen=True):
    resources: list[_Resource] | None = None


_answers = msgspec.json.Decoder(_Answer)
_resources = msgspec.json.Decoder(_Resources)


async def discover(client: Client) -> Served:
    """Ask for everything that is served. Raises ClusterError; a group that alone does not answer is told as unread."""
    core, named = await asyncio.gather(
        client.get("/api", accept=AGGREGATED, what="discover the API"),
        client.get("/apis", accept=AGGREGATED, what="discover the API"),
    )
    found, unread = await _of_answer(client, core)
    more, also_unread = await _of_answer(client, named)
    return Served(resources=(*found, *more), unread=(*unread, *also_unread))


async def _of_answer(client: Client, body: bytes) -> tuple[Sequence[Resource], Sequence[str]]:
    try:
        answer = _answers.decode(body)
    except NOT_JSON:
        raise failures.no_json(client.target, "discover the API") from None
    if answer.items is not None:
        stale = [
            f"{group.metadata.name}/{version.version}"
            for group in answer.items
            for version in group.versions or ()
            if version.freshness == "Stale"
        ]
        return list(_of_groups(answer.items)), stale
    asked = [("", version, f"/api/{version}") for version in answer.versions or ()]
    asked += [
        (group.name, version.version, f"/apis/{version.groupVersion}")
        for group in answer.groups or ()
        for version in sorted(group.versions or (), key=lambda one, group=group: one != group.preferredVersion)
    ]
    answers = await asyncio.gather(*(_of_version(client, *one) for one in asked))
    unread = [f"{group}/{version}" for (group, version, _), found in zip(asked, answers, strict=True) if found is None]
    return [one for found in answers for one in found or ()], unread


def _of_groups(groups: Iterable[_AggregatedGroup]) -> Iterable[Resource]:
    for group in groups:
        for version in group.versions or ():
            for one in version.resources or ():
                yield Resource(
                    group=group.metadata.name,
                    version=version.version,
                    kind=one.responseKind.kind if one.responseKind is not None else "",
                    plural=one.resource,
                    is_namespaced=one.scope == "Namespaced",
                    verbs=frozenset(one.verbs),
                )


async def _of_version(client: Client, group: str, version: str, path: str) -> Sequence[Resource] | None:
    try:
        found = _resources.decode(await client.get(path, what=f"discover {group}/{version}"))
    except ClusterError as error:
        # An aggregated API whose own server is away answers 503, and one without it 404: the others are served.
        if error.status in {403, 404, 503}:
            return None
        raise
    except NOT_JSON:
        raise failures.no_json(client.target, f"discover {group}/{version}") from None
    return [
        Resource(
            group=group,
            version=version,
            kind=one.kind,
            plural=one.name,
            is_namespaced=one.namespaced,
            verbs=frozenset(one.verbs),
        )
        for one in found.resources or ()
        if "/" not in one.name
    ]
