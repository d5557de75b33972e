"""Training runs of one namespace of a cluster: applied, looked at, followed, deleted. The cluster's own controllers run
them; nothing here stays behind."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import msgspec

from ironloom.backends.kubernetes.client import Client
from ironloom.backends.kubernetes.discovery import Resource, Served
from ironloom.backends.kubernetes.installed import must_have
from ironloom.backends.kubernetes.names import MANAGER
from ironloom.backends.kubernetes.parts import try_pod_group
from ironloom.backends.kubernetes.render.training import RUN_LABEL
from ironloom.backends.kubernetes.training_view import RunState, newest, of_rank, state_of
from ironloom.errors import ClusterError, UsageError
from ironloom.workload import look

Object = dict[str, Any]
Action = Literal["created", "configured", "unchanged"]

OWNERS = (
    ("trainer.kubeflow.org", "TrainJob"),
    ("kubeflow.org", "PyTorchJob"),
    ("jobset.x-k8s.io", "JobSet"),
    ("batch", "Job"),
)
"""What a run may be, by group and kind."""


@dataclass(frozen=True, kw_only=True, slots=True)
class AppliedObject:
    """What an apply did to one object."""

    kind: str
    name: str
    action: Action
    object: Object
    """As the server has it then."""


class NoSuchRunError(UsageError):
    """No run of that name is there."""


class ClusterRuns:
    """The runs of a namespace, over an open client. Every method raises ClusterError as the client does."""

    def __init__(self, client: Client, served: Served, namespace: str) -> None:
        self._client = client
        self._served = served
        self._namespace = namespace

    def path(self, one: Mapping[str, Any]) -> str:
        """Where an object is applied. Raises UsageError for a kind that the cluster does not serve."""
        api, kind = look.text(one, "apiVersion"), look.text(one, "kind")
        for resource in self._served.resources:
            if resource.api_version == api and resource.kind == kind:
                return f"{self._list(resource)}/{look.text(one, 'metadata', 'name')}"
        raise UsageError(f"The cluster serves no {api} {kind}.", hint="`kubectl api-resources` lists what it serves")

    def _list(self, resource: Resource) -> str:
        root = f"/apis/{resource.api_version}" if resource.group else f"/api/{resource.version}"
        return f"{root}/namespaces/{self._namespace}/{resource.plural}"

    async def takes_pod_groups(self) -> bool:
        """Whether a trial PodGroup is taken; the kind may be served in a form that nobody schedules by."""
        return (await try_pod_group(self._client, self._served, self._namespace)).is_taken

    async def apply(
        self, objects: Sequence[Object], *, is_trial: bool = False, forces: bool = False
    ) -> list[AppliedObject]:
        """Apply a run's objects under our field manager; the first one owns the others, which go with it.

        `is_trial` has the server answer what would be, and change nothing.
        """
        done: list[AppliedObject] = []
        owner: Object | None = None
        for one in objects:
            path = self.path(one)
            if owner is not None and not is_trial:
                one = {**one, "metadata": {**one["metadata"], "ownerReferences": [_reference(owner)]}}
            before = await self._found(path)
            if before is not None:
                self._must_be_ours(one, before)
            try:
                answer = await self._client.apply(path, one, manager=MANAGER, is_trial=is_trial, forces=forces)
            except ClusterError as error:
                raise _of_change(error, one) from None
            made: Object = msgspec.json.decode(answer)
            owner = owner if owner is not None else made
            done.append(
                AppliedObject(kind=one["kind"], name=one["metadata"]["name"], action=_action(before, made), object=made)
            )
        return done

    def _must_be_ours(self, one: Mapping[str, Any], before: Mapping[str, Any]) -> None:
        """What somebody else made under this name is left alone, but for the kinds that a person applies too."""
        label = look.text(before, "metadata", "labels", RUN_LABEL)
        if one["kind"] in ("Service", "PodGroup") and label != one["metadata"]["name"]:
            raise UsageError(
                f"There is a {one['kind']} {one['metadata']['name']} in namespace {self._namespace} that belongs to no "
                f"run.",
                hint="give the run another name: its pods' names hang on it",
            )

    async def owners(self, name: str = "") -> list[Object]:
        """What is a run in the namespace, newest last; with a name that one. Children of another object are none."""
        found: list[Object] = []
        forbidden: list[ClusterError] = []
        resources = [one for one in (self._served.find(*owner) for owner in OWNERS) if one is not None]
        for resource in resources:
            try:
                found += await self._runs_of(resource, name)
            except ClusterError as error:
                if error.status != 403:
                    raise
                forbidden.append(error)
        if forbidden and len(forbidden) == len(resources):
            raise forbidden[0]
        return sorted(found, key=lambda one: (str(one["metadata"]["creationTimestamp"]), one["metadata"]["name"]))

    async def _runs_of(self, resource: Resource, name: str) -> list[Object]:
        params = {"labelSelector": f"{RUN_LABEL}={name}" if name else RUN_LABEL}
        found: list[Object] = []
        async for page in self._client.pages(self._list(resource), params=params, what=f"list {resource.plural}"):
            if page.is_first:
                found.clear()
            for item in page.items:
                one = {"apiVersion": resource.api_version, "kind": resource.kind, **msgspec.json.decode(item)}
                if not any(ref.get("controller") for ref in one["metadata"].get("ownerReferences") or ()):
                    found.append(one)
        return found

    async def owner(self, name: str) -> Object:
        """One run's object. Raises NoSuchRunError where there is none, UsageError where its namespace is not there."""
        found = await self.owners(name)
        if not found:
            await self.check_namespace()
            where = f"--context {self._client.target.context} -n {self._namespace}"
            raise NoSuchRunError(
                f"There is no training run {name} in namespace {self._namespace}.",
                hint=f"`ironloom get runs {where}` lists those that are there",
            )
        return found[-1]

    async def check_namespace(self) -> None:
        """Raises UsageError for a namespace that is not there: a list of it is empty all the same."""
        await must_have(self._client, self._namespace)

    async def pods(self, name: str) -> list[Object]:
        """Its pods, those that ended among them."""
        path = f"/api/v1/namespaces/{self._namespace}/pods"
        found: list[Object] = []
        async for page in self._client.pages(
            path, params={"labelSelector": f"{RUN_LABEL}={name}"}, what=f"list pods in namespace {self._namespace}"
        ):
            if page.is_first:
                found.clear()
            found += [msgspec.json.decode(item) for item in page.items]
        return found

    async def workload(self, owner: Mapping[str, Any]) -> Object | None:
        """Kueue's Workload of a run; None where it has none, or where we may not look."""
        resource = self._served.find("kueue.x-k8s.io", "Workload")
        if resource is None:
            return None
        uid = look.text(owner, "metadata", "uid")
        params = {"labelSelector": f"kueue.x-k8s.io/job-uid={uid}"}
        try:
            async for page in self._client.pages(self._list(resource), params=params, what="list workloads"):
                for item in page.items:
                    found: Object = msgspec.json.decode(item)
                    return found
        except ClusterError as error:
            if error.status not in {403, 404}:
                raise
        return None

    async def pod_group(self, name: str) -> Object | None:
        """The PodGroup that holds a run's pods together; None where it has none, or where we may not look."""
        resource = self._served.find("scheduling.k8s.io", "PodGroup")
        if resource is None:
            return None
        try:
            return await self._found(f"{self._list(resource)}/{name}")
        except ClusterError as error:
            if error.status != 403:
                raise
            return None

    async def state(self, name: str) -> RunState:
        """A run as it is now."""
        return await self.state_of(await self.owner(name))

    async def state_of(self, owner: Object) -> RunState:
        name = owner["metadata"]["name"]
        pods, workload = await asyncio.gather(self.pods(name), self.workload(owner))
        return state_of(owner, pods, workload)

    async def log_of(self, pod: Mapping[str, Any], *, follow: bool = False, tail: int = 100) -> AsyncIterator[str]:
        """The lines of one pod."""
        name = look.text(pod, "metadata", "name")
        path = f"/api/v1/namespaces/{self._namespace}/pods/{name}/log"
        params = {"tailLines": str(tail), "follow": str(follow).lower()}
        async for line in self._client.lines(path, params=params, what=f"get pods/log {name}"):
            yield line.decode(errors="replace")

    async def delete(self, name: str) -> Object:
        """Remove a run with all that it owns; its volumes stay. The object as it was."""
        owner = await self.owner(name)
        await self._client.change("DELETE", self.path(owner), {"propagationPolicy": "Background"})
        return owner

    async def _found(self, path: str) -> Object | None:
        try:
            found: Object = msgspec.json.decode(await self._client.get(path))
        except ClusterError as error:
            if error.status == 404:
                return None
            raise
        return found


