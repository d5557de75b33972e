"""An object that Ironloom made in a cluster, read back: it carries the manifest that it was made of."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from ironloom.workload.manifests.document import Document, document
from ironloom.workload.manifests.nodes import from_object

MANIFEST = "ironloom.dev/manifest"
"""Annotation: the manifest, as JSON."""


def restored(made: Document) -> Document:
    """The manifest that an object was made of; the object itself where it carries none that can be read. What is
    restored stands nowhere in the text. Raises ManifestError for a manifest that is no object."""
    metadata = made.obj.get("metadata")
    annotations: Any = metadata.get("annotations") if isinstance(metadata, Mapping) else None
    text = annotations.get(MANIFEST) if isinstance(annotations, Mapping) else None
    if not isinstance(text, str):
        return made
    try:
        found = json.loads(text)
    except ValueError:
        return made
    return document(from_object(found), made.file) if isinstance(found, dict) else made
