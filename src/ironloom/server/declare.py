"""Objects of an apply into the services they declare, all or none."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ironloom.errors import ManifestError
from ironloom.workload.manifests import parse_objects
from ironloom.workload.serving import Serving
from ironloom.workload.training_job import TrainingJob


@dataclass(frozen=True, kw_only=True, slots=True)
class Declared:
    """One service, and the objects that declare it: its own first."""

    serving: Serving
    manifests: tuple[dict[str, Any], ...]


def declared_workloads(
    manifests: Sequence[dict[str, Any]], pvc: Mapping[str, str]
) -> tuple[list[Declared], list[TrainingJob]]:
    """The services and the training runs of these objects. Raises ManifestError when one of them means nothing, when
    two have one name, or when there is neither among them."""
    workloads = parse_objects(manifests)
    trainings = list(workloads.trainings)
    declared = _services(workloads.servings, pvc)
    names = {one.serving.name for one in declared}
    for job in trainings:
        if job.name in names:
            raise ManifestError(
                f"two objects declare {job.name!r}",
                hint="a run is known by its name, as a service is; give one of them another metadata.name",
                path="metadata.name",
            )
        names.add(job.name)
    if not declared and not trainings:
        raise ManifestError(
            "there is no service and no run among these objects",
            hint="apply an InferenceService, an LLMInferenceService, a Deployment of a vLLM or Hugging Face image, "
            "or a TrainJob, JobSet or PyTorchJob that runs ironloom.train.run",
        )
    return declared, trainings


def declared_services(manifests: Sequence[dict[str, Any]], pvc: Mapping[str, str]) -> list[Declared]:
    """The services of these objects. Raises ManifestError as `declared_workloads` does."""
    return declared_workloads(manifests, pvc)[0]


def _services(servings: Sequence[Serving], pvc: Mapping[str, str]) -> list[Declared]:
    declared: list[Declared] = []
    names: set[str] = set()
    for serving in servings:
        if serving.name in names:
            raise ManifestError(
                f"two objects declare the service {serving.name!r}",
                hint="a service's name is its model id, so it must be unique; give one of them another metadata.name",
                path="metadata.name",
            )
        names.add(serving.name)
        declared.append(
            Declared(
                serving=replace(serving, model_uri=_claimed(serving.model_uri, pvc)),
                manifests=(serving.manifest, *serving.extra_manifests),
            )
        )
    return declared


def _claimed(uri: str, pvc: Mapping[str, str]) -> str:
    """`pvc://claim/path` as the folder that was given for the claim; anything else as it is."""
    if not uri.startswith("pvc://"):
        return uri
    claim, _, path = uri.removeprefix("pvc://").partition("/")
    folder = pvc.get(claim)
    return uri if folder is None else f"file://{Path(folder) / path}"


def process_of(serving: Serving) -> Serving:
    """What of a declaration a running engine process depends on: all but what pool and scaler read."""
    return replace(
        serving,
        scaling=Serving(name="", kind="").scaling,
        timeout_s=0.0,
        start_deadline_s=0.0,
        labels={},
        annotations={},
        not_honoured=(),
        manifest={},
        extra_manifests=(),
    )
