"""The backend `kubernetes`: replicas are pods. One watch of all pods of Ironloom's services feeds their reports; a
service's objects are applied under one field manager, its scale under another.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import replace
from typing import Any

import msgspec

from ironloom.backends.kubernetes.client import Client
from ironloom.backends.kubernetes.names import MANAGER, SCALE_MANAGER, SERVICE_LABEL
from ironloom.backends.kubernetes.render import plain
from ironloom.backends.kubernetes.service import ClusterService
from ironloom.backends.kubernetes.watch import Followed
from ironloom.errors import ClusterError, UsageError
from ironloom.serve.replica import Replica, ScaleOrder, ServiceReplicas
from ironloom.workload.serving import Serving

_logger = logging.getLogger(__name__)
PATHS = {
    "Deployment": "/apis/apps/v1/namespaces/{namespace}/deployments/{name}",
    "Service": "/api/v1/namespaces/{namespace}/services/{name}",
    "PodDisruptionBudget": "/apis/policy/v1/namespaces/{namespace}/poddisruptionbudgets/{name}",
}
"""Where an object that is rendered here is applied; the order is that of making them, and backwards of removing."""


class KubernetesBackend:
    """See ReplicaBackend for what the methods promise. `namespace` is the one whose services it runs. The client
    is its own, and closed with it."""

    name = "kubernetes"

    def __init__(self, client: Client, *, namespace: str) -> None:
        self._client = client
        self._namespace = namespace
        self._services: dict[str, ClusterService] = {}
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
        path = f"/api/v1/namespaces/{self._namespace}/pods"
        # What does not pass by itself (no such server, no right to look) is an error now; later on it is waited out.
        try:
            await self._client.get(path, params={"limit": "1"}, what=f"list pods in namespace {self._namespace}")
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
        watching = asyncio.create_task(self._pods.run(), name="watch-pods")
        self._tasks.append(watching)
        await self._pods.listed.wait()

    async def check(self, serving: Serving) -> None:
        plain.objects(self._placed(serving), plain.Setting())

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
        setting = plain.Setting(generation=generation, has_hf_secret=await self._has_hf_secret(serving.namespace))
        objects = plain.objects(serving, setting)
        deployment = objects[0]
        path = path_of(deployment)
        if not await self._exists(path):
            # Without a count the API server writes 1. The scale's own manager takes the field at once, so that the
            # applies that follow, which do not name it, leave it as it is.
            first = {**deployment, "spec": {"replicas": 0, **deployment["spec"]}}
            await self._client.apply(path, first, manager=MANAGER)
            scale = {
                "apiVersion": "autoscaling/v1",
                "kind": "Scale",
                "metadata": {"name": serving.name, "namespace": serving.namespace},
                "spec": {"replicas": 0},
            }
            # Forced: a scale of 0 is one without a count to the API server, and so another value than the object's.
            await self._client.apply(f"{path}/scale", scale, manager=SCALE_MANAGER, forces=True)
        for one in objects:
            await self._client.apply(path_of(one), one, manager=MANAGER)
        await self._prune(serving, {one["kind"] for one in objects})
        known = self._services.get(serving.name)
        if known is not None:
            known.port, known.notes = plain.port_of(deployment), tuple(setting.notes)
            known.report()
            return
        service = ClusterService(
            name=serving.name,
            namespace=serving.namespace,
            port=plain.port_of(deployment),
            engine=serving.runtime or "vllm",
            client=self._client,
            drain=self._drain,
            changed=self._on_change,
            notes=tuple(setting.notes),
        )
        self._services[serving.name] = service
        for (_, name), pod in self._pods.objects.items():
            if pod["metadata"]["labels"].get(SERVICE_LABEL) == serving.name:
                service.take(name, pod)
        service.begin()
        service.report()

    def scale(self, service: str, order: ScaleOrder) -> None:
        found = self._services.get(service)
        if found is not None:
            found.scale(order)

    def notes(self, serving: Serving) -> tuple[str, ...]:
        if serving.scaling.park_for_s:
            return ("park-for is not honoured: a pod cannot give its GPU up and stay",)
        return ()

    def can_park(self, service: str) -> str | None:  # noqa: ARG002
        return "a pod cannot give its GPU up and stay"

    async def delete(self, service: str) -> None:
        found = self._services.pop(service, None)
        if found is None:
            return
        await found.stop()
        for kind in reversed(PATHS):
            path = PATHS[kind].format(namespace=found.namespace, name=service)
            await self._remove(path)

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
        try:
            await self._client.get(path)
        except ClusterError as error:
            if error.status == 404:
                return False
            raise
        return True

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

    async def _prune(self, serving: Serving, kinds: set[str]) -> None:
        """Remove what an earlier generation had and this one has not; what others made of that name stays."""
        for kind in PATHS.keys() - kinds:
            path = PATHS[kind].format(namespace=serving.namespace, name=serving.name)
            try:
                one = msgspec.json.decode(await self._client.get(path))
            except ClusterError as error:
                if error.status != 404:
                    raise
                continue
            if one["metadata"].get("labels", {}).get(SERVICE_LABEL) == serving.name:
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


def _told(error: ClusterError | None) -> None:
    if error is not None:
        _logger.warning("watching pods: %s", error)
    else:
        _logger.info("watching pods again")
