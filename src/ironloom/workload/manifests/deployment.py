"""A Deployment whose container runs vLLM or KServe's Hugging Face server, and the Service that selects it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from ironloom.workload.manifests.document import Document
from ironloom.workload.manifests.pod_template import SPEC, serving_of
from ironloom.workload.manifests.schema import Path
from ironloom.workload.serving import FieldNote, Serving

TEMPLATE: Path = (*SPEC, "template")
NOT_HONOURED = {
    "strategy": "the new replica is ready before the old one drains",
    "paused": "an apply takes effect at once",
}


def serving(made: Document) -> Serving | None:
    """The Serving of a Deployment whose fields have been checked; None where no container of it runs an engine.

    Raises ManifestError.
    """
    spec = made.obj.get("spec") or {}
    template = spec.get("template") or {}

    def own_notes() -> Iterator[FieldNote]:
        _check_selector(made, spec, template.get("metadata") or {})
        for key, why in NOT_HONOURED.items():
            if spec.get(key):
                yield made.note((*SPEC, key), f"{key}: {why}")

    deadline = spec.get("progressDeadlineSeconds")
    start_deadline_s = 600.0 if deadline is None else float(max(1, deadline))
    return serving_of(made, TEMPLATE, template, own_notes=own_notes, start_deadline_s=start_deadline_s)


def selects(service: Mapping[str, Any], deployment: Mapping[str, Any]) -> bool:
    """Whether a Service sends requests to a Deployment's pods."""
    selector = (service.get("spec") or {}).get("selector") or {}
    template = (deployment.get("spec") or {}).get("template") or {}
    labels = (template.get("metadata") or {}).get("labels") or {}
    same_namespace = _namespace(service) == _namespace(deployment)
    return bool(selector) and same_namespace and all(labels.get(key) == value for key, value in selector.items())


def with_services(made: Serving, services: Iterable[Mapping[str, Any]]) -> Serving:
    """A Deployment's Serving together with the Services that select it."""
    own = tuple(dict(service) for service in services if selects(service, made.manifest))
    return replace(made, extra_manifests=own) if own else made


def _check_selector(made: Document, spec: Mapping[str, Any], template_metadata: Mapping[str, Any]) -> None:
    """Kubernetes refuses a Deployment that does not select its own pods."""
    labels = template_metadata.get("labels") or {}
    for key, value in ((spec.get("selector") or {}).get("matchLabels") or {}).items():
        if labels.get(key) != value:
            made.complain(
                (*SPEC, "selector", "matchLabels", key),
                f"the selector wants {key}={value}, and spec.template.metadata.labels has "
                + (f"{key}={labels[key]}" if key in labels else f"no {key}"),
            )


def _namespace(manifest: Mapping[str, Any]) -> str:
    return str((manifest.get("metadata") or {}).get("namespace") or "default")
