"""What a manifest asks for, when it asks for training: the configuration, and the ranks that it wants. Frozen."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from ironloom.workload.serving import FieldNote, Resources
from ironloom.workload.training import Training


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingJob:
    """A training workload: one run, on so many ranks."""

    name: str
    """metadata.name: the run's name."""
    kind: str
    """The manifest's kind: TrainJob, JobSet or PyTorchJob."""
    training: Training
    namespace: str = "default"
    labels: dict[str, str] = field(default_factory=dict)
    annotations: dict[str, str] = field(default_factory=dict)
    num_ranks: int = 1
    """Processes that train together, over all nodes."""
    min_ranks: int = 1
    """Of an elastic run: as few as this it may go on with."""
    resources: Resources = field(default_factory=Resources)
    """Of one rank."""
    env: dict[str, str] = field(default_factory=dict)
    is_suspended: bool = False
    """Not to run now: one that runs takes a checkpoint and ends."""
    not_honoured: tuple[FieldNote, ...] = ()
    """Valid fields that say something this machine cannot do; each is told once, by name."""
    manifest: dict[str, Any] = field(default_factory=dict)
    """The object as applied."""
