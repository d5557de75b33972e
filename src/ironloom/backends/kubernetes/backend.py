"""The backend `kubernetes`: replicas are pods. One watch of all pods of Ironloom's services feeds their reports; a
service's objects are applied under one field manager, its scale under another.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import msgspec

from ironloom.account.events import Event
from ironloom.backends.kubernetes import capabilities, gpu_nodes
from ironloom.backends.kubernetes.capabilities import Capabilities
from ironloom.backends.kubernetes.client import Client
from ironloom.backends.kubernetes.discovery import discover
from ironloom.backends.kubernetes.group import Group
from ironloom.backends.kubernetes.names import MANAGER, SCALE_MANAGER, SERVICE_LABEL
from ironloom.backends.kubernetes.render import kserve, plain
from ironloom.backends.kubernetes.service import ClusterService
from ironloom.backends.kubernetes.watch import Followed
from ironloom.errors import ClusterError, UsageError
from ironloom.serve.replica import Replica, ScaleOrder, ServiceReplicas
from ironloom.workload.serving import Serving

_logger = logging.getLogger(__name__)
PATHS = {
    "ServingRuntime": "/apis/serving.kserve.io/v1alpha1/namespaces/{namespace}/servingruntimes/{name}",
    "InferenceService": "/apis/serving.kserve.io/v1beta1/namespaces/{namespace}/inferenceservices/{name}",
    "Deployment": "/apis/apps/v1/namespaces/{namespace}/deployments/{name}",
    "Service": "/api/v1/namespaces/{namespace}/services/{name}",
    "PodDisruptionBudget": "/apis/policy/v1/namespaces/{namespace}/poddisruptionbudgets/{name}",
}
"""Where an object that is rendered here is applied; the order is that of making them, and backwards of removing."""
NODES_KEPT_S = 60.0
"""How long the taints of nodes count as known: many services are applied one after the other."""
_nodes = msgspec.json.Decoder(gpu_nodes.Node)
KSERVE_KINDS = frozenset({"ServingRuntime", "InferenceService"})
_WANTED = {"InferenceService": ("KServe",), "LLMInferenceService": ("KServe LLM",)}
"""By the manifest's kind: the parts without which something of it is lost."""
RUNTIMES = (
    "/apis/serving.kserve.io/v1alpha1/namespaces/{namespace}/servingruntimes",
    "/apis/serving.kserve.io/v1alpha1/clusterservingruntimes",
)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Place:
    """Where a service's replicas come from."""

    port: int
    deployment: str
    """Whose scale it is."""
    maker: str = ""
    """Path of the object from which a controller makes it; empty where it is applied here."""
    writer: str = ""
    """Who writes its count by the manifest's own wish; empty where it is Ironloom."""


