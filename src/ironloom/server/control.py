"""What the control API shows and asks: its wire types, and the Protocol that the daemon implements.

The types are the JSON of /api/v1, for the API that writes it and the command line that reads it. Times ending in `_s`
are seconds since the epoch where they name a moment (`created_s`, `since_s`, `wall_time_s`), else a length.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Any, Literal, Protocol

import msgspec

from ironloom.errors import RequestError

ServiceState = Literal["ready", "waking", "parked", "zero", "failed", "deleting"]
RunStateName = Literal[
    "queued", "starting", "running", "waiting", "stopping", "stopped", "succeeded", "failed", "deleting"
]
ApplyAction = Literal["created", "configured", "unchanged"]
MAX_REPLICAS = 1000
"""More than this is a slip of the finger, not a count."""


class GpuView(msgspec.Struct, frozen=True, kw_only=True):
    """One accelerator of the machine."""

    index: int
    name: str
    uuid: str = ""
    memory_bytes: int = 0
    free_memory_bytes: int = 0


class MachineView(msgspec.Struct, frozen=True, kw_only=True):
    """The machine the daemon runs on."""

    name: str
    num_cpus: int
    memory_bytes: int
    available_memory_bytes: int
    gpus: list[GpuView] = []


class StatusView(msgspec.Struct, frozen=True, kw_only=True):
    """The daemon itself. GET /api/v1/status."""

    version: str
    pid: int
    started_s: float
    url: str
    host: str
    port: int
    state_dir: str
    machine: MachineView
    num_services: int
    problems: list[str] = []
    """What is wrong with the daemon itself, a sentence each: a full disk."""
    backend: str = "local"
    """What runs its replicas: local, kubernetes."""


class ModelView(msgspec.Struct, frozen=True, kw_only=True):
    """A service's model."""

    uri: str
    note: str | None = None
    """What a user must know of it, e.g. that the cache holds the Q4_1 form."""


class ReplicaView(msgspec.Struct, frozen=True, kw_only=True):
    """One replica, as it is now."""

    id: str
    pid: int | None
    state: str
    phase: str = ""
    """What a starting replica does: pulling, converting, loading."""
    reason: str = ""
    port: int = 0
    devices: list[str] = []
    engine: str = ""
    generation: int = 1
    since_s: float = 0.0
    in_flight: int = 0


class ScalingView(msgspec.Struct, frozen=True, kw_only=True):
    """How a service is scaled."""

    min_replicas: int
    max_replicas: int
    """0 is no bound but the machine's capacity."""
    metric: str
    target: float | None
    stable_window_s: float
    park_for_s: float | None
    """None: the backend's default."""
    cannot_park: str | None = None
    """Why its replicas are stopped at zero and never parked first; None where they can be."""
    pinned: int | None = None
    """The replica count that a person fixed; None while the autoscaler decides."""


class ServiceView(msgspec.Struct, frozen=True, kw_only=True):
    """One service. GET /api/v1/services/NAME."""

    name: str
    namespace: str
    kind: str
    state: ServiceState
    reason: str = ""
    url: str
    engine: str = ""
    model: ModelView
    generation: int = 1
    created_s: float = 0.0
    replicas: list[ReplicaView] = []
    scaling: ScalingView
    in_flight: int = 0
    held: int = 0
    requests_per_s: float = 0.0
    tokens_per_s: float = 0.0
    notes: list[str] = []
    manifest: dict[str, Any] = {}


class AppliedService(msgspec.Struct, frozen=True, kw_only=True):
    """What an apply did to one service."""

    name: str
    action: ApplyAction
    generation: int
    url: str
    notes: list[str] = []
    objects: list[dict[str, Any]] = []
    """With `dry_run`: what would be made in a cluster, as its API server would have it."""


class AppliedRun(msgspec.Struct, frozen=True, kw_only=True):
    """What an apply did to one training run."""

    name: str
    action: Literal["created", "configured", "unchanged", "resumed"]
    generation: int
    output: str
    notes: list[str] = []


class AppliedView(msgspec.Struct, frozen=True, kw_only=True):
    """Answer of POST /api/v1/apply."""

    services: list[AppliedService]
    runs: list[AppliedRun] = []


class RankView(msgspec.Struct, frozen=True, kw_only=True):
    """One process of a training run."""

    rank: int
    pid: int | None
    device: str = "cpu"


