"""From a service to its objects in one namespace: what the cluster has is looked at, then the pure renderers are asked.

    InferenceService      KServe's own where it is            render.kserve
    LLMInferenceService   KServe's own where it is            render.llm
    over several nodes    a LeaderWorkerSet                   render.multi_node
    everything else       a Deployment and a Service          render.plain

An object goes into the version that it is written in.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import msgspec

from ironloom.backends.kubernetes import gpu_nodes, unlisted
from ironloom.backends.kubernetes.capabilities import PLAIN, VERSIONS, Capabilities
from ironloom.backends.kubernetes.client import NAME_ONLY, Client
from ironloom.backends.kubernetes.kept import Kept
from ironloom.backends.kubernetes.names import QUEUE
from ironloom.backends.kubernetes.queue_levels import finest, queue_levels, read_queues
from ironloom.backends.kubernetes.render import kserve, llm, multi_node, plain
from ironloom.backends.kubernetes.spare import why_no_spare
from ironloom.backends.kubernetes.unlisted import Unlisted
from ironloom.backends.kubernetes.wiring import wiring_of
from ironloom.errors import ClusterError, EngineUnavailable, UsageError
from ironloom.fleet.build import build_fleet
from ironloom.fleet.model import Fleet
from ironloom.fleet.objects import FleetObject, decode
from ironloom.workload.serving import Ground, Serving

PATHS: Final = {
    "ServingRuntime": "/apis/serving.kserve.io/v1alpha1/namespaces/{namespace}/servingruntimes/{name}",
    "InferenceService": "/apis/serving.kserve.io/v1beta1/namespaces/{namespace}/inferenceservices/{name}",
    "LLMInferenceService": "/apis/serving.kserve.io/v1alpha2/namespaces/{namespace}/llminferenceservices/{name}",
    "LeaderWorkerSet": "/apis/leaderworkerset.x-k8s.io/v1/namespaces/{namespace}/leaderworkersets/{name}",
    "Deployment": "/apis/apps/v1/namespaces/{namespace}/deployments/{name}",
    "Service": "/api/v1/namespaces/{namespace}/services/{name}",
    "PodDisruptionBudget": "/apis/policy/v1/namespaces/{namespace}/poddisruptionbudgets/{name}",
    "PersistentVolumeClaim": "/api/v1/namespaces/{namespace}/persistentvolumeclaims/{name}",
}
"""Where an object that is rendered here is applied, in the order of making them."""
PART_OF_KIND: Final = {
    "ServingRuntime": "KServe",
    "InferenceService": "KServe",
    "LLMInferenceService": "KServe LLM",
    "LeaderWorkerSet": "LeaderWorkerSet",
}
"""Kinds that are there with a part of the cluster alone."""
RUNTIMES: Final = (
    "/apis/serving.kserve.io/v1alpha1/namespaces/{namespace}/servingruntimes",
    "/apis/serving.kserve.io/v1alpha1/clusterservingruntimes",
)
SPREADS: Final = frozenset({"Deployment", "LeaderWorkerSet", "InferenceService"})
"""Kinds whose pods roll out."""
ON_DEMAND: Final = ("Karpenter", "CoreWeave node pools")
"""Parts of a cluster that make nodes for pods that wait."""
NODES_KEPT_S: Final = 60.0
"""How long the taints of nodes count as known: many services are applied one after the other."""
KEPT_S: Final = 2.0
"""How long what a person may mend and apply again counts as known."""
_nodes = msgspec.json.Decoder(gpu_nodes.Node)


@dataclass(frozen=True, kw_only=True, slots=True)
class Place:
    """Where a service's replicas come from."""

    port: int
    scaled: str
    """Path of the object whose scale it is."""
    maker: str = ""
    """Path of the object from which a controller makes it; empty where it is applied here."""
    writer: str = ""
    """Who writes its count by the manifest's own wish; empty where it is Ironloom."""

    @property
    def name(self) -> str:
        """Of the object whose scale it is."""
        return self.scaled.rpartition("/")[2]


@dataclass(frozen=True, kw_only=True, slots=True)
class Rendered:
    """A service's objects in the order of making them, whose scale is to be written, and what is to be said."""

    objects: tuple[dict[str, Any], ...]
    place: Place
    notes: tuple[str, ...]


