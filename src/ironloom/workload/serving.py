"""What a manifest asks for, when it asks for serving. Frozen: nothing downstream writes back to it."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any


class ScaleMetric(StrEnum):
    """What the autoscaler counts: requests in flight and held, or requests a second."""

    CONCURRENCY = "concurrency"
    RPS = "rps"


@dataclass(frozen=True, kw_only=True, slots=True)
class Scaling:
    """How many replicas, and when. Names and defaults follow Knative's autoscaler, which KServe users know.

    Source: https://knative.dev/docs/serving/autoscaling/ and KServe's ComponentExtensionSpec.
    """

    min_replicas: int = 1
    """Replicas that stay ready; 0 lets the service go to zero."""
    max_replicas: int = 0
    """Upper bound; 0 is none (the machine's own capacity still bounds it)."""
    initial_scale: int = 1
    """Replicas at creation, before there is any traffic; never below min_replicas."""
    activation_scale: int = 1
    """Once any replica is wanted, at least this many are."""
    metric: ScaleMetric = ScaleMetric.CONCURRENCY
    target: float | None = None
    """Wanted value of the metric for one replica; None takes the engine's useful batch, or 200 requests a second."""
    target_utilization_fraction: float = 0.7
    """Scale when this share of the target is reached."""
    container_concurrency: int = 0
    """Hard limit of requests in flight in one replica; 0 is none."""
    stable_window_s: float = 60.0
    panic_window_fraction: float = 0.1
    """Panic window as a fraction of the stable window."""
    panic_threshold_fraction: float = 2.0
    """Panic when the panic window wants this many times the replicas there are."""
    scale_down_delay_s: float = 0.0
    retention_s: float = 0.0
    """The last replica lingers at least this long after the window says zero."""
    park_for_s: float | None = None
    """At zero a replica is parked this long before it is stopped; None is the backend's default, 0 never parks."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Resources:
    """What one replica asks for. Zero means not said."""

    cpu: float = 0.0
    memory_bytes: int = 0
    num_gpus: int = 0
    gpu_resource: str = "nvidia.com/gpu"


class Ground(StrEnum):
    """What a service runs on, as far as fields of a manifest mean something else there."""

    LOCAL = "local"
    """Processes of one machine."""
    PLAIN = "plain"
    """Pods of kinds that Ironloom renders: a Deployment, a LeaderWorkerSet."""
    KSERVE = "kserve"
    """Pods that KServe makes of the manifest itself."""


EVERYWHERE = frozenset(Ground)
ON_ONE_MACHINE = frozenset({Ground.LOCAL})
WITHOUT_KSERVE = frozenset({Ground.LOCAL, Ground.PLAIN})


@dataclass(frozen=True, kw_only=True, slots=True)
class FieldNote:
    """A field of the manifest with its place in the text, and what is to be said of it."""

    path: str
    message: str
    file: str = "<stdin>"
    line: int = 0
    column: int = 0
    grounds: frozenset[Ground] = EVERYWHERE
    """Where it is to be said: elsewhere the field means what it says."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Serving:
    """A serving workload: one model behind one name, on as many replicas as its load asks for."""

    name: str
    """metadata.name: the service's name and the model id that clients send."""
    kind: str
    """The manifest's kind: InferenceService, LLMInferenceService, Deployment or LeaderWorkerSet."""
    namespace: str = "default"
    labels: dict[str, str] = field(default_factory=dict)
    annotations: dict[str, str] = field(default_factory=dict)
    model_uri: str = ""
    """Where the model is: hf://owner/name[:revision], file://, a path, s3://, pvc://."""
    model_place: FieldNote | None = field(default=None, compare=False)
    """Where the manifest names it; None where it came without text, or names it in parts."""
    tokenizer_uri: str = ""
    runtime: str | None = None
    """Engine asked for by name (openvino, llamacpp, transformers, vllm, fake); None lets the machine decide."""
    engine_args: tuple[str, ...] = ()
    """Arguments in vLLM's spelling, without model, host, port and served name, which are Ironloom's to set."""
    env: dict[str, str] = field(default_factory=dict)
    max_model_len: int | None = None
    """Context length in tokens that was asked for; None takes the model's own."""
    resources: Resources = field(default_factory=Resources)
    scaling: Scaling = field(default_factory=Scaling)
    timeout_s: float = 300.0
    """A request that takes longer, waiting included, is ended. KServe's `timeout`; Knative's default is 300 s."""
    start_deadline_s: float = 600.0
    """A start that takes longer has failed. Knative's progress-deadline, default 600 s."""
    model_cache: str = ""
    """Where a cluster keeps what engines fetch from the hub: a size with a storage class or without, pvc://, file://,
    or `node`. Empty keeps nothing."""
    not_honoured: tuple[FieldNote, ...] = ()
    """Valid fields that say something that is not done, on some grounds or on all; each is told once, by name."""
    manifest: dict[str, Any] = field(default_factory=dict)
    """The object as applied."""
    extra_manifests: tuple[dict[str, Any], ...] = ()
    """Objects that belong to it (a Deployment's Service)."""

    def notes_on(self, *grounds: Ground) -> tuple[FieldNote, ...]:
        """Of `not_honoured`, what is to be said on each of these grounds."""
        return tuple(note for note in self.not_honoured if note.grounds.issuperset(grounds))