class RunView(msgspec.Struct, frozen=True, kw_only=True):
    """One training run. GET /api/v1/runs/NAME."""

    name: str
    namespace: str
    kind: str
    state: RunStateName
    reason: str = ""
    hint: str = ""
    """What would mend a failure, where that is known."""
    phase: str = ""
    """What is done before the first step."""
    model: str
    method: str = "full"
    output: str
    generation: int = 1
    created_s: float = 0.0
    since_s: float = 0.0
    attempt: int = 0
    num_failures: int = 0
    """In a row, without a checkpoint between them."""
    retry_at_s: float | None = None
    num_ranks: int = 1
    ranks: list[RankView] = []
    devices: list[str] = []
    device_s: float = 0.0
    """Seconds that devices were held for it so far; a rank on CPU counts as one device."""
    step: int = 0
    num_steps: int = 0
    checkpoint_step: int = 0
    last: dict[str, Any] = {}
    """Of the last step that was told: loss, grad_norm, learning_rate, tokens_per_s, remaining_s, num_stalls; step_s and
    parts_s are the mean step since the one told before it, and its parts."""
    loss_curve: list[list[float]] = []
    """[step, loss], thinned."""
    eval_curve: list[list[float]] = []
    samples: list[dict[str, Any]] = []
    num_skipped: int = 0
    profile: dict[str, Any] = {}
    """The last profiler window that was written: first_step, last_step, paths, and the request that asked for it."""
    notes: list[str] = []
    report: dict[str, Any] | None = None
    """At the end."""
    manifest: dict[str, Any] = {}


class AskedProfileView(msgspec.Struct, frozen=True, kw_only=True):
    """Answer of POST /api/v1/runs/NAME/profile: the run writes it within its next steps."""

    name: str
    steps: int
    request: str
    """`profile.request` of the run says the same once its traces are written."""


class DeletedView(msgspec.Struct, frozen=True, kw_only=True):
    """Answer of a delete."""

    name: str


class EventView(msgspec.Struct, frozen=True, kw_only=True):
    """One event of the event log."""

    seq: int
    wall_time_s: float
    kind: str
    service: str = ""
    replica: str = ""
    reason: str = ""
    message: str = ""
    devices: list[str] = []
    data: dict[str, Any] = {}


