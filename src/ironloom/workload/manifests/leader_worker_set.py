"""A LeaderWorkerSet whose leader runs vLLM or KServe's Hugging Face server: each of its groups is a replica.

Source of names and defaults: https://github.com/kubernetes-sigs/lws/blob/v0.9.0/api/leaderworkerset/v1/leaderworkerset_types.go
"""

from __future__ import annotations

from collections.abc import Iterator

from ironloom.workload.manifests.document import Document
from ironloom.workload.manifests.pod_template import SPEC, serving_of
from ironloom.workload.manifests.schema import Path
from ironloom.workload.serving import ON_ONE_MACHINE, WITHOUT_KSERVE, FieldNote, Serving

GROUP: Path = (*SPEC, "leaderWorkerTemplate")
NOT_HONOURED = {"rolloutStrategy": "the new replica is ready before the old one drains"}
"""Fields of `spec`."""


def serving(made: Document) -> Serving | None:
    """The Serving of a LeaderWorkerSet whose fields have been checked; None where its leader runs no engine.

    Raises ManifestError.
    """
    spec = made.obj.get("spec") or {}
    group = spec.get("leaderWorkerTemplate") or {}
    role = "leaderTemplate" if group.get("leaderTemplate") else "workerTemplate"

    def own_notes() -> Iterator[FieldNote]:
        for key, why in NOT_HONOURED.items():
            if spec.get(key):
                yield made.note((*SPEC, key), f"{key}: {why}", WITHOUT_KSERVE)
        if (size := group.get("size") or 1) > 1:
            yield made.note((*GROUP, "size"), f"size {size}: the whole replica runs on this machine", ON_ONE_MACHINE)

    return serving_of(made, (*GROUP, role), group.get(role) or {}, own_notes=own_notes)