class KubernetesBackend:
    """See ReplicaBackend for what the methods promise. `namespace` is the one whose services it runs. The client
    is its own, and closed with it. With a `group` it is one of several gateways, and writes only while that leads."""

    name = "kubernetes"

    def __init__(
        self,
        client: Client,
        *,
        namespace: str,
        record: Callable[[Event], None] = lambda _: None,
        group: Group | None = None,
    ) -> None:
        """`record` takes what the event log is told of replicas."""
        self.group = group
        self._record = record
        self._client = client
        self._namespace = namespace
        self.capabilities = Capabilities(versions={})
        """What the cluster has, read once when the backend is opened."""
        self._tolerated: dict[str, tuple[gpu_nodes.Toleration, ...]] = {}
        self._nodes_read_s: dict[str, float] = {}
        """When, on the monotonic clock, by resource."""
        self._services: dict[str, ClusterService] = {}
        self._early: dict[str, ScaleOrder] = {}
        """Orders for services that are being applied: the scaler says a thing once."""
        self._tasks: list[asyncio.Task[None]] = []
        self._on_change: Callable[[ServiceReplicas], None]
        self._drain: Callable[[Replica], Awaitable[None]]

    async def open(
        self,
        *,
        on_change: Callable[[ServiceReplicas], None],
        drain: Callable[[Replica], Awaitable[None]],
    ) -> None:
        self._on_change, self._drain = on_change, drain
        # What does not pass by itself (no such server, no right to look) is an error now; later on it is waited out.
        path = f"/api/v1/namespaces/{self._namespace}/pods"
        try:
            await self._client.get(path, params={"limit": "1"}, what=f"list pods in namespace {self._namespace}")
            self.capabilities = capabilities.of(await discover(self._client))
        except ClusterError:
            await self._client.close()
            raise
        self._pods = Followed(
            self._client,
            path,
            labels=SERVICE_LABEL,
            on_change=self._pod_changed,
            on_error=_told,
        )
        for line in self.capabilities.told():
            _logger.info("this cluster: %s", line)
        watching = asyncio.create_task(self._pods.run(), name="watch-pods")
        self._tasks.append(watching)
        await self._pods.listed.wait()

    async def check(self, serving: Serving) -> None:
        placed = self._placed(serving)
        if self._is_kserves(placed):
            kserve.objects(placed, plain.Setting(), kserve.Found())
        else:
            plain.objects(placed, plain.Setting())

    def _is_kserves(self, serving: Serving) -> bool:
        return serving.kind == "InferenceService" and self.capabilities.has("KServe")

    def _placed(self, serving: Serving) -> Serving:
        """In the namespace whose services run here. Raises UsageError for one that names another."""
        named = (serving.manifest.get("metadata") or {}).get("namespace")
        if named is not None and named != self._namespace:
            raise UsageError(
                f"{serving.name} belongs to namespace {named}, and this daemon runs services in {self._namespace}",
                hint=f"leave metadata.namespace out, or start a daemon with --namespace {named}",
            )
        return replace(serving, namespace=self._namespace)

    async def apply(self, serving: Serving, generation: int) -> None:
        serving = self._placed(serving)
        setting = plain.Setting(
            generation=generation,
            has_hf_secret=await self._has_hf_secret(serving.namespace),
            tolerations=await self._tolerations(serving),
        )
        objects, place = await self._rendered(serving, setting)
        if not place.maker:
            await self._begin_at_zero(objects[0])
        for one in objects:
            await self._client.apply(path_of(one), one, manager=MANAGER)
        await self._remove_all(serving.name, serving.namespace, {one["kind"] for one in objects})
        self._know(serving, setting, place)

    async def adopt(self, serving: Serving, generation: int) -> None:
        """Know a service that another gateway applied: its pods are followed, and nothing is written."""
        serving = self._placed(serving)
        setting = plain.Setting(generation=generation)
        self._know(serving, setting, (await self._rendered(serving, setting))[1])

    async def _rendered(self, serving: Serving, setting: plain.Setting) -> tuple[list[dict[str, Any]], _Place]:
        """A service's objects here, and whose scale is to be written."""
        if not self._is_kserves(serving):
            objects = plain.objects(serving, setting)
            return objects, _Place(port=plain.port_of(objects[0]), deployment=serving.name)
        found = await self._found(serving)
        return kserve.objects(serving, setting, found), _Place(
            port=plain.HUGGING_FACE_PORT,
            deployment=kserve.deployment_of(serving),
            maker=PATHS["InferenceService"].format(namespace=serving.namespace, name=serving.name),
            writer=kserve.writer_of_scale(serving, found),
        )

    def _know(self, serving: Serving, setting: plain.Setting, place: _Place) -> None:
        service = self._services.get(serving.name)
        is_known = service is not None
        if service is None:
            service = ClusterService(
                name=serving.name,
                namespace=serving.namespace,
                port=place.port,
                engine=serving.runtime or "vllm",
                client=self._client,
                drain=self._drain,
                changed=self._on_change,
                record=self._record,
                may_write=self._may_write,
            )
            self._services[serving.name] = service
        service.port, service.notes, service.foreign_writer = place.port, tuple(setting.notes), place.writer
        if (service.deployment, service.maker) != (place.deployment, place.maker):
            service.deployment, service.maker, service.written = place.deployment, place.maker, None
        if not is_known:
            for (_, name), pod in self._pods.objects.items():
                if pod["metadata"]["labels"].get(SERVICE_LABEL) == serving.name:
                    service.take(name, pod)
            service.begin()
            if (order := self._early.pop(serving.name, None)) is not None:
                service.scale(order)
        service.report()

    async def _begin_at_zero(self, deployment: Mapping[str, Any]) -> None:
        """Make a Deployment that is not there, with a count whose owner is the scale's own manager."""
        path = path_of(deployment)
        if await self._exists(path):
            return
        # Without a count the API server writes 1. The scale's own manager takes the field at once, so that the
        # applies that follow, which do not name it, leave it as it is.
        first = {**deployment, "spec": {"replicas": 0, **deployment["spec"]}}
        await self._client.apply(path, first, manager=MANAGER)
        metadata = {key: deployment["metadata"][key] for key in ("name", "namespace")}
        scale = {"apiVersion": "autoscaling/v1", "kind": "Scale", "metadata": metadata, "spec": {"replicas": 0}}
        # Forced: a scale of 0 is one without a count to the API server, and so another value than the object's.
        await self._client.apply(f"{path}/scale", scale, manager=SCALE_MANAGER, forces=True)

    async def _found(self, serving: Serving) -> kserve.Found:
        """What the cluster has of KServe for a service."""
        path = PATHS["InferenceService"].format(namespace=serving.namespace, name=serving.name)
        known = await self._read(path)
        mode = str(((known or {}).get("status") or {}).get("deploymentMode") or "")
        listed: list[Any] = []
        for path in RUNTIMES:
            try:
                found = await self._read(path.format(namespace=serving.namespace))
            except ClusterError as error:
                if error.status != 403:
                    raise
                return kserve.Found(mode=mode)
            listed += (found or {}).get("items") or ()
        return kserve.Found(mode=mode, runtimes=kserve.runtimes(listed))

    def scale(self, service: str, order: ScaleOrder) -> None:
        found = self._services.get(service)
        if not self._may_write():
            return
        if found is None:
            self._early[service] = order
        else:
            found.scale(order)

    def _may_write(self) -> bool:
        return self.group is None or self.group.leads

    async def begin_to_lead(self) -> None:
        """Take over from another gateway: the counts that it wrote are known, and not written once more. Raises
        ClusterError."""
        path = f"/apis/apps/v1/namespaces/{self._namespace}/deployments"
        async for page in self._client.pages(path):
            for item in page.items:
                one = msgspec.json.decode(item)
                for found in self._services.values():
                    if found.order is None and found.deployment == one["metadata"]["name"]:
                        found.written = written_count(one)

    def end_to_lead(self) -> None:
        """Another gateway decides now: orders of this one mean nothing any more."""
        for service in self._services.values():
            service.forget_order()

    def draining(self) -> dict[str, list[str]]:
        """By service, the replicas that get nothing new because they are to go."""
        return {name: sorted(one.draining) for name, one in self._services.items() if one.draining}

    def refused(self) -> dict[str, str]:
        """By service, why no replica of it can be made before somebody mends something."""
        return {name: why for name, one in self._services.items() if (why := one.refused)}

    def refuse_too(self, refused: Mapping[str, str]) -> None:
        """What the gateway that decides cannot have is told to those who wait here."""
        for name, service in self._services.items():
            if service.refusal != refused.get(name):
                service.refusal = refused.get(name)
                service.report()

    def drain_too(self, draining: Mapping[str, list[str]]) -> None:
        """What the gateway that decides drains gets nothing new here either."""
        for name, service in self._services.items():
            found = {replica for replica in draining.get(name, ()) if replica in service.pods}
            if found != service.draining:
                service.draining = found
                service.report()

    def forget(self, service: str) -> None:
        """A service that another gateway deleted."""
        found = self._services.pop(service, None)
        if found is not None:
            self._tasks.append(asyncio.create_task(found.end(), name=f"end-{service}"))

    def notes(self, serving: Serving) -> tuple[str, ...]:
        notes = self.capabilities.lost(_WANTED.get(serving.kind, ()))
        if serving.scaling.park_for_s:
            notes = (*notes, "park-for is not honoured: a pod cannot give its GPU up and stay")
        return notes

    def can_park(self, service: str) -> str | None:  # noqa: ARG002
        return "a pod cannot give its GPU up and stay"

    async def delete(self, service: str) -> None:
        self._early.pop(service, None)
        found = self._services.get(service)
        if found is None:
            return
        await found.stop()  # known until it is gone: other gateways drain it too
        await self._remove_all(service, found.namespace, set())
        self._services.pop(service, None)
        found.gone()

    async def logs(
        self, service: str, replica: str | None, *, follow: bool, tail: int
    ) -> AsyncIterator[tuple[str, str]]:
        found = self._services.get(service)
        names = [replica] if replica is not None else sorted(found.pods) if found is not None else []
        waiting: asyncio.Queue[tuple[str, str] | None] = asyncio.Queue(1000)

        async def read(name: str) -> None:
            path = f"/api/v1/namespaces/{self._namespace}/pods/{name}/log"
            params = {"tailLines": str(tail), "follow": str(follow).lower()}
            try:
                async for line in self._client.lines(path, params=params, what=f"get pods/log {name}"):
                    await waiting.put((name, line.decode(errors="replace")))
            except ClusterError as error:
                await waiting.put((name, str(error)))
            finally:
                await waiting.put(None)

        readers = [asyncio.create_task(read(name)) for name in names]
        try:
            left = len(readers)
            while left:
                one = await waiting.get()
                if one is None:
                    left -= 1
                else:
                    yield one
        finally:
            for reader in readers:
                reader.cancel()

    async def close(self, *, stop_replicas: bool) -> None:
        for service in self._services.values():
            try:
                await (service.stop() if stop_replicas else service.end())
            except ClusterError as error:
                _logger.warning("%s keeps its pods: %s", service.name, error)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._client.close()

    def _pod_changed(self, key: tuple[str, str], pod: dict[str, Any] | None) -> None:
        _, name = key
        for service in self._services.values():
            is_its = pod is not None and pod["metadata"]["labels"].get(SERVICE_LABEL) == service.name
            if is_its or name in service.pods:
                service.take(name, pod if is_its else None)

    async def _exists(self, path: str) -> bool:
        return await self._read(path) is not None

    async def _read(self, path: str) -> dict[str, Any] | None:
        """An object; None where there is none."""
        try:
            made: dict[str, Any] = msgspec.json.decode(await self._client.get(path))
        except ClusterError as error:
            if error.status == 404:
                return None
            raise
        return made

    async def _tolerations(self, serving: Serving) -> tuple[gpu_nodes.Toleration, ...]:
        """For the nodes with the GPUs that it asks for; none where nodes may not be listed, which is cluster-wide."""
        resource = serving.resources.gpu_resource
        if not serving.resources.num_gpus:
            return ()
        if time.monotonic() - self._nodes_read_s.get(resource, -NODES_KEPT_S) >= NODES_KEPT_S:
            nodes: list[gpu_nodes.Node] = []
            try:
                async for page in self._client.pages("/api/v1/nodes", what="list nodes"):
                    nodes = [*([] if page.is_first else nodes), *map(_nodes.decode, page.items)]
            except ClusterError as error:
                if error.status != 403:
                    raise
            self._tolerated[resource] = gpu_nodes.tolerations(nodes, resource)
            self._nodes_read_s[resource] = time.monotonic()
        return self._tolerated[resource]

    async def _has_hf_secret(self, namespace: str) -> bool:
        """Whether there is one; its data is not asked for."""
        accept = "application/json;as=PartialObjectMetadata;v=v1;g=meta.k8s.io"
        try:
            await self._client.get(f"/api/v1/namespaces/{namespace}/secrets/{plain.HF_SECRET}", accept=accept)
        except ClusterError as error:
            if error.status in {403, 404}:
                return False
            raise
        return True

    async def _remove_all(self, service: str, namespace: str, kept: set[str]) -> None:
        """Remove a service's objects but for some kinds: what others made of that name stays, and so does what a
        controller made, which carries its owner's labels."""
        for kind in reversed(PATHS):
            if kind in kept or (kind in KSERVE_KINDS and not self.capabilities.has("KServe")):
                continue
            path = PATHS[kind].format(namespace=namespace, name=service)
            one = await self._read(path)
            if one is None or any(owner.get("controller") for owner in one["metadata"].get("ownerReferences") or ()):
                continue
            if one["metadata"].get("labels", {}).get(SERVICE_LABEL) == service:
                await self._remove(path)

    async def _remove(self, path: str) -> None:
        try:
            await self._client.change("DELETE", path, {"propagationPolicy": "Background"})
        except ClusterError as error:
            if error.status != 404:
                raise


def path_of(one: Mapping[str, Any]) -> str:
    """Where an object is applied."""
    metadata = one["metadata"]
    return PATHS[one["kind"]].format(namespace=metadata["namespace"], name=metadata["name"])


def written_count(deployment: Mapping[str, Any]) -> int | None:
    """The replica count of a Deployment where Ironloom wrote it last; None where it did not."""
    for one in deployment["metadata"].get("managedFields") or ():
        owned = (one.get("fieldsV1") or {}).get("f:spec") or {}
        if one.get("manager") == SCALE_MANAGER and "f:replicas" in owned:
            return int(deployment["spec"].get("replicas", 0))
    return None


def _told(error: ClusterError | None) -> None:
    if error is not None:
        _logger.warning("watching pods: %s", error)
    else:
        _logger.info("watching pods again")