class LogLine(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One line of a replica's output. GET /api/v1/services/NAME/logs, one JSON object a line."""

    replica: str
    line: str
    error: str = ""
    """Why no more of this replica's output can be read; there is no line then."""
    hint: str = ""
    """What to do about that."""


class RequestView(msgspec.Struct, frozen=True, kw_only=True):
    """One request of the event log; a request still running has no outcome."""

    seq: int
    request_id: str
    wall_time_s: float
    service: str
    path: str
    stream: bool = False
    key_id: str = ""
    outcome: str | None = None
    status: int = 0
    replica: str = ""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    ttft_s: float | None = None
    held_s: float = 0.0
    duration_s: float | None = None
    num_retries: int = 0


class TotalsView(msgspec.Struct, frozen=True, kw_only=True):
    """All services together."""

    num_services: int = 0
    num_replicas: int = 0
    in_flight: int = 0
    held: int = 0
    requests_per_s: float = 0.0
    tokens_per_s: float = 0.0


class SnapshotView(msgspec.Struct, frozen=True, kw_only=True):
    """What the page shows, once a second. GET /api/v1/stream."""

    services: list[ServiceView]
    totals: TotalsView
    runs: list[RunView] = []


class KeyView(msgspec.Struct, frozen=True, kw_only=True):
    """An API key, without its token."""

    id: str
    name: str
    scope: str
    services: list[str] = []
    created_s: float = 0.0
    last_used_s: float | None = None


class CreatedKeyView(msgspec.Struct, frozen=True, kw_only=True):
    """A key just made: `key` is its token, shown this once."""

    id: str
    key: str
    name: str
    scope: str
    services: list[str] = []
    created_s: float = 0.0


class ShutdownView(msgspec.Struct, frozen=True, kw_only=True):
    """Answer of POST /api/v1/shutdown: the daemon has begun to end."""

    stopping: bool
    stop_replicas: bool


class PeerLoad(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One service's load at one gateway of several."""

    concurrency: float = 0.0
    """Requests in flight and held, averaged since the last report."""
    rps: float = 0.0
    in_flight: int = 0
    held: int = 0
    draining: dict[str, int] = {}
    """Replicas that this gateway sends nothing new, and what it still has in flight in each."""


class PeerReport(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a gateway tells the one that decides. POST /api/v1/peers."""

    gateway: str
    services: dict[str, PeerLoad] = {}


class PeerAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """What the gateway that decides answers."""

    draining: dict[str, list[str]] = {}
    """By service, the replicas that are to get nothing new."""
    refused: dict[str, str] = {}
    """By service, why no replica of it can be made before somebody mends something."""


class Control(Protocol):
    """What stands behind the control API. The daemon implements it; all methods are called on its event loop.

    Methods that name a service raise `service_not_found` when there is none. Any IronloomError becomes an
    OpenAI-shaped answer (RequestError with its own status, ManifestError and UsageError 400, CapacityError 409).
    """

    def status(self) -> StatusView:
        """The daemon and its machine. Does not block."""
        ...

    async def apply(
        self, manifests: Sequence[dict[str, Any]], *, pvc: dict[str, str], dry_run: bool = False
    ) -> AppliedView:
        """Declare the services of these objects, all or none: an error in one changes nothing. Idempotent.

        `dry_run` judges them all the same, says what would be done, and does nothing.
        `pvc` maps a claim's name to the folder that stands for it. Returns once the services are declared and
        durable; it does not wait for replicas. Raises ManifestError.
        """
        ...

    def services(self) -> list[ServiceView]:
        """Every service, in order of name. Does not block."""
        ...

    def service(self, name: str) -> ServiceView:
        """One service. Does not block."""
        ...

    async def scale(self, name: str, replicas: int | None, *, park: bool) -> ServiceView:
        """1 or more pins the count; None gives it back to the autoscaler; 0 goes to zero now, parked with `park`,
        else stopped, and the next request brings it back. Returns the service as it is once the order is given."""
        ...

    async def delete(self, name: str) -> None:
        """Drain and stop its replicas and forget it. Returns when they are gone."""
        ...

    def runs(self) -> list[RunView]:
        """Every training run, in order of name. Does not block."""
        ...

    def run(self, name: str) -> RunView:
        """One run. Raises the 404 of a run that is not there."""
        ...

    async def profile_run(self, name: str, num_steps: int) -> AskedProfileView:
        """Ask a run that steps for a profile of its next steps; returns once it is asked. Raises `run_not_running`."""
        ...

    async def delete_run(self, name: str) -> None:
        """Have it take a checkpoint, end it and forget it; its output stays. Returns when its ranks are gone."""
        ...

    def run_logs(self, name: str, *, rank: str | None, follow: bool, tail: int) -> AsyncIterator[LogLine]:
        """Lines of its ranks' output, as `logs` gives those of replicas."""
        ...

    async def events(self, *, service: str | None, after: int, limit: int) -> list[EventView]:
        """The newest `limit` events with a seq above `after`, oldest first."""
        ...

    async def requests(self, *, service: str | None, limit: int) -> list[RequestView]:
        """The last requests, newest first, at most `limit`."""
        ...

    def logs(self, name: str, *, replica: str | None, follow: bool, tail: int) -> AsyncIterator[LogLine]:
        """Lines of its replicas' output, oldest first; the last `tail` of each, and with `follow` those to come
        until the caller stops. Raises `service_not_found` at the call, not at the first line."""
        ...

    def snapshot(self) -> SnapshotView:
        """Services and totals as they are now. Does not block; called once a second while a page is open."""
        ...

    def peer(self, report: PeerReport) -> PeerAnswer:
        """Take another gateway's load. Raises `not_leader` where this one does not decide. Does not block."""
        ...

    def shutdown(self, *, stop_replicas: bool) -> None:
        """Begin to end the daemon: returns at once, so that the answer can still go out. Idempotent."""
        ...


def service_not_found(name: str, known: Sequence[str] = ()) -> RequestError:
    """The 404 of a service that is not there."""
    return RequestError(
        404,
        f"there is no service {name!r}",
        code="service_not_found",
        param="name",
        hint=f"services are: {', '.join(sorted(known))}" if known else "no service is applied; see `ironloom get`",
    )


def name_taken(name: str, kind: str) -> RequestError:
    """The 409 of a name that a workload of the other kind has."""
    return RequestError(
        409,
        f"there is a {kind} {name!r} already: services and runs are known by their names",
        code="name_taken",
        param="metadata.name",
        hint="give it another metadata.name",
    )


def not_leader(leader: str) -> RequestError:
    """The 503 of a gateway that was asked to change what only the one that decides may."""
    return RequestError(
        503,
        f"this gateway does not decide; {leader} does" if leader else "no gateway decides at the moment",
        type="server_error",
        code="not_leader",
        source="gateway",
        retry_after_s=1.0,
        hint="`ironloom get --context NAME` and the other commands find the one that does",
    )


def key_not_allowed(needed: str) -> RequestError:
    """The 403 of a key whose scope does not reach this."""
    return RequestError(
        403,
        f"this key's scope does not reach here; {needed} is needed",
        type="permission_error",
        code="insufficient_scope",
        hint="`ironloom key create --scope control NAME` makes one",
    )