def pod_of(name: str, pods: Sequence[Object], rank: int) -> Mapping[str, Any]:
    """The newest pod of a run's rank. Raises UsageError where there is none."""
    if (found := of_rank(pods, rank)) is None:
        raise UsageError(f"{name} has no pod of rank {rank}.", hint=f"pods that it has now: {len(newest(pods))}")
    return found


def _reference(owner: Mapping[str, Any]) -> Object:
    return {
        "apiVersion": owner["apiVersion"],
        "kind": owner["kind"],
        "name": owner["metadata"]["name"],
        "uid": owner["metadata"]["uid"],
        "controller": True,
        "blockOwnerDeletion": True,
    }


def _action(before: Mapping[str, Any] | None, after: Mapping[str, Any]) -> Action:
    if before is None:
        return "created"
    same = look.text(before, "metadata", "resourceVersion") == look.text(after, "metadata", "resourceVersion")
    # A trial writes no new version, whatever it would change.
    return "unchanged" if same and _content(before) == _content(after) else "configured"


def _content(one: Mapping[str, Any]) -> list[Any]:
    """What of an object a person wrote or would see changed: no status, and nothing of the server's own."""
    words = [look.texts(one, "metadata", key) for key in ("labels", "annotations")]
    return [*words, {key: value for key, value in one.items() if key not in {"metadata", "status"}}]


def _of_change(error: ClusterError, one: Mapping[str, Any]) -> ClusterError | UsageError:
    """A change that the cluster cannot make to a run that is there, in words."""
    what = f"{one['kind']} {one['metadata']['name']}"
    # The server quotes the whole template before its last words, so that these may be cut off.
    if error.status == 422 and ("immutable" in str(error) or "spec.template: Invalid value" in str(error)):
        return UsageError(
            f"{what} is there already with other pods, and a run's pods cannot be changed.",
            hint="delete it first, then apply it again; what is on its volumes stays",
        )
    return error