class Renderer:
    """For the services of one namespace. `capabilities` are what the cluster has."""

    def __init__(self, client: Client, *, namespace: str, capabilities: Capabilities) -> None:
        self.capabilities = capabilities
        self._client = client
        self._namespace = namespace
        self._tolerated: dict[str, tuple[gpu_nodes.Toleration, ...] | Unlisted] = {}
        self._nodes_read_s: dict[str, float] = {}
        """When, on the monotonic clock, by resource."""
        self._reading_nodes = asyncio.Lock()
        self._has_hf_secret = Kept(self._read_hf_secret, for_s=KEPT_S)
        self._fleet = Kept(self._read_fleet, for_s=NODES_KEPT_S)
        self._fleet_anew = Kept(lambda: self._fleet.get(is_new=True), for_s=KEPT_S)
        """Where it was forbidden: a right may have been given since."""
        self._queues = Kept(self._read_queues, for_s=NODES_KEPT_S)
        self._runtimes = Kept(self._read_runtimes, for_s=KEPT_S)

    def check(self, serving: Serving) -> None:
        """Raises UsageError or EngineUnavailable for a service that cannot be rendered here; asks nobody."""
        placed = self._placed(serving)
        if self._is_llms(placed):
            llm.objects(placed, plain.Setting())
        elif self._is_kserves(placed):
            kserve.objects(placed, plain.Setting(), kserve.Found())
        else:
            self._own(placed, plain.Setting())

    async def render(self, serving: Serving, generation: int, *, seen_start_s: float | None = None) -> Rendered:
        """`seen_start_s` is the longest start of its replicas that is known. Raises as `check` does, and
        ClusterError."""
        serving = self._placed(serving)
        has_hf_secret = await self._has_hf_secret.get()
        tolerations = await self._tolerations(serving)
        setting = plain.Setting(
            generation=generation,
            has_hf_secret=bool(has_hf_secret),
            tolerations=tolerations if not isinstance(tolerations, Unlisted) else (),
            seen_start_s=seen_start_s,
            predicted_start_s=_predicted_start_s(serving) if seen_start_s is None else None,
            has_kueue=self.capabilities.has("Kueue"),
        )
        objects, place = await self._rendered(serving, setting)
        grouped, fabric = await self._of_group(serving, setting, objects)
        if grouped is not setting:
            setting = grouped
            objects, place = await self._rendered(serving, setting)
        why = await self._why_no_spare(serving, objects)
        if why and not isinstance(why, Unlisted):
            setting = replace(setting, has_spare_gpus=False, why_no_spare=why, notes=[])
            objects, place = await self._rendered(serving, setting)
        unseen = unlisted.notes(
            taints=tolerations if isinstance(tolerations, Unlisted) else None,
            room=why if isinstance(why, Unlisted) else None,
            fabric=fabric if isinstance(fabric, Unlisted) else None,
        )
        wired = () if isinstance(fabric, Unlisted) else fabric
        unseen = (*wired, *self._of_queue(serving, objects), *unseen)
        if has_hf_secret is None:
            unseen = (*unseen, unlisted.secret_note(plain.HF_SECRET))
        return Rendered(objects=tuple(objects), place=place, notes=(*setting.notes, *unseen))

    async def find(self, serving: Serving, generation: int) -> Rendered:
        """As `render`, of a service that is there already: less is asked, and its objects are not to be applied."""
        setting = plain.Setting(generation=generation, has_kueue=self.capabilities.has("Kueue"))
        objects, place = await self._rendered(self._placed(serving), setting)
        return Rendered(objects=tuple(objects), place=place, notes=tuple(setting.notes))

    async def _rendered(self, serving: Serving, setting: plain.Setting) -> tuple[list[dict[str, Any]], Place]:
        if self._is_llms(serving):
            objects = llm.objects(serving, setting)
            path = path_of(objects[0])
            return objects, Place(port=plain.VLLM_PORT, scaled=path, maker=path, writer=llm.WRITER)
        if not self._is_kserves(serving):
            objects = self._own(serving, setting)
            return objects, Place(port=plain.port_of(objects[0]), scaled=path_of(objects[0]))
        found = await self._found(serving)
        deployment = kserve.deployment_of(serving)
        return kserve.objects(serving, setting, found), Place(
            port=plain.HUGGING_FACE_PORT,
            scaled=PATHS["Deployment"].format(namespace=serving.namespace, name=deployment),
            maker=PATHS["InferenceService"].format(namespace=serving.namespace, name=serving.name),
            writer=kserve.writer_of_scale(serving, found),
        )

    def _own(self, serving: Serving, setting: plain.Setting) -> list[dict[str, Any]]:
        """Objects whose scale is written here, the one that has it first."""
        span = multi_node.span_of(serving)
        if span is None:
            return plain.objects(serving, setting)
        if not self.capabilities.has("LeaderWorkerSet"):
            why = self.capabilities.why_without(multi_node.KIND)
            mend = "install LeaderWorkerSet"
            if multi_node.KIND in self.capabilities.foreign:
                mend = f"install a LeaderWorkerSet that serves {VERSIONS[multi_node.KIND]}"
            raise EngineUnavailable(
                f"{serving.name} asks for replicas over {span.num_nodes} nodes ({span.field}), and {why}: "
                f"{PLAIN[multi_node.KIND]}",
                hint=f"{mend} (https://lws.sigs.k8s.io/docs/installation/), or ask for no more GPUs than a node has",
            )
        return multi_node.objects(serving, setting, span)

    def ground(self, serving: Serving) -> Ground:
        """Who makes its pods."""
        is_kserves = self._is_kserves(serving) or self._is_llms(serving)
        return Ground.KSERVE if is_kserves else Ground.PLAIN

    def _is_llms(self, serving: Serving) -> bool:
        return serving.kind == llm.KIND and self.capabilities.has("KServe LLM")

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

    async def _found(self, serving: Serving) -> kserve.Found:
        """What the cluster has of KServe for a service."""
        path = PATHS["InferenceService"].format(namespace=serving.namespace, name=serving.name)
        known = await read_object(self._client, path)
        mode = str(((known or {}).get("status") or {}).get("deploymentMode") or "")
        found = await self._runtimes.get()
        if kserve.lacks_runtime(serving, found):  # one may have come since they were read
            found = await self._runtimes.get(is_new=True)
        return replace(found, mode=mode)

    async def _read_runtimes(self) -> kserve.Found:
        """Those that may serve a model here; none where they may not be listed."""
        listed: list[Any] = []
        for path in RUNTIMES:
            try:
                found = await read_object(self._client, path.format(namespace=self._namespace))
            except ClusterError as error:
                if error.status != 403:
                    raise
                return kserve.Found()
            listed += (found or {}).get("items") or ()
        return kserve.Found(runtimes=kserve.runtimes(listed))

    async def _why_no_spare(self, serving: Serving, objects: Sequence[Mapping[str, Any]]) -> str | Unlisted:
        """Why a rollout has no GPUs beside those in use, or what may not be listed; empty where it has, and where nodes
        are made on demand."""
        if not serving.resources.num_gpus or any(self.capabilities.has(part) for part in ON_DEMAND):
            return ""
        made = next((one for one in objects if one["kind"] in SPREADS), None)
        if made is None:
            return ""
        fleet = await self._seen_fleet()
        if isinstance(fleet, Unlisted):
            return fleet
        return why_no_spare(made, fleet, service=serving.name, min_replicas=serving.scaling.min_replicas)

    async def _of_group(
        self, serving: Serving, setting: plain.Setting, objects: Sequence[Mapping[str, Any]]
    ) -> tuple[plain.Setting, tuple[str, ...] | Unlisted]:
        """The setting of a replica over several nodes, which reach each other by their fabric, with what is to be said
        of it, or what may not be listed for it."""
        made = next((one for one in objects if one["kind"] == multi_node.KIND), None)
        if made is None:
            return setting, ()
        queues = await self._queues.get()
        key = finest(queue_levels(queues, self._namespace, serving.labels.get(QUEUE, "")))
        setting = replace(setting, topology_key=key, notes=[])
        fleet = await self._seen_fleet()
        if isinstance(fleet, Unlisted):
            return setting, fleet
        fleet = msgspec.structs.replace(fleet, namespace_labels=queues.namespace_labels)
        spec, asked = made["spec"]["leaderWorkerTemplate"]["workerTemplate"]["spec"], serving.resources
        wiring = wiring_of(spec, asked.gpu_resource, asked.num_gpus, fleet, self._namespace)
        setting = replace(setting, fabric=wiring.fabric, may_lock_memory=wiring.may_lock_memory)
        return setting, tuple(wiring.notes())

    def _of_queue(self, serving: Serving, objects: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
        """What becomes of the queue that a service names; a group's is told with the group."""
        queue = serving.labels.get(QUEUE, "")
        if not queue or (self.capabilities.has("Kueue") and any(one["kind"] == multi_node.KIND for one in objects)):
            return ()
        if not self.capabilities.has("Kueue"):
            return (f"queue {queue} is not honoured: {self.capabilities.why_without('Kueue')}",)
        return (f"queue {queue} admits each of its pods, where Kueue looks after Deployments: zero gives quota back",)

    async def _read_queues(self) -> Fleet:
        """Kueue's, and the labels of the namespace."""
        return await read_queues(self._client, self._namespace, self.capabilities.versions)

    async def _seen_fleet(self) -> Fleet | Unlisted:
        fleet = await self._fleet.get()
        return await self._fleet_anew.get() if isinstance(fleet, Unlisted) else fleet

    async def _read_fleet(self) -> Fleet | Unlisted:
        """Nodes and pods of the whole cluster, or which of them may not be listed."""
        found: list[FleetObject] = []
        for kind, path, what in (("Node", "/api/v1/nodes", unlisted.NODES), ("Pod", "/api/v1/pods", unlisted.PODS)):
            listed: list[FleetObject] = []
            try:
                async for page in self._client.pages(path, what=f"list {what}"):
                    if page.is_first:
                        listed.clear()
                    listed += [decode(item, api_version="v1", kind=kind) for item in page.items]
            except ClusterError as error:
                if error.status != 403:
                    raise
                return Unlisted(what=what)
            found += listed
        return build_fleet(found, name="", source="")

    async def _tolerations(self, serving: Serving) -> tuple[gpu_nodes.Toleration, ...] | Unlisted:
        """For the nodes with the GPUs that it asks for."""
        resource = serving.resources.gpu_resource
        if not serving.resources.num_gpus:
            return ()
        async with self._reading_nodes:  # once, for all who ask meanwhile
            if time.monotonic() - self._nodes_read_s.get(resource, -NODES_KEPT_S) >= NODES_KEPT_S:
                await self._read_tolerations(resource)
        return self._tolerated[resource]

    async def _read_tolerations(self, resource: str) -> None:
        nodes: list[gpu_nodes.Node] = []
        try:
            async for page in self._client.pages("/api/v1/nodes", what="list nodes"):
                nodes = [*([] if page.is_first else nodes), *map(_nodes.decode, page.items)]
        except ClusterError as error:
            if error.status != 403:
                raise
            self._tolerated[resource] = Unlisted(what=unlisted.NODES)
            self._nodes_read_s[resource] = time.monotonic() - NODES_KEPT_S + KEPT_S
        else:
            self._tolerated[resource] = gpu_nodes.tolerations(nodes, resource)
            self._nodes_read_s[resource] = time.monotonic()

    async def _read_hf_secret(self) -> bool | None:
        """Whether there is one, None where that may not be seen; its data is not asked for."""
        path = f"/api/v1/namespaces/{self._namespace}/secrets/{plain.HF_SECRET}"
        try:
            await self._client.get(path, accept=NAME_ONLY)
        except ClusterError as error:
            if error.status not in {403, 404}:
                raise
            return None if error.status == 403 else False
        return True


def _predicted_start_s(serving: Serving) -> float | None:
    """Of a model that is fetched from the hub and known by its name."""
    if not serving.resources.num_gpus or not serving.model_uri.startswith("hf://"):
        return None
    from ironloom.plan.start import cold_start_s
    from ironloom.workload.shapes.find import find

    shape = find(serving.model_uri)
    return cold_start_s(shape).value if shape is not None else None


def paths_of(service: str, namespace: str, has: Callable[[str], bool]) -> list[str]:
    """Where objects of a service may be that go with it, in the order of removing them. `has` says of a part of the
    cluster whether it is there."""
    kinds = [kind for kind in reversed(PATHS) if kind not in PART_OF_KIND or has(PART_OF_KIND[kind])]
    kinds.remove("PersistentVolumeClaim")  # what was fetched is kept until somebody asks for its end
    found = [PATHS[kind].format(namespace=namespace, name=service) for kind in kinds]
    leaders = PATHS["Service"].format(namespace=namespace, name=multi_node.service_name(service))
    return [leaders, *found]


def path_of(one: Mapping[str, Any]) -> str:
    """Where an object is applied, in the version that it is written in."""
    metadata, version = one["metadata"], one["apiVersion"]
    path = PATHS[one["kind"]].format(namespace=metadata["namespace"], name=metadata["name"])
    _, root, *_ = path.split("/", 2)
    return path if root == "api" else f"/apis/{version}/namespaces/{path.partition('/namespaces/')[2]}"


async def read_object(client: Client, path: str) -> dict[str, Any] | None:
    """An object; None where there is none. Raises ClusterError."""
    try:
        made: dict[str, Any] = msgspec.json.decode(await client.get(path))
    except ClusterError as error:
        if error.status == 404:
            return None
        raise
    return made
